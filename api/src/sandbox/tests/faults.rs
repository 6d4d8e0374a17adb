//! Faults of answers and outcomes, over real HTTP.

use std::collections::BTreeMap;

use super::*;

/// What a call came to: the status and the body, or nothing if the connection was cut.
async fn call(running: &Running, to: &str, callback: &str) -> Option<(u16, String)> {
    let body = message(to, callback).to_string();
    let request = running.client.post(running.url("/v23.0/1055/messages")).bearer_auth("any").body(body);
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.text().await.ok()?))
}

#[expect(clippy::needless_pass_by_value, reason = "the calls read better")]
fn faulty(folder: &TempDir, webhook_url: &str, faults: Value) -> SandboxConfig {
    with(config(folder, webhook_url), &json!({ "faults": faults }))
}

fn code_of(answer: &str) -> u64 {
    let answer: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("not JSON: {answer}"));
    answer["error"]["code"].as_u64().unwrap_or_else(|| panic!("no code: {answer}"))
}

#[tokio::test]
async fn a_lost_call_was_never_made() {
    let folder = TempDir::new().unwrap();
    let running = run(faulty(&folder, &refusing_url().await, json!([{"effect": "lose_call", "next": 2}]))).await;
    for _ in 0..2 {
        assert_eq!(call(&running, "+919812345600", "m").await, None);
        running.ledger_shows(0, 0, 0).await;
    }
    running.send("+919812345600", "m").await;
    running.ledger_shows(1, 0, 3).await;
    assert_eq!(running.ledger().await["faults_met"], json!([2]));
}

#[tokio::test]
async fn a_call_whose_answer_is_lost_was_made() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let hang = json!([{"effect": "lose_answer", "hang_ms": 50, "recipients": ["+91 98123 45600"]}]);
    let running = run(faulty(&folder, &receiver.url, hang)).await;
    let started = std::time::Instant::now();
    assert_eq!(call(&running, "+919812345600", "lost").await, None);
    assert!(started.elapsed() >= Duration::from_millis(50));
    let statuses = receiver.statuses(3).await;
    assert!(statuses.iter().all(|status| status["biz_opaque_callback_data"] == "lost"));
    running.send("+919812345601", "answered").await;
    running.ledger_shows(2, 0, 0).await;
}

#[tokio::test]
async fn server_errors_come_before_and_after_acceptance_as_json_and_as_a_page() {
    let folder = TempDir::new().unwrap();
    let faults = json!([
        {"effect": "server_error", "code": 2, "http_status": 503, "recipients": ["919812345600"]},
        {"effect": "server_error", "http_status": 502, "recipients": ["919812345601"]},
        {"effect": "server_error", "code": 131_000, "accepted": true, "recipients": ["919812345602"]},
        {"effect": "server_error", "accepted": true, "recipients": ["919812345603"]},
    ]);
    let running = run(faulty(&folder, &refusing_url().await, faults)).await;
    let answer = async |to: &str| call(&running, to, to).await.unwrap();
    let (status, body) = answer("+919812345600").await;
    assert_eq!((status, code_of(&body)), (503, 2));
    let (status, body) = answer("+919812345601").await;
    assert!(status == 502 && body.starts_with("<!DOCTYPE html>"), "{status} {body}");
    running.ledger_shows(0, 0, 0).await;
    let (status, body) = answer("+919812345602").await;
    assert_eq!((status, code_of(&body)), (500, 131_000));
    let (status, body) = answer("+919812345603").await;
    assert!(status == 500 && body.starts_with("<!DOCTYPE html>"), "{status} {body}");
    running.ledger_shows(2, 0, 6).await;
}

#[tokio::test]
async fn a_status_can_come_before_the_answer() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let early = json!([{"effect": "status_before_answer", "statuses": 2}]);
    let running = run(faulty(&folder, &receiver.url, early)).await;
    let wamid = running.send("+919812345600", "m").await;
    let before = receiver.shared.statuses.borrow().clone();
    assert!(by_wamid(&before)[&*wamid].starts_with(&["sent", "delivered"]), "{before:?}");
}

