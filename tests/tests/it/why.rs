//! Why, replay for audits, the log over HTTP, and reading one's own write: asked of a real run.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use futures::StreamExt as _;
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{Engine, Options, send};
use crate::process::ektola;

const SOON: Duration = Duration::from_secs(30);
const CONTACTS: u32 = 40;

async fn explained(engine: &Engine, contact: &str, campaign: &str) -> Value {
    engine.get(&format!("/v1/explain?contact={contact}&campaign={campaign}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_contact_gets_an_answer_and_the_answers_add_up_to_the_run() {
    let engine = Engine::start_with(Options { rate: 80, ..Options::default() }).await;
    // The outcomes follow the numbers.
    let mut file = String::from("phone,name,segment\n");
    for number in 0..CONTACTS {
        let name = if number < 3 { String::new() } else { format!("Customer {number}") };
        file.push_str(&format!("98250{number:05},{name},gold\n"));
    }
    file.push_str("9825099999,Other,silver\n");
    engine.upload(file).await;
    let campaign = engine.campaign(|_| {}).await;
    let none = explained(&engine, "9825099999", &campaign).await;
    assert_eq!((&none["outcome"], &none["chain"]), (&json!("not_run"), &json!([])));
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let settled = engine.settled(&run).await;
    engine.quiet().await;
    let settled_again = engine.get(&format!("/v1/runs/{run}")).await;

    let mut outcomes: BTreeMap<String, i64> = BTreeMap::new();
    let page = engine.get(&format!("/v1/messages?run={run}&limit=1000")).await;
    for message in page["items"].as_array().unwrap() {
        let phone = message["phone"].as_str().unwrap();
        for form in [phone.replace('+', "%2B"), phone.to_owned(), phone.trim_start_matches('+').to_owned()] {
            let answer = explained(&engine, &form, &campaign).await;
            assert_eq!(answer["outcome"], message["status"], "{answer}");
            assert_eq!(answer["message_id"], message["id"]);
        }
        let answer = explained(&engine, message["contact_id"].as_str().unwrap(), &campaign).await;
        *outcomes.entry(answer["outcome"].as_str().unwrap().to_owned()).or_default() += 1;
        assert!(answer["sentence"].as_str().unwrap().ends_with('.'), "{answer}");
        let chain = answer["chain"].as_array().unwrap();
        let names: Vec<&str> = chain.iter().map(|link| link["event"].as_str().unwrap()).collect();
        assert_eq!(&names[..2], ["RunTriggered", "RunStarted"], "{answer}");
        assert!(chain[1]["text"].as_str().unwrap().contains("was in the segment"), "{answer}");
        let positions: Vec<i64> = chain.iter().map(|link| link["position"].as_i64().unwrap()).collect();
        assert!(positions.is_sorted(), "{answer}");
    }
    for (status, count) in settled_again["counts"].as_object().unwrap() {
        assert_eq!(outcomes.get(status).copied().unwrap_or(0), count.as_i64().unwrap(), "{status}: {settled}");
    }
    assert_eq!(outcomes["skipped"], 3);

    // Not in the audience: never, and added after the run.
    let never = explained(&engine, "9825099999", &campaign).await;
    assert_eq!((&never["outcome"], &never["reason"]), (&json!("not_in_audience"), &json!("never_in_segment")));
    engine.upload("phone,name,segment\n9825099999,Other,gold\n9825088888,New,gold\n".to_owned()).await;
    let later = explained(&engine, "9825099999", &campaign).await;
    assert_eq!(later["reason"], "added_later", "{later}");
    assert!(later["sentence"].as_str().unwrap().contains("resolved its audience at"), "{later}");
    let new = explained(&engine, "9825088888", &campaign).await;
    assert_eq!(new["reason"], "contact_added_later", "{new}");

    for (query, status) in [
        (format!("contact=9825077777&campaign={campaign}"), StatusCode::NOT_FOUND),
        (format!("contact=9825099999&campaign={run}"), StatusCode::NOT_FOUND),
        ("contact=9825099999".to_owned(), StatusCode::UNPROCESSABLE_ENTITY),
        (format!("contact=12&campaign={campaign}"), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let (answered, body) = engine.request(Method::GET, &format!("/v1/explain?{query}"), None).await;
        assert_eq!(answered, status, "{query}: {body}");
    }
    let told = ektola(&engine, &["explain", "--contact", "9825099999", "--campaign", &campaign]).await;
    assert!(told.stdout.contains("not_in_audience (added_later)"), "{} {}", told.stdout, told.stderr);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_is_replayed_streamed_exported_and_sealed() {
    let engine = Engine::start_with(Options { rate: 80, ..Options::default() }).await;
    engine.contacts("gold", 20).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.settled(&run).await;
    engine.quiet().await;

    // Over HTTP, page by page, everything once and in order; another tenant sees nothing.
    let (mut after, mut positions) = (0, Vec::new());
    loop {
        let page = engine.get(&format!("/v1/events?after={after}&limit=7")).await;
        let items = page["items"].as_array().unwrap();
        positions.extend(items.iter().map(|event| event["position"].as_i64().unwrap()));
        let next = page["next_after"].as_i64().unwrap();
        if items.is_empty() && next == after {
            break;
        }
        after = next;
    }
    let in_log = sqlx::query_scalar!("SELECT position FROM events ORDER BY position")
        .fetch_all(&engine.database.owner)
        .await
        .unwrap();
    assert_eq!(positions, in_log);
    let stranger = engine.stranger().await;
    let foreign = send(engine.raw(Method::GET, "/v1/events").bearer_auth(&stranger)).await.1;
    assert_eq!(foreign["items"], json!([]));

    // As of any position the state is the fold of what came before.
    let message = engine.get(&format!("/v1/messages?run={run}&status=read")).await["items"][0].clone();
    let message_id = message["id"].as_str().unwrap();
    let timeline = engine.get(&format!("/v1/messages/{message_id}")).await["timeline"].clone();
    for (number, entry) in (1..).zip(timeline.as_array().unwrap()) {
        let position = entry["position"].as_i64().unwrap();
        let as_of = engine.get(&format!("/v1/messages/{message_id}?as_of={position}")).await;
        assert_eq!(as_of["events"].as_array().unwrap().len(), number, "{as_of}");
        let before = engine.get(&format!("/v1/messages/{message_id}?as_of={}", position - 1)).await;
        assert_eq!(before["events"].as_array().unwrap().len(), number - 1);
    }
    let last = in_log[in_log.len() - 1];
    let by_run = engine.get(&format!("/v1/runs/{run}?as_of={last}")).await;
    let live = engine.get(&format!("/v1/runs/{run}")).await;
    for (status, count) in by_run["related"]["counts"].as_object().unwrap() {
        assert_eq!(&live["counts"][status], count, "{status}");
    }
    let audited = ektola(&engine, &["audit", "message", message_id, "--json"]).await.json();
    assert_eq!(audited["events"].as_array().unwrap().len(), timeline.as_array().unwrap().len());
    assert_eq!(audited["events"][0]["correlation"], json!(run));
    let first = audited["events"][0]["position"].as_i64().unwrap();
    let diff =
        ektola(&engine, &["audit", "message", message_id, "--diff", &format!("{first}..{last}"), "--json"]).await;
    let diff = diff.json();
    assert_eq!(diff["events"].as_array().unwrap().len(), timeline.as_array().unwrap().len() - 1);
    assert!(!diff["changes"].as_array().unwrap().is_empty());
    let time = audited["events"][1]["time"].as_str().unwrap();
    let then = ektola(&engine, &["audit", "message", message_id, "--as-of", time, "--json"]).await.json();
    assert!(then["events"].as_array().unwrap().len() >= 2, "{then}");

    // A stream that is cut off is taken up without a gap or a double.
    let streamed = async |last_seen: Option<i64>, count: usize| {
        let mut request = engine.raw(Method::GET, "/v1/events").header("accept", "text/event-stream");
        if let Some(last_seen) = last_seen {
            request = request.header("last-event-id", last_seen);
        }
        let mut bytes = request.bearer_auth(engine.token()).send().await.unwrap().bytes_stream();
        let mut text = String::new();
        while text.matches("\n\n").count() < count {
            let next = tokio::time::timeout(SOON, bytes.next()).await.expect("the stream goes on");
            text.push_str(std::str::from_utf8(&next.unwrap().unwrap()).unwrap());
        }
        let ids = text.lines().filter_map(|line| line.strip_prefix("id: ").map(|id| id.parse::<i64>().unwrap()));
        ids.take(count).collect::<Vec<_>>()
    };
    let mut seen = streamed(None, 10).await;
    seen.extend(streamed(seen.last().copied(), in_log.len() - 10).await);
    assert_eq!(seen, in_log);

    // Whoever waits for an event is told of it.
    let waiting = format!("/v1/events?after={last}&wait=20&type=CampaignCancelled,CampaignCreated");
    let template = engine.get(&format!("/v1/campaigns/{campaign}")).await["template_id"].as_str().unwrap().to_owned();
    let later = engine.campaign_on(&template, |campaign| campaign["start_date"] = json!("2099-01-01"));
    let (told, other) = tokio::join!(engine.get(&waiting), later);
    assert_eq!(told["items"][0]["aggregate_id"], json!(other), "{told}");
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_goes_on_where_it_stopped_and_the_seals_hold() {
    let engine = Engine::start_with(Options { rate: 80, ..Options::default() }).await;
    engine.contacts("gold", 10).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.settled(&run).await;
    engine.quiet().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.ndjson");
    let path = file.to_str().unwrap();
    let whole = ektola(&engine, &["events", "export", "--output", path, "--json"]).await;
    assert_eq!(whole.code, 0, "{}", whole.stderr);
    let text = std::fs::read_to_string(&file).unwrap();
    // As a kill leaves it: in the middle of a line.
    let cut = text.len() / 2;
    std::fs::write(&file, &text[..cut]).unwrap();
    let again = ektola(&engine, &["events", "export", "--output", path]).await;
    assert_eq!(again.code, 1);
    assert!(again.stderr.contains("--resume"), "{}", again.stderr);
    let resumed = ektola(&engine, &["events", "export", "--output", path, "--resume", "--json"]).await;
    assert_eq!(resumed.code, 0, "{}", resumed.stderr);
    assert_eq!(resumed.json()["events"], whole.json()["events"]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let types = ektola(&engine, &["events", "export", "--type", "RunTriggered,RunStarted"]).await;
    assert_eq!(types.stdout.lines().count(), 2, "{}", types.stdout);

    let key = engine.data().join("seal-key.pem");
    assert!(key.exists());
    let data = engine.data().to_str().unwrap();
    wait::until(SOON, "the whole log is sealed", async || {
        let report = ektola(&engine, &["audit", "verify", "--json", "--data", data]).await.json();
        assert_eq!(report["holds"], true, "{report}");
        assert_eq!(report["keys_trusted"], true);
        (report["unsealed"]["events"] == 0).then_some(())
    })
    .await;
    let head = folder.path().join("head.json");
    std::fs::write(&head, ektola(&engine, &["audit", "head"]).await.stdout).unwrap();
    let message = engine.get(&format!("/v1/messages?run={run}")).await["items"][0]["id"].as_str().unwrap().to_owned();
    let proof = folder.path().join("proof.json");
    let exported = ektola(&engine, &["audit", "proof", &message, "--output", proof.to_str().unwrap()]).await;
    assert_eq!(exported.code, 0, "{}", exported.stderr);
    let checked = ektola(&engine, &["audit", "check", proof.to_str().unwrap(), "--json"]).await;
    assert_eq!((checked.code, &checked.json()["aggregate_id"]), (0, &json!(message)));
    let forged = std::fs::read_to_string(&proof).unwrap().replace("MessageQueued", "MessageRead");
    std::fs::write(&proof, forged).unwrap();
    assert_eq!(ektola(&engine, &["audit", "check", proof.to_str().unwrap()]).await.code, 1);
    // Somebody with the owner's rights changes history.
    let statement = "ALTER TABLE events DISABLE TRIGGER events_refuse_change;
                     UPDATE events SET event_type = 'CampaignPaused' WHERE position = 3;
                     ALTER TABLE events ENABLE ALWAYS TRIGGER events_refuse_change";
    sqlx::Executor::execute(&engine.database.owner, statement).await.unwrap();
    let found = ektola(&engine, &["audit", "verify", "--data", data, "--head", head.to_str().unwrap()]).await;
    assert_eq!(found.code, 1, "{}", found.stdout);
    assert!(found.stderr.contains("position 3 "), "{}", found.stderr);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_reads_its_own_write_and_changes_only_what_it_has_seen() {
    let engine = Engine::start_with(Options::default()).await;
    engine.contacts("gold", 2).await;
    let campaign = engine.campaign(|campaign| campaign["start_date"] = json!("2099-01-01")).await;
    let path = format!("/v1/campaigns/{campaign}");
    let shown = engine.raw(Method::GET, &path).bearer_auth(engine.token()).send().await.unwrap();
    let draft = shown.headers()["etag"].to_str().unwrap().to_owned();
    let same = engine.raw(Method::GET, &path).bearer_auth(engine.token()).header("if-none-match", &draft);
    assert_eq!(same.send().await.unwrap().status(), StatusCode::NOT_MODIFIED);

    let give = async |command: &str, tag: &str| {
        let request = engine.raw(Method::POST, &format!("{path}/{command}")).bearer_auth(engine.token());
        send(request.header("if-match", tag).json(&json!({}))).await
    };
    let (status, activated) = give("activate", &draft).await;
    assert_eq!(status, StatusCode::OK, "{activated}");
    let position = activated["position"].as_i64().unwrap();
    let (status, refused) = give("pause", &draft).await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains(&format!("\"{position}\"")), "{refused}");
    assert_eq!(give("pause", "nonsense").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(give("pause", &format!("\"{position}\"")).await.0, StatusCode::OK);
    assert_eq!(give("resume", "*").await.0, StatusCode::OK);

    let reached = engine.get(&format!("{path}?min_position={position}")).await;
    assert!(reached["position"].as_i64().unwrap() >= position);
    let (status, body) = engine.request(Method::GET, &format!("{path}?min_position=soon"), None).await;
    assert_eq!((status, &body["errors"][0]["field"]), (StatusCode::UNPROCESSABLE_ENTITY, &json!("min_position")));
    let (status, body) = engine.request(Method::GET, "/v1/campaigns?limit=1&min_position=99999999", None).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    engine.stop().await;
}
