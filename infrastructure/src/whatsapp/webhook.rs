//! Reads webhook bodies. Pure: a body in, items out.
//!
//! WhatsApp delivers a whole body again and again until it is answered 200, and one body may hold a thousand items of
//! several accounts. So one item that cannot be read must not hide the others: it becomes an item of its own, to be
//! parked. What we do not know (fields, statuses, whole kinds) is not an error, for WhatsApp adds such things without
//! notice.
//!
//! The order of items is that of the body, so that the same body always gives each item the same index.

mod inbound;
mod repair;
mod template_news;

use std::fmt;

use chrono::{DateTime, Utc};
use domain::ids::MessageId;
use domain::message::Pricing;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use self::inbound::Contacts;
pub use self::inbound::{Identity, InboundItem, Preference, PreferenceItem};
pub use self::template_news::{TemplateNews, TemplateNewsKind};
use super::{WAMID_BYTES_MAX, without_nul};

/// Longer labels of WhatsApp are cut: a foreign text must not swell events.
const LABEL_CHARS_MAX: usize = 64;
/// The field of statuses and of what contacts write.
const MESSAGES: &str = "messages";
/// The field of users' own switches for offers.
const USER_PREFERENCES: &str = "user_preferences";
/// The last second of the year 9999; what lies beyond is not a time in seconds.
const TIMESTAMP_MAX: i64 = 253_402_300_799;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookItem {
    Status(StatusItem),
    /// Something that a contact wrote or tapped.
    Inbound(Box<InboundItem>),
    /// A contact's own switch for offers.
    Preference(PreferenceItem),
    Template(TemplateNews),
    /// A change that we do not interpret, by its field.
    Other {
        field: String,
    },
    /// The item at `index` of the returned list cannot be read.
    Unreadable {
        index: usize,
        reason: Unreadable,
    },
}

/// What WhatsApp says about one message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusItem {
    pub phone_number_id: String,
    /// Embeds the phone number: personal data.
    pub wamid: String,
    pub status: StatusKind,
    /// WhatsApp's time, in whole seconds. Equal times are common and order nothing.
    pub at: DateTime<Utc>,
    /// Our message id; `None` where it is missing or the text of another application.
    pub callback: Option<MessageId>,
    /// The codes of a `failed` status.
    pub errors: Vec<i32>,
    pub pricing: Option<Pricing>,
    /// Who gets the message, where the status names more than a phone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<Identity>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusKind {
    Sent,
    Delivered,
    Read,
    Failed,
    /// A status that we do not interpret, such as `played`.
    Other(String),
}

/// A body of which no item can be read.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// The body is not JSON.
    #[error("the body is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// The body is JSON, but not a list of entries.
    #[error("the body has no list of entries")]
    NoEntries,
}

/// Why an item cannot be read. Says nothing of its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The entry has no list of changes.
    Entry,
    /// The change has no value.
    Change,
    /// `statuses`, `messages` or `user_preferences` is not a list.
    List,
    /// The change does not say which number it is about.
    PhoneNumberId,
    /// The item has no message id, or one too long to keep.
    Wamid,
    /// The status has no name.
    StatusName,
    /// The status has no time, or none that can be read.
    Timestamp,
    /// News about a template does not say of which account and template.
    Template,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entry => "the entry has no list of changes",
            Self::Change => "the change has no value",
            Self::List => "the items are not a list",
            Self::PhoneNumberId => "the change names no phone number id",
            Self::Wamid => "the item has no usable message id",
            Self::StatusName => "the status has no name",
            Self::Timestamp => "the status has no readable time",
            Self::Template => "the news is about a template without account, name or language",
        })
    }
}

pub fn parse(body: &[u8]) -> Result<Vec<WebhookItem>, ParseError> {
    let body: Value = match serde_json::from_slice(body) {
        Ok(body) => body,
        Err(error) => {
            let repaired = repair::repaired(body).ok_or(ParseError::NotJson(error))?;
            serde_json::from_str(&repaired).map_err(ParseError::NotJson)?
        }
    };
    let entries = body.get("entry").and_then(Value::as_array).ok_or(ParseError::NoEntries)?;
    let mut items = Items::default();
    for entry in entries {
        match entry.get("changes").and_then(Value::as_array) {
            Some(changes) => changes.iter().for_each(|change| items.read_change(entry, change)),
            None => items.push(Err(Unreadable::Entry)),
        }
    }
    Ok(items.0)
}

#[derive(Default)]
struct Items(Vec<WebhookItem>);

impl Items {
    fn push(&mut self, item: Result<WebhookItem, Unreadable>) {
        let index = self.0.len();
        self.0.push(item.unwrap_or_else(|reason| WebhookItem::Unreadable { index, reason }));
    }

