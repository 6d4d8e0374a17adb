//! What surrounds the engine fails in the middle of a run: the database's connections, the queue, the provider. The run
//! ends in the same counts, and nothing is doubled.

use std::time::Duration;

use domain::message::Lane;
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{Engine, Options, Queue};
use crate::queue::{self, Queues};

/// A run that is under way: slow enough to be disturbed, fast enough for a test.
async fn running(queue: Queue, contacts: u32) -> (Engine, String) {
    let engine = Engine::start_with(Options { queue, rate: 60, ..Options::default() }).await;
    engine.contacts("gold", contacts).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.run_when(&run, "some messages are sent", |run| run["funnel"]["sent"].as_u64().unwrap() >= 20).await;
    (engine, run)
}

/// Every contact has read its one message.
async fn all_read(engine: &Engine, run: &str, contacts: u32) {
    let run: Value = engine
        .run_when(run, "every contact has read its message", |run| {
            run["status"] == "completed" && run["counts"]["read"] == contacts
        })
        .await;
    let ledger = engine.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(contacts), &json!(0)), "{run}");
    engine.quiet().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_connection_to_the_database_is_cut_again_and_again() {
    let (engine, run) = running(Queue::Postgres, 240).await;
    for _ in 0..6 {
        sqlx::query!(
            r#"SELECT count(pg_terminate_backend(pid)) AS "cut!" FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'ektola'"#
        )
        .fetch_one(&engine.database.owner)
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    all_read(&engine, &run, 240).await;
    let torn = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (
               SELECT aggregate_id FROM events GROUP BY aggregate_type, aggregate_id
               HAVING max(sequence) <> count(*)) torn"#
    )
    .fetch_one(&engine.database.owner)
    .await
    .unwrap();
    assert_eq!(torn, 0, "sequences without gaps");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_queue_is_lost_on_rabbitmq() {
    /// Enough for both runs to be under way when the queues are lost.
    const CONTACTS: u32 = 400;
    let (engine, reminders) = running(Queue::Rabbitmq, CONTACTS).await;
    let template = engine.get("/v1/templates").await["items"][0]["id"].as_str().unwrap().to_owned();
    let offers = engine.campaign_on(&template, |campaign| campaign["campaign_type"] = json!("marketing")).await;
    engine.activate(&offers).await;
    let offers = engine.runs(&offers, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.run_when(&offers, "offers are sent too", |run| run["funnel"]["sent"].as_u64().unwrap() >= 5).await;
    let queues = Queues::of(&engine).await;
    let sender = engine.sender().await;
    for lane in Lane::ALL {
        let lost = queues.delete(&queue::name(sender, lane)).await;
        assert!(lost > 0, "nothing was in the queue of the {} lane, so nothing was lost", lane.name());
    }
    queues.delete(&queue::dead()).await;
    queues.close().await;
    for run in [&reminders, &offers] {
        engine
            .run_when(run, "every contact has read its message", |run| {
                run["status"] == "completed" && run["counts"]["read"] == CONTACTS
            })
            .await;
    }
    engine.quiet().await;
    let ledger = engine.ledger().await;
    // Each contact gets the reminder and the offer, as two messages.
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(2 * CONTACTS), &json!(0)));
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_provider_cannot_be_reached_for_a_while() {
    let (engine, run) = running(Queue::Postgres, 150).await;
    // A port of this machine on which nobody listens: the connection is refused, so no byte of a call leaves.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    engine.set_address(&format!("http://{nobody}")).await;
    wait::until(Duration::from_secs(20), "calls that could not be made are given back", async || {
        let given_back = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM events
               WHERE event_type = 'DispatchReleased' AND payload -> 'DispatchReleased' ->> 'reason' = 'not_connected'"#
        )
        .fetch_one(&engine.database.pool)
        .await
        .unwrap();
        (given_back > 0).then_some(())
    })
    .await;
    engine.set_address(&engine.sandbox_url.clone()).await;
    all_read(&engine, &run, 150).await;
    engine.stop().await;
}
