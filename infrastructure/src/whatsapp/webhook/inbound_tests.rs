use serde_json::json;

use super::*;
use crate::whatsapp::webhook::parse;

fn body(field: &str, value: &Value) -> Vec<u8> {
    let mut value = value.clone();
    value["metadata"] = json!({ "display_phone_number": "1555", "phone_number_id": "1055" });
    let change = json!({ "field": field, "value": value });
    json!({ "entry": [{ "id": "1", "changes": [change] }] }).to_string().into_bytes()
}

fn the_item(field: &str, value: &Value) -> WebhookItem {
    let mut items = parse(&body(field, value)).expect("a readable body");
    assert_eq!(items.len(), 1, "{items:?}");
    items.remove(0)
}

fn the_inbound(value: &Value) -> InboundItem {
    match the_item("messages", value) {
        WebhookItem::Inbound(inbound) => *inbound,
        other => panic!("{other:?}"),
    }
}

/// A message of this kind, which holds this.
fn of_kind(kind: &str, content: &Value) -> InboundItem {
    let mut message = json!({
        "from": "919812345678", "id": "wamid.IN", "timestamp": "1739321024", "type": kind,
        "context": { "from": "1555", "id": "wamid.OUR" },
    });
    message[kind] = content.clone();
    the_inbound(&json!({ "messages": [message] }))
}

fn key_of(wa_id: Option<&str>, user_id: Option<&str>) -> Identity {
    Identity { wa_id: wa_id.map(str::to_owned), user_id: user_id.map(str::to_owned) }
}

