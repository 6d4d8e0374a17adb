//! Templates: the catalogue, its pages, pauses in mid-run, and the endpoint for marketing messages.

use super::*;

fn catalogue() -> Value {
    json!([
        {"name": "greeting", "language": "en", "category": "UTILITY", "id": "900000000000001",
         "quality_score": {"score": "GREEN"}, "components": [{"type": "BODY", "text": "Dear {{1}}, hello"}]},
        {"name": "offer", "language": "en", "components": [{"type": "BODY", "text": "Dear {{1}}, buy"}]},
        {"name": "offer", "language": "hi", "status": "PENDING"},
    ])
}

fn with_template(name: &str, language: &str) -> Value {
    let mut body = message("+919812345600", "m");
    body["template"]["name"] = json!(name);
    body["template"]["language"]["code"] = json!(language);
    body
}

async fn code(running: &Running, body: &Value) -> u64 {
    running.post(body.to_string()).await.1["error"]["code"].as_u64().unwrap_or_default()
}

async fn get(running: &Running, path: &str) -> (StatusCode, Value) {
    answer_to(running.client.get(running.url(path)).bearer_auth("any")).await
}

/// The events of template webhooks, in the order of their arrival, once there are `count`.
async fn events(receiver: &Receiver, count: usize) -> Vec<String> {
    let found = || {
        let mut events = Vec::new();
        for body in receiver.bodies() {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let change = &body["entry"][0]["changes"][0];
            if change["field"] == "message_template_status_update" {
                assert!(body["entry"][0]["time"].is_i64() && change["value"]["message_template_id"].is_u64(), "{body}");
                events.push(change["value"]["event"].as_str().unwrap().to_owned());
            }
        }
        events
    };
    let enough = async {
        let mut attempts = receiver.shared.attempts.subscribe();
        while found().len() < count {
            attempts.changed().await.unwrap();
        }
    };
    tokio::time::timeout(DEADLINE, enough).await.expect("the webhooks come in time");
    found()
}

#[tokio::test]
async fn a_send_must_name_a_template_of_the_catalogue_and_fit_it() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(with(config(&folder, &receiver.url), &json!({"templates": catalogue()}))).await;
    assert_eq!(code(&running, &with_template("greeting", "en")).await, 0);
    assert_eq!(code(&running, &with_template("offer", "en")).await, 0);
    assert_eq!(code(&running, &with_template("greeting", "gu")).await, 132_001);
    assert_eq!(code(&running, &with_template("offer", "hi")).await, 132_001);
    let mut bare = with_template("greeting", "en");
    bare["template"]["components"] = json!([]);
    assert_eq!(code(&running, &bare).await, 132_000);
    running.ledger_shows(2, 1, 0).await;
    let statuses = receiver.statuses(6).await;
    let categories: std::collections::BTreeSet<_> =
        statuses.iter().filter_map(|status| status["pricing"]["category"].as_str()).collect();
    assert_eq!(categories.into_iter().collect::<Vec<_>>(), ["marketing", "utility"]);
}

#[tokio::test]
async fn templates_are_listed_in_pages_and_shown_by_their_id() {
    let folder = TempDir::new().unwrap();
    let running = run(with(config(&folder, &refusing_url().await), &json!({"templates": catalogue()}))).await;
    let mut path = "/v23.0/77/message_templates?limit=2&fields=name,language,status,quality_score".to_owned();
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let (status, page) = get(&running, &path).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        pages += 1;
        for template in page["data"].as_array().unwrap() {
            assert!(template["id"].is_string() && template.get("components").is_none(), "{template}");
            names
                .push(format!("{} {} {}", template["name"], template["language"], template["status"]).replace('"', ""));
        }
        let Some(next) = page["paging"]["next"].as_str() else { break };
        path = next.strip_prefix(&running.url("")).unwrap().to_owned();
    }
    assert_eq!((pages, names.join(", ")), (2, "greeting en APPROVED, offer en APPROVED, offer hi PENDING".to_owned()));
    let (_, filtered) = get(&running, "/v23.0/77/message_templates?status=approved&name=offer").await;
    assert_eq!(filtered["data"].as_array().map(Vec::len), Some(1));
    for wrong in ["limit=0", "limit=x", "after=x", "fields=colour"] {
        let (status, answer) = get(&running, &format!("/v23.0/77/message_templates?{wrong}")).await;
        assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(100)), "{wrong}");
    }
    let (_, template) = get(&running, "/v23.0/900000000000001?fields=status,quality_score").await;
    let expected = json!({"id": "900000000000001", "status": "APPROVED", "quality_score": {"score": "GREEN"}});
    assert_eq!(template, expected);
}

#[tokio::test]
async fn a_number_shows_the_fields_that_are_asked_for() {
    let folder = TempDir::new().unwrap();
    let number = json!({"quality_rating": "YELLOW", "throughput_level": "HIGH", "messaging_limit": "TIER_2K"});
    let running = run(with(config(&folder, &refusing_url().await), &json!({ "number": number }))).await;
    let path = "/v24.0/1055?fields=quality_rating,throughput%7Blevel%7D,whatsapp_business_manager_messaging_limit";
    let (_, shown) = get(&running, path).await;
    let expected = json!({
        "id": "1055", "quality_rating": "YELLOW", "throughput": {"level": "HIGH"},
        "whatsapp_business_manager_messaging_limit": "TIER_2K",
    });
    assert_eq!(shown, expected);
    assert_eq!(get(&running, "/v24.0/1055?fields=colour").await.1["error"]["code"], 100);
}

