//! The control endpoint, and what it changes while the sandbox runs.

use super::*;

async fn patch(running: &Running, settings: Value) -> (StatusCode, Value) {
    answer_to(running.client.patch(running.url("/_control")).body(settings.to_string())).await
}

#[tokio::test]
async fn settings_are_shown_and_changed_while_it_runs() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    let (_, before) = answer_to(running.client.get(running.url("/_control"))).await;
    assert_eq!((&before["latency"]["median_ms"], &before["faults"]), (&json!(0), &json!([])));

    let (status, answer) = patch(&running, json!({"limits": {"rate_per_s": 7}, "opted_out": ["+91"]})).await;
    assert_eq!((status, &answer["limits"]["rate_per_s"]), (StatusCode::OK, &json!(7)));
    assert_eq!(answer_to(running.client.get(running.url("/_control"))).await.1, answer);
    let (status, back) = patch(&running, json!({"limits": null, "opted_out": []})).await;
    assert_eq!((status, back), (StatusCode::OK, before.clone()));

    for (wrong, named) in [
        (json!({"lmits": {}}), "lmits"),
        (json!({"limits": {"rate": 1}}), "rate"),
        (json!({"seed": 5, "statuses": {"batch_max": 1_001}}), "statuses.batch_max"),
        (json!({"faults": [{"effect": "refuse"}]}), "code"),
        (json!([]), "object"),
    ] {
        let (status, answer) = patch(&running, wrong).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(answer["error"].as_str().unwrap().contains(named), "{answer}");
    }
    assert_eq!(answer_to(running.client.get(running.url("/_control"))).await.1, before, "nothing was changed");
}

#[tokio::test]
async fn a_token_is_revoked_and_restored() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    patch(&running, json!({"access": {"token_revoked": true}})).await;
    let (status, answer) = running.post(message("+919812345600", "m").to_string()).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::UNAUTHORIZED, &json!(190)));
    running.ledger_shows(0, 0, 0).await;
    patch(&running, json!({"access": {"token_revoked": false}})).await;
    running.send("+919812345600", "m").await;
}

#[tokio::test]
async fn unknown_numbers_are_refused_with_either_code() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    for code in [100, 33] {
        patch(&running, json!({"access": {"numbers": ["1056"], "unknown_number_code": code}})).await;
        let (status, answer) = running.post(message("+919812345600", "m").to_string()).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(code)));
    }
}

#[tokio::test]
async fn limits_refuse_as_they_are_told() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    let limits = json!({"pair_burst": 1, "http_status": 400, "retry_after_s": 6});
    patch(&running, json!({ "limits": limits })).await;
    running.send("+919812345600", "m").await;
    let body = message("+919812345600", "m").to_string();
    let request = running.client.post(running.url("/v23.0/1055/messages")).bearer_auth("any").body(body);
    let response = request.send().await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["retry-after"]),
        (StatusCode::BAD_REQUEST, &"6".parse().unwrap())
    );
}

#[tokio::test]
async fn latency_has_a_median_a_tail_and_stalls() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    let took = async |to: &str| {
        let started = std::time::Instant::now();
        running.send(to, to).await;
        started.elapsed()
    };
    patch(&running, json!({"latency": {"median_ms": 30}})).await;
    assert!(took("+919812345600").await >= Duration::from_millis(30));
    patch(&running, json!({"latency": {"median_ms": 0, "stall_share": 1.0, "stall_ms": 80}})).await;
    assert!(took("+919812345601").await >= Duration::from_millis(80));
    patch(&running, json!({"latency": {"median_ms": 20, "p99_ms": 400, "stall_share": 0}})).await;
    let mut times = Vec::new();
    for number in 0..20 {
        times.push(took(&format!("+9198123456{number:02}")).await);
    }
    times.sort();
    assert!(times[19] > times[0] * 2, "{times:?}");
}

#[tokio::test]
async fn statuses_are_written_in_every_documented_way() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let style = json!({
        "contacts": "not_on_failed", "recipient_id": "empty", "timestamps_as_numbers": true, "conversation": true,
        "unknown_fields": true, "foreign_share": 1.0,
    });
    patch(&running, json!({"statuses": style, "faults": [{"effect": "add", "status": "warning"}]})).await;
    let wamid = running.send("+919812345696", "m").await;
    running.ledger_shows(1, 0, 0).await;
    let bodies: Vec<Value> = receiver.bodies().iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
    let value = &bodies[0]["entry"][0]["changes"][0]["value"];
    assert_eq!((value["contacts"].as_array().map(Vec::len), &value["unheard_of"]), (Some(1), &json!(true)));
    let status = &value["statuses"][0];
    assert_eq!((&status["timestamp"], &status["recipient_id"]), (&json!(NOW), &json!("")));
    assert!(status["conversation"]["id"].is_string() && status["unheard_of"].is_array(), "{status}");
    assert_ne!(value["statuses"][1]["id"], *wamid, "somebody else's message");
    let statuses = receiver.statuses(6).await;
    assert_eq!(by_wamid(&statuses)[&*wamid], ["sent", "delivered", "warning"]);
}

