//! A small run never waits behind a large one: neither on the same number nor on another.

use std::time::Duration;

use domain::ids::SenderId;
use reqwest::StatusCode;
use serde_json::json;
use test_kit::wait;

use crate::engine::{Engine, Options, Queue};
use crate::ledger::{Call, calls, now_ms};

/// Over four minutes of the number's permit.
const OFFERS: u32 = 20_000;
const REMINDERS: u32 = 100;
const OTHER_NUMBER: &str = "100000000000102";
/// How the numbers of a segment's contacts begin, in the ledger too.
const SEGMENTS: [(&str, &str, u32); 3] =
    [("offers", "98250", OFFERS), ("reminders", "98251", REMINDERS), ("others", "98252", REMINDERS)];

async fn contacts(engine: &Engine) {
    let mut file = String::from("phone,name,segment\n");
    for (segment, prefix, count) in SEGMENTS {
        for number in 0..count {
            file.push_str(&format!("{prefix}{number:05},Customer {number},{segment}\n"));
        }
    }
    let (status, report) = engine.upload(file).await;
    assert_eq!((status, &report["created"]), (StatusCode::OK, &json!(OFFERS + 2 * REMINDERS)), "{report}");
}

/// The calls to a segment's contacts.
fn calls_to(engine: &Engine, segment: &str) -> Vec<Call> {
    let prefix = SEGMENTS.iter().find(|(name, _, _)| *name == segment).unwrap().1;
    calls(engine).into_iter().filter(|call| call.to.contains(&format!("91{prefix}"))).collect()
}

/// Starts a run on a number and answers when, by the clock of the ledger, and which.
async fn activated(engine: &Engine, template: &str, segment: &str, kind: &str, sender: SenderId) -> (f64, String) {
    let campaign = engine
        .campaign_on(template, |campaign| {
            campaign["target_segment"] = json!(segment);
            campaign["campaign_type"] = json!(kind);
            campaign["sender_id"] = json!(sender.to_string());
        })
        .await;
    let at = now_ms(engine);
    engine.activate(&campaign).await;
    (at, campaign)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_run_is_sent_within_seconds_while_a_large_one_is_under_way() {
    let options = Options { queue: Queue::Rabbitmq, rate: 80, alone: true, ..Options::default() };
    let engine = Engine::start_with(options).await;
    contacts(&engine).await;
    let (number, other) = (engine.sender().await, engine.add_number(OTHER_NUMBER, 80).await);
    let template = engine.template().await;
    let (_, offers) = activated(&engine, &template, "offers", "marketing", number).await;
    wait::until(Duration::from_secs(60), "offers are under way", async || {
        (calls_to(&engine, "offers").len() >= 160).then_some(())
    })
    .await;

    let (at, _) = activated(&engine, &template, "reminders", "utility", number).await;
    let reminders = wait::until(Duration::from_secs(60), "the reminders are sent", async || {
        let calls = calls_to(&engine, "reminders");
        (calls.len() == 100).then_some(calls)
    })
    .await;
    let took = reminders.last().unwrap().read_at_ms - at;
    assert!(took <= 5_000.0, "100 reminders behind {OFFERS} offers of the same number took {took:.0} ms");

    let (at, _) = activated(&engine, &template, "others", "utility", other).await;
    let first = wait::until(Duration::from_secs(60), "the other number sends", async || {
        calls_to(&engine, "others").first().cloned()
    })
    .await;
    assert_eq!(first.phone_number_id, OTHER_NUMBER);
    let took = first.read_at_ms - at;
    assert!(took <= 2_000.0, "the first message of another number came after {took:.0} ms");

    // The large run was not over, and went on all the while.
    let run = engine.runs(&offers, 1).await[0]["id"].as_str().unwrap().to_owned();
    let shown = engine.get(&format!("/v1/runs/{run}")).await;
    assert_ne!(shown["status"], "completed", "{shown}");
    let meanwhile = |call: &&Call| call.read_at_ms >= reminders[0].read_at_ms && call.read_at_ms <= first.read_at_ms;
    assert!(calls_to(&engine, "offers").iter().filter(meanwhile).count() > 10, "offers stood still");

    engine.post(&format!("/v1/campaigns/{offers}/cancel"), &json!({})).await;
    engine
        .run_when(&run, "nothing of the cancelled run is under way", |run| {
            ["dispatching", "sent", "delivered"].iter().all(|status| run["counts"][status] == 0)
        })
        .await;
    wait::until(Duration::from_secs(60), "both small runs are read", async || {
        let read = engine.events_of("RunCompleted").await;
        (read == 2).then_some(())
    })
    .await;
    engine.quiet().await;
    assert_eq!(engine.ledger().await["doubled"], 0);
    engine.stop().await;
}