#[tokio::test]
async fn a_pause_is_told_before_with_or_after_the_first_refusal() {
    for webhook in ["before", "during", "after", "never"] {
        let folder = TempDir::new().unwrap();
        let receiver = Receiver::start(StatusCode::OK).await;
        let pause = json!({"effect": "pause_template", "webhook": webhook, "gap_ms": 300, "after_calls": 1});
        let settings = json!({"faults": [pause], "templates": catalogue()});
        let running = run(with(config(&folder, &receiver.url), &settings)).await;
        let send = with_template("greeting", "en");
        assert_eq!(code(&running, &send).await, 0, "{webhook}");
        let met = code(&running, &send).await;
        if webhook == "before" {
            assert_eq!(met, 0);
            assert_eq!(events(&receiver, 1).await, ["PAUSED"]);
            while code(&running, &send).await == 0 {}
        } else {
            assert_eq!(met, 132_015, "{webhook}");
        }
        assert_eq!(code(&running, &send).await, 132_015, "{webhook}");
        assert_eq!(code(&running, &with_template("offer", "en")).await, 0, "another template");
        match webhook {
            "after" => {
                assert!(events(&receiver, 0).await.is_empty());
                events(&receiver, 1).await;
            }
            "never" => assert!(events(&receiver, 0).await.is_empty()),
            _ => drop(events(&receiver, 1).await),
        }
        let (_, shown) = get(&running, "/v23.0/900000000000001?fields=status").await;
        assert_eq!(shown["status"], "PAUSED");
    }
}

#[tokio::test]
async fn a_pause_is_taken_back_by_itself_or_by_the_business() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let settings = json!({
        "templates": catalogue(),
        "faults": [
            {"effect": "pause_template", "templates": ["offer"], "unpause_after_ms": 100},
            {"effect": "pause_template", "templates": ["greeting"]},
        ],
    });
    let running = run(with(config(&folder, &receiver.url), &settings)).await;
    assert_eq!(code(&running, &with_template("offer", "en")).await, 132_015);
    assert_eq!(events(&receiver, 2).await, ["PAUSED", "APPROVED"]);
    assert_eq!(code(&running, &with_template("offer", "en")).await, 0);

    assert_eq!(code(&running, &with_template("greeting", "en")).await, 132_015);
    let unpause = || running.client.post(running.url("/v23.0/900000000000001/unpause")).bearer_auth("any");
    assert_eq!(answer_to(unpause()).await, (StatusCode::OK, json!({"success": true})));
    assert_eq!(answer_to(unpause()).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(code(&running, &with_template("greeting", "en")).await, 0);
    assert_eq!(events(&receiver, 4).await, ["PAUSED", "APPROVED", "PAUSED", "APPROVED"]);
}

#[tokio::test]
async fn a_disabled_template_needs_no_catalogue() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let settings = json!({"faults": [{"effect": "pause_template", "disable": true}]});
    let running = run(with(config(&folder, &receiver.url), &settings)).await;
    assert_eq!(code(&running, &with_template("anything", "en_US")).await, 132_016);
    assert_eq!(events(&receiver, 1).await, ["DISABLED"]);
    assert_eq!(code(&running, &with_template("anything", "en_US")).await, 132_016);
    assert_eq!(code(&running, &with_template("another", "en_US")).await, 0);
}

#[tokio::test]
async fn texts_that_no_template_takes_are_refused_with_any_of_the_codes() {
    let folder = TempDir::new().unwrap();
    let codes = json!({"answers": {"bad_text_codes": [100, 131_009, 132_018]}});
    let running = run(with(config(&folder, &refusing_url().await), &codes)).await;
    let mut body = message("+919812345600", "m");
    body["template"]["components"][0]["parameters"][0]["text"] = json!("two\nlines");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        seen.insert(code(&running, &body).await);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [100, 131_009, 132_018]);
}

#[tokio::test]
async fn marketing_messages_have_an_endpoint_of_their_own() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(with(config(&folder, &receiver.url), &json!({"templates": catalogue()}))).await;
    let post = async |body: &Value| {
        let request = running.client.post(running.url("/v23.0/1055/marketing_messages")).bearer_auth("any");
        answer_to(request.body(body.to_string())).await
    };
    let set = async |marketing: Value| {
        let patch = json!({ "marketing": marketing }).to_string();
        assert_eq!(answer_to(running.client.patch(running.url("/_control")).body(patch)).await.0, StatusCode::OK);
    };
    let mut offer = with_template("offer", "en");
    let (status, answer) = post(&offer).await;
    assert_eq!((status, &answer["success"]), (StatusCode::OK, &json!(true)), "{answer}");
    let statuses = receiver.statuses(3).await;
    assert_eq!(statuses[0]["pricing"]["category"], "marketing_lite");
    assert_eq!(post(&with_template("greeting", "en")).await.1["error"]["code"], 134_100);

    set(json!({"onboarded": false})).await;
    assert_eq!(post(&offer).await.0, StatusCode::OK, "it goes the usual way");
    offer["product_policy"] = json!("STRICT");
    assert_eq!(post(&offer).await.1["error"]["code"], 134_100);

    set(json!({"onboarded": true, "sync_ms": 200})).await;
    assert_eq!(post(&offer).await.1["error"]["code"], 134_101);
    let synced = async { while post(&offer).await.0 != StatusCode::OK {} };
    tokio::time::timeout(DEADLINE, synced).await.expect("the template is there in time");

    set(json!({"sync_ms": 0, "refuse_callback_data": true, "cloud_api_disabled": true})).await;
    assert_eq!(post(&offer).await.1["error"]["code"], 100);
    assert_eq!(code(&running, &with_template("offer", "en")).await, 131_063);
    assert_eq!(code(&running, &with_template("greeting", "en")).await, 0);
}
