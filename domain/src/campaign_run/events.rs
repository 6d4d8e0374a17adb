//! What can have happened to a run.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::aggregate::{Position, stored_events};
use crate::campaign::{ParameterMapping, Trigger};
use crate::ids::{CampaignId, ContactId, SenderId, TemplateId, TenantId};
use crate::message::{Lane, MessageStatus, OnUnknown};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Running,
    Paused,
    /// Stopped by the engine for a reason that a person has to look at.
    Stalled,
    Completed,
    Cancelled,
    Expired,
}

impl RunStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stalled => "stalled",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Expired)
    }
}

/// The template as it was when the run started; what happens to the template later does not change the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrozenTemplate {
    pub template_id: TemplateId,
    pub name: String,
    pub language: String,
    /// In Meta's shape, as recorded.
    pub components: serde_json::Value,
    /// Variable names in the order in which the template shows them.
    pub variables: Vec<String>,
}

/// Who gets a message, evaluated as of the position of `RunStarted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    Segment {
        name: String,
    },
    /// A single contact: a test message.
    Contact {
        contact_id: ContactId,
    },
}

/// Why a run was stopped by the engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StallReason {
    /// WhatsApp refuses the number; the code is WhatsApp's.
    SenderRefused { code: i32 },
    /// WhatsApp refuses the number's account: its access token, its rights or its payment.
    AccountRefused { code: i32 },
    /// WhatsApp refuses all numbers of the business.
    PortfolioRefused { code: i32 },
    /// WhatsApp refuses the template.
    TemplateRefused { code: i32 },
    /// WhatsApp refused message after message for the way in which they are made; the code is that of the last.
    MessagesRefused { code: i32 },
    /// Meta says that the template has this status, in which it cannot be sent.
    TemplateNotApproved { status: String },
    /// Meta has made the template one for offers, and the campaign's messages count as reminders.
    TemplateIsOffer,
    /// The template, or the number that sends, has changed so that the campaign does not fit any more.
    SetupUnfit,
    /// The campaign's template or sender no longer exists.
    SetupMissing,
}

impl StallReason {
    pub fn name(&self) -> &'static str {
        match self {
            Self::SenderRefused { .. } => "sender_refused",
            Self::AccountRefused { .. } => "account_refused",
            Self::PortfolioRefused { .. } => "portfolio_refused",
            Self::TemplateRefused { .. } => "template_refused",
            Self::MessagesRefused { .. } => "messages_refused",
            Self::TemplateNotApproved { .. } => "template_not_approved",
            Self::TemplateIsOffer => "template_is_offer",
            Self::SetupUnfit => "setup_unfit",
            Self::SetupMissing => "setup_missing",
        }
    }
}

/// Everything about a run that is fixed when it starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunDefinition {
    /// `None` for a test message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub campaign_id: Option<CampaignId>,
    pub trigger: Trigger,
    pub nominal_at: DateTime<Utc>,
    pub template: FrozenTemplate,
    pub parameters: ParameterMapping,
    pub audience: Audience,
    pub sender_id: SenderId,
    pub lane: Lane,
    pub on_unknown: OnUnknown,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum CampaignRunEvent {
    #[serde(rename = "RunStarted")]
    Started { tenant_id: TenantId, definition: RunDefinition },
    /// The audience is closed: so many contacts were queued and skipped.
    #[serde(rename = "AudienceResolved")]
    AudienceResolved { queued: u64, skipped: u64 },
    /// The epoch counts pauses, so that a claim made before a pause can be told from one made after it.
    #[serde(rename = "RunPaused")]
    Paused {
        epoch: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Position>,
    },
    #[serde(rename = "RunResumed")]
    Resumed {
        epoch: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Position>,
    },
    #[serde(rename = "RunCancelled")]
    Cancelled {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        campaign_id: Option<CampaignId>,
        at: DateTime<Utc>,
    },
    #[serde(rename = "RunExpired")]
    Expired {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        campaign_id: Option<CampaignId>,
        at: DateTime<Utc>,
    },
    #[serde(rename = "RunStalled")]
    Stalled { reason: StallReason },
    /// No message is pending or dispatching any more. The counts are those of the log as of `as_of`.
    #[serde(rename = "RunCompleted")]
    Completed {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        campaign_id: Option<CampaignId>,
        counts: BTreeMap<MessageStatus, u64>,
        as_of: Position,
        at: DateTime<Utc>,
    },
}

stored_events!(CampaignRunEvent {
    Started => "RunStarted" v "1",
    AudienceResolved => "AudienceResolved" v "1",
    Paused => "RunPaused" v "1",
    Resumed => "RunResumed" v "1",
    Cancelled => "RunCancelled" v "1",
    Expired => "RunExpired" v "1",
    Stalled => "RunStalled" v "1",
    Completed => "RunCompleted" v "1",
});
