//! Whose word counts, and how often: several tenants in one body, secrets that change, bodies that come again.

use infrastructure::senders::{self, NewSender, Secret};
use infrastructure::tenants;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::consent::{body, change, next_second, text_of, wa_id};
use crate::engine::{APP_SECRET, Engine, Options, PHONE_NUMBER_ID};
use crate::process::ektola;
use crate::webhooks::{deliver, interpreted};

const OTHER_NUMBER: &str = "100000000000909";
const OTHER_SECRET: &str = "secret-of-another-app";

/// A second tenant with a number of its own.
async fn other_tenant(engine: &Engine, app_secret: &str) {
    let now = engine.clock.now();
    let tenant = tenants::create_tenant(&engine.database.pool, "other", "Asia/Kolkata", now).await.unwrap();
    let sender = NewSender {
        tenant_id: tenant.id,
        phone_number_id: OTHER_NUMBER.to_owned(),
        waba_id: "100000000000002".to_owned(),
        base_url: Some(engine.sandbox_url.clone()),
        access_token: Secret::new("access"),
        app_secret: Secret::new(app_secret),
        verify_token: Secret::new("verify"),
        sandbox: true,
    };
    senders::add_sender(&engine.database.pool, sender, now).await.unwrap();
}

fn says(number: &str, from: &str, text: &str) -> Value {
    change("messages", number, &json!({"messages": [text_of(from, text)]}))
}

/// Everything that webhooks may have changed; the counters of what came are no such thing.
async fn everything(engine: &Engine) -> Value {
    let counts = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM events) AS "events!", (SELECT count(*) FROM contacts) AS "contacts!",
                  (SELECT count(*) FROM contact_identities) AS "identities!",
                  (SELECT count(*) FROM consent_waiting) AS "waiting!", (SELECT count(*) FROM contact_flags) AS "flags!",
                  (SELECT count(*) FROM dead_letters) AS "letters!",
                  (SELECT coalesce(jsonb_agg(to_jsonb(i) ORDER BY i.wamid), '[]') FROM inbound_messages i) AS "inbound!""#
    )
    .fetch_one(&engine.database.pool)
    .await
    .unwrap();
    json!([
        counts.events,
        counts.contacts,
        counts.identities,
        counts.waiting,
        counts.flags,
        counts.letters,
        counts.inbound
    ])
}

async fn inbound(engine: &Engine) -> i64 {
    let count = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM inbound_messages"#);
    count.fetch_one(&engine.database.pool).await.unwrap()
}