#[tokio::test]
async fn statuses_are_dropped_reversed_doubled_and_named_otherwise() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let faults = json!([
        {"effect": "drop", "statuses": ["delivered"], "recipients": ["919812345600"]},
        {"effect": "reverse", "recipients": ["919812345600", "919812345601"]},
        {"effect": "duplicate", "copies": 2, "recipients": ["919812345696"]},
        {"effect": "other_wa_id", "recipients": ["919812345696"]},
        {"effect": "no_echo", "recipients": ["919812345696"]},
    ]);
    patch(&running, json!({ "faults": faults })).await;
    let dropped = running.send("+919812345600", "a").await;
    let reversed = running.send("+919812345601", "b").await;
    let (_, answer) = running.post(message("+919812345696", "c").to_string()).await;
    let doubled = answer["messages"][0]["id"].as_str().unwrap();
    let statuses = receiver.statuses(11).await;
    let names = by_wamid(&statuses);
    assert_eq!(names[&*dropped], ["read", "sent"]);
    assert_eq!(names[&*reversed], ["read", "delivered", "sent"]);
    assert_eq!(names[doubled], ["sent", "sent", "sent", "delivered", "delivered", "delivered"]);
    let contact = &answer["contacts"][0];
    assert_ne!(contact["wa_id"], "919812345696");
    for status in statuses.iter().filter(|status| status["id"] == doubled) {
        assert_eq!(status["recipient_id"], contact["wa_id"]);
        assert!(status.get("biz_opaque_callback_data").is_none());
    }
}

#[tokio::test]
async fn users_without_a_number_are_written_to_by_their_id() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let mut body = message("", "m");
    body["recipient"] = json!("IN.1A2b3C00");
    body.as_object_mut().unwrap().remove("to");
    let (status, answer) = running.post(body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["contacts"], json!([{"input": "IN.1A2b3C00", "user_id": "IN.1A2b3C00"}]));
    let statuses = receiver.statuses(3).await;
    for status in &statuses {
        assert_eq!(status["recipient_user_id"], "IN.1A2b3C00");
        assert!(status.get("recipient_id").is_none());
    }
    body["recipient"] = json!("IN-1");
    assert_eq!(running.post(body.to_string()).await.1["error"]["code"], 131_009);
}

#[tokio::test]
async fn bodies_come_twice_and_with_signatures_that_do_not_fit() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let posts = json!({"duplicate_share": 1.0, "wrong_signature_share": 1.0, "unsigned_share": 1.0});
    let running = run(with(config(&folder, &receiver.url), &json!({ "posts": posts }))).await;
    running.send("+919812345699", "m").await;
    receiver.attempts(2).await;
    running.ledger_shows(1, 0, 0).await;
    let bodies = receiver.bodies();
    assert!(bodies.len() == 2 && bodies[0] == bodies[1], "the receiver keeps only what is signed");
    assert_eq!(receiver.shared.refused.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn the_receiver_is_asked_to_verify_itself() {
    let folder = TempDir::new().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let challenged = |axum::extract::Query(query): axum::extract::Query<HashMap<String, String>>| async move {
        let right = query["hub.verify_token"] == "right" && query["hub.mode"] == "subscribe";
        let status = if right { StatusCode::OK } else { StatusCode::FORBIDDEN };
        (status, query["hub.challenge"].clone())
    };
    let router = Router::new().route("/hook", axum::routing::get(challenged));
    tokio::spawn(async move { axum::serve(listener, router).await });
    let running = run(config(&folder, &url)).await;
    let verify = async |token: &str| {
        let body = json!({ "verify_token": token }).to_string();
        answer_to(running.client.post(running.url("/_verify")).body(body)).await.1
    };
    assert_eq!(verify("right").await, json!({"http_status": 200, "verified": true}));
    assert_eq!(verify("wrong").await, json!({"http_status": 403, "verified": false}));
    let (status, answer) = answer_to(running.client.post(running.url("/_verify")).body("{}")).await;
    assert!(status == StatusCode::BAD_REQUEST && answer["error"].as_str().unwrap().contains("verify_token"));
}
