//! Calls of which nobody knows whether WhatsApp accepted them: the answer is lost, late or wrong, or the process dies. The
//! dispatcher is the real binary; the sandbox does what WhatsApp may do.

use std::collections::BTreeSet;
use std::time::Duration;

use api::app::Role;
use infrastructure::whatsapp::signature::sign;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_kit::wait;

use crate::engine::{APP_SECRET, Engine, Options, PHONE_NUMBER_ID, send};
use crate::ledger::calls;
use crate::process::{Process, ektola};
use crate::webhooks::{body_of, interpreted};

/// A doubt ends soon, and calls are not waited for long.
const SOON: &[(&str, &str)] = &[
    ("EKTOLA_UNKNOWN__UNCONFIRMED_AFTER_S", "3"),
    ("EKTOLA_UNKNOWN__RESEND_AFTER_S", "1"),
    ("EKTOLA_UNKNOWN__POLL_MS", "100"),
    ("EKTOLA_RETRIES__TROUBLE_WAIT_S", "1"),
];
const IMPATIENT: &[(&str, &str)] = &[
    ("EKTOLA_DISPATCH__CALL_TIMEOUT_S", "2"),
    ("EKTOLA_DISPATCH__CONNECT_TIMEOUT_S", "1"),
    ("EKTOLA_DISPATCH__OUTAGE_AFTER", "1000"),
];

fn without_dispatcher() -> BTreeSet<Role> {
    let mut roles = Role::all();
    roles.remove(&Role::Dispatcher);
    roles
}

async fn engine(rate: u32) -> Engine {
    Engine::start_with(Options { rate, roles: without_dispatcher(), settings: SOON, ..Options::default() }).await
}

/// The number of a contact of the test's segment, as it was uploaded and as the sandbox knows it.
fn phone(number: usize) -> String {
    format!("+9198250{number:05}")
}

async fn run_of(engine: &Engine, campaign: &str) -> String {
    engine.runs(campaign, 1).await[0]["id"].as_str().unwrap().to_owned()
}

/// The message of a contact of the run, by its number.
async fn message_to(engine: &Engine, run: &str, number: usize) -> Option<Value> {
    let messages = engine.get(&format!("/v1/runs/{run}/messages?limit=1000")).await;
    messages["items"].as_array().unwrap().iter().find(|message| message["phone"] == phone(number)).cloned()
}

async fn id_of_message_to(engine: &Engine, run: &str, number: usize) -> String {
    message_to(engine, run, number).await.unwrap()["id"].as_str().unwrap().to_owned()
}

async fn reaches(engine: &Engine, run: &str, number: usize, status: &str) -> Value {
    wait::until(Duration::from_secs(30), &format!("the message to contact {number} is {status}"), async || {
        message_to(engine, run, number).await.filter(|message| message["status"] == status)
    })
    .await
}

fn fault(number: usize, fault: Value) -> Value {
    let mut fault = fault;
    fault["recipients"] = json!([phone(number)]);
    fault
}