#[tokio::test]
async fn an_answer_can_lack_the_id_and_the_status() {
    let folder = TempDir::new().unwrap();
    let settings = json!({"faults": [{"effect": "answer_without_id"}], "answers": {"message_status": false}});
    let running = run(with(config(&folder, &refusing_url().await), &settings)).await;
    let (status, answer) = running.post(message("+919812345600", "m").to_string()).await;
    assert_eq!((status, &answer["messages"]), (StatusCode::OK, &json!([{}])));
    running.ledger_shows(1, 0, 3).await;
}

#[tokio::test]
async fn refusals_come_with_the_code_status_and_headers_that_are_asked_for() {
    let folder = TempDir::new().unwrap();
    let faults = json!([
        {"effect": "refuse", "code": 368, "next": 1},
        {"effect": "refuse", "code": 131_057, "http_status": 503, "next": 1},
        {"effect": "refuse", "code": 4, "retry_after_s": 7, "regain_minutes": 3, "next": 1},
        {"effect": "refuse", "code": 131_056, "http_status": 400, "next": 1},
    ]);
    let running = run(faulty(&folder, &refusing_url().await, faults)).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        let body = message("+919812345600", "m").to_string();
        let request = running.client.post(running.url("/v23.0/1055/messages")).bearer_auth("any").body(body);
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        answers.push((status, code_of(&response.text().await.unwrap()), headers));
    }
    let codes: Vec<_> = answers.iter().map(|(status, code, _)| (*status, *code)).collect();
    assert_eq!(codes, [(403, 368), (503, 131_057), (429, 4), (400, 131_056)]);
    let headers = &answers[2].2;
    assert_eq!(headers["retry-after"], "7");
    let usage: Value = serde_json::from_slice(headers["x-business-use-case-usage"].as_bytes()).unwrap();
    let uses = usage.as_object().unwrap().values().next().unwrap();
    assert_eq!(uses[0]["estimated_time_to_regain_access"], 3);
    assert!(!answers[0].2.contains_key("retry-after"));
    running.send("+919812345600", "m").await;
    running.ledger_shows(1, 0, 3).await;
}

#[tokio::test]
async fn messages_fail_as_they_are_told() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let faults = json!([
        {"effect": "fail", "code": 131_049, "recipients": ["919812345600"]},
        {"effect": "fail", "code": 131_053, "after": ["sent"], "recipients": ["919812345601"]},
        {"effect": "fail", "code": 131_026, "echo": false, "known_wamid": false, "recipients": ["919812345602"]},
        {"effect": "deliver_after_fail", "code": 131_000, "recipients": ["919812345603"]},
        {"effect": "no_webhook", "recipients": ["919812345604"]},
    ]);
    let running = run(faulty(&folder, &receiver.url, faults)).await;
    let mut wamids = Vec::new();
    for number in 0..5 {
        wamids.push(running.send(&format!("+91981234560{number}"), &format!("m{number}")).await);
    }
    let statuses = receiver.statuses(6).await;
    running.ledger_shows(5, 0, 0).await;
    let names = by_wamid(&statuses);
    let of = |number: usize| names.get(&*wamids[number]).cloned().unwrap_or_default();
    assert_eq!([of(0), of(1), of(3)], [vec!["failed"], vec!["sent", "failed"], vec!["failed", "delivered"]]);
    assert!(of(2).is_empty() && of(4).is_empty(), "nothing is heard by the ids that were answered");
    let codes: BTreeMap<_, _> = statuses
        .iter()
        .filter_map(|status| Some((status["id"].as_str()?, status["errors"][0]["code"].as_u64()?)))
        .collect();
    assert_eq!((codes.get(&*wamids[0]), codes.get(&*wamids[1])), (Some(&131_049), Some(&131_053)));
    let foreign: Vec<_> = statuses.iter().filter(|status| !wamids.iter().any(|id| status["id"] == **id)).collect();
    assert_eq!(foreign.len(), 1);
    assert!(foreign[0].get("biz_opaque_callback_data").is_none() && foreign[0]["status"] == "failed", "{foreign:?}");
}

