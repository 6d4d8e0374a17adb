use serde_json::json;

use super::*;

const MESSAGE: &str = "0193f5a0-1111-8222-8333-444455556666";

fn status(id: &str, name: &str) -> Value {
    json!({ "id": id, "status": name, "timestamp": "1739321024", "recipient_id": "919812345678" })
}

fn change(value: &Value) -> Value {
    let mut value = value.clone();
    value["messaging_product"] = json!("whatsapp");
    value["metadata"] = json!({ "display_phone_number": "919800000000", "phone_number_id": "106540352242922" });
    json!({ "field": "messages", "value": value })
}

fn body(changes: &[Value]) -> Vec<u8> {
    let entry = json!({ "id": "102290129340398", "changes": changes });
    json!({ "object": "whatsapp_business_account", "entry": [entry] }).to_string().into_bytes()
}

fn items(changes: &[Value]) -> Vec<WebhookItem> {
    parse(&body(changes)).expect("a readable body")
}

/// The one status of a body.
fn the_status(status: &Value) -> StatusItem {
    match items(&[change(&json!({ "statuses": [status] }))]).as_slice() {
        [WebhookItem::Status(status)] => status.clone(),
        other => panic!("{other:?}"),
    }
}

fn unreadable(index: usize, reason: Unreadable) -> WebhookItem {
    WebhookItem::Unreadable { index, reason }
}

#[test]
fn a_full_status_is_read() {
    let mut full = status("wamid.A", "delivered");
    full["biz_opaque_callback_data"] = json!(MESSAGE);
    full["conversation"] =
        json!({ "id": "c", "expiration_timestamp": "1739407424", "origin": { "type": "marketing" } });
    full["pricing"] = json!({ "billable": true, "pricing_model": "PMP", "type": "regular", "category": "marketing" });
    full["something_new"] = json!([1, { "deep": null }]);
    assert_eq!(
        the_status(&full),
        StatusItem {
            phone_number_id: "106540352242922".to_owned(),
            wamid: "wamid.A".to_owned(),
            status: StatusKind::Delivered,
            at: DateTime::from_timestamp(1_739_321_024, 0).expect("a valid time"),
            callback: Some(MESSAGE.parse().expect("a uuid")),
            errors: Vec::new(),
            pricing: Some(Pricing {
                billable: Some(true),
                category: Some("marketing".to_owned()),
                pricing_type: Some("regular".to_owned()),
            }),
            recipient: None,
        }
    );
}

#[test]
fn a_status_with_the_least_is_read() {
    let read =
        the_status(&json!({ "id": "wamid.A", "status": "sent", "timestamp": 1_739_321_024, "recipient_id": "" }));
    assert_eq!((read.status, read.at.timestamp()), (StatusKind::Sent, 1_739_321_024));
    assert_eq!((read.callback, read.errors, read.pricing), (None, Vec::new(), None));
}

#[test]
fn each_status_name_is_kept() {
    for (name, kind) in [
        ("sent", StatusKind::Sent),
        ("delivered", StatusKind::Delivered),
        ("read", StatusKind::Read),
        ("failed", StatusKind::Failed),
        ("played", StatusKind::Other("played".to_owned())),
        ("Sent\u{0}", StatusKind::Other("Sent".to_owned())),
    ] {
        assert_eq!(the_status(&status("wamid.A", name)).status, kind);
    }
}

#[test]
fn failures_give_their_codes() {
    let mut failed = status("wamid.A", "failed");
    failed["errors"] = json!([
        { "code": 131049, "title": "t", "error_data": { "details": "d" } },
        { "code": "131026" },
        { "title": "without a code" },
        { "code": 99_999_999_999_u64 },
        "not an object",
    ]);
    assert_eq!(the_status(&failed).errors, [131049, 131026]);
    failed["errors"] = json!({ "code": 1 });
    assert_eq!(the_status(&failed).errors, Vec::<i32>::new());
}

#[test]
fn foreign_callback_data_is_none() {
    for foreign in [json!("order-17"), json!(""), json!(17), json!({ "id": MESSAGE }), Value::Null] {
        let mut foreign_status = status("wamid.A", "read");
        foreign_status["biz_opaque_callback_data"] = foreign.clone();
        assert_eq!(the_status(&foreign_status).callback, None, "{foreign}");
    }
}

