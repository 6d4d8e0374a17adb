//! What users write and tap, and by what WhatsApp names them. Pure.
//!
//! Every message is kept whole, whatever its kind; of the kinds that we know the text and the payload are taken out of it.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Unreadable, WebhookItem, label, scalar, text, timestamp, wamid};
use crate::whatsapp::without_nul;

/// Longer ids are none that WhatsApp gives, and no index would hold them.
const USER_KEY_BYTES_MAX: usize = 256;
/// Kinds that need not be counted as unknown; those after `interactive` are only kept.
const KINDS: [&str; 14] = [
    "text",
    "button",
    "interactive",
    "image",
    "video",
    "document",
    "audio",
    "sticker",
    "reaction",
    "system",
    "order",
    "contacts",
    "location",
    "unsupported",
];
/// The only category of preferences.
const MARKETING: &str = "marketing_messages";

/// By what WhatsApp names a user: either may be missing, and both. Personal data.
#[derive(Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Digits; mostly, but not always, those of the phone number.
    pub wa_id: Option<String>,
    /// Business-scoped: the same for all numbers of one business, and changed when the user changes the number.
    pub user_id: Option<String>,
}

/// Without the ids, since debug output ends up in logs.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

/// Something that a user wrote or tapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundItem {
    pub phone_number_id: String,
    pub wamid: String,
    pub from: Identity,
    /// WhatsApp's name of the kind; `unknown` where it says none.
    pub kind: String,
    /// What was written, or the title of what was tapped.
    pub text: Option<String>,
    /// The payload or id of what was tapped.
    pub payload: Option<String>,
    /// WhatsApp's id of the message that it answers.
    pub context_wamid: Option<String>,
    /// `None`: without a readable time.
    pub at: Option<DateTime<Utc>>,
    /// The message as it came, without U+0000.
    pub raw: Value,
}

/// A user's own switch for offers, in WhatsApp itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferenceItem {
    pub phone_number_id: String,
    pub from: Identity,
    pub preference: Preference,
    /// `None`: without a readable time.
    pub at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    Stop,
    Resume,
}

impl InboundItem {
    pub fn has_known_kind(&self) -> bool {
        KINDS.contains(&self.kind.as_str())
    }

    /// What may be a keyword: what was written, and what was tapped. The words below a picture are none.
    pub fn spoken(&self) -> impl Iterator<Item = &str> {
        let speaks = matches!(self.kind.as_str(), "text" | "button" | "interactive");
        [&self.payload, &self.text].into_iter().flatten().map(String::as_str).filter(move |_| speaks)
    }
}

/// The users whom a change is about, as it lists them.
pub(super) struct Contacts(Vec<Identity>);

impl Contacts {
    pub(super) fn of(value: &Value) -> Self {
        let contacts = value.get("contacts").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let identity = |contact: &Value| identity(contact.get("wa_id"), contact.get("user_id"));
        Self(contacts.iter().map(identity).filter(|identity| *identity != Identity::default()).collect())
    }

    /// The same user with what the list adds.
    fn complete(&self, known: Identity) -> Identity {
        let shares = |listed: &&Identity| {
            let same = |one: &Option<String>, other: &Option<String>| one.is_some() && one == other;
            same(&listed.wa_id, &known.wa_id) || same(&listed.user_id, &known.user_id)
        };
        let listed = match self.0.as_slice() {
            [only] if known == Identity::default() => Some(only),
            listed => listed.iter().find(shares),
        };
        let Some(listed) = listed else { return known };
        Identity {
            wa_id: known.wa_id.or_else(|| listed.wa_id.clone()),
            user_id: known.user_id.or_else(|| listed.user_id.clone()),
        }
    }
}

/// Who gets a message, where a status tells more than the phone number that is known already.
pub(super) fn recipient(status: &Value, contacts: &Contacts) -> Option<Identity> {
    let known = identity(status.get("recipient_id"), status.get("recipient_user_id"));
    Some(contacts.complete(known)).filter(|identity| identity.user_id.is_some())
}

