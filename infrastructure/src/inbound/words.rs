//! One thing that a user said: a message, or the switch for offers in WhatsApp itself.

use chrono::{DateTime, Utc};
use domain::consent::{ConsentSource, Keywords, Word};
use domain::ids::{SenderId, TenantId};
use domain::phone::Phone;
use serde_json::{Value, json};

use super::identities::{Clue, phone_of};
use crate::whatsapp::webhook::{Identity, InboundItem, Preference, PreferenceItem};

/// The kind under which a switch is kept beside the messages.
const PREFERENCE: &str = "user_preferences";

pub(crate) struct Heard {
    pub(crate) tenant_id: TenantId,
    pub(super) sender_id: SenderId,
    /// WhatsApp's id; made of what it says where it has none, so that it too is kept once.
    pub(super) wamid: String,
    pub(super) from: Identity,
    pub(super) kind: String,
    pub(super) text: Option<String>,
    pub(super) payload: Option<String>,
    pub(super) context_wamid: Option<String>,
    pub(super) at: Option<DateTime<Utc>>,
    pub(super) raw: Value,
    pub(super) source: ConsentSource,
    /// What may be a keyword; a switch says its word outright.
    spoken: Vec<String>,
    switched: Option<Word>,
}

impl Heard {
    pub(crate) fn message(tenant_id: TenantId, sender_id: SenderId, item: InboundItem) -> Self {
        Self {
            tenant_id,
            sender_id,
            spoken: item.spoken().map(str::to_owned).collect(),
            wamid: item.wamid,
            from: item.from,
            kind: item.kind,
            text: item.text,
            payload: item.payload,
            context_wamid: item.context_wamid,
            at: item.at,
            raw: item.raw,
            source: ConsentSource::Keyword,
            switched: None,
        }
    }

    /// `now` tells apart those that say no time.
    pub(crate) fn preference(
        tenant_id: TenantId,
        sender_id: SenderId,
        item: PreferenceItem,
        now: DateTime<Utc>,
    ) -> Self {
        let (name, word) = match item.preference {
            Preference::Stop => ("stop", Word::StopMarketing),
            Preference::Resume => ("resume", Word::ResumeMarketing),
        };
        let Identity { wa_id, user_id } = &item.from;
        let who = user_id.as_deref().or(wa_id.as_deref()).unwrap_or_default();
        let time = item.at.map_or_else(|| format!("{}us", now.timestamp_micros()), |at| at.timestamp().to_string());
        Self {
            tenant_id,
            sender_id,
            wamid: format!("{PREFERENCE}/{who}/{name}/{time}"),
            raw: json!({ "wa_id": wa_id, "user_id": user_id, "value": name, "timestamp": item.at }),
            from: item.from,
            kind: PREFERENCE.to_owned(),
            text: None,
            payload: Some(name.to_owned()),
            context_wamid: None,
            at: item.at,
            source: ConsentSource::UserPreferences,
            spoken: Vec::new(),
            switched: Some(word),
        }
    }

    /// What it asks for, if anything.
    pub(super) fn word(&self, keywords: &Keywords) -> Option<Word> {
        self.switched.or_else(|| self.spoken.iter().find_map(|spoken| keywords.find(spoken)))
    }

    /// The number that it came from, if a contact can have it.
    pub(super) fn phone(&self) -> Option<Phone> {
        phone_of(self.from.wa_id.as_deref()?)
    }

    pub(super) fn clue(&self) -> Clue {
        Clue {
            tenant_id: self.tenant_id,
            sender_id: self.sender_id,
            identity: self.from.clone(),
            wamid: self.context_wamid.clone(),
            message_id: None,
        }
    }
}