#[tokio::test]
async fn held_messages_are_released_or_fail_in_a_mass() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let faults = json!([
        {"effect": "hold", "delay_ms": 200, "recipients": ["919812345600"]},
        {"effect": "hold", "delay_ms": 200, "code": 132_015},
    ]);
    let running = run(faulty(&folder, &receiver.url, faults)).await;
    let started = std::time::Instant::now();
    for to in ["+919812345600", "+919812345601"] {
        let (_, answer) = running.post(message(to, to).to_string()).await;
        assert_eq!(answer["messages"][0]["message_status"], "held_for_quality_assessment");
    }
    let statuses = receiver.statuses(4).await;
    assert!(started.elapsed() >= Duration::from_millis(200));
    let failed: Vec<_> = statuses.iter().filter(|status| status["status"] == "failed").collect();
    assert_eq!((failed.len(), &failed[0]["errors"][0]["code"]), (1, &json!(132_015)));
}

#[tokio::test]
async fn the_portfolio_writes_to_so_many_users_a_day() {
    for over in ["refuse", "fail"] {
        let folder = TempDir::new().unwrap();
        let receiver = Receiver::start(StatusCode::OK).await;
        let tier = json!({"tier": {"recipients_max": 1, "over": over}});
        let running = run(with(config(&folder, &receiver.url), &tier)).await;
        running.send("+919812345600", "a").await;
        running.send("+91 98123 45600", "b").await;
        let (status, body) = call(&running, "+919812345601", "c").await.unwrap();
        if over == "refuse" {
            assert_eq!((status, code_of(&body)), (429, 131_048));
            running.ledger_shows(2, 0, 0).await;
        } else {
            assert_eq!(status, 200);
            running.ledger_shows(3, 0, 0).await;
            let statuses = receiver.statuses(7).await;
            assert!(statuses.iter().any(|status| status["errors"][0]["code"] == 131_048), "{statuses:?}");
        }
    }
}

#[tokio::test]
async fn messages_to_users_who_stopped_are_accepted_and_fail() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let stopped = json!({"opted_out": ["+91 98123 45600"]});
    let running = run(with(config(&folder, &receiver.url), &stopped)).await;
    running.send("+919812345600", "m").await;
    let statuses = receiver.statuses(1).await;
    assert_eq!((&statuses[0]["status"], &statuses[0]["errors"][0]["code"]), (&json!("failed"), &json!(131_050)));
}

#[tokio::test]
async fn a_killed_sandbox_goes_on_with_what_it_had_decided() {
    let folder = TempDir::new().unwrap();
    let faults = json!([
        {"effect": "fail", "code": 131_049, "after": ["sent"], "recipients": ["919812345600"]},
        {"effect": "duplicate", "recipients": ["919812345601"]},
        {"effect": "no_webhook", "recipients": ["919812345602"]},
    ]);
    let running = run(faulty(&folder, &refusing_url().await, faults)).await;
    let mut wamids = Vec::new();
    for number in 0..3 {
        wamids.push(running.send(&format!("+91981234560{number}"), &format!("m{number}")).await);
    }
    running.ledger_shows(3, 0, 8).await;
    running.stop().await;

    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let statuses = receiver.statuses(8).await;
    running.ledger_shows(3, 0, 0).await;
    let names = by_wamid(&statuses);
    assert_eq!(names[&*wamids[0]], ["sent", "failed"]);
    assert_eq!(names[&*wamids[1]], ["sent", "sent", "delivered", "delivered", "read", "read"]);
    assert!(!names.contains_key(&*wamids[2]));
    running.stop().await;

    let running = run(config(&folder, &receiver.url)).await;
    running.ledger_shows(3, 0, 0).await;
}

