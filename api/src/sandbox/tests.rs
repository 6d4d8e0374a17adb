mod control;
mod faults;
mod inbound;
mod limits;
mod templates;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use chrono::DateTime;
use hmac::{Hmac, KeyInit as _, Mac as _};
use infrastructure::clock::Clock;
use infrastructure::pacing::{Departures, PacingConfig};
use serde_json::{Value, json};
use sha2::Sha256;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{Outcomes, Sandbox, SandboxConfig, start};

const SECRET: &str = "app-secret";
const DEADLINE: Duration = Duration::from_secs(20);
const NOW: i64 = 1_795_428_000;

/// A webhook receiver that keeps what it is sent and answers as it is told.
#[derive(Clone)]
struct Receiver {
    url: String,
    shared: Arc<Received>,
}

struct Received {
    answer: AtomicU16,
    bodies: Mutex<Vec<Bytes>>,
    /// The statuses of the bodies that were acknowledged, in their order.
    statuses: watch::Sender<Vec<Value>>,
    attempts: watch::Sender<usize>,
    /// Bodies whose signature did not fit.
    refused: AtomicUsize,
}

impl Receiver {
    async fn start(answer: StatusCode) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/webhooks/whatsapp", listener.local_addr().unwrap());
        let shared = Arc::new(Received {
            answer: AtomicU16::new(answer.as_u16()),
            bodies: Mutex::default(),
            statuses: watch::Sender::new(Vec::new()),
            attempts: watch::Sender::new(0),
            refused: AtomicUsize::new(0),
        });
        let router = Router::new().route("/webhooks/whatsapp", post(receive)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, shared }
    }

    fn answer(&self, status: StatusCode) {
        self.shared.answer.store(status.as_u16(), Ordering::SeqCst);
    }

    /// The acknowledged statuses, once there are `count`.
    async fn statuses(&self, count: usize) -> Vec<Value> {
        let mut statuses = self.shared.statuses.subscribe();
        let enough = tokio::time::timeout(DEADLINE, statuses.wait_for(|statuses| statuses.len() >= count)).await;
        enough.expect("the statuses arrive in time").unwrap().clone()
    }

    async fn attempts(&self, count: usize) {
        let mut attempts = self.shared.attempts.subscribe();
        let enough = tokio::time::timeout(DEADLINE, attempts.wait_for(|attempts| *attempts >= count)).await;
        enough.expect("the attempts come in time").unwrap();
    }

    fn bodies(&self) -> Vec<Bytes> {
        self.shared.bodies.lock().unwrap().clone()
    }
}

/// Answers 401 and keeps nothing unless the signature fits the raw bytes.
async fn receive(State(shared): State<Arc<Received>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let signature = headers.get("X-Hub-Signature-256").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(&body);
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    if signature != format!("sha256={expected}") || !body.is_ascii() {
        shared.refused.fetch_add(1, Ordering::SeqCst);
        return StatusCode::UNAUTHORIZED;
    }
    shared.bodies.lock().unwrap().push(body.clone());
    shared.attempts.send_modify(|attempts| *attempts += 1);
    let answer = StatusCode::from_u16(shared.answer.load(Ordering::SeqCst)).unwrap();
    if answer == StatusCode::OK {
        shared.statuses.send_modify(|statuses| statuses.extend(statuses_of(&body)));
    }
    answer
}

fn statuses_of(body: &[u8]) -> Vec<Value> {
    let body: Value = serde_json::from_slice(body).unwrap();
    let change = &body["entry"][0]["changes"][0];
    let value = &change["value"];
    if change["field"] != "messages" {
        return Vec::new();
    }
    assert_eq!(
        (&value["metadata"]["phone_number_id"], &value["messaging_product"]),
        (&json!("1055"), &json!("whatsapp"))
    );
    value["statuses"].as_array().cloned().unwrap_or_default()
}

/// A running sandbox with a client.
struct Running {
    sandbox: Sandbox,
    shutdown: CancellationToken,
    client: reqwest::Client,
}

fn config(folder: &TempDir, webhook_url: &str) -> SandboxConfig {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let ledger = folder.path().join("ledger.jsonl");
    let config = SandboxConfig::new(listen, webhook_url.to_owned(), SECRET.to_owned(), ledger);
    with(config, &json!({"statuses": {"gap_ms": 5}}))
}

fn with(config: SandboxConfig, settings: &Value) -> SandboxConfig {
    SandboxConfig { settings: config.settings.patched(settings).unwrap(), ..config }
}

async fn run(config: SandboxConfig) -> Running {
    let shutdown = CancellationToken::new();
    let clock = Clock::manual(DateTime::from_timestamp(NOW, 500_000_000).unwrap());
    let sandbox = start(config, clock, shutdown.clone()).await.unwrap();
    let client = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build().unwrap();
    Running { sandbox, shutdown, client }
}

