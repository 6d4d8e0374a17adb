//! `ektola demo`: the main job from a file of contacts to READ, on a fresh installation, using nothing but HTTP and the
//! public command line, as a stranger would.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::context::Context;
use super::dev::Queue;
use crate::shutdown;

#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where the dispatch queue is kept.
    #[arg(long, value_enum, default_value_t = Queue::Postgres)]
    queue: Queue,
}

/// Valid rows; a multiple of 100, since the sandbox decides by the last two digits of a number.
const CONTACTS: u32 = 1000;
/// One contact in so many has no name, and the template's greeting has no fallback.
const NAMELESS_EVERY: u32 = 100;
const SEGMENT: &str = "gold-loan";
/// A demonstration that takes longer than this has gone wrong.
const DEADLINE: Duration = Duration::from_secs(180);
const ENGINE_START: Duration = Duration::from_secs(90);
/// Rows with a fault each, as they come out of real spreadsheets: phone, name.
const FAULTY_ROWS: [(&str, &str); 12] = [
    ("", "No Number"),
    ("9.19877E+11", "Rounded By A Spreadsheet"),
    ("0261-2345678", "Landline In Surat"),
    ("98765", "Too Short"),
    ("98765432101234567", "Too Long"),
    ("call after 6", "Words"),
    ("+91 12345 67890", "Not A Mobile"),
    ("9876543210 / 9876543211", "Two Numbers"),
    ("+1", "Only A Country"),
    ("00971501234567", "Dubai Without Plus"),
    ("98765O4321", "Letter O For Zero"),
    ("5876543210", "Begins With Five"),
];

pub async fn run(args: DemoArgs, context: &Context) -> anyhow::Result<()> {
    let began = Instant::now();
    // Others may enter, so that the user of the private Postgres can; what is secret in it has modes of its own.
    let data = tempfile::Builder::new()
        .prefix("ektola-demo-")
        .permissions(std::fs::Permissions::from_mode(0o755))
        .tempdir()
        .context("no folder for the demonstration")?;
    context.out.line(&format!("A fresh installation in {}", data.path().display()));
    let mut engine = Engine::start(data.path(), args.queue, context).await?;
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(DEADLINE, main_job(&engine, context)) => outcome,
        () = shutdown::requested() => { engine.stop().await; bail!("interrupted") }
    };
    engine.stop().await;
    let result = match outcome {
        Ok(result) => result?,
        Err(_) => bail!("the demonstration did not end within {} s", DEADLINE.as_secs()),
    };
    context.out.line(&result.last_line(began.elapsed()));
    result.check()
}

/// The engine under demonstration: `ektola dev` as a process of its own.
struct Engine {
    child: Child,
    address: String,
    sandbox: String,
    token: String,
    data: PathBuf,
    http: reqwest::Client,
}

impl Engine {
    async fn start(data: &Path, queue: Queue, context: &Context) -> anyhow::Result<Self> {
        let queue = match queue {
            Queue::Postgres => "postgres",
            Queue::Rabbitmq => "rabbitmq",
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(["dev", "--listen", "127.0.0.1:0", "--queue", queue, "--data"])
            .arg(data)
            // A demonstration never touches a database, a broker or a WhatsApp number of the person who runs it.
            .envs(
                [
                    "DATABASE_URL",
                    "AMQP_URL",
                    "WHATSAPP_PHONE_NUMBER_ID",
                    "WHATSAPP_ACCESS_TOKEN",
                    "WHATSAPP_APP_SECRET",
                    "WHATSAPP_VERIFY_TOKEN",
                ]
                .map(|name| (name, "")),
            )
            .env("EKTOLA_LOG__FILTER", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("the engine could not be started")?;
        let stdout = child.stdout.take().context("the engine has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let mut sandbox = String::new();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                context.out.line(&format!("  {line}"));
                if let Some((_, url)) = line.split_once("the sandbox, at ") {
                    sandbox = url.trim().to_owned();
                }
                if let Some(address) = line.strip_prefix("ready ") {
                    return Ok(address.trim().to_owned());
                }
            }
            bail!("the engine ended before it was ready")
        };
        let address = match tokio::time::timeout(ENGINE_START, ready).await {
            Ok(Ok(address)) => address,
            Ok(Err(error)) => return Err(error),
            Err(_) => bail!("the engine was not ready within {} s", ENGINE_START.as_secs()),
        };
        // Whatever else it says must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let token = std::fs::read_to_string(data.join("token"))?.trim().to_owned();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build()?;
        Ok(Self { child, address, sandbox, token, data: data.to_owned(), http })
    }

    async fn stop(&mut self) {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        drop(self.child.wait().await);
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let request = self.http.get(format!("{}{path}", self.address)).bearer_auth(&self.token);
        answer(request, path).await
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self.http.post(format!("{}{path}", self.address)).bearer_auth(&self.token).json(body);
        answer(request, path).await
    }

    async fn upload(&self, file: Vec<u8>) -> anyhow::Result<Value> {
        let part = Part::bytes(file).file_name("contacts.csv").mime_str("text/csv")?;
        let path = "/v1/contacts/upload";
        let request = self.http.post(format!("{}{path}", self.address)).bearer_auth(&self.token);
        answer(request.multipart(Form::new().part("file", part)), path).await
    }

    async fn ledger(&self) -> anyhow::Result<Value> {
        answer(self.http.get(format!("{}/_ledger", self.sandbox)), "/_ledger").await
    }

    /// Webhooks that were stored and not interpreted yet, as `ektola status` shows them.
    async fn webhooks_pending(&self) -> anyhow::Result<u64> {
        let output = Command::new(std::env::current_exe()?)
            .args(["status", "--json", "--data"])
            .arg(&self.data)
            .env("DATABASE_URL", "")
            .output()
            .await?;
        ensure!(output.status.success(), "ektola status failed: {}", String::from_utf8_lossy(&output.stderr));
        let status: Value = serde_json::from_slice(&output.stdout).context("ektola status --json is not JSON")?;
        status["webhooks_pending"].as_u64().context("ektola status --json does not say webhooks_pending")
    }
}

async fn answer(request: reqwest::RequestBuilder, path: &str) -> anyhow::Result<Value> {
    let response = request.send().await.with_context(|| format!("no answer from {path}"))?;
    let status = response.status();
    let body: Value = response.json().await.with_context(|| format!("{path} did not answer with JSON"))?;
    ensure!(status.is_success(), "{path} answered {status}: {body}");
    Ok(body)
}

/// What the API and the sandbox's ledger say at the end.
struct Outcome {
    contacts: u64,
    audience: u64,
    counts: BTreeMap<String, u64>,
    funnel: Value,
    ledger: Value,
}

impl Outcome {
    fn count(&self, status: &str) -> u64 {
        self.counts.get(status).copied().unwrap_or_default()
    }

