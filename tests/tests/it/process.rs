//! Processes of the real binary beside an engine of the test: roles that the test kills.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::engine::Engine;
use crate::kill::binary;

const READY_MAX: Duration = Duration::from_secs(60);
const END_MAX: Duration = Duration::from_secs(60);

/// An `ektola serve` that ends with this value.
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts these roles on the engine's servers and waits until they run. `data`: where its call journal is.
    pub(crate) async fn start(engine: &Engine, roles: &str, data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary())
            .arg("--data")
            .arg(data)
            .args(["serve", "--allow-provider-base-url", "--listen", "127.0.0.1:0", "--roles", roles])
            .env("DATABASE_URL", &engine.database.url)
            .env("AMQP_URL", engine.broker_url().unwrap_or_default())
            .env("WHATSAPP_PHONE_NUMBER_ID", "")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        tokio::time::timeout(READY_MAX, async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if line.starts_with("ready") {
                    return;
                }
            }
            panic!("the process ended before it was ready");
        })
        .await
        .unwrap();
        Self { child }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().await.unwrap();
    }

    /// As a person stops it: calls that are under way end, the lease is given back.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let ended = tokio::time::timeout(END_MAX, self.child.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "{ended}");
    }
}

/// What a subcommand said.
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }
}

/// Runs a subcommand on the engine's database to its end.
pub(crate) async fn ektola(engine: &Engine, arguments: &[&str]) -> Answer {
    let command = Command::new(binary()).args(arguments).env("DATABASE_URL", &engine.database.url).output();
    let output = command.await.unwrap();
    Answer {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}