async fn letters(engine: &Engine) -> Vec<String> {
    sqlx::query_scalar!("SELECT reason FROM dead_letters ORDER BY id").fetch_all(&engine.database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_tenants_secret_never_speaks_for_anothers_number() {
    let engine = Engine::start().await;
    engine.contacts("gold", 1).await;
    other_tenant(&engine, OTHER_SECRET).await;
    let preference =
        json!({"wa_id": wa_id(0), "category": "marketing_messages", "value": "stop", "timestamp": next_second()});
    let forged = body(&[
        says(PHONE_NUMBER_ID, &wa_id(0), "STOP ALL"),
        change("user_preferences", PHONE_NUMBER_ID, &json!({"user_preferences": [preference]})),
        says(OTHER_NUMBER, &wa_id(0), "hello"),
    ]);
    assert_eq!(deliver(&engine, forged, OTHER_SECRET).await, StatusCode::OK);
    interpreted(&engine).await;
    let reasons = letters(&engine).await;
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(reasons.iter().all(|reason| reason.starts_with("foreign")), "{reasons:?}");
    assert_eq!((engine.events_of("OptedOut").await, engine.events_of("MarketingStopped").await), (0, 0));
    assert_eq!(inbound(&engine).await, 1, "what is the tenant's own is kept");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_body_holds_a_thousand_words_to_several_tenants() {
    let engine = Engine::start().await;
    engine.contacts("gold", 900).await;
    other_tenant(&engine, APP_SECRET).await;
    let said = |number: u32| match number % 3 {
        0 => "STOP",
        1 => "नमस्ते 🪔\u{0}",
        _ => "బంద్ 🙏🏽",
    };
    let mut messages: Vec<Value> = (0..899).map(|number| text_of(&wa_id(number), said(number))).collect();
    messages.insert(450, json!({"from": wa_id(0), "type": "text", "timestamp": "1"}));
    let others: Vec<Value> = (0..100).map(|number| text_of(&wa_id(number), "stop")).collect();
    let whole = body(&[
        change("messages", PHONE_NUMBER_ID, &json!({"messages": messages})),
        change("messages", OTHER_NUMBER, &json!({"messages": others})),
    ]);
    assert_eq!(deliver(&engine, whole, APP_SECRET).await, StatusCode::OK);
    interpreted(&engine).await;
    assert_eq!(inbound(&engine).await, 999);
    assert_eq!(letters(&engine).await, ["the item has no usable message id"], "one bad item costs no other");
    let stops = sqlx::query!(
        r#"SELECT e.tenant_id, count(*) AS "count!" FROM events e WHERE event_type = 'MarketingStopped' GROUP BY 1"#
    )
    .fetch_all(&engine.database.pool)
    .await
    .unwrap();
    let of = |own: bool| {
        let of_tenant = stops.iter().find(|row| (row.tenant_id == engine.tenant.id.0) == own);
        of_tenant.map(|row| row.count)
    };
    assert_eq!((of(true), of(false)), (Some(300), Some(100)));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_come_again_change_nothing() {
    let engine = Engine::start().await;
    engine.contacts("gold", 5).await;
    let campaign = engine.campaign(|campaign| campaign["campaign_type"] = json!("marketing")).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.settled(&run).await;
    let preference = |who: Value, value: &str| {
        let mut preference = who;
        preference["category"] = json!("marketing_messages");
        preference["value"] = json!(value);
        preference["timestamp"] = json!(next_second());
        change("user_preferences", PHONE_NUMBER_ID, &json!({"user_preferences": [preference]}))
    };
    for changes in [
        vec![says(PHONE_NUMBER_ID, &wa_id(0), "stop")],
        vec![says(PHONE_NUMBER_ID, &wa_id(0), "start"), says(PHONE_NUMBER_ID, &wa_id(1), "stop all")],
        vec![preference(json!({"wa_id": wa_id(2)}), "stop"), preference(json!({"wa_id": wa_id(2)}), "resume")],
        vec![preference(json!({"wa_id": wa_id(3)}), "stop"), preference(json!({"user_id": "IN.404"}), "stop")],
        vec![says(PHONE_NUMBER_ID, "919825099999", "STOP"), change("account_update", "", &json!({"event": "X"}))],
        vec![json!({"field": "messages"}), says("999", &wa_id(0), "stop")],
    ] {
        assert_eq!(deliver(&engine, body(&changes), APP_SECRET).await, StatusCode::OK);
    }
    interpreted(&engine).await;
    // What the tenant says after that must not be undone by a word that comes again.
    let contacts = engine.get("/v1/contacts?phone=9825000003").await;
    let id = contacts["items"][0]["id"].as_str().unwrap().to_owned();
    engine.post(&format!("/v1/contacts/{id}/resume-marketing"), &json!({})).await;
    let before = everything(&engine).await;
    let bodies = sqlx::query_scalar!("SELECT body FROM webhook_bodies ORDER BY id DESC")
        .fetch_all(&engine.database.pool)
        .await
        .unwrap();
    assert!(bodies.len() > 6);
    for body in bodies.iter().chain(bodies.iter().rev()) {
        assert_eq!(deliver(&engine, body.clone(), APP_SECRET).await, StatusCode::OK);
    }
    interpreted(&engine).await;
    let mut after = everything(&engine).await;
    // What cannot be read is parked with the body that it came in.
    assert_eq!((&before[5], &after[5]), (&json!(2), &json!(6)));
    after[5] = before[5].clone();
    assert_eq!(after, before);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_app_secret_is_believed_for_a_while() {
    for (settings, expected) in
        [(&[][..], StatusCode::OK), (&[("EKTOLA_WEBHOOKS__SECRET_OVERLAP_HOURS", "0")][..], StatusCode::UNAUTHORIZED)]
    {
        let engine = Engine::start_with(Options { settings, ..Options::default() }).await;
        let set = ["sender", "set", PHONE_NUMBER_ID, "--app-secret", "a-new-secret"];
        let answer = ektola(&engine, &set).await;
        assert_eq!(answer.code, 0, "{}", answer.stderr);
        let message = || body(&[says(PHONE_NUMBER_ID, &wa_id(0), "hello")]);
        // The secrets are read anew once a second.
        tokio::time::timeout(std::time::Duration::from_secs(10), async {
            while deliver(&engine, message(), "a-new-secret").await != StatusCode::OK {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert_eq!(deliver(&engine, message(), APP_SECRET).await, expected);
        assert_eq!(deliver(&engine, message(), "neither").await, StatusCode::UNAUTHORIZED);
        interpreted(&engine).await;
        assert_eq!(inbound(&engine).await, 1 + i64::from(expected == StatusCode::OK));
        engine.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_interpreted_is_kept_and_counted() {
    let engine = Engine::start().await;
    let at = next_second();
    let strange = json!({"from": wa_id(0), "id": format!("wamid.IN{at}"), "timestamp": at.to_string(), "type": "hologram",
                         "hologram": {"x": "\u{0}1"}});
    let played = json!({"id": "wamid.A", "status": "played", "timestamp": "1"});
    let value = json!({"messages": [strange], "statuses": [played]});
    let whole = body(&[
        change("messages", PHONE_NUMBER_ID, &value),
        change("messages", PHONE_NUMBER_ID, &json!({"errors": [{"code": 130_429}]})),
        change("phone_number_name_update", PHONE_NUMBER_ID, &json!({})),
    ]);
    assert_eq!(deliver(&engine, whole, APP_SECRET).await, StatusCode::OK);
    interpreted(&engine).await;
    let status = ektola(&engine, &["status", "--json"]).await.json();
    let mut names: Vec<String> = status["unknown_webhooks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|unknown| format!("{} {}", unknown["kind"].as_str().unwrap(), unknown["name"].as_str().unwrap()))
        .collect();
    names.sort();
    assert_eq!(names, ["field messages/errors", "field phone_number_name_update", "message hologram", "status played"]);
    let raw = sqlx::query_scalar!("SELECT raw FROM inbound_messages").fetch_one(&engine.database.pool).await.unwrap();
    assert_eq!(raw["hologram"], json!({"x": "1"}));
    engine.stop().await;
}
