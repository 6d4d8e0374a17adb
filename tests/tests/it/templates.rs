//! Templates over HTTP: what stands in the way of a campaign, and runs that follow what Meta says of their template.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{APP_SECRET, Engine, Options, id_of};
use crate::webhooks::{deliver, interpreted};

const WABA: &str = "100000000000001";

fn options() -> Options {
    // Slow enough that a run of some hundred messages is caught in its middle.
    Options { rate: 40, settings: &[("EKTOLA_TEMPLATES__WATCH_POLL_MS", "50")], ..Options::default() }
}

/// What Meta says of the template `reminder`, `second` seconds from now.
async fn news(engine: &Engine, event: &str, title: Option<&str>, second: i64) {
    let mut value = json!({
        "event": event, "message_template_id": 7, "message_template_name": "reminder",
        "message_template_language": "en", "reason": null,
    });
    if let Some(title) = title {
        value["other_info"] = json!({"title": title, "description": "x"});
    }
    let time = engine.clock.now().timestamp() + second;
    let changes = json!([{"field": "message_template_status_update", "value": value}]);
    let body = json!({
        "object": "whatsapp_business_account", "entry": [{"id": WABA, "time": time, "changes": changes}],
    });
    let status = deliver(engine, body.to_string().into_bytes(), APP_SECRET).await;
    assert_eq!(status, StatusCode::OK);
    interpreted(engine).await;
}

