//! `servers run`: the command in the middle, the servers around it.

use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use test_kit::{POSTGRES_VARIABLE, RABBITMQ_DIR_VARIABLE};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};

use super::{Servers, say};

/// What a command that was asked to end may take before it is ended.
const GRACE: Duration = Duration::from_secs(20);

pub(super) async fn run(command: &[&str], with_rabbitmq: bool) -> Result<ExitCode> {
    // From here on no signal ends this process: it stops what it has started first.
    let mut interruptions = Interruptions::watch()?;
    let mut servers = Servers::new()?;
    let ended = in_servers(&mut servers, command, with_rabbitmq, &mut interruptions).await;
    let destroyed = servers.destroy().await;
    let code = ended?;
    destroyed?;
    Ok(code)
}

async fn in_servers(
    servers: &mut Servers,
    command: &[&str],
    with_rabbitmq: bool,
    interruptions: &mut Interruptions,
) -> Result<ExitCode> {
    let (program, arguments) = command.split_first().context("no command")?;
    let mut command = Command::new(program);
    command.args(arguments).env(POSTGRES_VARIABLE, servers.postgres().await?);
    if with_rabbitmq && let Some(folder) = servers.rabbitmq().await? {
        command.env(RABBITMQ_DIR_VARIABLE, folder);
    }
    // A group of its own, so that the tests it starts are reached as well as itself.
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot run {program}"))?;
    tokio::select! {
        status = child.wait() => Ok(exit_code(status?)),
        signal = interruptions.next() => {
            say(&format!("{signal}: ending the command, then the servers"));
            end(&mut child, signal).await?;
            Ok(ExitCode::from(code_of_signal(signal as i32)))
        }
    }
}

/// Passes the signal on, and insists after a while.
async fn end(child: &mut Child, signal: Signal) -> Result<()> {
    let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw) else { return Ok(()) };
    // The group may be gone already.
    let _ = killpg(group, signal);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = killpg(group, Signal::SIGKILL);
        child.wait().await?;
    }
    Ok(())
}

fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        (None, Some(signal)) => ExitCode::from(code_of_signal(signal)),
        (None, None) => ExitCode::FAILURE,
    }
}

/// As a shell reports it.
fn code_of_signal(signal: i32) -> u8 {
    u8::try_from(128 + signal).unwrap_or(1)
}

struct Interruptions {
    interrupt: SignalStream,
    terminate: SignalStream,
    hang_up: SignalStream,
}

impl Interruptions {
    fn watch() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::SIGINT,
            _ = self.terminate.recv() => Signal::SIGTERM,
            _ = self.hang_up.recv() => Signal::SIGHUP,
        }
    }
}
