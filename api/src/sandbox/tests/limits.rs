//! The limits of calls, as a judge of whoever calls.

use super::*;

#[tokio::test]
async fn calls_beyond_the_rate_are_refused_as_whatsapp_does_and_are_in_no_ledger() {
    let folder = TempDir::new().unwrap();
    let running = run(with(config(&folder, &refusing_url().await), &json!({"limits": {"rate_per_s": 5}}))).await;
    let mut refused = 0;
    for number in 0..20 {
        let to = format!("+9198123456{number:02}");
        let (status, answer) = running.post(message(&to, &format!("m{number}")).to_string()).await;
        if status != StatusCode::OK {
            assert_eq!(
                (status, &answer["error"]["code"]),
                (StatusCode::TOO_MANY_REQUESTS, &json!(130_429)),
                "{answer}"
            );
            assert!(answer["error"]["error_data"]["details"].is_string());
            refused += 1;
        }
    }
    let ledger = running.ledger().await;
    assert!(refused > 0 && ledger["accepted"] == 20 - refused, "{refused} of 20 were refused: {ledger}");
    assert_eq!((&ledger["refused_rate"], &ledger["refused_pair"]), (&json!(refused), &json!(0)));
    assert_eq!(ledger["worst_second"], 5);
    assert_eq!(ledger_lines(&folder.path().join("ledger.jsonl")).len(), 20 - refused);
}

#[tokio::test]
async fn messages_to_one_recipient_beyond_the_burst_are_refused_and_others_are_not() {
    let folder = TempDir::new().unwrap();
    let running = run(with(config(&folder, &refusing_url().await), &json!({"limits": {"pair_burst": 2}}))).await;
    let mut codes = Vec::new();
    for to in ["+919812345600", "+91 98123 45600", "+919812345600", "+919812345601"] {
        let (_, answer) = running.post(message(to, "m").to_string()).await;
        codes.push(answer["error"]["code"].as_u64());
    }
    assert_eq!(codes, [None, None, Some(131_056), None]);
    let ledger = running.ledger().await;
    assert_eq!(
        (&ledger["refused_pair"], &ledger["accepted"], &ledger["worst_second"]),
        (&json!(1), &json!(3), &json!(3))
    );
}

#[tokio::test]
async fn inbound_messages_are_posted_and_count_against_the_rate() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let limited = json!({"limits": {"rate_per_s": 5}, "statuses": {"batch_max": 2}});
    let running = run(with(config(&folder, &receiver.url), &limited)).await;
    let body = json!({"phone_number_id": "1055", "from": "+919812345600", "text": "STOP", "count": 5});
    let (status, answer) = answer_to(running.client.post(running.url("/_inbound")).body(body.to_string())).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let (_, refusal) = running.post(message("+919812345699", "m").to_string()).await;
    assert_eq!(refusal["error"]["code"], 130_429);

    receiver.attempts(3).await;
    let mut posted: Vec<Value> = Vec::new();
    for body in receiver.bodies() {
        let body: Value = serde_json::from_slice(&body).unwrap();
        posted.extend(body["entry"][0]["changes"][0]["value"]["messages"].as_array().unwrap().iter().cloned());
    }
    let ids = |messages: &[Value]| {
        let mut ids: Vec<_> = messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    };
    let mut promised: Vec<String> = serde_json::from_value(answer["messages"].clone()).unwrap();
    promised.sort();
    assert_eq!(ids(&posted), promised);
    assert!(posted.iter().all(|message| message["text"]["body"] == "STOP" && message["from"] == "919812345600"));

    let body = json!({"phone_number_id": "1055", "from": "+919812345600", "count": 0});
    let (status, answer) = answer_to(running.client.post(running.url("/_inbound")).body(body.to_string())).await;
    assert_eq!((status, &answer["error"]["code"]), (StatusCode::BAD_REQUEST, &json!(100)));
}

/// The engine's pacing before its judge: calls as fast as they may leave, and users who write in between.
#[tokio::test(flavor = "multi_thread")]
async fn paced_calls_are_never_refused() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(with(config(&folder, &receiver.url), &json!({"limits": {"rate_per_s": 60}}))).await;
    let departures = Departures::new(PacingConfig::default(), 60, tokio::time::Instant::now());
    for calls in [0..90, 90..150] {
        departures.push(calls.clone());
        let mut under_way = tokio::task::JoinSet::new();
        for _ in calls {
            let (number, mut departure) = departures.next().await.unwrap();
            let body = message(&format!("+91981234{number:04}"), &format!("m{number}")).to_string();
            let request = running.client.post(running.url("/v23.0/1055/messages")).bearer_auth("any").body(body);
            let departures = departures.clone();
            under_way.spawn(async move {
                departures.left(&mut departure);
                let (status, answer) = answer_to(request).await;
                departures.answered(departure);
                assert_eq!(status, StatusCode::OK, "{answer}");
            });
        }
        under_way.join_all().await;
        let body = json!({"phone_number_id": "1055", "from": "919812345600", "count": 20}).to_string();
        let request = running.client.post(running.url("/_inbound")).body(body);
        assert_eq!(answer_to(request).await.0, StatusCode::OK);
        departures.inbound(20);
    }
    let ledger = running.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["refused_rate"]), (&json!(150), &json!(0)));
    assert!(ledger["worst_second"].as_u64().unwrap() <= 60, "{ledger}");
}
