//! `ektola dead-letters`, the real binary beside a running engine.

use std::time::Duration;

use infrastructure::dead_letters::{self, Parked, Source};
use reqwest::StatusCode;
use serde_json::json;
use test_kit::wait;

use crate::engine::{Engine, PHONE_NUMBER_ID};
use crate::process::{Answer, ektola};
use crate::webhooks::{body_of, deliver, interpreted, status};

pub(crate) async fn dead_letters(engine: &Engine, arguments: &[&str]) -> Answer {
    ektola(engine, &[&["dead-letters"], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_parked_is_listed_given_back_and_discarded() {
    let engine = Engine::start().await;
    let empty = dead_letters(&engine, &["list"]).await;
    assert_eq!((empty.code, empty.stdout.trim()), (0, "There are no dead letters."), "{}", empty.stderr);

    // Two items of one webhook that cannot be read, and a message that a dispatcher has parked.
    let statuses = [json!({"status": "sent"}), json!({"status": "read"}), status("wamid.unknown", "played")];
    let webhook = body_of(PHONE_NUMBER_ID, &statuses);
    assert_eq!(deliver(&engine, webhook, crate::engine::APP_SECRET).await, StatusCode::OK);
    interpreted(&engine).await;
    let message = engine.queued_message().await;
    let letter = Parked {
        source: Source::Dispatch,
        reference: message.to_string(),
        tenant_id: Some(engine.tenant.id),
        reason: "ended the dispatcher".to_owned(),
        attempts: 5,
    };
    let mut connection = engine.database.pool.acquire().await.unwrap();
    dead_letters::park_in_tx(&mut connection, &[letter], engine.clock.now()).await.unwrap();

    let listed = dead_letters(&engine, &["list", "--json"]).await.json();
    let letters = listed["letters"].as_array().unwrap();
    assert_eq!((letters.len(), &listed["counts"][0]["letters"]), (3, &json!(2)), "{listed}");
    assert_eq!((&letters[0]["source"], &letters[0]["attempts"]), (&json!("dispatch"), &json!(5)));
    let webhooks = dead_letters(&engine, &["list", "--source", "webhook", "--limit", "1"]).await;
    assert_eq!(webhooks.stdout.matches("no usable message id").count(), 1, "{}", webhooks.stdout);
    let id = |index: usize| letters[index]["id"].to_string();

    // It is still unreadable, so it is parked again.
    let retried = dead_letters(&engine, &["retry", &id(2), "--json"]).await;
    assert_eq!((retried.code, &retried.json()["letters"][0]["outcome"]), (0, &json!("pending")), "{}", retried.stderr);
    wait::until(Duration::from_secs(10), "the item is parked again", async || {
        let again = dead_letters(&engine, &["list", "--json"]).await.json();
        let again = again["letters"][0].clone();
        (again["reference"] == letters[2]["reference"] && again["attempts"] == 2).then_some(())
    })
    .await;

    // The first letter has another id by now; the others are done, and the exit code says that something was not.
    let discarded = dead_letters(&engine, &["discard", &id(2), &id(0), &id(1), "--json"]).await;
    assert_eq!((discarded.code, &discarded.json()["unknown"]), (1, &json!([letters[2]["id"]])));
    assert!(discarded.stderr.contains(&format!("no dead letter has the id {}", id(2))), "{}", discarded.stderr);
    assert_eq!(engine.events_of("MessageCancelled").await, 1);
    let all = dead_letters(&engine, &["discard", "--all"]).await;
    assert_eq!(all.code, 0, "{}", all.stderr);
    assert!(all.stdout.contains("discarded"), "{}", all.stdout);
    assert_eq!(dead_letters(&engine, &["retry", "--all"]).await.stdout.trim(), "There was nothing to do.");
    engine.stop().await;
}
