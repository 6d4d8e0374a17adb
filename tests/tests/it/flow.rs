//! The main job: from a file of contacts to READ, on both queues.

use std::time::Duration;

use api::sandbox::Outcomes;
use reqwest::{Method, StatusCode};
use serde_json::json;
use test_kit::wait;

use crate::engine::{Engine, Options, Queue};

async fn main_job(queue: Queue) {
    let engine = Engine::start_with(Options { queue, outcomes: Outcomes::ByNumber, ..Options::default() }).await;
    engine.contacts("gold", 300).await;
    let (status, report) = engine.upload("phone,name,segment\n9825090000,,gold\n").await;
    assert_eq!((status, &report["created"]), (StatusCode::OK, &json!(1)), "{report}");
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let run = engine.settled(&run).await;

    // The sandbox decides by the last two digits: 96 and 97 stay delivered, 98 and 99 fail.
    let counts = &run["counts"];
    assert_eq!(
        (&counts["read"], &counts["delivered"], &counts["failed"], &counts["skipped"]),
        (&json!(288), &json!(6), &json!(6), &json!(1)),
        "{run}"
    );
    assert_eq!(run["audience"], 301);
    assert_eq!(counts.as_object().unwrap().len(), 11, "every status is listed");
    assert_eq!(run["funnel"], json!({"attempted": 300, "sent": 300, "delivered": 294, "read": 288}));
    assert_eq!(run["skipped_by_reason"], json!({"missing_variable": 1}));
    assert_eq!(run["failed_by_code"], json!({"131026": 6}));
    let ledger = engine.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(300), &json!(0)));
    assert_eq!(engine.events_of("DispatchStarted").await, 300);

    // Two read models, each with a checkpoint of its own.
    let failed = format!("/v1/runs/{}/messages?status=failed", run["id"].as_str().unwrap());
    let messages = wait::until(Duration::from_secs(10), "the failed messages are listed", async || {
        let messages = engine.get(&failed).await;
        (messages["items"].as_array().unwrap().len() == 6).then_some(messages)
    })
    .await;
    let message = engine.get(&format!("/v1/messages/{}", messages["items"][0]["id"].as_str().unwrap())).await;
    assert!(message["timeline"].as_array().unwrap().len() >= 4, "{message}");

    // A once campaign is over when its only run is.
    wait::until(Duration::from_secs(10), "the campaign is completed", async || {
        let campaign = engine.get(&format!("/v1/campaigns/{campaign}")).await;
        (campaign["status"] == "completed").then_some(())
    })
    .await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_file_of_contacts_to_read_on_the_postgres_queue() {
    main_job(Queue::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_file_of_contacts_to_read_on_rabbitmq() {
    main_job(Queue::Rabbitmq).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_are_filled_for_each_contact_and_fall_back() {
    let engine = Engine::start().await;
    let (status, _) = engine.upload("phone,name,segment\n9825000001,Asha,gold\n9825000002,,gold\n").await;
    assert_eq!(status, StatusCode::OK);
    let campaign = engine
        .campaign(|campaign| campaign["parameters"]["1"] = json!({"attribute": "name", "fallback": "Customer"}))
        .await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.settled(&run).await;
    let mut values: Vec<_> =
        sqlx::query_scalar!("SELECT variables FROM message_recipients").fetch_all(&engine.database.pool).await.unwrap();
    values.sort_by_key(ToString::to_string);
    assert_eq!(values, [json!({"1": "Asha"}), json!({"1": "Customer"})]);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_campaign_sends_nothing_until_it_is_resumed() {
    let engine = Engine::start_with(Options { rate: 20, ..Options::default() }).await;
    engine.contacts("gold", 100).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.run_when(&run, "some messages are sent", |run| run["funnel"]["sent"].as_u64().unwrap() >= 10).await;
    let paused = engine.post(&format!("/v1/campaigns/{campaign}/pause"), &json!({})).await;
    assert_eq!(paused["status"], "paused");
    engine
        .run_when(&run, "the run is paused and nothing is under way", |run| {
            run["status"] == "paused" && run["counts"]["dispatching"] == 0
        })
        .await;
    // A call that had begun may have ended in between; from here on nothing may begin.
    let before = engine.ledger().await["accepted"].as_u64().unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = engine.ledger().await["accepted"].as_u64().unwrap();
    assert_eq!(before, after, "messages were sent while the campaign was paused");
    assert!(after < 100, "the pause came too late to show anything");

    engine.post(&format!("/v1/campaigns/{campaign}/resume"), &json!({})).await;
    let run = engine.settled(&run).await;
    assert_eq!(run["counts"]["read"], 100, "{run}");
    assert_eq!(engine.ledger().await["doubled"], 0);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_campaign_ends_what_waits() {
    let engine = Engine::start_with(Options { rate: 20, ..Options::default() }).await;
    engine.contacts("gold", 100).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.run_when(&run, "some messages are sent", |run| run["funnel"]["sent"].as_u64().unwrap() >= 5).await;
    engine.post(&format!("/v1/campaigns/{campaign}/cancel"), &json!({})).await;
    let run = engine
        .run_when(&run, "nothing of the cancelled run waits", |run| {
            let count = |status: &str| run["counts"][status].as_u64().unwrap();
            let on_the_way = ["pending", "dispatching", "sent", "delivered"];
            run["status"] == "cancelled" && on_the_way.into_iter().all(|status| count(status) == 0)
        })
        .await;
    let (read, cancelled) = (run["counts"]["read"].as_u64().unwrap(), run["counts"]["cancelled"].as_u64().unwrap());
    assert_eq!(read + cancelled, 100, "{run}");
    assert!(cancelled > 0);
    engine.quiet().await;
    assert_eq!(engine.ledger().await["accepted"], read, "what was cancelled was not sent");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doing_what_is_done_changes_nothing_and_a_trigger_with_a_key_runs_once() {
    let engine = Engine::start().await;
    engine.contacts("gold", 3).await;
    let campaign = engine
        .campaign(|campaign| {
            campaign["recurrence_type"] = json!("daily");
            campaign["start_date"] = json!("2030-01-01T10:00");
        })
        .await;
    engine.activate(&campaign).await;
    let again = engine.post(&format!("/v1/campaigns/{campaign}/activate"), &json!({})).await;
    assert_eq!(again["status"], "active");
    assert_eq!(engine.events_of("CampaignActivated").await, 1);
    let (status, _) = engine.request(Method::POST, &format!("/v1/campaigns/{campaign}/resume"), Some(&json!({}))).await;
    assert_eq!(status, StatusCode::OK, "an active campaign is as good as resumed");

    let trigger = || async {
        let request = engine.raw(Method::POST, &format!("/v1/campaigns/{campaign}/trigger"));
        let request = request.bearer_auth(engine.token()).header("Idempotency-Key", "monday").json(&json!({}));
        crate::engine::send(request).await
    };
    let (status, first) = trigger().await;
    assert_eq!(status, StatusCode::ACCEPTED, "{first}");
    let (_, second) = trigger().await;
    assert_eq!(first["run_id"], second["run_id"]);
    let run = engine.settled(first["run_id"].as_str().unwrap()).await;
    assert_eq!(run["counts"]["read"], 3);
    assert_eq!(engine.runs(&campaign, 1).await.len(), 1);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_test_message_is_an_ordinary_message() {
    let engine = Engine::start().await;
    let template = engine.template().await;
    let body = json!({"to": "9825012345", "variables": {"1": "Asha"}});
    let answer = engine.post(&format!("/v1/templates/{template}/test"), &body).await;
    let run = engine.settled(answer["run_id"].as_str().unwrap()).await;
    assert_eq!((&run["audience"], &run["counts"]["read"]), (&json!(1), &json!(1)), "{run}");
    let message = engine.get(&format!("/v1/messages/{}", answer["message_id"].as_str().unwrap())).await;
    assert_eq!(message["status"], "read");
    engine.stop().await;
}

/// WhatsApp refuses the number's token: the run says so and waits, nobody's message is burnt, and it goes on once the
/// number has a token that works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_token_stalls_the_run_until_a_person_has_acted() {
    let options = Options { accepted_token: Some("the right token"), rate: 50, ..Options::default() };
    let engine = Engine::start_with(options).await;
    engine.contacts("gold", 200).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let stalled = engine
        .run_when(&run, "the run is stalled", |run| run["status"] == "stalled" && run["counts"]["dispatching"] == 0)
        .await;
    assert_eq!((&stalled["stall_reason"], &stalled["counts"]["pending"]), (&json!("account_refused"), &json!(200)));
    assert_eq!(engine.ledger().await["accepted"], 0);

    engine.set_access_token("the right token").await;
    engine.post(&format!("/v1/campaigns/{campaign}/resume"), &json!({})).await;
    engine.run_when(&run, "the run goes on", |run| run["status"] != "stalled").await;
    // What was refused waits a minute before it is tried again; the others need not.
    engine.run_when(&run, "messages are sent", |run| run["funnel"]["sent"].as_u64().unwrap() > 0).await;
    engine.post(&format!("/v1/campaigns/{campaign}/cancel"), &json!({})).await;
    engine
        .run_when(&run, "nothing of the run is open", |run| {
            ["pending", "dispatching", "sent"].iter().all(|status| run["counts"][status] == 0)
        })
        .await;
    engine.quiet().await;
    assert_eq!(engine.ledger().await["doubled"], 0);
    engine.stop().await;
}
