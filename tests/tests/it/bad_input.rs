//! Bad input gets a clear error, and nothing is half done.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::engine::{Engine, send};

/// The fields that a problem names.
fn fields(problem: &Value) -> Vec<&str> {
    problem["errors"].as_array().into_iter().flatten().filter_map(|error| error["field"].as_str()).collect()
}

fn reasons(problem: &Value) -> String {
    problem["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|error| error["reason"].as_str())
        .collect::<Vec<_>>()
        .join("; ")
}

async fn nothing_was_created(engine: &Engine) {
    assert_eq!(engine.events_of("CampaignCreated").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn campaigns() {
    let engine = Engine::start().await;
    engine.contacts("gold", 2).await;
    let template = engine.template().await;
    let good = json!({
        "name": "Reminders", "template_id": template, "target_segment": "gold", "campaign_type": "utility",
        "recurrence_type": "daily", "start_date": "2027-01-01T10:00", "parameters": {"1": {"attribute": "name"}},
    });
    let with = |change: &dyn Fn(&mut Value)| {
        let mut body = good.clone();
        change(&mut body);
        body
    };
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        ("an unknown template", with(&|b| b["template_id"] = json!(Uuid::new_v4())), "template_id", "reminder"),
        ("an end before the start", with(&|b| b["end_date"] = json!("2026-12-01")), "end_date", ""),
        ("an unknown field", with(&|b| b["segment"] = json!("gold")), "segment", "target_segment"),
        (
            "a variable that the template does not have",
            with(&|b| b["parameters"]["9"] = json!({"attribute": "x"})),
            "parameters.9",
            "",
        ),
        ("another language", with(&|b| b["language"] = json!("hi")), "language", "en"),
        ("an unknown recurrence", with(&|b| b["recurrence_type"] = json!("hourly")), "recurrence_type", "daily"),
        ("a date that is none", with(&|b| b["start_date"] = json!("soon")), "start_date", ""),
        ("no name", with(&|b| b["name"] = json!("")), "name", ""),
        ("an unknown sender", with(&|b| b["sender_id"] = json!(Uuid::new_v4())), "sender_id", ""),
    ];
    for (what, body, field, hint) in cases {
        let (status, problem) = engine.request(Method::POST, "/v1/campaigns", Some(&body)).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {problem}");
        assert!(fields(&problem).contains(&field), "{what}: {problem}");
        assert!(reasons(&problem).contains(hint), "{what}: {problem}");
    }
    // Every fault of a body at once.
    let (_, problem) = engine.request(Method::POST, "/v1/campaigns", Some(&json!({"name": ""}))).await;
    assert!(fields(&problem).len() >= 5, "{problem}");
    nothing_was_created(&engine).await;

    let nobody = engine.campaign_from(with(&|b| b["target_segment"] = json!("silver"))).await;
    let (status, problem) =
        engine.request(Method::POST, &format!("/v1/campaigns/{nobody}/activate"), Some(&json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert!(fields(&problem).contains(&"target_segment") && reasons(&problem).contains("gold"), "{problem}");

    let unmapped = engine.campaign_from(with(&|b| b["parameters"] = json!({}))).await;
    let (status, _) =
        engine.request(Method::POST, &format!("/v1/campaigns/{unmapped}/activate"), Some(&json!({}))).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(engine.events_of("CampaignActivated").await, 0);

    let campaign = engine.campaign_from(good.clone()).await;
    engine.post(&format!("/v1/campaigns/{campaign}/cancel"), &json!({})).await;
    let (status, problem) =
        engine.request(Method::POST, &format!("/v1/campaigns/{campaign}/activate"), Some(&json!({}))).await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("cancelled"), "{problem}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_none() {
    let engine = Engine::start().await;
    let post = || engine.raw(Method::POST, "/v1/campaigns").header("content-type", "application/json");
    for (what, request, expected) in [
        ("no token", post().body("{}"), StatusCode::UNAUTHORIZED),
        ("a wrong token", post().bearer_auth("ektola_0123456789abcdef_wrong").body("{}"), StatusCode::UNAUTHORIZED),
        ("not JSON", post().bearer_auth(engine.token()).body("{name:"), StatusCode::BAD_REQUEST),
        (
            "not declared as JSON",
            engine.raw(Method::POST, "/v1/campaigns").bearer_auth(engine.token()).body("name=x"),
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ),
        (
            "over-long",
            post().bearer_auth(engine.token()).body(format!("{{\"name\":\"{}\"}}", "x".repeat(2 << 20))),
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
        ("an unknown place", engine.raw(Method::GET, "/v1/blasts").bearer_auth(engine.token()), StatusCode::NOT_FOUND),
        (
            "an id that is none",
            engine.raw(Method::GET, "/v1/campaigns/17").bearer_auth(engine.token()),
            StatusCode::NOT_FOUND,
        ),
        (
            "a limit beyond the limit",
            engine.raw(Method::GET, "/v1/campaigns?limit=1001").bearer_auth(engine.token()),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
    ] {
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), expected, "{what}");
        assert_eq!(response.headers()["content-type"], "application/problem+json", "{what}");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], expected.as_u16(), "{what}: {problem}");
        assert!(problem["type"].is_string() && problem["title"].is_string(), "{what}: {problem}");
    }
    nothing_was_created(&engine).await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_with_a_fault_store_nothing_and_bad_rows_are_rejected_alone() {
    let engine = Engine::start().await;
    for (what, file, hint) in [
        ("no phone column", "name,segment\nAsha,gold\n", "phone"),
        ("an unclosed quote", "phone,name\n9825000001,\"Asha\n9825000002,Bina\n", "quote"),
        ("nothing at all", "", ""),
    ] {
        let (status, problem) = engine.upload(file).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{what}: {problem}");
        assert!(problem.to_string().contains(hint), "{what}: {problem}");
    }
    let contacts = engine.get("/v1/contacts").await;
    assert_eq!(contacts["items"], json!([]), "a faulty file stored something");

    let (status, report) = engine
        .upload("phone,name,segment\n9825000001,Asha,gold\n9.19877E+11,Bina,gold\n9825000001,Asha M,gold\n")
        .await;
    assert_eq!(status, StatusCode::OK);
    let counts = ["rows", "created", "duplicate", "rejected"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts, [3, 1, 1, 1], "{report}");
    assert_eq!(report["errors"][0]["row"], 3);
    assert!(report["errors"][0]["reason"].as_str().unwrap().contains("spreadsheet"), "{report}");
    let contacts = engine.get("/v1/contacts").await;
    assert_eq!(contacts["items"][0]["attributes"]["name"], "Asha M", "the last row wins");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tenants_things_are_not_found() {
    let engine = Engine::start().await;
    engine.contacts("gold", 1).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.settled(&run).await;
    let messages = engine.get(&format!("/v1/runs/{run}/messages")).await;
    let message = messages["items"][0]["id"].as_str().unwrap();

    let stranger = engine.stranger().await;
    for path in [
        format!("/v1/campaigns/{campaign}"),
        format!("/v1/campaigns/{campaign}/runs"),
        format!("/v1/runs/{run}"),
        format!("/v1/runs/{run}/messages"),
        format!("/v1/messages/{message}"),
    ] {
        let (status, _) = send(engine.raw(Method::GET, &path).bearer_auth(&stranger)).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    for command in ["activate", "pause", "resume", "cancel", "trigger"] {
        let path = format!("/v1/campaigns/{campaign}/{command}");
        let (status, _) = send(engine.raw(Method::POST, &path).bearer_auth(&stranger).json(&json!({}))).await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/v1/campaigns", "/v1/contacts", "/v1/segments", "/v1/templates", "/v1/senders"] {
        let (status, list) = send(engine.raw(Method::GET, path).bearer_auth(&stranger)).await;
        assert_eq!((status, &list["items"]), (StatusCode::OK, &json!([])), "{path}: {list}");
    }
    engine.stop().await;
}

#[test]
fn an_unknown_configuration_key_is_refused_with_the_nearest_known_one() {
    let environment = [("EKTOLA_DISPATCH__CAL_TIMEOUT_S".to_owned(), "5".to_owned())];
    let error = api::config::load(None, environment.into_iter()).unwrap_err().to_string();
    assert!(error.to_lowercase().contains("call_timeout_s"), "{error}");

    let data = tempfile::tempdir().unwrap();
    std::fs::write(data.path().join("ektola.toml"), "[feeder]\noutstandin_s = 3\n").unwrap();
    let error = api::config::load(Some(data.path()), std::iter::empty()).unwrap_err().to_string();
    assert!(error.contains("outstanding_s"), "{error}");
}