impl Running {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.sandbox.address)
    }

    async fn post(&self, body: String) -> (StatusCode, Value) {
        let request = self.client.post(self.url("/v23.0/1055/messages")).bearer_auth("any").body(body);
        answer_to(request).await
    }

    /// Sends to a number and returns the wamid.
    async fn send(&self, to: &str, callback: &str) -> String {
        let (status, answer) = self.post(message(to, callback).to_string()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["messages"][0]["id"].as_str().unwrap().to_owned()
    }

    async fn ledger(&self) -> Value {
        answer_to(self.client.get(self.url("/_ledger"))).await.1
    }

    async fn ledger_shows(&self, accepted: u64, doubled: u64, statuses_owed: u64) {
        let expected = [accepted, doubled, statuses_owed].map(Value::from);
        let shown = tokio::time::timeout(DEADLINE, async {
            loop {
                let ledger = self.ledger().await;
                if ["accepted", "doubled", "statuses_owed"].map(|field| ledger[field].clone()) == expected {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        shown.await.unwrap_or_else(|_| panic!("the ledger never shows {expected:?}"));
    }

    async fn stop(self) {
        self.shutdown.cancel();
        drop(self.client);
        tokio::time::timeout(DEADLINE, self.sandbox.stopped()).await.expect("it stops in time");
    }
}

async fn answer_to(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")))
}

fn message(to: &str, callback: &str) -> Value {
    json!({
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": to, "type": "template",
        "template": {"name": "greeting", "language": {"code": "en"}, "components": [
            {"type": "body", "parameters": [{"type": "text", "text": "आशा"}]},
        ]},
        "biz_opaque_callback_data": callback,
    })
}

fn ledger_lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The names of the statuses of each message, in the order of their arrival.
fn by_wamid(statuses: &[Value]) -> HashMap<&str, Vec<&str>> {
    let mut names: HashMap<&str, Vec<&str>> = HashMap::new();
    for status in statuses {
        names.entry(status["id"].as_str().unwrap()).or_default().push(status["status"].as_str().unwrap());
    }
    names
}

/// An address where nobody listens.
async fn refusing_url() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    format!("http://{}/", listener.local_addr().unwrap())
}

#[tokio::test]
async fn an_accepted_call_is_in_the_ledger_before_it_is_answered() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ledger.jsonl");
    let running = run(config(&folder, &refusing_url().await)).await;
    for number in 0..50 {
        let to = format!("+9198123456{number:02}");
        let (status, answer) = running.post(message(&to, &format!("m{number}")).to_string()).await;
        let lines = ledger_lines(&path);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(lines.len(), number + 1);
        let line = &lines[number];
        let wamid = &line["wamid"];
        assert_eq!(
            answer,
            json!({
                "messaging_product": "whatsapp",
                "contacts": [{"input": to, "wa_id": to[1..]}],
                "messages": [{"id": wamid, "message_status": "accepted"}],
            })
        );
        assert!(wamid.as_str().unwrap().starts_with("wamid."));
        assert_eq!((&line["to"], &line["callback"]), (&json!(to), &json!(format!("m{number}"))));
        assert_eq!((&line["phone_number_id"], &line["template"]), (&json!("1055"), &json!("greeting")));
        assert_eq!(line["at"], "2026-11-23T10:00:00.500000Z");
    }
    let read_at: Vec<f64> = ledger_lines(&path).iter().map(|line| line["read_at_ms"].as_f64().unwrap()).collect();
    assert!(read_at.is_sorted() && read_at[0] >= 1_795_428_000_500.0, "{read_at:?}");
}

#[tokio::test]
async fn every_refusal_comes_in_the_envelope_and_leaves_no_trace_in_the_ledger() {
    let folder = TempDir::new().unwrap();
    let access_token = Some("right".to_owned());
    let running = run(SandboxConfig { access_token, ..config(&folder, &refusing_url().await) }).await;
    let body = message("+919812345600", "m").to_string();
    let without = |field: &str| {
        let mut body = message("+919812345600", "m");
        body.as_object_mut().unwrap().remove(field);
        body.to_string()
    };
    let two_lines = body.replace("आशा", "two\\nlines");
    let large = body.replace("greeting", &"x".repeat(1024 * 1024));
    let send = "/v23.0/1055/messages";
    let cases = [
        (send, None, body.clone(), 401, 190),
        (send, Some("wrong"), body.clone(), 401, 190),
        ("/v23/1055/messages", Some("right"), body.clone(), 400, 2500),
        ("/v23.0/1055/messages/more", Some("right"), body.clone(), 400, 2500),
        ("/v23.0/10x5/messages", Some("right"), body.clone(), 400, 100),
        ("/v23.0/1055", Some("right"), body.clone(), 400, 100),
        (send, Some("right"), "no JSON".to_owned(), 400, 100),
        (send, Some("right"), without("messaging_product"), 400, 100),
        (send, Some("right"), without("to"), 400, 131_008),
        (send, Some("right"), without("type"), 400, 131_051),
        (send, Some("right"), without("template"), 400, 131_008),
        (send, Some("right"), two_lines, 400, 132_018),
        (send, Some("right"), large, 413, 100),
    ];
    for (path, token, body, status, code) in cases {
        let mut request = running.client.post(running.url(path)).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let (answered, answer) = answer_to(request).await;
        let error = &answer["error"];
        assert_eq!((answered.as_u16(), error["code"].as_u64()), (status, Some(code)), "{path} {answer}");
        for field in ["message", "type", "fbtrace_id"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field} {answer}");
        }
    }
    running.ledger_shows(0, 0, 0).await;
    let request = running.client.post(running.url(send)).bearer_auth("right").body(body);
    assert_eq!(answer_to(request).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_number_shows_its_fields_and_the_health_page_answers() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    let request = running.client.get(running.url("/v23.0/1055")).bearer_auth("any");
    let (status, number) = answer_to(request).await;
    assert_eq!((status, &number["id"]), (StatusCode::OK, &json!("1055")));
    assert!(number["display_phone_number"].is_string());
    let health = running.client.get(running.url("/_healthz")).send().await.unwrap();
    assert_eq!(health.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_number_decides_which_statuses_arrive() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let read = running.send("+91 98123 45695", "callback-read").await;
    let delivered = running.send("+919812345696", "callback-delivered").await;
    let failed = running.send("+919812345699", "callback-failed").await;
    let statuses = receiver.statuses(6).await;
    let expected = HashMap::from([
        (&*read, vec!["sent", "delivered", "read"]),
        (&*delivered, vec!["sent", "delivered"]),
        (&*failed, vec!["failed"]),
    ]);
    assert_eq!(by_wamid(&statuses), expected);
    for status in &statuses {
        let (callback, recipient) = match status["id"].as_str().unwrap() {
            id if id == read => ("callback-read", "919812345695"),
            id if id == delivered => ("callback-delivered", "919812345696"),
            _ => ("callback-failed", "919812345699"),
        };
        assert_eq!(status["biz_opaque_callback_data"], callback);
        assert_eq!(status["recipient_id"], recipient);
        assert_eq!(status["timestamp"], NOW.to_string());
        let name = status["status"].as_str().unwrap();
        assert_eq!(status["pricing"].is_object(), matches!(name, "sent" | "delivered"), "{status}");
        assert_eq!(status["errors"][0]["code"].as_u64(), (name == "failed").then_some(131_026));
        assert!(status.get("conversation").is_none());
    }
    running.ledger_shows(3, 0, 0).await;
}

#[tokio::test]
async fn all_read_lets_every_message_be_read() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(SandboxConfig { outcomes: Outcomes::AllRead, ..config(&folder, &receiver.url) }).await;
    let wamid = running.send("+919812345699", "m").await;
    assert_eq!(by_wamid(&receiver.statuses(3).await), HashMap::from([(&*wamid, vec!["sent", "delivered", "read"])]));
}

#[tokio::test]
async fn bodies_are_bounded_and_the_statuses_of_a_message_keep_their_order() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(with(config(&folder, &receiver.url), &json!({"statuses": {"batch_max": 7, "gap_ms": 0}}))).await;
    for number in 0..200 {
        running.send(&format!("+91981234{number:02}00"), &format!("m{number}")).await;
    }
    let statuses = receiver.statuses(600).await;
    let names = by_wamid(&statuses);
    assert_eq!(names.len(), 200);
    assert!(names.values().all(|names| names == &["sent", "delivered", "read"]), "{names:?}");
    let sizes: Vec<_> = receiver.bodies().iter().map(|body| statuses_of(body).len()).collect();
    assert!(sizes.iter().all(|size| (1..=7).contains(size)) && sizes.iter().any(|size| *size > 1), "{sizes:?}");
}

#[tokio::test]
async fn a_body_is_posted_again_unchanged_until_it_is_acknowledged() {
    let folder = TempDir::new().unwrap();
    // 204 is a success to most, but not the 200 that is asked for.
    let receiver = Receiver::start(StatusCode::NO_CONTENT).await;
    let running = run(config(&folder, &receiver.url)).await;
    running.send("+919812345600", "m").await;
    receiver.attempts(2).await;
    receiver.answer(StatusCode::SERVICE_UNAVAILABLE);
    receiver.attempts(4).await;
    running.ledger_shows(1, 0, 3).await;
    receiver.answer(StatusCode::OK);
    receiver.statuses(3).await;
    let bodies = receiver.bodies();
    assert!(bodies[..4].iter().all(|body| body == &bodies[0]));
    running.ledger_shows(1, 0, 0).await;
}

#[tokio::test]
async fn calls_with_the_same_callback_are_counted_as_doubled() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    for callback in ["a", "b", "a", "a"] {
        running.send("+919812345699", callback).await;
    }
    let mut plain = message("+919812345699", "");
    plain.as_object_mut().unwrap().remove("biz_opaque_callback_data");
    for _ in 0..2 {
        assert_eq!(running.post(plain.to_string()).await.0, StatusCode::OK);
    }
    running.ledger_shows(6, 2, 6).await;
}

