//! The sandbox as a process of its own: started, found again after a kill of the engine, stopped.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::config::SandboxConfig;

const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What is remembered of a running sandbox, so that the next engine finds it.
#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    pid: i32,
    address: SocketAddr,
    webhook_url: String,
    #[serde(default)]
    scenario: Option<String>,
}

pub struct SandboxProcess {
    remembered: Remembered,
    /// `None` for a sandbox that an earlier engine started.
    child: Option<Child>,
    file: PathBuf,
}

impl SandboxProcess {
    /// Takes over the sandbox that an engine which was killed has left, or starts one on the same ledger.
    pub async fn start(
        data: &Path,
        webhook_url: &str,
        app_secret: &str,
        config: &SandboxConfig,
        clock: Option<DateTime<Utc>>,
        scenario: Option<&str>,
    ) -> anyhow::Result<Self> {
        let folder = data.join("sandbox");
        std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        let file = folder.join("process.json");
        if let Some(remembered) = left_behind(&file).await {
            let left = Self { remembered, child: None, file: file.clone() };
            let same = left.remembered.webhook_url == webhook_url && left.remembered.scenario.as_deref() == scenario;
            if same && clock.is_none() {
                return Ok(left);
            }
            left.stop().await;
        }
        let log = std::fs::File::options().create(true).append(true).open(folder.join("sandbox.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["sandbox", "--listen", "127.0.0.1:0", "--webhook-url", webhook_url])
            .arg("--ledger")
            .arg(folder.join("ledger.jsonl"))
            // Not as arguments: those would go before the scenario.
            .env("EKTOLA_SANDBOX__LATENCY_MS", config.latency_ms.to_string())
            .env("EKTOLA_SANDBOX__STATUS_GAP_MS", config.status_gap_ms.to_string())
            .env("EKTOLA_SANDBOX__WEBHOOK_BATCH_MAX", config.webhook_batch_max.to_string())
            .env("EKTOLA_SANDBOX__WEBHOOK_POSTS_MAX", config.webhook_posts_max.to_string())
            .env("EKTOLA_SANDBOX__RATE_LIMIT_PER_S", config.rate_limit_per_s.to_string())
            .env("EKTOLA_SANDBOX__PAIR_BURST", config.pair_burst.to_string())
            // Not as an argument: those show in process lists.
            .env("EKTOLA_SANDBOX_APP_SECRET", app_secret)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal reaches the engine, which then stops the sandbox last.
            .process_group(0);
        if let Some(start) = clock {
            command.args(["--clock", &start.to_rfc3339()]);
        }
        if let Some(scenario) = scenario {
            command.args(["--scenario", scenario]);
        }
        let mut child = command.spawn().context("the sandbox could not be started")?;
        let address = match tokio::time::timeout(START_DEADLINE, address_of(&mut child)).await {
            Ok(Ok(address)) => address,
            Ok(Err(error)) => return Err(error.context(format!("see {}", folder.join("sandbox.log").display()))),
            Err(_) => bail!("the sandbox was not ready within {} s", START_DEADLINE.as_secs()),
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).context("the sandbox ended at once")?;
        let (webhook_url, scenario) = (webhook_url.to_owned(), scenario.map(str::to_owned));
        let remembered = Remembered { pid, address, webhook_url, scenario };
        std::fs::write(&file, serde_json::to_string(&remembered)?)?;
        Ok(Self { remembered, child: Some(child), file })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.remembered.address)
    }

    /// Asks it to end and waits; what it still owes stays in its ledger.
    pub async fn stop(self) {
        let pid = Pid::from_raw(self.remembered.pid);
        let _ = kill(pid, Signal::SIGTERM);
        let ended = async {
            match self.child {
                Some(mut child) => drop(child.wait().await),
                None => {
                    while kill(pid, None).is_ok() {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        };
        if tokio::time::timeout(STOP_DEADLINE, ended).await.is_err() {
            tracing::warn!("the sandbox did not end in time; it is ended now");
            let _ = kill(pid, Signal::SIGKILL);
        }
        drop(std::fs::remove_file(&self.file));
    }
}

/// A sandbox of this folder that still answers; a process id alone could be somebody else's by now.
async fn left_behind(file: &Path) -> Option<Remembered> {
    let remembered: Remembered = serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?;
    let client = reqwest::Client::builder().timeout(Duration::from_secs(2)).no_proxy().build().ok()?;
    let answer = client.get(format!("http://{}/_healthz", remembered.address)).send().await.ok()?;
    (answer.status().is_success() && kill(Pid::from_raw(remembered.pid), None).is_ok()).then_some(remembered)
}

async fn address_of(child: &mut Child) -> anyhow::Result<SocketAddr> {
    let stdout = child.stdout.take().context("the sandbox has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.strip_prefix("sandbox ready http://") {
            return Ok(address.trim().parse()?);
        }
    }
    bail!("the sandbox ended before it was ready")
}