fn is(status: &'static str) -> impl Fn(&Value) -> bool {
    move |run| run["status"] == status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_stops_while_meta_pauses_its_template_and_goes_on_by_itself_twice() {
    let engine = Engine::start_with(options()).await;
    engine.contacts("gold", 400).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.run_when(&run, "some messages are sent", |run| run["funnel"]["sent"].as_i64() > Some(5)).await;

    for (second, title) in [(0, "FIRST_PAUSE"), (10, "SECOND_PAUSE")] {
        news(&engine, "PAUSED", Some(title), second).await;
        let stalled = engine.run_when(&run, "the run stops", is("stalled")).await;
        assert_eq!(stalled["stall_reason"], "template_not_approved");
        assert!(stalled["stall_advice"].as_str().unwrap().contains("approve"), "{stalled}");
        news(&engine, "APPROVED", Some("UNPAUSE"), second + 5).await;
        engine.run_when(&run, "the run goes on", is("running")).await;
    }
    // A pause that is delivered again is older than the approval.
    news(&engine, "PAUSED", Some("FIRST_PAUSE"), 10).await;
    engine.run_when(&run, "the run goes on", is("running")).await;

    news(&engine, "DISABLED", None, 20).await;
    engine.run_when(&run, "the run stops", is("stalled")).await;
    news(&engine, "APPROVED", None, 25).await;
    let template = engine.get("/v1/templates").await["items"][0].clone();
    assert_eq!(template["status"], "APPROVED");
    // Longer than the watch takes to look.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(engine.get(&format!("/v1/runs/{run}")).await["status"], "stalled", "a person has to resume it");
    engine.post(&format!("/v1/campaigns/{campaign}/pause"), &json!({})).await;
    engine.post(&format!("/v1/campaigns/{campaign}/resume"), &json!({})).await;
    let run = engine.settled(&run).await;
    assert_eq!((&run["counts"]["read"], &run["counts"]["failed"]), (&json!(400), &json!(0)), "{run}");
    let template = engine.get(&format!("/v1/templates/{}", template["id"].as_str().unwrap())).await;
    let changes: Vec<(&str, &str)> = template["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["to"].as_str().unwrap(), change["detail"].as_str().unwrap_or_default()))
        .collect();
    let expected = [
        ("APPROVED", ""),
        ("DISABLED", ""),
        ("APPROVED", "UNPAUSE"),
        ("PAUSED", "SECOND_PAUSE"),
        ("APPROVED", "UNPAUSE"),
        ("PAUSED", "FIRST_PAUSE"),
    ];
    assert_eq!(changes, expected);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_is_activated_on_an_approved_template_with_every_variable_mapped_alone() {
    let engine = Engine::start_with(options()).await;
    engine.contacts("gold", 1).await;
    let components = json!([
        {"type": "HEADER", "format": "IMAGE"},
        {"type": "BODY", "text": "Dear {{1}}"},
        {"type": "BUTTONS", "buttons": [{"type": "COPY_CODE"}, {"type": "QUICK_REPLY", "text": "Stop"}]},
    ]);
    let template = json!({"name": "offer", "language": "en", "category": "MARKETING", "components": components});
    let template = engine.post("/v1/templates", &template).await;
    assert_eq!(template["variables"], json!(["1", "header.image", "button.0.coupon_code"]));
    assert_eq!(template["optional_variables"], json!(["button.1.payload"]));
    let template = id_of(&template);
    let refused = async |campaign: &str| {
        let path = format!("/v1/campaigns/{campaign}/activate");
        let (status, problem) = engine.request(Method::POST, &path, Some(&json!({}))).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        problem["errors"].as_array().unwrap().clone()
    };
    let half = engine.campaign_on(&template, |_| {}).await;
    let fields: Vec<Value> = refused(&half).await.iter().map(|error| error["field"].clone()).collect();
    assert_eq!(fields, ["parameters.header.image", "parameters.button.0.coupon_code"]);

    let mapped = |campaign: &mut Value| {
        campaign["parameters"]["header.image"] = json!({"value": "https://cdn.example/offer.jpg"});
        campaign["parameters"]["button.0.coupon_code"] = json!({"attribute": "code", "fallback": "SAVE10"});
    };
    // An offer that is called a reminder would reach whoever has stopped offers.
    let disguised = engine.campaign_on(&template, mapped).await;
    assert_eq!(refused(&disguised).await[0]["field"], "campaign_type");
    let campaign = engine
        .campaign_on(&template, |campaign| {
            mapped(campaign);
            campaign["campaign_type"] = json!("marketing");
        })
        .await;
    sqlx::query!("UPDATE templates SET status = 'PAUSED'").execute(&engine.database.pool).await.unwrap();
    let reason = refused(&campaign).await[0].clone();
    assert_eq!(reason["field"], "template_id");
    assert!(reason["reason"].as_str().unwrap().contains("offer in en is PAUSED"), "{reason}");
    sqlx::query!("UPDATE templates SET status = 'APPROVED'").execute(&engine.database.pool).await.unwrap();
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(engine.settled(&run).await["counts"]["read"], 1);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contact_whose_values_cannot_be_sent_is_skipped_with_the_reason() {
    let engine = Engine::start_with(options()).await;
    let long = "x".repeat(1100);
    let file = format!(
        "phone,name,link,segment\n9825000001,Asha,https://cdn.example/a.jpg,gold\n9825000002,Bina,broken,gold\n\
         9825000003,{long},https://cdn.example/a.jpg,gold\n9825000004,Dev,,gold\n"
    );
    let (status, report) = engine.upload(file).await;
    assert_eq!((status, &report["created"]), (StatusCode::OK, &json!(4)), "{report}");
    let components = json!([{"type": "HEADER", "format": "IMAGE"}, {"type": "BODY", "text": "Dear {{1}}"}]);
    let template = json!({"name": "offer", "language": "en", "category": "UTILITY", "components": components});
    let template = id_of(&engine.post("/v1/templates", &template).await);
    let campaign = engine
        .campaign_on(&template, |campaign| campaign["parameters"]["header.image"] = json!({"attribute": "link"}))
        .await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let run = engine.settled(&run).await;
    assert_eq!(run["counts"]["read"], 1, "{run}");
    let expected = json!({"invalid_variable": 1, "missing_variable": 1, "text_too_long": 1});
    assert_eq!(run["skipped_by_reason"], expected);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_a_list_shows_as_paused_stops_its_run_and_starts_none() {
    let engine = Engine::start_with(options()).await;
    let status = Arc::new(Mutex::new("APPROVED"));
    let shown = status.clone();
    let list = get(move || {
        let status = *shown.lock().unwrap();
        async move {
            axum::Json(json!({"data": [{
                "id": "7", "name": "reminder", "language": "en", "status": status, "category": "UTILITY",
                "components": [{"type": "BODY", "text": "Dear {{1}}, your gold loan is due."}],
            }]}))
        }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/v25.0/{waba}/message_templates", list);
    tokio::spawn(async move { axum::serve(listener, router).await });
    // The calls of the run go to the same address, which knows nothing of them and would fail them.
    engine.contacts("gold", 1).await;
    engine.set_address(&url).await;
    let synced = engine.post("/v1/templates/sync", &json!({})).await;
    assert_eq!((&synced["accounts"][0]["waba_id"], &synced["accounts"][0]["added"]), (&json!(WABA), &json!(1)));
    let template = engine.get("/v1/templates").await["items"][0].clone();
    let campaign = engine.campaign_on(template["id"].as_str().unwrap(), |campaign| {
        campaign["recurrence_type"] = json!("daily");
        campaign["start_date"] = json!("2020-01-01");
    });
    let campaign = campaign.await;
    engine.activate(&campaign).await;
    *status.lock().unwrap() = "PAUSED";
    let synced = engine.post("/v1/templates/sync", &json!({})).await;
    assert_eq!(synced["accounts"][0]["changed"], 1);
    let path = format!("/v1/campaigns/{campaign}/trigger");
    engine.request(Method::POST, &path, Some(&json!({}))).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let run = engine.run_when(&run, "the run waits", is("stalled")).await;
    assert_eq!(run["stall_reason"], "template_not_approved");
    assert_eq!(run["funnel"]["attempted"], 0, "nothing was sent");
    engine.post(&format!("/v1/campaigns/{campaign}/cancel"), &json!({})).await;
    wait::until(Duration::from_secs(20), "the fan-out has ended", async || {
        let tasks = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM fan_out_tasks"#);
        (tasks.fetch_one(&engine.database.pool).await.unwrap() == 0).then_some(())
    })
    .await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_without_a_list_is_a_clear_answer() {
    let engine = Engine::start_with(options()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    engine.set_address(&format!("http://{}", listener.local_addr().unwrap())).await;
    tokio::spawn(async move { axum::serve(listener, Router::new()).await });
    let (status, problem) = engine.request(Method::POST, "/v1/templates/sync", Some(&json!({}))).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(problem["detail"].as_str().unwrap().contains("no list of templates"), "{problem}");
    engine.stop().await;
}