#[tokio::test]
async fn a_restart_on_the_same_ledger_posts_what_is_owed_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &receiver.url)).await;
    let settled = running.send("+919812345600", "settled").await;
    running.ledger_shows(1, 0, 0).await;
    running.stop().await;

    let running = run(config(&folder, &refusing_url().await)).await;
    let read = running.send("+919812345600", "read").await;
    let failed = running.send("+919812345698", "failed").await;
    running.ledger_shows(3, 0, 4).await;
    running.stop().await;

    let later = Receiver::start(StatusCode::OK).await;
    let running = run(config(&folder, &later.url)).await;
    let statuses = later.statuses(4).await;
    running.ledger_shows(3, 0, 0).await;
    let expected = HashMap::from([(&*read, vec!["sent", "delivered", "read"]), (&*failed, vec!["failed"])]);
    assert_eq!(by_wamid(&statuses), expected);
    assert!(statuses.iter().all(|status| status["biz_opaque_callback_data"].is_string()));
    assert_eq!(by_wamid(&receiver.statuses(3).await).keys().collect::<Vec<_>>(), [&settled]);
    running.send("+919812345600", "read").await;
    running.ledger_shows(4, 1, 0).await;
}

#[tokio::test]
async fn as_many_bodies_travel_at_once_as_it_is_told() {
    let folder = TempDir::new().unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let crowded = SandboxConfig { webhook_posts_max: 20, ..config(&folder, &url) };
    let running = run(with(crowded, &json!({"statuses": {"batch_max": 1}}))).await;
    for number in 0..30 {
        running.send(&format!("+91981234{number:02}00"), &format!("m{number}")).await;
    }
    // Nobody answers, so each body keeps a connection of its own.
    let mut held = Vec::new();
    let more = Duration::from_millis(300);
    while let Ok(Ok((stream, _))) =
        tokio::time::timeout(if held.len() < 20 { DEADLINE } else { more }, listener.accept()).await
    {
        held.push(stream);
    }
    assert_eq!(held.len(), 20);
}

