//! News about templates: their status, their quality, their category.

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Unreadable, WebhookItem, label, scalar, text, timestamp};
use crate::whatsapp::catalog::{language, status_name};

const STATUS: &str = "message_template_status_update";
const QUALITY: &str = "message_template_quality_update";
const CATEGORY: &str = "template_category_update";
const COMPONENTS: &str = "message_template_components_update";
const CORRECT_CATEGORY: &str = "template_correct_category_detection";

/// What Meta says about one template of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateNews {
    pub waba_id: String,
    pub name: String,
    /// With an underscore: `en_US`.
    pub language: String,
    /// When the webhook was made; `None` if it does not say.
    pub at: Option<DateTime<Utc>>,
    pub kind: TemplateNewsKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateNewsKind {
    /// In capitals, and why if it says so.
    Status {
        status: String,
        detail: Option<String>,
    },
    Quality {
        from: Option<String>,
        to: String,
    },
    Category {
        from: Option<String>,
        to: String,
    },
    /// The category will change; `from` is the present one.
    CategoryAnnounced {
        from: Option<String>,
        to: String,
        at: Option<DateTime<Utc>>,
    },
    /// Something changed that only reading the template again can tell.
    Changed,
}

/// `None`: the change is about something else.
pub(super) fn read(entry: &Value, change: &Value) -> Option<Result<WebhookItem, Unreadable>> {
    let value = change.get("value")?;
    let kind = kind(text(change.get("field")).unwrap_or_default(), value)?;
    let news = || {
        Some(TemplateNews {
            waba_id: scalar(entry.get("id"))?,
            name: scalar(value.get("message_template_name"))?,
            language: language(&scalar(value.get("message_template_language"))?),
            at: timestamp(entry.get("time")),
            kind,
        })
    };
    Some(news().map(WebhookItem::Template).ok_or(Unreadable::Template))
}

/// One of Meta's own examples carries the wrong field, so the content of news about a template goes before it.
fn kind(field: &str, value: &Value) -> Option<TemplateNewsKind> {
    let has = |name: &str| value.get(name).is_some();
    let about_template = has("message_template_name");
    let field = match field {
        _ if about_template && has("new_quality_score") => QUALITY,
        _ if about_template && has("event") => STATUS,
        _ if about_template && has("new_category") => CATEGORY,
        QUALITY | STATUS | CATEGORY | COMPONENTS | CORRECT_CATEGORY => field,
        _ => return None,
    };
    let name = |name: &str| text(value.get(name)).and_then(status_name);
    Some(match field {
        STATUS => status(value),
        QUALITY => match name("new_quality_score") {
            Some(to) => TemplateNewsKind::Quality { from: name("previous_quality_score"), to },
            None => TemplateNewsKind::Changed,
        },
        CATEGORY => match (name("previous_category"), name("new_category"), name("correct_category")) {
            // While a change is announced, the "new" category is the present one.
            (None, from, Some(to)) => {
                TemplateNewsKind::CategoryAnnounced { from, to, at: timestamp(value.get("category_update_timestamp")) }
            }
            (from, Some(to), _) => TemplateNewsKind::Category { from, to },
            _ => TemplateNewsKind::Changed,
        },
        _ => TemplateNewsKind::Changed,
    })
}

fn status(value: &Value) -> TemplateNewsKind {
    let title = value.pointer("/other_info/title").and_then(Value::as_str).filter(|title| !title.is_empty());
    let reason = text(value.get("reason")).filter(|reason| !reason.eq_ignore_ascii_case("NONE"));
    let detail = title.or(reason).map(label);
    let event = text(value.get("event")).and_then(status_name).unwrap_or_default();
    let status = match (event.as_str(), title) {
        (_, Some("UNPAUSE")) | ("APPROVED" | "REINSTATED" | "UNARCHIVED" | "UNPAUSED", _) => "APPROVED",
        ("LOCKED", Some("FIRST_PAUSE" | "SECOND_PAUSE" | "RATE_LIMITING_PAUSE")) => "PAUSED",
        (
            "PAUSED" | "DISABLED" | "REJECTED" | "PENDING" | "IN_APPEAL" | "ARCHIVED" | "DELETED" | "PENDING_DELETION",
            _,
        ) => &event,
        // FLAGGED, LOCKED, LIMIT_EXCEEDED and what may come say nothing about whether it can be sent.
        _ => return TemplateNewsKind::Changed,
    };
    TemplateNewsKind::Status { status: status.to_owned(), detail }
}