/// Cases A to E, G and H, one contact each: what WhatsApp does, and what the message comes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_doubt_comes_to_what_whatsapp_says_and_is_never_called_again() {
    let cases = [
        // A: a time-out before acceptance; no webhook ever.
        ("unconfirmed", vec![json!({"effect": "lose_call", "hang_ms": 60_000})]),
        // B: accepted, and the answer is lost.
        ("read", vec![json!({"effect": "lose_answer", "hang_ms": 60_000})]),
        // B, with the connection cut at once.
        ("read", vec![json!({"effect": "lose_answer"})]),
        // C: a server error after acceptance, as WhatsApp writes it and as a proxy does.
        ("read", vec![json!({"effect": "server_error", "code": 131_000, "accepted": true})]),
        ("read", vec![json!({"effect": "server_error", "http_status": 502, "accepted": true})]),
        // D: a server error before acceptance.
        ("unconfirmed", vec![json!({"effect": "server_error", "code": 131_000})]),
        ("unconfirmed", vec![json!({"effect": "server_error", "http_status": 503})]),
        // E: every webhook before the answer.
        ("read", vec![json!({"effect": "status_before_answer", "statuses": 3})]),
        // G: the answer is lost, and a failure is reported that nobody can tell to be about this message.
        (
            "unconfirmed",
            vec![
                json!({"effect": "lose_answer"}),
                json!({"effect": "fail", "code": 131_026, "echo": false, "known_wamid": false}),
            ],
        ),
        // H: no webhook ever; what was answered is known all the same.
        ("sent", vec![json!({"effect": "no_webhook"})]),
        ("unconfirmed", vec![json!({"effect": "lose_answer"}), json!({"effect": "no_webhook"})]),
        // An accepted call whose answer has no id.
        ("read", vec![json!({"effect": "answer_without_id"})]),
        // Reported as failed for good, by our own id alone.
        ("failed", vec![json!({"effect": "lose_answer"}), json!({"effect": "fail", "code": 131_026})]),
    ];
    let engine = engine(50).await;
    let faults: Vec<Value> = cases
        .iter()
        .enumerate()
        .flat_map(|(number, (_, faults))| faults.iter().map(move |one| fault(number, one.clone())))
        .collect();
    engine.sandbox(&json!({"faults": faults})).await;
    let data = tempfile::tempdir().unwrap();
    let dispatcher = Process::start(&engine, "dispatcher", data.path(), IMPATIENT).await;
    engine.contacts("gold", u32::try_from(cases.len()).unwrap()).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = run_of(&engine, &campaign).await;
    for (number, (status, _)) in cases.iter().enumerate() {
        reaches(&engine, &run, number, status).await;
    }
    // A doubt holds nothing open.
    engine.run_when(&run, "the run is completed", |run| run["status"] == "completed").await;
    let ledger = engine.ledger().await;
    assert_eq!(ledger["doubled"], 0, "{ledger}");
    let calls = engine.events_of("DispatchStarted").await;
    assert_eq!(calls, i64::try_from(cases.len()).unwrap(), "one call for each message");

    // A webhook settles a doubt even now.
    let unconfirmed = id_of_message_to(&engine, &run, 0).await;
    let late = json!({
        "id": "wamid.late", "status": "delivered", "timestamp": "1780000000", "recipient_id": "919825000000",
        "biz_opaque_callback_data": unconfirmed,
    });
    let body = body_of(PHONE_NUMBER_ID, &[late]);
    let signature = sign(APP_SECRET, &body);
    let request = engine.raw(Method::POST, "/webhooks/whatsapp").header("X-Hub-Signature-256", signature).body(body);
    assert_eq!(send(request).await.0, StatusCode::OK);
    interpreted(&engine).await;
    reaches(&engine, &run, 0, "delivered").await;

    // And so does a person, at the command line and through the API.
    let listed = ektola(&engine, &["unknown", "list", "--json"]).await.json();
    let in_doubt: Vec<&str> =
        listed["outcomes"].as_array().unwrap().iter().map(|one| one["message_id"].as_str().unwrap()).collect();
    let shown = engine.get("/v1/unknown").await;
    let shown: Vec<&str> =
        shown["items"].as_array().unwrap().iter().map(|one| one["message_id"].as_str().unwrap()).collect();
    assert_eq!((in_doubt.len(), &in_doubt), (4, &shown));
    let fifth = id_of_message_to(&engine, &run, 5).await;
    let sixth = id_of_message_to(&engine, &run, 6).await;
    let settled = ektola(&engine, &["unknown", "settle", &fifth, "--as", "not-sent", "--json"]).await;
    assert_eq!((settled.code, &settled.json()["messages"][0]["status"]), (0, &json!("failed")), "{}", settled.stderr);
    let path = format!("/v1/messages/{sixth}/settle");
    let answer = engine.post(&path, &json!({"outcome": "sent"})).await;
    assert_eq!(answer["status"], "sent", "{answer}");
    assert_eq!(engine.post(&path, &json!({"outcome": "sent"})).await, answer, "settling again changes nothing");
    let eighth = id_of_message_to(&engine, &run, 8).await;
    let (status, problem) = engine
        .request(Method::POST, &format!("/v1/messages/{eighth}/settle"), Some(&json!({"outcome": "resend"})))
        .await;
    assert_eq!(status, StatusCode::CONFLICT, "{problem}");
    assert_eq!(engine.get("/v1/unknown").await["items"].as_array().unwrap().len(), 2);
    dispatcher.stop().await;
    engine.stop().await;
}

