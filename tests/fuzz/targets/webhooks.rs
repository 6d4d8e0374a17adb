use std::collections::BTreeSet;

use infrastructure::whatsapp::WAMID_BYTES_MAX;
use infrastructure::whatsapp::webhook::{
    Identity, StatusItem, StatusKind, TemplateNews, TemplateNewsKind, WebhookItem, parse,
};
use serde_json::{Value, json};

use super::{promise, without_nul};
use crate::seeds;

const LABEL_CHARS_MAX: usize = 64;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    seeds::files("webhooks", ".items.json")
}

pub(super) fn check(body: &[u8]) -> Result<String, String> {
    let items = match (parse(body), parse(body)) {
        (Ok(items), Ok(again)) => {
            promise(items == again, "the same body gives other items the second time")?;
            items
        }
        (Err(error), Err(_)) => return Ok(error.to_string()),
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => return Err("the same body can be read once only".to_owned()),
    };
    let mut kinds = BTreeSet::new();
    for (place, item) in items.iter().enumerate() {
        kinds.insert(check_item(place, item)?);
    }
    check_neighbour(body, &items)?;
    Ok(kinds.into_iter().collect::<Vec<_>>().join(", "))
}

fn check_item(place: usize, item: &WebhookItem) -> Result<String, String> {
    Ok(match item {
        WebhookItem::Status(status) => {
            check_status(status)?;
            format!("status {:?} {} {}", status.status, status.pricing.is_some(), status.errors.len().min(2))
        }
        WebhookItem::Inbound(inbound) => {
            check_ids(&inbound.phone_number_id, Some(&inbound.wamid))?;
            check_identity(&inbound.from)?;
            check_label(&inbound.kind)?;
            let texts = [&inbound.text, &inbound.payload, &inbound.context_wamid];
            for text in texts.into_iter().flatten() {
                without_nul(text, "the text of a message")?;
                promise(!text.is_empty(), "a text is there and empty")?;
            }
            check_json(&inbound.raw)?;
            format!("inbound {} {:?}", inbound.has_known_kind(), texts.map(Option::is_some))
        }
        WebhookItem::Preference(preference) => {
            check_ids(&preference.phone_number_id, None)?;
            check_identity(&preference.from)?;
            format!("preference {:?}", preference.preference)
        }
        WebhookItem::Template(news) => check_news(news)?,
        WebhookItem::Other { field } => {
            check_label(field)?;
            "other".to_owned()
        }
        WebhookItem::Unreadable { index, reason } => {
            promise(*index == place, "an unreadable item has another item's index")?;
            reason.to_string()
        }
    })
}

fn check_status(status: &StatusItem) -> Result<(), String> {
    check_ids(&status.phone_number_id, Some(&status.wamid))?;
    if let StatusKind::Other(name) = &status.status {
        check_label(name)?;
    }
    status.recipient.as_ref().map(check_identity).transpose()?;
    if let Some(pricing) = &status.pricing {
        [&pricing.category, &pricing.pricing_type].into_iter().flatten().try_for_each(|label| check_label(label))?;
    }
    // A status whose message is not known yet is stored as JSON.
    let stored = serde_json::to_string(status).map_err(|error| format!("a status cannot be stored: {error}"))?;
    let again: StatusItem =
        serde_json::from_str(&stored).map_err(|error| format!("a stored status cannot be read: {error}"))?;
    promise(again == *status, "a status is another one after it was stored")
}

fn check_news(news: &TemplateNews) -> Result<String, String> {
    without_nul(&news.name, "the name of a template")?;
    without_nul(&news.language, "the language of a template")?;
    check_ids(&news.waba_id, None)?;
    let (labels, kind): (Vec<&String>, _) = match &news.kind {
        TemplateNewsKind::Status { status, detail } => (detail.iter().chain([status]).collect(), status.as_str()),
        TemplateNewsKind::Quality { from, to } => (from.iter().chain([to]).collect(), "quality"),
        TemplateNewsKind::Category { from, to } => (from.iter().chain([to]).collect(), "category"),
        TemplateNewsKind::CategoryAnnounced { from, to, .. } => (from.iter().chain([to]).collect(), "announced"),
        TemplateNewsKind::Changed => (Vec::new(), "changed"),
    };
    labels.into_iter().try_for_each(|label| check_label(label))?;
    Ok(format!("template {kind}"))
}

fn check_ids(id: &str, wamid: Option<&str>) -> Result<(), String> {
    for text in [Some(id), wamid].into_iter().flatten() {
        without_nul(text, "an id")?;
        promise(!text.is_empty(), "an id is empty")?;
    }
    promise(wamid.is_none_or(|wamid| wamid.len() <= WAMID_BYTES_MAX), "a message id is too long to be kept")
}

fn check_identity(identity: &Identity) -> Result<(), String> {
    for key in [&identity.wa_id, &identity.user_id].into_iter().flatten() {
        without_nul(key, "the id of a user")?;
        promise(!key.is_empty() && key.len() <= 256, "the id of a user is empty or too long")?;
    }
    Ok(())
}

fn check_label(label: &str) -> Result<(), String> {
    without_nul(label, "a label")?;
    promise(label.chars().count() <= LABEL_CHARS_MAX, "a label is too long")
}

fn check_json(json: &Value) -> Result<(), String> {
    match json {
        Value::String(text) => without_nul(text, "a stored message"),
        Value::Array(items) => items.iter().try_for_each(check_json),
        Value::Object(fields) => fields.iter().try_for_each(|(name, value)| {
            without_nul(name, "a stored message")?;
            check_json(value)
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

/// Whatever stands in a body, it does not hide what comes after it.
fn check_neighbour(body: &[u8], items: &[WebhookItem]) -> Result<(), String> {
    let Ok(mut body) = serde_json::from_slice::<Value>(body) else { return Ok(()) };
    let Some(entries) = body.get_mut("entry").and_then(Value::as_array_mut) else { return Ok(()) };
    entries.push(json!({"id": "1", "changes": [{"field": "messages", "value": {
        "metadata": {"phone_number_id": "1"},
        "statuses": [{"id": "wamid.neighbour", "status": "read", "timestamp": "1739321024"}],
    }}]}));
    let with_neighbour =
        parse(body.to_string().as_bytes()).map_err(|error| format!("a good entry spoils a body: {error}"))?;
    match with_neighbour.split_last() {
        Some((WebhookItem::Status(status), before)) if status.wamid == "wamid.neighbour" => {
            promise(before == items, "an entry changes what is read of those before it")
        }
        _ => Err("a good entry after the others is not read".to_owned()),
    }
}
