//! Why a message waits, and why one was never made or never sent: every such answer, brought about for real.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{Engine, Options};

const SOON: Duration = Duration::from_secs(30);

async fn explained(engine: &Engine, number: u32, campaign: &str) -> Value {
    engine.get(&format!("/v1/explain?contact=98250{number:05}&campaign={campaign}")).await
}

/// Waits until the answer about a contact gives this reason.
async fn because(engine: &Engine, number: u32, campaign: &str, outcome: &str, reason: &str) -> Value {
    let answer = wait::until(SOON, &format!("contact {number} is {outcome} because of {reason}"), async || {
        let answer = explained(engine, number, campaign).await;
        (answer["outcome"] == outcome && answer["reason"] == reason).then_some(answer)
    })
    .await;
    assert!(answer["sentence"].as_str().unwrap().ends_with('.'), "{answer}");
    answer
}

async fn contact_id(engine: &Engine, number: u32) -> String {
    let messages = engine.get(&format!("/v1/messages?phone=98250{number:05}")).await;
    messages["items"][0]["contact_id"].as_str().unwrap().to_owned()
}

/// The contacts whose messages are the last two in line.
async fn last_in_line(engine: &Engine, run: &str) -> [u32; 2] {
    let messages = engine.get(&format!("/v1/messages?run={run}&status=pending&limit=1000")).await;
    let mut items = messages["items"].as_array().unwrap().clone();
    items.sort_by_key(|item| item["position"].as_i64());
    let number = |item: &Value| item["phone"].as_str().unwrap().trim_start_matches("+9198250").parse().unwrap();
    [number(&items[items.len() - 1]), number(&items[items.len() - 2])]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_holds_a_message_and_what_ended_it_is_said() {
    let engine = Engine::start_with(Options { rate: 2, ..Options::default() }).await;
    let template = engine.template().await;
    engine.contacts("gold", 200).await;
    let campaign = engine.campaign_on(&template, |_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.run_when(&run, "messages are sent", |run| run["funnel"]["sent"].as_u64().unwrap() >= 2).await;

    let [waiting, erased] = last_in_line(&engine, &run).await;
    let paced = because(&engine, waiting, &campaign, "pending", "pacing").await;
    assert!(paced["sentence"].as_str().unwrap().contains("2 per second"), "{paced}");
    engine.post(&format!("/v1/campaigns/{campaign}/pause"), &json!({})).await;
    let paused = because(&engine, waiting, &campaign, "pending", "run_paused").await;
    assert_eq!(paused["chain"].as_array().unwrap().last().unwrap()["event"], "RunPaused", "{paused}");
    engine.post(&format!("/v1/campaigns/{campaign}/resume"), &json!({})).await;
    because(&engine, waiting, &campaign, "pending", "pacing").await;

    // It wants no messages any more, and says so while its message waits.
    let stopping = contact_id(&engine, waiting).await;
    engine.post(&format!("/v1/contacts/{stopping}/opt-out"), &json!({})).await;
    let stopped = because(&engine, waiting, &campaign, "cancelled", "consent").await;
    let events: Vec<&Value> = stopped["chain"].as_array().unwrap().iter().map(|link| &link["event"]).collect();
    assert!(events.contains(&&json!("OptedOut")), "{stopped}");

    // Somebody is erased while the message waits.
    let erased_id = contact_id(&engine, erased).await;
    let (status, answer) = engine.request(Method::DELETE, &format!("/v1/contacts/{erased_id}"), None).await;
    assert!(status.is_success(), "{answer}");
    let of_erased = wait::until(SOON, "the message to an erased contact is cancelled", async || {
        let answer = engine.get(&format!("/v1/explain?contact={erased_id}&campaign={campaign}")).await;
        (answer["outcome"] == "cancelled").then_some(answer)
    })
    .await;
    assert_eq!(of_erased["reason"], "erased", "{of_erased}");
    engine.post(&format!("/v1/campaigns/{campaign}/cancel"), &json!({})).await;
    let another = wait::until(SOON, "what waits is cancelled", async || {
        let messages = engine.get(&format!("/v1/messages?run={run}&status=cancelled&limit=1000")).await;
        let others = |item: &&Value| item["contact_id"] != erased_id && item["contact_id"] != stopping;
        let another = messages["items"].as_array().unwrap().iter().find(others)?;
        another["phone"].as_str().map(str::to_owned)
    })
    .await;
    let another: u32 = another.trim_start_matches("+9198250").parse().unwrap();
    because(&engine, another, &campaign, "cancelled", "run_cancelled").await;

    // A second campaign: for somebody who wants nothing, somebody who was erased, and others whom WhatsApp refuses for now.
    engine.sandbox(&json!({"faults": [{"effect": "refuse", "code": 131_056}]})).await;
    let again = engine.campaign_on(&template, |_| {}).await;
    engine.activate(&again).await;
    because(&engine, waiting, &again, "skipped", "opted_out").await;
    let answer = engine.get(&format!("/v1/explain?contact={erased_id}&campaign={again}")).await;
    assert_eq!((&answer["outcome"], &answer["reason"]), (&json!("not_in_audience"), &json!("erased")), "{answer}");
    let second = engine.runs(&again, 1).await[0]["id"].as_str().unwrap().to_owned();
    let deferred = wait::until(SOON, "a message is deferred", async || {
        let messages = engine.get(&format!("/v1/messages?run={second}&status=pending&limit=1000")).await;
        let refused = |item: &&Value| item["attempts"].as_i64() > Some(0);
        for item in messages["items"].as_array().unwrap().iter().filter(refused) {
            let contact = item["contact_id"].as_str().unwrap();
            let answer = engine.get(&format!("/v1/explain?contact={contact}&campaign={again}")).await;
            if answer["reason"] == "deferred" {
                return Some(answer);
            }
        }
        None
    })
    .await;
    assert!(deferred["sentence"].as_str().unwrap().contains("131056"), "{deferred}");
    engine.post(&format!("/v1/campaigns/{again}/cancel"), &json!({})).await;
    for run in [&run, &second] {
        engine
            .run_when(run, "nothing of the run is under way", |run| {
                ["pending", "dispatching", "sent", "delivered"].iter().all(|status| run["counts"][status] == 0)
            })
            .await;
    }
    engine.quiet().await;
    engine.stop().await;
}

/// Two campaigns for the same contacts at once: WhatsApp permits one message to a contact in six seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pair_limit_and_a_stalled_run_are_named() {
    let settings = &[("EKTOLA_DISPATCH__PAIR_BURST", "1")];
    let engine = Engine::start_with(Options { rate: 50, settings, ..Options::default() }).await;
    let template = engine.template().await;
    engine.contacts("gold", 3).await;
    let first = engine.campaign_on(&template, |_| {}).await;
    engine.activate(&first).await;
    because_sent(&engine, &first).await;
    let second = engine.campaign_on(&template, |_| {}).await;
    engine.activate(&second).await;
    because(&engine, 1, &second, "pending", "pair_limit").await;
    because_sent(&engine, &second).await;

    engine.sandbox(&json!({"faults": [{"effect": "refuse", "code": 190}]})).await;
    let third = engine.campaign_on(&template, |_| {}).await;
    engine.activate(&third).await;
    let stalled = because(&engine, 1, &third, "pending", "run_stalled").await;
    assert!(stalled["sentence"].as_str().unwrap().contains("ektola notices"), "{stalled}");
    engine.post(&format!("/v1/campaigns/{third}/cancel"), &json!({})).await;
    because(&engine, 1, &third, "cancelled", "run_cancelled").await;
    engine.quiet().await;
    engine.stop().await;
}

async fn because_sent(engine: &Engine, campaign: &str) {
    wait::until(SOON, "everybody has read the message", async || {
        for number in 0..3 {
            if explained(engine, number, campaign).await["outcome"] != "read" {
                return None;
            }
        }
        Some(())
    })
    .await;
}