#[test]
fn odd_pricing_does_not_cost_the_status() {
    let mut odd = status("wamid.A", "sent");
    odd["pricing"] = json!("free");
    assert_eq!(the_status(&odd).pricing, None);
    odd["pricing"] = json!({ "billable": "yes", "category": "a\u{0}b".repeat(100) });
    let pricing = the_status(&odd).pricing.expect("pricing");
    assert_eq!((pricing.billable, pricing.pricing_type), (None, None));
    assert_eq!(pricing.category.map(|category| category.chars().count()), Some(LABEL_CHARS_MAX));
}

#[test]
fn a_malformed_item_does_not_hide_the_others() {
    let without = |field: &str| {
        let mut status = status("wamid.X", "sent");
        status.as_object_mut().expect("an object").remove(field);
        status
    };
    let mut timeless = status("wamid.X", "sent");
    timeless["timestamp"] = json!("yesterday");
    let mut far = status("wamid.X", "sent");
    far["timestamp"] = json!(1_739_321_024_000_i64);
    let endless = status(&"w".repeat(WAMID_BYTES_MAX + 1), "sent");
    let statuses = json!([
        status("wamid.first", "sent"),
        without("id"),
        without("status"),
        without("timestamp"),
        timeless,
        far,
        endless,
        "not an object",
        null,
        status("wamid.last", "read"),
    ]);
    let read = items(&[change(&json!({ "statuses": statuses }))]);
    assert_eq!(
        read[1..9],
        [
            unreadable(1, Unreadable::Wamid),
            unreadable(2, Unreadable::StatusName),
            unreadable(3, Unreadable::Timestamp),
            unreadable(4, Unreadable::Timestamp),
            unreadable(5, Unreadable::Timestamp),
            unreadable(6, Unreadable::Wamid),
            unreadable(7, Unreadable::Wamid),
            unreadable(8, Unreadable::Wamid),
        ]
    );
    assert!(matches!(&read[0], WebhookItem::Status(status) if status.wamid == "wamid.first"));
    assert!(matches!(&read[9], WebhookItem::Status(status) if status.wamid == "wamid.last"));
}

#[test]
fn malformed_entries_and_changes_do_not_hide_the_others() {
    let good = change(&json!({ "statuses": [status("wamid.A", "sent")] }));
    let nameless = json!({ "field": "messages", "value": { "statuses": [status("wamid.B", "sent")] } });
    let no_list = change(&json!({ "statuses": { "id": "wamid.C" } }));
    let read = parse(
        json!({ "entry": [
            { "id": "1" },
            null,
            { "id": "2", "changes": [{ "field": "messages" }, nameless, no_list, good] },
        ] })
        .to_string()
        .as_bytes(),
    )
    .expect("a readable body");
    assert_eq!(
        read[..5],
        [
            unreadable(0, Unreadable::Entry),
            unreadable(1, Unreadable::Entry),
            unreadable(2, Unreadable::Change),
            unreadable(3, Unreadable::PhoneNumberId),
            unreadable(4, Unreadable::List),
        ]
    );
    assert!(matches!(&read[5..], [WebhookItem::Status(status)] if status.wamid == "wamid.A"));
}

#[test]
fn several_entries_changes_and_kinds_come_in_order() {
    let inbound = json!({ "id": "wamid.in", "from": "919812345678", "timestamp": "1", "type": "text" });
    let mixed = change(&json!({ "messages": [inbound], "statuses": [status("wamid.A", "sent")] }));
    let paused = json!({ "event": "PAUSED", "message_template_name": "due", "message_template_language": "en" });
    let template = json!({ "field": "message_template_status_update", "value": paused });
    let entry = |changes: &[&Value]| json!({ "id": "1", "time": 1, "changes": changes });
    let body = json!({ "entry": [entry(&[&mixed]), entry(&[&template, &mixed])] });
    let kinds: Vec<&str> = parse(body.to_string().as_bytes())
        .expect("a readable body")
        .iter()
        .map(|item| match item {
            WebhookItem::Status(_) => "status",
            WebhookItem::Inbound(inbound) => {
                let read = (inbound.wamid.as_str(), inbound.phone_number_id.as_str());
                assert_eq!(read, ("wamid.in", "106540352242922"));
                "inbound"
            }
            WebhookItem::Preference(_) => "preference",
            WebhookItem::Other { .. } => "other",
            WebhookItem::Template(_) => "template",
            WebhookItem::Unreadable { .. } => "unreadable",
        })
        .collect();
    assert_eq!(kinds, ["status", "inbound", "template", "status", "inbound"]);
}

