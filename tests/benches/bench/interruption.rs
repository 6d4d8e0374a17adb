//! What ends the bench before its time: signals, and the end of the process that started it.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use nix::unistd::{Pid, getppid};
use tokio::signal::unix::{Signal, SignalKind, signal};

const PARENT_POLL: Duration = Duration::from_millis(500);

pub(crate) struct Interruptions {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
    parent: Pid,
}

pub(crate) enum Cause {
    Signal(&'static str),
    /// Cargo dies of Ctrl-C or a kill without passing it on.
    ParentEnded,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "interrupted by {name}"),
            Self::ParentEnded => write!(f, "interrupted: the process that started the bench has ended"),
        }
    }
}

impl Interruptions {
    pub(crate) fn watch() -> Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
            parent: getppid(),
        })
    }

    pub(crate) async fn next(&mut self) -> Cause {
        let parent = self.parent;
        let parent_ended = async {
            while getppid() == parent {
                tokio::time::sleep(PARENT_POLL).await;
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Cause::Signal("SIGINT"),
            _ = self.terminate.recv() => Cause::Signal("SIGTERM"),
            _ = self.hang_up.recv() => Cause::Signal("SIGHUP"),
            () = parent_ended => Cause::ParentEnded,
        }
    }
}
