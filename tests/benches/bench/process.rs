//! A program under measurement: started, waited for until it says that it is ready, and ended whatever happens.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

const START_MAX: Duration = Duration::from_secs(60);
/// What a program that was asked to end may take before it is ended.
const STOP_MAX: Duration = Duration::from_secs(60);
const QUOTED_LINES_MAX: usize = 15;

/// Dropped, it is killed.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    pid: i32,
    log: PathBuf,
    /// Keeps its output from filling the pipe.
    _output: JoinSet<()>,
}

impl Process {
    /// Starts a program whose first interesting line of output begins with `ready`, and answers the rest of that line.
    pub(crate) async fn start(
        name: &'static str,
        mut command: Command,
        ready: &str,
        log: &Path,
    ) -> Result<(Self, String)> {
        let file = File::options().create(true).append(true).open(log)?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            // Ctrl-C reaches the bench, which ends what it has started.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("the {name} could not be started"))?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).with_context(|| format!("the {name} has no id"))?;
        let mut lines = BufReader::new(child.stdout.take().context("its output is piped")?).lines();
        let said = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(ready) {
                    return Ok(rest.trim().to_owned());
                }
            }
            bail!("the {name} ended before it was ready; its last words:\n{}", last_lines(log))
        };
        let said = match tokio::time::timeout(START_MAX, said).await {
            Ok(said) => said?,
            Err(_) => bail!("the {name} was not ready within {} s:\n{}", START_MAX.as_secs(), last_lines(log)),
        };
        let mut output = JoinSet::new();
        output.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok((Self { name, child, pid, log: log.to_owned(), _output: output }, said))
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Fails with its last words if it has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the {} ended ({status}); its last words:\n{}", self.name, last_lines(&self.log)),
        }
    }

    /// Asks it to end and insists after a while.
    pub(crate) async fn stop(mut self) -> Result<()> {
        // It may have ended already; then waiting says so.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGTERM);
        match tokio::time::timeout(STOP_MAX, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    bail!("the {} ended with {status}; its last words:\n{}", self.name, last_lines(&self.log));
                }
                Ok(())
            }
            Err(_) => {
                self.child.kill().await?;
                bail!("the {} did not end within {} s", self.name, STOP_MAX.as_secs())
            }
        }
    }

    /// How many warnings and errors it has logged.
    pub(crate) fn warnings(&self) -> usize {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).count()
    }

    pub(crate) fn last_words(&self) -> String {
        last_lines(&self.log)
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(QUOTED_LINES_MAX)..].join("\n")
}
