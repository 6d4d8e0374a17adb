//! What a running `ektola dev` says about itself, so that other processes find it.

use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

const FILE: &str = "engine.json";

/// The content of `engine.json` in the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineRecord {
    pub address: SocketAddr,
    pub pid: i32,
    /// The address of the private RabbitMQ, if the engine has one. Whoever can read it is on this machine, as is the
    /// broker.
    #[serde(default)]
    pub private_broker: Option<String>,
}

impl EngineRecord {
    /// `None`: no engine has said anything, or it was stopped in order.
    pub fn read(data: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(data.join(FILE)).ok()?).ok()
    }

    /// What this process says of itself.
    pub fn write(data: &Path, address: SocketAddr, private_broker: Option<&str>) -> anyhow::Result<()> {
        let pid = i32::try_from(std::process::id())?;
        let record = Self { address, pid, private_broker: private_broker.map(str::to_owned) };
        std::fs::write(data.join(FILE), serde_json::to_string(&record)?)?;
        Ok(())
    }

    /// An engine that was stopped in order says nothing any more.
    pub fn remove(data: &Path) {
        // A file that stays is recognized by its process having ended.
        drop(std::fs::remove_file(data.join(FILE)));
    }

    /// Is there a process of this id? After a crash it may be somebody else's.
    pub fn is_alive(&self) -> bool {
        match kill(Pid::from_raw(self.pid), None) {
            Ok(()) => true,
            // It is there and belongs to somebody else.
            Err(error) => error == nix::errno::Errno::EPERM,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_found_by_what_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(EngineRecord::read(folder.path()), None);
        let address = "127.0.0.1:8000".parse().unwrap();
        EngineRecord::write(folder.path(), address, Some("amqp://127.0.0.1:1/")).unwrap();
        let engine = EngineRecord::read(folder.path()).unwrap();
        assert_eq!((engine.address, engine.private_broker.as_deref()), (address, Some("amqp://127.0.0.1:1/")));
        assert!(engine.is_alive());
        EngineRecord::remove(folder.path());
        assert_eq!(EngineRecord::read(folder.path()), None);
        // No process id of Linux is that large.
        assert!(!EngineRecord { pid: i32::MAX, ..engine }.is_alive());
    }
}