#[test]
fn fields_without_items_of_ours_are_other() {
    let other = |field: &str| WebhookItem::Other { field: field.to_owned() };
    let system_error = change(&json!({ "errors": [{ "code": 130429 }] }));
    let tap = change(&json!({ "user_actions": [{ "action_type": "marketing_messages_link_click" }] }));
    let mut standby = change(&json!({ "messages": [{ "id": "wamid.in" }] }));
    standby["field"] = json!("standby\u{0}");
    assert_eq!(
        items(&[system_error, tap, standby]),
        [other("messages/errors"), other("messages/user_actions"), other("standby")]
    );
}

#[test]
fn ids_may_be_numbers_and_nul_is_removed_everywhere() {
    let mut numbered = change(&json!({ "statuses": [status("wamid.\u{0}A", "sent")] }));
    numbered["value"]["metadata"]["phone_number_id"] = json!(106_540_352_242_922_u64);
    match items(&[numbered]).as_slice() {
        [WebhookItem::Status(status)] => {
            assert_eq!((status.wamid.as_str(), status.phone_number_id.as_str()), ("wamid.A", "106540352242922"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(items(&[change(&json!({ "statuses": [status("\u{0}", "sent")] }))]), [unreadable(0, Unreadable::Wamid)]);
}

#[test]
fn a_broken_character_does_not_cost_the_body() {
    let whole = r#"{"entry":[{"changes":[{"field":"messages","value":{"metadata":{"phone_number_id":"1"},
        "contacts":[{"profile":{"name":"cut \ud83d"}}],
        "statuses":[{"id":"wamid.A","status":"sent","timestamp":"1739321024"}]}}]}]}"#;
    assert!(matches!(parse(whole.as_bytes()).expect("a readable body").as_slice(), [WebhookItem::Status(_)]));
    let mut bytes = whole.replace("\\ud83d", "#").into_bytes();
    let hash = bytes.iter().position(|byte| *byte == b'#').expect("the mark");
    bytes[hash] = 0xff;
    assert!(matches!(parse(&bytes).expect("a readable body").as_slice(), [WebhookItem::Status(_)]));
}

