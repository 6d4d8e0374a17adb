//! What comes from the other side.

use super::*;

async fn inbound(running: &Running, body: Value) -> (StatusCode, Value) {
    answer_to(running.client.post(running.url("/_inbound")).body(body.to_string())).await
}

/// The first change of the body that came as the `place`-th.
async fn change(receiver: &Receiver, place: usize) -> Value {
    receiver.attempts(place + 1).await;
    let body: Value = serde_json::from_slice(&receiver.bodies()[place]).unwrap();
    body["entry"][0]["changes"][0].clone()
}

#[tokio::test]
async fn users_write_tap_buttons_and_say_what_nobody_expects() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let text = "नमस्ते \u{1f490}\u{0}";
    let (status, answer) =
        inbound(&running, json!({"phone_number_id": "1055", "from": "+91 98123 45600", "text": text})).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let value = change(&receiver, 0).await["value"].clone();
    assert_eq!(
        (&value["messages"][0]["text"]["body"], &value["messages"][0]["id"]),
        (&json!(text), &answer["messages"][0])
    );

    let tap = json!({"payload": "stop-offers", "text": "Stop"});
    let body = json!({"phone_number_id": "1055", "from": "919812345600", "button": tap, "context": "wamid.ours"});
    inbound(&running, body).await;
    let message = change(&receiver, 1).await["value"]["messages"][0].clone();
    assert_eq!((&message["type"], &message["button"]), (&json!("button"), &tap));
    assert_eq!(message["context"]["id"], "wamid.ours");

    let image = json!({"type": "image", "image": {"id": "1", "mime_type": "image/jpeg"}});
    inbound(&running, json!({"phone_number_id": "1055", "user_id": "IN.1a", "message": image})).await;
    let message = change(&receiver, 2).await["value"]["messages"][0].clone();
    assert_eq!((&message["image"]["id"], &message["from_user_id"]), (&json!("1"), &json!("IN.1a")));
    assert!(message.get("from").is_none());
}

#[tokio::test]
async fn a_user_stops_marketing_and_takes_it_again() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let prefer =
        |preference: &str| json!({"phone_number_id": "1055", "from": "+919812345699", "preference": preference});
    inbound(&running, prefer("stop")).await;
    let change = change(&receiver, 0).await;
    assert_eq!(change["field"], "user_preferences");
    let preference = &change["value"]["user_preferences"][0];
    assert_eq!(
        (&preference["value"], &preference["category"], &preference["wa_id"], &preference["timestamp"]),
        (&json!("stop"), &json!("marketing_messages"), &json!("919812345699"), &json!(NOW))
    );
    running.send("+919812345699", "a").await;
    let code = |statuses: &[Value], place: usize| statuses[place]["errors"][0]["code"].clone();
    assert_eq!(code(&receiver.statuses(1).await, 0), 131_050);
    inbound(&running, prefer("resume")).await;
    running.send("+919812345699", "b").await;
    assert_eq!(code(&receiver.statuses(2).await, 1), 131_026, "the number decides again");
}

#[tokio::test]
async fn any_webhook_is_posted_as_it_is() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let fields = [
        ("message_template_quality_update", json!({"previous_quality_score": "GREEN", "new_quality_score": "RED"})),
        ("template_category_update", json!({"previous_category": "UTILITY", "new_category": "MARKETING"})),
        ("phone_number_quality_update", json!({"event": "THROUGHPUT_UPGRADE"})),
        ("account_update", json!({"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": "DISABLE"}})),
        ("nobody_heard_of_it", json!([1, "two"])),
    ];
    for (place, (field, value)) in fields.iter().enumerate() {
        assert_eq!(inbound(&running, json!({"field": field, "value": value})).await.0, StatusCode::OK);
        let change = change(&receiver, place).await;
        assert_eq!((&change["field"], &change["value"]), (&json!(field), value));
        let body: Value = serde_json::from_slice(&receiver.bodies()[place]).unwrap();
        assert_eq!(body["entry"][0]["time"], NOW);
    }
    let entry = json!([{"id": "1", "changes": []}, {"id": "2", "changes": []}]);
    inbound(&running, json!({ "entry": entry })).await;
    receiver.attempts(fields.len() + 1).await;
    let body: Value = serde_json::from_slice(&receiver.bodies()[fields.len()]).unwrap();
    assert_eq!(body["entry"], entry);
    assert_eq!(inbound(&running, json!({"field": "account_update"})).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn recipients_answer_and_stop_by_themselves() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let faults = json!([
        {"effect": "reply", "text": "STOP", "delay_ms": 20, "recipients": ["919812345600"]},
        {"effect": "reply", "text": "Stop", "button": "stop", "delay_ms": 20, "recipients": ["919812345601"]},
        {"effect": "stop_marketing", "delay_ms": 20, "recipients": ["919812345602"]},
    ]);
    let running = run(with(config(&folder, &receiver.url), &json!({ "faults": faults }))).await;
    let mut wamids = Vec::new();
    for number in 0..3 {
        wamids.push(running.send(&format!("+91981234560{number}"), &format!("m{number}")).await);
    }
    let found = |key: &str| {
        let bodies = receiver.bodies();
        let values = bodies.iter().map(|body| serde_json::from_slice::<Value>(body).unwrap());
        let items = values.filter_map(|body| body["entry"][0]["changes"][0]["value"][key].as_array().cloned());
        items.flatten().collect::<Vec<_>>()
    };
    let all_came = async {
        while found("messages").len() < 2 || found("user_preferences").is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, all_came).await.expect("the answers come in time");
    let messages = found("messages");
    let of = |from: &str| messages.iter().find(|message| message["from"] == from).unwrap();
    assert_eq!(of("919812345600")["text"]["body"], "STOP");
    let tap = of("919812345601");
    assert_eq!((&tap["button"]["payload"], &tap["context"]["id"]), (&json!("stop"), &json!(wamids[1])));
    assert_eq!(found("user_preferences")[0]["value"], "stop");
    let (_, settings) = answer_to(running.client.get(running.url("/_control"))).await;
    assert_eq!(settings["opted_out"], json!(["919812345602"]));
}
