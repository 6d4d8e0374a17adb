//! What can have happened to a contact's consent. The aggregate's id is the contact's.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::aggregate::stored_events;
use crate::ids::TenantId;

/// Where a contact's word, or the word about it, came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsentSource {
    /// A row of an upload: the tenant's word that the contact agreed.
    Upload,
    /// An inbound message with a keyword.
    Keyword,
    /// WhatsApp's own preference switch.
    UserPreferences,
    /// WhatsApp refused a message because the contact stopped offers.
    ProviderRefusal,
    /// The tenant's system, through the API.
    Api,
    /// A person at the tenant.
    Operator,
}

impl ConsentSource {
    /// Is it the contact's own word? Only that lifts an opt-out.
    pub fn is_contact(self) -> bool {
        match self {
            Self::Keyword | Self::UserPreferences => true,
            Self::Upload | Self::ProviderRefusal | Self::Api | Self::Operator => false,
        }
    }

    /// Did it reach us through WhatsApp? The times of such words come from one clock and can be compared.
    pub fn is_whatsapp(self) -> bool {
        match self {
            Self::Keyword | Self::UserPreferences | Self::ProviderRefusal => true,
            Self::Upload | Self::Api | Self::Operator => false,
        }
    }

    /// The public name, as in stored events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Keyword => "keyword",
            Self::UserPreferences => "user_preferences",
            Self::ProviderRefusal => "provider_refusal",
            Self::Api => "api",
            Self::Operator => "operator",
        }
    }
}

/// `at` is when it was said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsentEvent {
    /// The contact agreed to messages; `wording` is what it was shown, where that is known.
    #[serde(rename = "OptedIn")]
    OptedIn {
        tenant_id: TenantId,
        source: ConsentSource,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wording: Option<String>,
        at: DateTime<Utc>,
    },
    /// No messages at all, reminders included.
    #[serde(rename = "OptedOut")]
    OptedOut { tenant_id: TenantId, source: ConsentSource, at: DateTime<Utc> },
    /// No offers; reminders still.
    #[serde(rename = "MarketingStopped")]
    MarketingStopped { tenant_id: TenantId, source: ConsentSource, at: DateTime<Utc> },
    #[serde(rename = "MarketingResumed")]
    MarketingResumed { tenant_id: TenantId, source: ConsentSource, at: DateTime<Utc> },
    /// The contact's personal data was erased; nothing may be sent any more.
    #[serde(rename = "ContactErased")]
    Erased { tenant_id: TenantId, at: DateTime<Utc> },
}

stored_events!(ConsentEvent {
    OptedIn => "OptedIn" v "1",
    OptedOut => "OptedOut" v "1",
    MarketingStopped => "MarketingStopped" v "1",
    MarketingResumed => "MarketingResumed" v "1",
    Erased => "ContactErased" v "1",
});