    fn read_change(&mut self, entry: &Value, change: &Value) {
        if let Some(news) = template_news::read(entry, change) {
            return self.push(news);
        }
        let field = text(change.get("field"));
        // One of WhatsApp's own examples carries the wrong field, so a missing one is judged by its content.
        if let Some(field) = field.filter(|field| ![MESSAGES, USER_PREFERENCES].contains(field)) {
            return self.push(Ok(WebhookItem::Other { field: label(field) }));
        }
        let Some(value) = change.get("value").filter(|value| value.is_object()) else {
            return self.push(Err(Unreadable::Change));
        };
        let number = value.get("metadata").and_then(|metadata| scalar(metadata.get("phone_number_id")));
        let number = number.ok_or(Unreadable::PhoneNumberId);
        let before = self.0.len();
        let contacts = Contacts::of(value);
        self.read_list(value.get("statuses"), |status| {
            status_item(number.clone()?, status, &contacts).map(WebhookItem::Status)
        });
        self.read_list(value.get(MESSAGES), |message| inbound::inbound(number.clone()?, message, &contacts));
        self.read_list(value.get(USER_PREFERENCES), |preference| {
            Ok(inbound::preference(number.clone()?, preference, &contacts))
        });
        if self.0.len() == before {
            self.push(Ok(WebhookItem::Other { field: label(&other_field(field.unwrap_or_default(), value)) }));
        }
    }

    fn read_list(&mut self, list: Option<&Value>, read: impl Fn(&Value) -> Result<WebhookItem, Unreadable>) {
        match list {
            None | Some(Value::Null) => {}
            Some(Value::Array(list)) => list.iter().for_each(|item| self.push(read(item))),
            Some(_) => self.push(Err(Unreadable::List)),
        }
    }
}

fn status_item(phone_number_id: String, status: &Value, contacts: &Contacts) -> Result<StatusItem, Unreadable> {
    Ok(StatusItem {
        phone_number_id,
        wamid: wamid(status)?,
        status: status_kind(text(status.get("status")).ok_or(Unreadable::StatusName)?),
        at: timestamp(status.get("timestamp")).ok_or(Unreadable::Timestamp)?,
        callback: text(status.get("biz_opaque_callback_data")).and_then(|text| text.parse().ok()),
        errors: error_codes(status.get("errors")),
        pricing: status.get("pricing").and_then(pricing),
        recipient: inbound::recipient(status, contacts),
    })
}

/// Errors of the account, taps on links, and whatever else comes under a field of ours: the field with what it holds.
fn other_field(field: &str, value: &Value) -> String {
    let frame = ["messaging_product", "metadata", "contacts", "statuses", MESSAGES, USER_PREFERENCES];
    let holds = value.as_object().and_then(|value| value.keys().find(|key| !frame.contains(&key.as_str())));
    holds.map_or_else(|| field.to_owned(), |key| format!("{field}/{key}"))
}

fn status_kind(name: &str) -> StatusKind {
    match name {
        "sent" => StatusKind::Sent,
        "delivered" => StatusKind::Delivered,
        "read" => StatusKind::Read,
        "failed" => StatusKind::Failed,
        other => StatusKind::Other(label(other)),
    }
}

fn wamid(item: &Value) -> Result<String, Unreadable> {
    scalar(item.get("id")).filter(|wamid| wamid.len() <= WAMID_BYTES_MAX).ok_or(Unreadable::Wamid)
}

fn timestamp(value: Option<&Value>) -> Option<DateTime<Utc>> {
    let seconds = integer(value?)?;
    (0..=TIMESTAMP_MAX).contains(&seconds).then(|| DateTime::from_timestamp(seconds, 0)).flatten()
}

/// A code that is not a number is left out; the status has failed with or without it.
fn error_codes(errors: Option<&Value>) -> Vec<i32> {
    let errors = errors.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    errors.iter().filter_map(|error| i32::try_from(integer(error.get("code")?)?).ok()).collect()
}

fn pricing(value: &Value) -> Option<Pricing> {
    let value = value.as_object()?;
    Some(Pricing {
        billable: value.get("billable").and_then(Value::as_bool),
        category: text(value.get("category")).map(label),
        pricing_type: text(value.get("type")).map(label),
    })
}

fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// A text that is not empty.
fn text(value: Option<&Value>) -> Option<&str> {
    value?.as_str().filter(|text| !text.is_empty())
}

/// An id, which comes as a string or as a number.
fn scalar(value: Option<&Value>) -> Option<String> {
    let scalar = match value? {
        Value::String(text) => without_nul(text),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(scalar).filter(|scalar| !scalar.is_empty())
}

fn label(text: &str) -> String {
    text.chars().filter(|char| *char != '\0').take(LABEL_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
