//! `ektola sandbox` as a process of the real binary: scenarios, and what is left of them after a kill.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::kill::binary;
use crate::turn::Turn;

const DEADLINE: Duration = Duration::from_secs(60);

struct Sandbox {
    child: Child,
    address: String,
    http: reqwest::Client,
}

impl Sandbox {
    async fn start(data: &Path, webhook_url: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .arg("--data")
            .arg(data)
            .args(["sandbox", "--listen", "127.0.0.1:0", "--webhook-url", webhook_url, "--status-gap-ms", "20"])
            .arg("--ledger")
            .arg(data.join("ledger.jsonl"))
            .args(arguments)
            .env("EKTOLA_SANDBOX_APP_SECRET", "secret")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(address) = line.strip_prefix("sandbox ready ") {
                    return address.to_owned();
                }
            }
            panic!("the sandbox ended before it was ready");
        };
        let address = tokio::time::timeout(DEADLINE, ready).await.unwrap();
        let http = reqwest::Client::builder().timeout(DEADLINE).no_proxy().build().unwrap();
        Self { child, address, http }
    }

    /// The message's id, if the answer came and had one.
    async fn send(&self, number: usize) -> Option<String> {
        let body = json!({
            "messaging_product": "whatsapp", "to": format!("+9198123{number:05}"), "type": "template",
            "template": {"name": "greeting", "language": {"code": "en"}},
            "biz_opaque_callback_data": format!("m{number}"),
        });
        let call = self.http.post(format!("{}/v25.0/1055/messages", self.address)).bearer_auth("any").json(&body);
        let answer: Value = call.send().await.ok()?.json().await.ok()?;
        answer["messages"][0]["id"].as_str().map(str::to_owned)
    }

    async fn get(&self, path: &str) -> Value {
        self.http.get(format!("{}{path}", self.address)).send().await.unwrap().json().await.unwrap()
    }
}

type Posted = Arc<Mutex<Vec<Value>>>;

/// Keeps the statuses that are posted, and answers 200.
async fn receiver() -> (String, Posted) {
    let posted = Posted::default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/webhooks/whatsapp", listener.local_addr().unwrap());
    let kept = Arc::clone(&posted);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let kept = Arc::clone(&kept);
            let keep = service_fn(move |request| keep(request, Arc::clone(&kept)));
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), keep));
        }
    });
    (url, posted)
}

async fn keep(request: Request<Incoming>, kept: Posted) -> hyper::Result<Response<Empty<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let statuses = body["entry"][0]["changes"][0]["value"]["statuses"].as_array().cloned();
    kept.lock().unwrap().extend(statuses.unwrap_or_default());
    Ok(Response::default())
}

/// Two hundred calls of which many come to grief, a kill in the midst of the statuses, and the same ledger again.
#[tokio::test]
async fn a_scenario_survives_a_kill_with_one_line_for_each_accepted_call() {
    let _turn = Turn::beside_others().await;
    let data = tempfile::tempdir().unwrap();
    let (url, posted) = receiver().await;
    let arguments = ["--scenario", "lost-answers", "--seed", "3", "--latency-ms", "0"];
    let mut sandbox = Sandbox::start(data.path(), &url, &arguments).await;
    let faults = sandbox.get("/_control").await["faults"].as_array().unwrap().len();
    assert!(faults > 5);
    // The scenario's stalls of a minute are shortened; everything else stays.
    let mut changed = sandbox.get("/_control").await["faults"].clone();
    for fault in changed.as_array_mut().unwrap() {
        if fault.get("hang_ms").is_some() {
            fault["hang_ms"] = json!(1);
        }
    }
    let patch = json!({"faults": changed, "latency": {"p99_ms": 0}});
    let answer = sandbox.http.patch(format!("{}/_control", sandbox.address)).json(&patch).send().await.unwrap();
    assert!(answer.status().is_success());

    let mut answered = BTreeSet::new();
    for number in 0..200 {
        answered.extend(sandbox.send(number).await);
    }
    sandbox.child.kill().await.unwrap();
    let lines: Vec<Value> = std::fs::read_to_string(data.path().join("ledger.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let wamids: BTreeSet<String> = lines.iter().map(|line| line["wamid"].as_str().unwrap().to_owned()).collect();
    let callbacks: BTreeSet<&str> = lines.iter().map(|line| line["callback"].as_str().unwrap()).collect();
    assert_eq!((wamids.len(), callbacks.len()), (lines.len(), lines.len()), "one line for each accepted call");
    assert!(answered.is_subset(&wamids) && answered.len() < lines.len() && lines.len() < 200);

    let sandbox = Sandbox::start(data.path(), &url, &[]).await;
    let settled = async {
        while sandbox.get("/_ledger").await["statuses_owed"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, settled).await.expect("what is owed is posted in time");
    let ledger = sandbox.get("/_ledger").await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(lines.len()), &json!(0)));
    let heard: BTreeSet<String> =
        posted.lock().unwrap().iter().map(|status| status["id"].as_str().unwrap().to_owned()).collect();
    let silent = |line: &Value| line["course"]["steps"].as_array().is_some_and(Vec::is_empty);
    let renamed = |line: &Value| line["course"]["shown_wamid"].is_string();
    for line in &lines {
        let wamid = line["wamid"].as_str().unwrap();
        assert_eq!(heard.contains(wamid), !silent(line) && !renamed(line), "{line}");
    }
    drop(sandbox);
}

#[tokio::test]
async fn the_scenarios_are_listed_for_people_and_for_programs() {
    let list = async |arguments: &[&str]| {
        let output = Command::new(binary()).args(["sandbox", "--list"]).args(arguments).output().await.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let scenarios: Vec<Value> = serde_json::from_str(&list(&["--json"]).await).unwrap();
    assert!((6..=9).contains(&scenarios.len()));
    let text = list(&[]).await;
    for scenario in &scenarios {
        assert!(
            text.contains(scenario["name"].as_str().unwrap()) && text.contains(scenario["summary"].as_str().unwrap())
        );
        assert!(scenario["settings"].as_object().is_some_and(|settings| !settings.is_empty()));
    }
}