    fn open(&self) -> u64 {
        ["pending", "dispatching", "unknown"].iter().map(|status| self.count(status)).sum()
    }

    fn doubled(&self) -> u64 {
        self.ledger["doubled"].as_u64().unwrap_or(u64::MAX)
    }

    fn last_line(&self, took: Duration) -> String {
        format!(
            "demo: {} contacts, {} read, {} delivered, {} sent, {} failed, {} skipped, {} open, {} doubled, {:.1} s",
            self.contacts,
            self.count("read"),
            self.count("delivered"),
            self.count("sent"),
            self.count("failed"),
            self.count("skipped"),
            self.open(),
            self.doubled(),
            took.as_secs_f64(),
        )
    }

    /// The demonstration has succeeded only if nothing is open, nothing doubled and everything adds up.
    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.open() == 0, "{} messages are still open", self.open());
        ensure!(self.doubled() == 0, "{} messages were accepted more than once", self.doubled());
        let sum: u64 = self.counts.values().sum();
        ensure!(sum == self.audience, "the counts add up to {sum}, the audience is {}", self.audience);
        ensure!(self.audience == self.contacts, "{} contacts, but an audience of {}", self.contacts, self.audience);
        let (accepted, sent) = (self.ledger["accepted"].as_u64(), self.funnel["sent"].as_u64());
        let refused = self.count("failed");
        // The sandbox accepts a message and reports its failure later, so each message that reached it is either
        // sent, or failed after acceptance.
        let reached = ["sent", "delivered", "read"].iter().map(|status| self.count(status)).sum::<u64>() + refused;
        ensure!(
            accepted == Some(reached),
            "the sandbox accepted {accepted:?} calls, but {reached} messages reached WhatsApp (funnel: sent {sent:?})"
        );
        Ok(())
    }
}

async fn main_job(engine: &Engine, context: &Context) -> anyhow::Result<Outcome> {
    let say = |line: &str| context.out.line(line);
    say("");
    say(&format!("1. Upload contacts: {CONTACTS} rows and {} with faults", FAULTY_ROWS.len()));
    let upload = engine.upload(contacts_file()).await?;
    say(&format!(
        "   {} rows: {} created, {} rejected, each with its reason, for example",
        upload["rows"], upload["created"], upload["rejected"]
    ));
    for error in upload["errors"].as_array().into_iter().flatten().take(3) {
        say(&format!("   row {}: {}", error["row"], error["reason"].as_str().unwrap_or_default()));
    }
    say("2. Record a template and create a campaign");
    let template = engine
        .post(
            "/v1/templates",
            &json!({
                "name": "gold_loan_reminder",
                "language": "en",
                "category": "UTILITY",
                "components": [{"type": "BODY", "text": "Dear {{1}}, the instalment of {{2}} for your gold loan is due on {{3}}. Thank you."}],
            }),
        )
        .await?;
    let campaign = engine.post("/v1/campaigns", &campaign_of(&template)).await?;
    let id = campaign["id"].as_str().context("the campaign has no id")?.to_owned();
    say(&format!("   campaign {id}: once, segment {SEGMENT}, variables from the contacts' columns"));
    say("3. Activate it; the scheduler triggers the run");
    engine.post(&format!("/v1/campaigns/{id}/activate"), &json!({})).await?;
    let run_id = wait_for_run(engine, &id).await?;
    say(&format!("   run {run_id}"));
    say("4. Send at 80 messages/s, as one WhatsApp number may, and follow the statuses that come back as webhooks");
    say("   (in the sandbox, numbers ending in 96 and 97 never read, those in 98 and 99 cannot be reached)");
    let run = follow_run(engine, &run_id, context).await?;
    explain(&run, context);
    Ok(Outcome {
        contacts: upload["created"].as_u64().unwrap_or_default(),
        audience: run["audience"].as_u64().unwrap_or_default(),
        counts: serde_json::from_value(run["counts"].clone()).context("the run has no counts")?,
        funnel: run["funnel"].clone(),
        ledger: engine.ledger().await?,
    })
}