#[tokio::test]
async fn a_caller_that_dies_after_its_call_has_called() {
    let folder = TempDir::new().unwrap();
    let receiver = Receiver::start(StatusCode::OK).await;
    let hour = 3_600_000;
    let running = run(with(config(&folder, &receiver.url), &json!({"latency": {"median_ms": hour}}))).await;
    let body = message("+919812345600", "m").to_string();
    let length = body.len();
    let request = format!(
        "POST /v23.0/1055/messages HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer any\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    for _ in 0..20 {
        let mut stream = TcpStream::connect(running.sandbox.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        drop(stream);
    }
    let statuses = receiver.statuses(60).await;
    assert!(statuses.iter().all(|status| status["biz_opaque_callback_data"] == "m"));
    running.ledger_shows(20, 19, 0).await;
}

#[tokio::test]
async fn a_caller_that_dies_within_its_call_has_not_called() {
    let folder = TempDir::new().unwrap();
    let running = run(config(&folder, &refusing_url().await)).await;
    let mut stream = TcpStream::connect(running.sandbox.address).await.unwrap();
    let head = "POST /v23.0/1055/messages HTTP/1.1\r\nHost: sandbox\r\nAuthorization: Bearer any\r\n\
                Content-Length: 500\r\n\r\n{\"messaging_product\":";
    stream.write_all(head.as_bytes()).await.unwrap();
    drop(stream);
    running.send("+919812345699", "m").await;
    running.ledger_shows(1, 0, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn two_sandboxes_never_share_a_ledger() {
    let folder = TempDir::new().unwrap();
    let first = run(config(&folder, &refusing_url().await)).await;
    first.send("+919812345699", "m").await;
    let receiver = Receiver::start(StatusCode::OK).await;
    let second = tokio::spawn(run(config(&folder, &receiver.url)));
    first.ledger_shows(1, 0, 1).await;
    assert!(!second.is_finished(), "the second waits for the first");
    first.stop().await;
    let second = second.await.unwrap();
    receiver.statuses(1).await;
    second.ledger_shows(1, 0, 0).await;
}