/// A setting under which nothing goes right.
fn everything() -> Value {
    json!([
        {"effect": "refuse", "code": 130_429, "share": 0.05}, {"effect": "lose_call", "share": 0.05},
        {"effect": "server_error", "code": 1, "share": 0.05}, {"effect": "server_error", "share": 0.05},
        {"effect": "lose_answer", "share": 0.1}, {"effect": "server_error", "accepted": true, "share": 0.1},
        {"effect": "answer_without_id", "share": 0.05}, {"effect": "status_before_answer", "share": 0.05},
        {"effect": "fail", "code": 131_049, "share": 0.1}, {"effect": "no_webhook", "share": 0.05},
        {"effect": "fail", "code": 131_026, "echo": false, "known_wamid": false, "share": 0.05},
        {"effect": "hold", "delay_ms": 20, "share": 0.1}, {"effect": "deliver_after_fail", "code": 1, "share": 0.05},
        {"effect": "drop", "statuses": ["delivered"], "share": 0.1}, {"effect": "shuffle", "share": 0.2},
        {"effect": "duplicate", "share": 0.2}, {"effect": "add", "status": "unheard_of", "share": 0.1},
        {"effect": "no_echo", "share": 0.1}, {"effect": "other_wa_id", "share": 0.1},
        {"effect": "delay", "delay_ms": 30, "share": 0.1},
    ])
}

/// What calls to 100 numbers come to, in two rounds, and the courses in the ledger by callback data.
async fn outcomes(seed: u64) -> (Vec<Option<(u16, Option<u64>)>>, BTreeMap<String, Value>) {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let settings = json!({
        "seed": seed, "faults": everything(),
        "statuses": {
            "gap_ms": 0, "shuffle": true, "foreign_share": 0.2, "contacts": "not_on_failed", "unknown_fields": true,
        },
        "posts": {"duplicate_share": 0.2, "wrong_signature_share": 0.1, "unsigned_share": 0.1},
    });
    let running = run(with(config(&folder, &receiver.url), &settings)).await;
    let mut answers = Vec::new();
    for round in 0..2 {
        for number in 0..100 {
            let answer = call(&running, &format!("+9198123456{number:02}"), &format!("m{number}-{round}")).await;
            answers.push(answer.map(|(status, body)| {
                let body: Value = serde_json::from_str(&body).unwrap_or_default();
                (status, body["error"]["code"].as_u64())
            }));
        }
    }
    let lines = ledger_lines(&folder.path().join("ledger.jsonl"));
    let accepted = u64::try_from(lines.len()).unwrap();
    running.ledger_shows(accepted, 0, 0).await;
    let courses: BTreeMap<String, Value> =
        lines.iter().map(|line| (line["callback"].as_str().unwrap().to_owned(), line["course"].clone())).collect();
    assert_eq!(courses.len(), lines.len(), "one line for each accepted call");
    let wamids: std::collections::BTreeSet<_> = lines.iter().map(|line| line["wamid"].to_string()).collect();
    assert_eq!(wamids.len(), lines.len());
    (answers, courses)
}

#[tokio::test]
async fn a_seed_makes_everything_that_goes_wrong_go_wrong_again() {
    let (answers, courses) = outcomes(7).await;
    let answered = answers.iter().filter(|answer| matches!(answer, Some((200, _)))).count();
    assert!((60..180).contains(&answered), "{answered}");
    assert!(courses.len() > answered, "some calls were accepted whose answer was lost");
    let without_ids = |courses: BTreeMap<String, Value>| {
        courses.into_iter().map(|(callback, mut course)| {
            if let Some(shown) = course.get_mut("shown_wamid") {
                *shown = Value::Bool(true);
            }
            (callback, course)
        })
    };
    let (again, courses_again) = outcomes(7).await;
    assert_eq!(answers, again);
    assert!(without_ids(courses).eq(without_ids(courses_again)));
    let (other, _) = outcomes(8).await;
    assert_ne!(answers, other);
}