fn campaign_of(template: &Value) -> Value {
    json!({
        "name": "Gold loan reminders",
        "template_id": template["id"],
        "target_segment": SEGMENT,
        "campaign_type": "utility",
        "recurrence_type": "once",
        "start_date": "2026-01-01",
        "parameters": {
            "1": {"attribute": "name"},
            "2": {"attribute": "amount", "fallback": "your next amount"},
            "3": {"attribute": "due_date", "fallback": "the agreed day"},
        },
    })
}

async fn wait_for_run(engine: &Engine, campaign: &str) -> anyhow::Result<String> {
    loop {
        let runs = engine.get(&format!("/v1/campaigns/{campaign}/runs")).await?;
        if let Some(id) = runs["items"][0]["id"].as_str() {
            return Ok(id.to_owned());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Until the run is completed and every webhook that the sandbox owes is interpreted.
async fn follow_run(engine: &Engine, run_id: &str, context: &Context) -> anyhow::Result<Value> {
    let progress = context.out.progress("messages settled", u64::from(CONTACTS));
    loop {
        let run = engine.get(&format!("/v1/runs/{run_id}")).await?;
        let count = |status: &str| run["counts"][status].as_u64().unwrap_or_default();
        let settled = ["read", "delivered", "failed", "skipped"].iter().map(|status| count(status)).sum();
        progress.set_length(run["audience"].as_u64().unwrap_or_default().max(1));
        progress.set_position(settled);
        progress.set_message(&format!(
            "{} pending, {} sent, {} delivered, {} read, {} failed",
            count("pending") + count("dispatching"),
            count("sent"),
            count("delivered"),
            count("read"),
            count("failed"),
        ));
        if run["status"] == "completed"
            && engine.ledger().await?["statuses_owed"] == 0
            && engine.webhooks_pending().await? == 0
        {
            progress.finish();
            // What was interpreted last has reached the read model by the time it is asked for.
            return settled_run(engine, run_id).await;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

async fn settled_run(engine: &Engine, run_id: &str) -> anyhow::Result<Value> {
    let mut last = engine.get(&format!("/v1/runs/{run_id}")).await?;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let run = engine.get(&format!("/v1/runs/{run_id}")).await?;
        if run == last {
            return Ok(run);
        }
        last = run;
    }
}

fn explain(run: &Value, context: &Context) {
    let funnel = &run["funnel"];
    context.out.line("");
    context.out.line(&format!(
        "   funnel: {} in the audience > {} attempted > {} sent > {} delivered > {} read",
        run["audience"], funnel["attempted"], funnel["sent"], funnel["delivered"], funnel["read"]
    ));
    let reasons = |object: &Value| {
        object
            .as_object()
            .map(|reasons| {
                reasons.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>().join(", ")
            })
            .filter(|text| !text.is_empty())
    };
    if let Some(skipped) = reasons(&run["skipped_by_reason"]) {
        context.out.line(&format!("   skipped: {skipped} (no name in the file, and the greeting has no fallback)"));
    }
    if let Some(failed) = reasons(&run["failed_by_code"]) {
        context.out.line(&format!("   failed by WhatsApp's code: {failed} (131026: cannot be delivered)"));
    }
    context.out.line("");
}

fn contacts_file() -> Vec<u8> {
    let mut file = String::from("phone,name,segment,amount,due date\n");
    for number in 0..CONTACTS {
        let name = if number % NAMELESS_EVERY == 0 { String::new() } else { format!("Customer {number}") };
        let amount = 1500 + number % 40 * 250;
        writeln!(file, "98250{:05},{name},{SEGMENT},Rs {amount},{} Dec", 10_000 + number, number % 28 + 1)
            .expect("text can be written to a string");
    }
    for (phone, name) in FAULTY_ROWS {
        writeln!(file, "{phone},{name},{SEGMENT},Rs 100,1 Dec").expect("text can be written to a string");
    }
    file.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_faulty_row_is_refused_and_every_other_row_is_not() {
        for (phone, name) in FAULTY_ROWS {
            assert!(domain::phone::normalize(phone).is_err(), "{name}");
        }
        let file = String::from_utf8(contacts_file()).expect("the file is text");
        let valid = file
            .lines()
            .skip(1)
            .filter(|line| domain::phone::normalize(line.split(',').next().unwrap_or_default()).is_ok());
        assert_eq!(valid.count(), CONTACTS as usize);
    }
}