pub(super) fn inbound(
    phone_number_id: String,
    message: &Value,
    contacts: &Contacts,
) -> Result<WebhookItem, Unreadable> {
    let kind = text(message.get("type")).map_or_else(|| "unknown".to_owned(), label);
    let Content { text, payload, about } = Content::of(&kind, message);
    let context = message.get("context").and_then(|context| key(context.get("id"))).or(about);
    Ok(WebhookItem::Inbound(Box::new(InboundItem {
        phone_number_id,
        wamid: wamid(message)?,
        from: contacts.complete(identity(message.get("from"), message.get("from_user_id"))),
        kind,
        text,
        payload,
        context_wamid: context,
        at: timestamp(message.get("timestamp")),
        raw: scrubbed(message),
    })))
}

/// `Other` for a preference that is not about offers, or is neither a stop nor its end.
pub(super) fn preference(phone_number_id: String, preference: &Value, contacts: &Contacts) -> WebhookItem {
    let category = text(preference.get("category")).unwrap_or_default();
    let value = text(preference.get("value")).unwrap_or_default();
    let meant = match value {
        "stop" => Some(Preference::Stop),
        "resume" => Some(Preference::Resume),
        _ => None,
    };
    match meant {
        Some(meant) if category == MARKETING => WebhookItem::Preference(PreferenceItem {
            phone_number_id,
            from: contacts.complete(identity(preference.get("wa_id"), preference.get("user_id"))),
            preference: meant,
            at: timestamp(preference.get("timestamp")),
        }),
        _ => WebhookItem::Other { field: label(&format!("user_preferences/{category}/{value}")) },
    }
}

/// What a message of a known kind says.
#[derive(Default)]
struct Content {
    text: Option<String>,
    payload: Option<String>,
    /// The message that it is about, where the kind itself says so.
    about: Option<String>,
}

impl Content {
    fn of(kind: &str, message: &Value) -> Self {
        let Some(content) = message.get(kind).filter(|content| content.is_object()) else { return Self::default() };
        match kind {
            "text" => Self::said(content.get("body")),
            "button" => Self { payload: spoken(content.get("payload")), ..Self::said(content.get("text")) },
            "interactive" => Self::of_reply(content),
            "reaction" => Self { about: key(content.get("message_id")), ..Self::said(content.get("emoji")) },
            "image" | "video" | "document" => Self::said(content.get("caption")),
            "system" => Self::said(content.get("body")),
            _ => Self::default(),
        }
    }

    fn of_reply(interactive: &Value) -> Self {
        let reply = |name| interactive.get(name).filter(|reply: &&Value| reply.is_object());
        if let Some(tapped) = reply("button_reply").or_else(|| reply("list_reply")) {
            return Self { payload: spoken(tapped.get("id")), ..Self::said(tapped.get("title")) };
        }
        let Some(form) = reply("nfm_reply") else { return Self::default() };
        // A JSON text, which need not be that of an object; seen as JSON itself, too.
        let response = match form.get("response_json") {
            Some(Value::Null) | None => None,
            Some(Value::String(text)) => Some(without_nul(text)),
            Some(json) => Some(scrubbed(json).to_string()),
        };
        Self { payload: response, ..Self::said(form.get("body")) }
    }

    fn said(text: Option<&Value>) -> Self {
        Self { text: spoken(text), ..Self::default() }
    }
}

fn spoken(value: Option<&Value>) -> Option<String> {
    text(value).map(without_nul).filter(|text| !text.is_empty())
}

fn identity(wa_id: Option<&Value>, user_id: Option<&Value>) -> Identity {
    // Some tools write the number with its plus.
    let digits = |wa_id: String| wa_id.trim_start_matches('+').to_owned();
    Identity { wa_id: key(wa_id).map(digits).filter(|wa_id| !wa_id.is_empty()), user_id: key(user_id) }
}

fn key(value: Option<&Value>) -> Option<String> {
    scalar(value).filter(|key| key.len() <= USER_KEY_BYTES_MAX)
}

/// Without U+0000, which jsonb cannot hold.
fn scrubbed(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(without_nul(text)),
        Value::Array(items) => Value::Array(items.iter().map(scrubbed).collect()),
        Value::Object(entries) => {
            Value::Object(entries.iter().map(|(name, value)| (without_nul(name), scrubbed(value))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
#[path = "inbound_tests.rs"]
mod tests;
