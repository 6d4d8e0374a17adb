//! `ektola sandbox` as a process: what the engine sends to, and the witness of what was sent.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::installation::{APP_SECRET, command};
use crate::process::Process;

const REQUEST_MAX: Duration = Duration::from_secs(30);
/// Between the statuses of a message.
const STATUS_GAP_MS: u32 = 300;

pub(crate) struct Sandbox {
    pub(crate) process: Process,
    /// Such as `http://127.0.0.1:4711`.
    pub(crate) address: String,
    ledger: PathBuf,
    http: reqwest::Client,
}

/// How it behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour {
    /// Time to answer a call.
    pub(crate) latency_ms: u32,
    /// The most statuses in one webhook.
    pub(crate) webhook_batch_max: u32,
}

impl Behaviour {
    /// It answers at once, and bodies hold up to 50 statuses.
    pub(crate) const PLAIN: Self = Self { latency_ms: 0, webhook_batch_max: 50 };
}

/// What it counted.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct LedgerCounts {
    pub(crate) accepted: u64,
    pub(crate) doubled: u64,
    pub(crate) statuses_owed: u64,
}

#[derive(Deserialize)]
struct LedgerLine {
    read_at_ms: f64,
}

impl Sandbox {
    /// Every message is delivered and read; the statuses go to this address.
    pub(crate) async fn start(data: &Path, webhook_url: &str, behaviour: Behaviour) -> Result<Self> {
        let ledger = data.join("ledger.jsonl");
        let mut command = command(data)?;
        command.args(["sandbox", "--listen", "127.0.0.1:0", "--all-read", "--webhook-url", webhook_url]);
        command.arg("--ledger").arg(&ledger);
        command.arg("--latency-ms").arg(behaviour.latency_ms.to_string());
        command.arg("--status-gap-ms").arg(STATUS_GAP_MS.to_string());
        command.arg("--webhook-batch-max").arg(behaviour.webhook_batch_max.to_string());
        command.env("EKTOLA_SANDBOX_APP_SECRET", APP_SECRET);
        let log = data.join("sandbox.log");
        let (process, address) = Process::start("sandbox", command, "sandbox ready", &log).await?;
        let http = reqwest::Client::builder().timeout(REQUEST_MAX).no_proxy().build()?;
        Ok(Self { process, address, ledger, http })
    }

    pub(crate) async fn counts(&self) -> Result<LedgerCounts> {
        let answer = self.http.get(format!("{}/_ledger", self.address)).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    /// When each accepted call was read: milliseconds since 1970, in order.
    pub(crate) async fn call_times(&self) -> Result<Vec<f64>> {
        let text = tokio::fs::read_to_string(&self.ledger).await.context("the ledger cannot be read")?;
        // The last line may be half written.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let times: Result<Vec<f64>, _> =
            whole.lines().map(|line| serde_json::from_str(line).map(|line: LedgerLine| line.read_at_ms)).collect();
        let mut times = times.context("a line of the ledger cannot be read")?;
        // Lines are written in the order of deciding, which is not quite that of reading.
        times.sort_by(f64::total_cmp);
        Ok(times)
    }
}