#[test]
fn what_is_no_webhook_is_an_error() {
    for body in ["", "{", "nonsense", "{\"entry\":[}", "[1,2", "\"\\ud83d"] {
        assert!(matches!(parse(body.as_bytes()), Err(ParseError::NotJson(_))), "{body}");
    }
    for body in ["null", "7", "[]", "{}", r#"{"entry":{}}"#, r#"{"entry":"x"}"#] {
        assert!(matches!(parse(body.as_bytes()), Err(ParseError::NoEntries)), "{body}");
    }
    assert_eq!(parse(br#"{"entry":[]}"#).expect("an empty list"), []);
}

#[test]
fn a_status_survives_being_stored() {
    let mut stored = status("wamid.A", "played");
    stored["biz_opaque_callback_data"] = json!(MESSAGE);
    let stored = the_status(&stored);
    let json = serde_json::to_value(&stored).expect("it can be written");
    assert_eq!(serde_json::from_value::<StatusItem>(json).expect("it can be read"), stored);
}

fn template_items(field: &str, value: &Value) -> Vec<WebhookItem> {
    let mut value = value.clone();
    value["message_template_id"] = json!(1_689_556_908_129_832_i64);
    value["message_template_name"] = json!("order_confirmation");
    value["message_template_language"] = json!("en-US");
    let change = json!({ "field": field, "value": value });
    let entry = json!({ "id": "102290129340398", "time": 1_739_321_024, "changes": [change] });
    let body = json!({ "object": "whatsapp_business_account", "entry": [entry] });
    parse(body.to_string().as_bytes()).expect("a readable body")
}

fn the_news(field: &str, value: &Value) -> TemplateNewsKind {
    match template_items(field, value).as_slice() {
        [WebhookItem::Template(news)] => {
            assert_eq!((news.waba_id.as_str(), news.name.as_str()), ("102290129340398", "order_confirmation"));
            assert_eq!(news.language, "en_US");
            assert_eq!(news.at, DateTime::from_timestamp(1_739_321_024, 0));
            news.kind.clone()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_status_of_a_template_is_read_in_any_case_and_with_any_reason() {
    let of = |value: Value| the_news("message_template_status_update", &value);
    let status = |status: &str, detail: Option<&str>| TemplateNewsKind::Status {
        status: status.to_owned(),
        detail: detail.map(str::to_owned),
    };
    assert_eq!(of(json!({"event": "APPROVED", "reason": "NONE"})), status("APPROVED", None));
    assert_eq!(of(json!({"event": "approved", "reason": null})), status("APPROVED", None));
    assert_eq!(of(json!({"event": "Reinstated"})), status("APPROVED", None));
    assert_eq!(of(json!({"event": "UNARCHIVED"})), status("APPROVED", None));
    let rejected = json!({"event": "REJECTED", "reason": "INVALID_FORMAT", "rejection_info": {"reason": "x"}});
    assert_eq!(of(rejected), status("REJECTED", Some("INVALID_FORMAT")));
    let paused =
        json!({"event": "PAUSED", "reason": "NONE", "other_info": {"title": "FIRST_PAUSE", "description": "x"}});
    assert_eq!(of(paused), status("PAUSED", Some("FIRST_PAUSE")));
    assert_eq!(
        of(json!({"event": "LOCKED", "other_info": {"title": "SECOND_PAUSE"}})),
        status("PAUSED", Some("SECOND_PAUSE"))
    );
    assert_eq!(of(json!({"event": "LOCKED", "other_info": {"title": "UNPAUSE"}})), status("APPROVED", Some("UNPAUSE")));
    let disabled = json!({"event": "DISABLED", "disable_info": {"disable_date": 1_751_234_563}});
    assert_eq!(of(disabled), status("DISABLED", None));
    for event in ["PENDING", "IN_APPEAL", "ARCHIVED", "DELETED", "PENDING_DELETION"] {
        assert_eq!(of(json!({"event": event})), status(event, None));
    }
    for event in ["FLAGGED", "LOCKED", "LIMIT_EXCEEDED", "SOMETHING_NEW"] {
        assert_eq!(of(json!({"event": event})), TemplateNewsKind::Changed, "{event} says nothing about sending");
    }
}

#[test]
fn quality_and_category_of_a_template_are_read() {
    let quality = json!({"previous_quality_score": "GREEN", "new_quality_score": "yellow"});
    let expected = TemplateNewsKind::Quality { from: Some("GREEN".to_owned()), to: "YELLOW".to_owned() };
    // One of Meta's own examples carries the wrong field.
    for field in ["message_template_quality_update", "message_template_status_update", "messages", "new_field"] {
        assert_eq!(the_news(field, &quality), expected, "{field}");
    }
    let of = |value: Value| the_news("template_category_update", &value);
    let (utility, marketing) = (Some("UTILITY".to_owned()), "MARKETING".to_owned());
    assert_eq!(
        of(
            json!({"new_category": "UTILITY", "correct_category": "MARKETING", "category_update_timestamp": 1_739_407_424})
        ),
        TemplateNewsKind::CategoryAnnounced {
            from: utility.clone(),
            to: marketing.clone(),
            at: DateTime::from_timestamp(1_739_407_424, 0),
        }
    );
    assert_eq!(
        of(json!({"previous_category": "UTILITY", "new_category": "MARKETING"})),
        TemplateNewsKind::Category { from: utility, to: marketing }
    );
    for field in ["message_template_components_update", "template_correct_category_detection"] {
        assert_eq!(the_news(field, &json!({"message_template_title": "x"})), TemplateNewsKind::Changed);
    }
}

#[test]
fn news_about_no_template_is_parked_and_other_fields_are_other() {
    let of = |entry: Value| parse(json!({"entry": [entry]}).to_string().as_bytes()).expect("a readable body");
    let change = json!({"field": "message_template_status_update", "value": {"event": "PAUSED"}});
    assert_eq!(of(json!({"id": "1", "changes": [change]})), [unreadable(0, Unreadable::Template)]);
    let value = json!({"event": "PAUSED", "message_template_name": "a", "message_template_language": "en"});
    let change = json!({"field": "message_template_status_update", "value": value});
    assert_eq!(of(json!({"changes": [change]})), [unreadable(0, Unreadable::Template)]);
    let change = json!({"field": "account_update", "value": {"event": "DISABLED_UPDATE"}});
    assert_eq!(
        of(json!({"id": "1", "changes": [change]})),
        [WebhookItem::Other { field: "account_update".to_owned() }]
    );
}
