//! Webhooks as WhatsApp may send them, over HTTP.

use std::time::Duration;

use infrastructure::whatsapp::signature::sign;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{APP_SECRET, Engine, PHONE_NUMBER_ID, VERIFY_TOKEN, send};

pub(crate) fn body_of(phone_number_id: &str, statuses: &[Value]) -> Vec<u8> {
    let value = json!({
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1555", "phone_number_id": phone_number_id},
        "statuses": statuses,
    });
    json!({
        "object": "whatsapp_business_account",
        "entry": [{"id": "100000000000001", "changes": [{"field": "messages", "value": value}]}],
    })
    .to_string()
    .into_bytes()
}

pub(crate) fn status(wamid: &str, status: &str) -> Value {
    json!({"id": wamid, "status": status, "timestamp": "1780000000", "recipient_id": "919825000000"})
}

pub(crate) async fn deliver(engine: &Engine, body: Vec<u8>, secret: &str) -> StatusCode {
    let signature = sign(secret, &body);
    let request = engine.raw(Method::POST, "/webhooks/whatsapp").header("X-Hub-Signature-256", signature).body(body);
    send(request).await.0
}

async fn stored(engine: &Engine) -> i64 {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_bodies"#)
        .fetch_one(&engine.database.pool)
        .await
        .unwrap()
}

pub(crate) async fn interpreted(engine: &Engine) {
    wait::until(Duration::from_secs(10), "all webhooks are interpreted", async || {
        let pending = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_pending"#)
            .fetch_one(&engine.database.pool)
            .await
            .unwrap();
        (pending == 0).then_some(())
    })
    .await;
}

async fn parked(engine: &Engine) -> Vec<String> {
    sqlx::query_scalar!("SELECT reason FROM dead_letters ORDER BY id").fetch_all(&engine.database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_answers_the_bare_challenge() {
    let engine = Engine::start().await;
    let verify = |token: &str| {
        let path = format!("/webhooks/whatsapp?hub.mode=subscribe&hub.verify_token={token}&hub.challenge=1158201444");
        engine.raw(Method::GET, &path)
    };
    let right = verify(VERIFY_TOKEN).send().await.unwrap();
    assert_eq!(right.status(), StatusCode::OK);
    assert_eq!(right.text().await.unwrap(), "1158201444");
    assert_eq!(verify("wrong").send().await.unwrap().status(), StatusCode::FORBIDDEN);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_signed_or_too_long_leaves_no_trace() {
    let engine = Engine::start().await;
    let body = body_of(PHONE_NUMBER_ID, &[status("wamid.A", "sent")]);
    assert_eq!(deliver(&engine, body.clone(), "another secret").await, StatusCode::UNAUTHORIZED);
    let unsigned = engine.raw(Method::POST, "/webhooks/whatsapp").body(body.clone());
    assert_eq!(send(unsigned).await.0, StatusCode::UNAUTHORIZED);
    let mut changed = body.clone();
    changed.push(b' ');
    let request = engine
        .raw(Method::POST, "/webhooks/whatsapp")
        .header("X-Hub-Signature-256", sign(APP_SECRET, &body))
        .body(changed);
    assert_eq!(send(request).await.0, StatusCode::UNAUTHORIZED);
    let long = vec![b' '; (3 << 20) + 1];
    assert_eq!(deliver(&engine, long, APP_SECRET).await, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(stored(&engine).await, 0);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_body_that_cannot_be_read_is_stored_answered_and_parked() {
    let engine = Engine::start().await;
    assert_eq!(deliver(&engine, b"not json at all".to_vec(), APP_SECRET).await, StatusCode::OK);
    interpreted(&engine).await;
    assert_eq!((stored(&engine).await, parked(&engine).await.len()), (1, 1));

    // A poisoned item is parked alone, and a number that is not ours is foreign.
    let statuses = [json!({"status": "sent"}), status("wamid.unknown", "played")];
    assert_eq!(deliver(&engine, body_of(PHONE_NUMBER_ID, &statuses), APP_SECRET).await, StatusCode::OK);
    assert_eq!(deliver(&engine, body_of("999", &[status("wamid.B", "sent")]), APP_SECRET).await, StatusCode::OK);
    interpreted(&engine).await;
    let reasons = parked(&engine).await;
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    assert!(reasons[2].contains("foreign"), "{reasons:?}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redelivered_and_reordered_statuses_change_nothing() {
    let engine = Engine::start().await;
    engine.contacts("gold", 1).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let before = engine.settled(&run).await;
    let wamid =
        sqlx::query_scalar!("SELECT wamid FROM provider_messages").fetch_one(&engine.database.pool).await.unwrap();
    let all = ["read", "failed", "delivered", "sent", "read"].map(|name| {
        let mut status = status(&wamid, name);
        if name == "failed" {
            status["errors"] = json!([{"code": 131_026, "title": "undeliverable"}]);
        }
        status
    });
    for _ in 0..3 {
        assert_eq!(deliver(&engine, body_of(PHONE_NUMBER_ID, &all), APP_SECRET).await, StatusCode::OK);
    }
    interpreted(&engine).await;
    let after = engine.get(&format!("/v1/runs/{run}")).await;
    assert_eq!((&after["counts"], &after["funnel"]), (&before["counts"], &before["funnel"]));
    engine.stop().await;
}

/// A status without our id comes before the answer of the call has been stored: it waits on the row where the
/// dispatcher will name its message.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_that_comes_before_its_message_is_known_is_applied_once_it_is() {
    let engine = Engine::start().await;
    engine.contacts("gold", 1).await;
    assert_eq!(
        deliver(&engine, body_of(PHONE_NUMBER_ID, &[status("wamid.early", "delivered")]), APP_SECRET).await,
        StatusCode::OK
    );
    interpreted(&engine).await;
    let waiting = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_waiting"#);
    assert_eq!(waiting.fetch_one(&engine.database.pool).await.unwrap(), 1);

    // A message in the state in which its answer is about to be stored.
    let message = engine.claimed_message().await;
    engine.answer_with_wamid(message, "wamid.early").await;
    wait::until(Duration::from_secs(10), "the status that waited is applied", async || {
        let delivered = engine.events_of("MessageDelivered").await;
        (delivered == 1).then_some(())
    })
    .await;
    wait::until(Duration::from_secs(10), "nothing waits any more", async || {
        let left = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_waiting"#);
        (left.fetch_one(&engine.database.pool).await.unwrap() == 0).then_some(())
    })
    .await;
    interpreted(&engine).await;
    engine.stop().await;
}
