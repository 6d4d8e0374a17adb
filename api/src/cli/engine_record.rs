//! What a running `ektola dev` says about itself, so that other processes find it.

use std::net::SocketAddr;
use std::path::Path;

use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::Deserialize;

/// The content of `engine.json` in the data folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EngineRecord {
    pub address: SocketAddr,
    pub pid: i32,
}

impl EngineRecord {
    /// `None`: no engine has said anything, or it was stopped in order.
    pub fn read(data: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(data.join("engine.json")).ok()?).ok()
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
        let own = i32::try_from(std::process::id()).unwrap();
        std::fs::write(folder.path().join("engine.json"), format!(r#"{{"address":"127.0.0.1:8000","pid":{own}}}"#))
            .unwrap();
        let engine = EngineRecord::read(folder.path()).unwrap();
        assert_eq!(engine.address, "127.0.0.1:8000".parse().unwrap());
        assert!(engine.is_alive());
        // No process id of Linux is that large.
        assert!(!EngineRecord { pid: i32::MAX, ..engine }.is_alive());
    }
}