#[test]
fn each_kind_gives_its_text_and_payload() {
    let form = json!({ "type": "nfm_reply", "nfm_reply": { "name": "flow", "body": "Sent", "response_json": "[1]" } });
    let odd_form = json!({ "nfm_reply": { "response_json": { "a": "x\u{0}y" } } });
    for (kind, content, text, payload) in [
        ("text", json!({ "body": "नमस्ते 🙏" }), Some("नमस्ते 🙏"), None),
        ("text", json!({ "body": "a\u{0}b" }), Some("ab"), None),
        ("text", json!({ "body": "\u{0}" }), None, None),
        ("text", json!("not an object"), None, None),
        ("button", json!({ "payload": "STOP-1", "text": "Stop promotions" }), Some("Stop promotions"), Some("STOP-1")),
        ("button", json!({ "text": "Yes" }), Some("Yes"), None),
        ("interactive", json!({ "button_reply": { "id": "yes", "title": "Yes" } }), Some("Yes"), Some("yes")),
        (
            "interactive",
            json!({ "list_reply": { "id": "r1", "title": "Row", "description": "d" } }),
            Some("Row"),
            Some("r1"),
        ),
        ("interactive", form, Some("Sent"), Some("[1]")),
        ("interactive", odd_form, None, Some(r#"{"a":"xy"}"#)),
        ("interactive", json!({ "type": "new" }), None, None),
        ("image", json!({ "id": "7", "mime_type": "image/jpeg", "caption": "stop" }), Some("stop"), None),
        ("audio", json!({ "id": "7" }), None, None),
        ("system", json!({ "type": "user_changed_number", "body": "A changed" }), Some("A changed"), None),
        ("order", json!({ "catalog_id": "1" }), None, None),
        ("hologram", json!({ "x": 1 }), None, None),
    ] {
        let read = of_kind(kind, &content);
        assert_eq!((read.text.as_deref(), read.payload.as_deref()), (text, payload), "{kind} {content}");
        assert_eq!((read.kind.as_str(), read.context_wamid.as_deref()), (kind, Some("wamid.OUR")));
        assert_eq!(read.at.map(|at| at.timestamp()), Some(1_739_321_024));
        assert_eq!(read.has_known_kind(), kind != "hologram");
        assert!(!read.raw.to_string().contains("\\u0000"), "{}", read.raw);
    }
}

#[test]
fn only_what_is_written_or_tapped_can_be_a_keyword() {
    let spoken = |kind: &str, content: Value| of_kind(kind, &content).spoken().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(spoken("text", json!({ "body": "stop" })), ["stop"]);
    assert_eq!(spoken("button", json!({ "payload": "p", "text": "Stop" })), ["p", "Stop"]);
    assert!(spoken("image", json!({ "caption": "stop" })).is_empty());
}

#[test]
fn a_reaction_is_about_its_message() {
    let reaction = json!({
        "from": "91", "id": "wamid.IN", "timestamp": 1, "type": "reaction",
        "reaction": { "message_id": "wamid.OUR", "emoji": "👍" },
    });
    let read = the_inbound(&json!({ "messages": [reaction] }));
    assert_eq!((read.text.as_deref(), read.context_wamid.as_deref()), (Some("👍"), Some("wamid.OUR")));
}

#[test]
fn a_user_is_known_by_whatever_is_said() {
    let message =
        |from: Value, user: Value| json!({ "id": "wamid.IN", "from": from, "from_user_id": user, "type": "text" });
    let contact =
        |wa_id: &str, user_id: &str| json!({ "profile": { "name": "A" }, "wa_id": wa_id, "user_id": user_id });
    let both = contact("919812345678", "IN.1");
    let other = contact("919812345679", "IN.2");
    for (from, user, contacts, expected) in [
        (json!("919812345678"), json!(null), json!([]), key_of(Some("919812345678"), None)),
        (json!("919812345678"), json!(null), json!([other, both]), key_of(Some("919812345678"), Some("IN.1"))),
        (json!(""), json!("IN.1"), json!([both, other]), key_of(Some("919812345678"), Some("IN.1"))),
        (json!(null), json!("IN.3"), json!([both]), key_of(None, Some("IN.3"))),
        (json!(null), json!(null), json!([both]), key_of(Some("919812345678"), Some("IN.1"))),
        (json!(null), json!(null), json!([both, other]), key_of(None, None)),
        (json!("+919812345678"), json!(""), json!("x"), key_of(Some("919812345678"), None)),
        (json!(919_812_345_678_u64), json!(1), json!(null), key_of(Some("919812345678"), Some("1"))),
        (json!("9".repeat(300)), json!(null), json!([]), key_of(None, None)),
    ] {
        let value = json!({ "messages": [message(from, user)], "contacts": contacts });
        assert_eq!(the_inbound(&value).from, expected, "{value}");
    }
    assert!(!format!("{:?}", key_of(Some("919812345678"), Some("IN.1"))).contains("98123"));
}

#[test]
fn a_status_tells_who_its_recipient_is() {
    let of_status = |status: Value, contacts: Value| {
        let mut status = status;
        status["id"] = json!("wamid.A");
        status["status"] = json!("delivered");
        status["timestamp"] = json!("1");
        match the_item("messages", &json!({ "statuses": [status], "contacts": contacts })) {
            WebhookItem::Status(status) => status.recipient,
            other => panic!("{other:?}"),
        }
    };
    let listed = json!([{ "wa_id": "91", "user_id": "IN.1" }]);
    let both = Some(key_of(Some("91"), Some("IN.1")));
    assert_eq!(of_status(json!({ "recipient_id": "91" }), json!([])), None, "the phone alone is known already");
    assert_eq!(of_status(json!({ "recipient_id": "91", "recipient_user_id": "IN.1" }), json!([])), both);
    assert_eq!(of_status(json!({ "recipient_id": "91" }), listed.clone()), both);
    assert_eq!(of_status(json!({ "recipient_id": "92" }), listed), None);
    let alone = of_status(json!({ "recipient_id": "", "recipient_user_id": "IN.1" }), json!(null));
    assert_eq!(alone, Some(key_of(None, Some("IN.1"))));
}

#[test]
fn preferences_are_read_and_unknown_ones_are_other() {
    let of_preference = |preference: Value| the_item("user_preferences", &json!({ "user_preferences": [preference] }));
    for (value, meant) in [("stop", Preference::Stop), ("resume", Preference::Resume)] {
        let read = of_preference(json!({
            "wa_id": "919812345678", "user_id": "IN.1", "detail": "User requested to stop marketing messages",
            "category": "marketing_messages", "value": value, "timestamp": 1_739_321_024,
        }));
        let WebhookItem::Preference(item) = read else { panic!("{read:?}") };
        assert_eq!((item.preference, item.from), (meant, key_of(Some("919812345678"), Some("IN.1"))));
        assert_eq!(item.at.map(|at| at.timestamp()), Some(1_739_321_024));
    }
    for (category, value) in [("marketing_messages", "pause"), ("utility_messages", "stop"), ("", "")] {
        let expected = WebhookItem::Other { field: format!("user_preferences/{category}/{value}") };
        assert_eq!(of_preference(json!({ "wa_id": "91", "category": category, "value": value })), expected);
    }
}
