//! WhatsApp refuses more than a message: every run that would meet the same stands still, a notice says what to do, and
//! what is not concerned goes on.

use std::time::Duration;

use domain::ids::SenderId;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{Engine, Options};
use crate::process::ektola;

const OTHER_NUMBER: &str = "100000000000102";
const SOON: &[(&str, &str)] = &[("EKTOLA_RETRIES__STALLED_WAIT_S", "1")];

async fn engine(rate: u32) -> Engine {
    Engine::start_with(Options { rate, settings: SOON, ..Options::default() }).await
}

async fn activated(engine: &Engine, template: &str, sender: SenderId) -> (String, String) {
    let campaign = engine.campaign_on(template, |campaign| campaign["sender_id"] = json!(sender.to_string())).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    (campaign, run)
}

async fn stalled(engine: &Engine, run: &str, reason: &str) {
    let run = engine.run_when(run, "the run is stalled", |run| run["status"] == "stalled").await;
    assert_eq!(run["stall_reason"], reason, "{run}");
}

async fn open_notices(engine: &Engine) -> Vec<Value> {
    engine.get("/v1/notices").await["items"].as_array().unwrap().clone()
}

async fn template(engine: &Engine, name: &str) -> String {
    let components = json!([{"type": "BODY", "text": "Dear {{1}}, your gold loan is due."}]);
    let template = json!({"name": name, "language": "en", "category": "UTILITY", "components": components});
    crate::engine::id_of(&engine.post("/v1/templates", &template).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_stalls_every_number_of_its_account_until_a_person_resumes() {
    let engine = engine(20).await;
    engine.contacts("gold", 100).await;
    let (number, other) = (engine.sender().await, engine.add_number(OTHER_NUMBER, 20).await);
    let template = engine.template().await;
    let (first, one) = activated(&engine, &template, number).await;
    let (second, two) = activated(&engine, &template, other).await;
    for run in [&one, &two] {
        engine.run_when(run, "messages are sent", |run| run["funnel"]["sent"].as_u64().unwrap() > 3).await;
    }
    engine.sandbox(&json!({"access": {"token_revoked": true}})).await;
    for run in [&one, &two] {
        stalled(&engine, run, "account_refused").await;
    }
    let notice = wait::until(Duration::from_secs(10), "a notice says so", async || {
        open_notices(&engine).await.into_iter().find(|notice| notice["code"] == 190)
    })
    .await;
    assert_eq!((&notice["scope"], &notice["scope_id"]), (&json!("account"), &json!("100000000000001")), "{notice}");
    assert!(notice["advice"].as_str().unwrap().contains("ektola sender add"), "{notice}");

    // The cause is mended, and nothing goes on by itself.
    engine.sandbox(&json!({"access": {"token_revoked": false}})).await;
    for (campaign, run) in [(&first, &one), (&second, &two)] {
        assert_eq!(engine.get(&format!("/v1/runs/{run}")).await["status"], "stalled");
        engine.post(&format!("/v1/campaigns/{campaign}/resume"), &json!({})).await;
    }
    for run in [&one, &two] {
        let run = engine.settled(run).await;
        assert_eq!(run["counts"]["read"], 100, "no message was lost or failed by it: {run}");
    }
    let id = notice["id"].as_str().unwrap();
    let done = ektola(&engine, &["notices", "done", id]).await;
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(open_notices(&engine).await, Vec::<Value>::new());
    let (status, _) = engine.request(Method::POST, "/v1/notices/999/done", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(engine.ledger().await["doubled"], 0);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_template_stalls_the_runs_that_use_it_and_no_others() {
    let engine = engine(15).await;
    engine.contacts("gold", 60).await;
    let (number, other) = (engine.sender().await, engine.add_number(OTHER_NUMBER, 15).await);
    let (refused, fine) = (engine.template().await, template(&engine, "fine").await);
    let (_, one) = activated(&engine, &refused, number).await;
    let (_, two) = activated(&engine, &refused, other).await;
    let (_, three) = activated(&engine, &fine, other).await;
    for run in [&one, &two] {
        engine.run_when(run, "messages are sent", |run| run["funnel"]["sent"].as_u64().unwrap() > 3).await;
    }
    // To one contact on one number alone: the other number's run would not meet it for a while.
    let fault = json!({"effect": "refuse", "code": 132_015, "templates": ["reminder"], "next": 1});
    engine.sandbox(&json!({"faults": [fault]})).await;
    for run in [&one, &two] {
        stalled(&engine, run, "template_refused").await;
    }
    let three = engine.settled(&three).await;
    assert_eq!(three["counts"]["read"], 60, "{three}");
    let notices = open_notices(&engine).await;
    let shown: Vec<_> =
        notices.iter().map(|notice| (&notice["scope"], &notice["scope_name"], &notice["code"])).collect();
    assert_eq!(shown, [(&json!("template"), &json!("reminder"), &json!(132_015))]);
    let listed = ektola(&engine, &["notices", "list"]).await;
    assert!(listed.stdout.contains("change its text or choose another template"), "{}", listed.stdout);
    engine.quiet().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_made_the_wrong_way_stall_their_run_after_a_few() {
    let engine = engine(10).await;
    engine.contacts("gold", 60).await;
    engine.sandbox(&json!({"faults": [{"effect": "refuse", "code": 131_008}]})).await;
    let template = engine.template().await;
    let (campaign, run) = activated(&engine, &template, engine.sender().await).await;
    stalled(&engine, &run, "messages_refused").await;
    let notice =
        wait::until(Duration::from_secs(10), "a notice says so", async || open_notices(&engine).await.first().cloned())
            .await;
    assert_eq!((&notice["scope"], &notice["scope_id"]), (&json!("campaign"), &json!(campaign)), "{notice}");
    let shown = engine.get(&format!("/v1/runs/{run}")).await;
    let failed = shown["counts"]["failed"].as_u64().unwrap();
    assert!((3..20).contains(&failed), "{shown}");
    engine.sandbox(&json!({"faults": []})).await;
    engine.post(&format!("/v1/campaigns/{campaign}/resume"), &json!({})).await;
    let shown = engine.settled(&run).await;
    assert_eq!(shown["counts"]["read"].as_u64().unwrap() + shown["counts"]["failed"].as_u64().unwrap(), 60, "{shown}");
    assert!(shown["counts"]["failed"].as_u64().unwrap() < 20, "{shown}");
    engine.stop().await;
}