/// Case F: what was claimed and not called is sent by the next process, and only what was truly in flight is in doubt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_leaves_no_more_in_doubt_than_there_were_open_calls() {
    const CONTACTS: u32 = 1_000;
    const LATENCY_MS: u32 = 250;
    let options = Options { rate: 200, roles: without_dispatcher(), alone: true, ..Options::default() };
    let engine = Engine::start_with(options).await;
    // Every call takes as long, and no webhook comes before the next process has looked at what the last one left.
    engine.sandbox(&json!({"latency": {"median_ms": LATENCY_MS}, "statuses": {"gap_ms": 4_000}})).await;
    engine.contacts("gold", CONTACTS).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = run_of(&engine, &campaign).await;
    let data = tempfile::tempdir().unwrap();
    let settings = [("EKTOLA_DISPATCH__LEASE_TTL_S", "1")];
    let dispatcher = Process::start(&engine, "dispatcher", data.path(), &settings).await;
    engine.run_when(&run, "calls are under way", |run| run["funnel"]["sent"].as_u64().unwrap() >= 200).await;
    dispatcher.kill().await;
    let accepted = calls(&engine);
    let last = accepted.last().unwrap().read_at_ms;
    let open = accepted.iter().filter(|call| call.read_at_ms > last - f64::from(LATENCY_MS) - 50.0).count();
    let (accepted, open) = (i64::try_from(accepted.len()).unwrap(), i64::try_from(open).unwrap());
    let claimed = engine.events_of("DispatchStarted").await;
    let dispatcher = Process::start(&engine, "dispatcher", data.path(), &settings).await;
    let settled = engine.settled(&run).await;
    let unknown = engine.events_of("OutcomeUnknown").await;
    assert!(claimed > accepted, "nothing was claimed and not called: {claimed} claimed, {accepted} accepted");
    assert!(unknown > 0, "no call was under way, so nothing was shown");
    // A mark is made the instant before the bytes leave, so that a few may never have left.
    assert!(unknown <= open + 4, "{unknown} in doubt, {open} calls were open");
    let count = |status: &str| settled["counts"][status].as_i64().unwrap();
    assert_eq!(count("read") + count("unknown"), i64::from(CONTACTS), "{settled}");
    assert!(count("unknown") <= 4, "what WhatsApp had accepted is settled by its webhook: {settled}");
    let ledger = engine.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(count("read")), &json!(0)));
    dispatcher.stop().await;
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_campaign_that_asks_for_it_sends_again_what_stays_unknown() {
    let engine = engine(50).await;
    engine.sandbox(&json!({"faults": [fault(0, json!({"effect": "lose_call", "next": 1}))]})).await;
    let data = tempfile::tempdir().unwrap();
    let dispatcher = Process::start(&engine, "dispatcher", data.path(), IMPATIENT).await;
    engine.contacts("gold", 3).await;
    let campaign = engine.campaign(|campaign| campaign["on_unknown"] = json!("resend")).await;
    engine.activate(&campaign).await;
    let run = run_of(&engine, &campaign).await;
    let run = engine.settled(&run).await;
    assert_eq!(run["counts"]["read"], 3, "{run}");
    assert_eq!(engine.events_of("OutcomeUnknown").await, 1);
    assert_eq!(engine.events_of("MessageSettled").await, 1);
    assert_eq!(engine.events_of("DispatchStarted").await, 4);
    assert_eq!(engine.ledger().await["accepted"], 3);
    dispatcher.stop().await;
    engine.stop().await;
}

/// WhatsApp accepts, and reports later that it gave up for trouble of its own: the one case beside the former in which a
/// second call is made.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_whatsapp_gave_up_is_tried_once_more_while_the_run_is_open() {
    let engine = engine(3).await;
    let faults = [
        fault(0, json!({"effect": "fail", "code": 131_000, "next": 1})),
        fault(1, json!({"effect": "fail", "code": 131_000})),
        fault(2, json!({"effect": "fail", "code": 131_026})),
    ];
    engine.sandbox(&json!({"faults": faults})).await;
    let data = tempfile::tempdir().unwrap();
    let dispatcher = Process::start(&engine, "dispatcher", data.path(), &[]).await;
    engine.contacts("gold", 20).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = run_of(&engine, &campaign).await;
    let first = reaches(&engine, &run, 0, "read").await;
    assert_eq!(first["attempts"], 2, "{first}");
    let second = reaches(&engine, &run, 1, "failed").await;
    assert_eq!((&second["attempts"], &second["error_code"]), (&json!(2), &json!(131_000)), "{second}");
    let third = reaches(&engine, &run, 2, "failed").await;
    assert_eq!((&third["attempts"], &third["error_code"]), (&json!(1), &json!(131_026)), "{third}");
    let settled = engine.settled(&run).await;
    assert_eq!((&settled["counts"]["read"], &settled["counts"]["failed"]), (&json!(18), &json!(2)), "{settled}");
    // Everything once more changes nothing, the failures of first attempts above all.
    let before = engine.message_events().await;
    sqlx::query!("INSERT INTO webhook_pending (body_id) SELECT id FROM webhook_bodies")
        .execute(&engine.database.owner)
        .await
        .unwrap();
    interpreted(&engine).await;
    assert_eq!(engine.message_events().await, before);
    dispatcher.stop().await;
    engine.stop().await;
}
