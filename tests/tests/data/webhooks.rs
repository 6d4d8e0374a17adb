use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use infrastructure::whatsapp::webhook::{
    Identity, InboundItem, Preference, PreferenceItem, StatusItem, StatusKind, TemplateNews, TemplateNewsKind,
    WebhookItem, parse,
};
use serde_json::{Value, json};

use crate::shapes::{ITEM_KINDS, WEBHOOKS};
use crate::{cases, compare, object};

#[test]
fn each_webhook_is_read_as_documented() {
    compare(cases("webhooks", "items", WEBHOOKS).into_iter().map(|case| {
        let found = match parse(&case.payload) {
            Ok(items) => items.iter().map(rendered).collect(),
            Err(error) => json!({"error": error.to_string()}),
        };
        (case, found)
    }));
}

#[test]
fn each_kind_of_item_has_a_webhook() {
    let cases = cases("webhooks", "items", WEBHOOKS);
    let items = cases.iter().filter_map(|case| parse(&case.payload).ok()).flatten();
    let found: BTreeSet<String> = items.map(|item| kind(&item)).collect();
    let missing: Vec<_> = ITEM_KINDS.iter().filter(|kind| !found.contains(**kind)).collect();
    assert!(missing.is_empty(), "no file has {missing:?}, only {found:?}");
}

/// What is kept of a message beside what was taken out of it is the message itself.
#[test]
fn inbound_messages_are_kept_whole() {
    let case = cases("webhooks", "items", WEBHOOKS)
        .into_iter()
        .find(|case| case.name == "inbound_text_from_an_ad")
        .expect("a message with more in it than is read");
    let body: Value = serde_json::from_slice(&case.payload).expect("JSON");
    match parse(&case.payload).expect("a readable body").as_slice() {
        [WebhookItem::Inbound(item)] => {
            assert_eq!(Some(&item.raw), body.pointer("/entry/0/changes/0/value/messages/0"));
        }
        other => panic!("{other:?}"),
    }
}

fn kind(item: &WebhookItem) -> String {
    match item {
        WebhookItem::Status(StatusItem { status, .. }) => format!("status {}", status_name(status)),
        WebhookItem::Inbound(inbound) => format!("inbound {}", inbound.kind),
        WebhookItem::Preference(preference) => format!("preference {}", preference_name(preference.preference)),
        WebhookItem::Template(news) => match &news.kind {
            TemplateNewsKind::Status { status, .. } => format!("template status {status}"),
            TemplateNewsKind::Quality { .. } => "template quality".to_owned(),
            TemplateNewsKind::Category { .. } => "template category".to_owned(),
            TemplateNewsKind::CategoryAnnounced { .. } => "template category announced".to_owned(),
            TemplateNewsKind::Changed => "template changed".to_owned(),
        },
        WebhookItem::Other { field } => format!("other {field}"),
        WebhookItem::Unreadable { reason, .. } => format!("unreadable: {reason}"),
    }
}

fn rendered(item: &WebhookItem) -> Value {
    match item {
        WebhookItem::Status(status) => status_item(status),
        WebhookItem::Inbound(inbound) => inbound_item(inbound),
        WebhookItem::Preference(PreferenceItem { phone_number_id, from, preference, at }) => object([
            ("kind", "preference".into()),
            ("phone_number_id", phone_number_id.as_str().into()),
            ("from", identity(from)),
            ("preference", preference_name(*preference).into()),
            ("at", time(*at)),
        ]),
        WebhookItem::Template(TemplateNews { waba_id, name, language, at, kind }) => object([
            ("kind", "template".into()),
            ("waba_id", waba_id.as_str().into()),
            ("name", name.as_str().into()),
            ("language", language.as_str().into()),
            ("at", time(*at)),
            ("news", news(kind)),
        ]),
        WebhookItem::Other { field } => json!({"kind": "other", "field": field}),
        WebhookItem::Unreadable { index, reason } => {
            json!({"kind": "unreadable", "index": index, "reason": reason.to_string()})
        }
    }
}

fn status_item(item: &StatusItem) -> Value {
    let StatusItem { phone_number_id, wamid, status, at, callback, errors, pricing, recipient } = item;
    object([
        ("kind", "status".into()),
        ("phone_number_id", phone_number_id.as_str().into()),
        ("wamid", wamid.as_str().into()),
        ("status", status_name(status).into()),
        ("at", time(Some(*at))),
        ("callback", callback.map(|id| id.to_string()).into()),
        ("errors", json!(errors)),
        ("pricing", json!(pricing)),
        ("recipient", recipient.as_ref().map(identity).into()),
    ])
}

fn inbound_item(item: &InboundItem) -> Value {
    let InboundItem { phone_number_id, wamid, from, kind, text, payload, context_wamid, at, raw: _ } = item;
    object([
        ("kind", "inbound".into()),
        ("phone_number_id", phone_number_id.as_str().into()),
        ("wamid", wamid.as_str().into()),
        ("from", identity(from)),
        ("type", kind.as_str().into()),
        ("text", json!(text)),
        ("payload", json!(payload)),
        ("context_wamid", json!(context_wamid)),
        ("at", time(*at)),
    ])
}

fn news(kind: &TemplateNewsKind) -> Value {
    match kind {
        TemplateNewsKind::Status { status, detail } => {
            object([("status", status.as_str().into()), ("detail", json!(detail))])
        }
        TemplateNewsKind::Quality { from, to } => json!({"quality": {"from": from, "to": to}}),
        TemplateNewsKind::Category { from, to } => json!({"category": {"from": from, "to": to}}),
        TemplateNewsKind::CategoryAnnounced { from, to, at } => {
            json!({"category_announced": {"from": from, "to": to, "at": time(*at)}})
        }
        TemplateNewsKind::Changed => "changed".into(),
    }
}

fn identity(identity: &Identity) -> Value {
    object([("wa_id", json!(identity.wa_id)), ("user_id", json!(identity.user_id))])
}

fn time(at: Option<DateTime<Utc>>) -> Value {
    at.map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string()).into()
}

fn status_name(status: &StatusKind) -> String {
    match status {
        StatusKind::Sent => "sent".to_owned(),
        StatusKind::Delivered => "delivered".to_owned(),
        StatusKind::Read => "read".to_owned(),
        StatusKind::Failed => "failed".to_owned(),
        StatusKind::Other(name) => format!("other/{name}"),
    }
}

fn preference_name(preference: Preference) -> &'static str {
    match preference {
        Preference::Stop => "stop",
        Preference::Resume => "resume",
    }
}
