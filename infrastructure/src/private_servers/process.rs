//! Processes that an earlier run of ours may have started: is one still there, and its end.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{PrivateServerError, Result};

/// Is there a process of this id that works in `folder`? Our servers do; a stranger that got the id of a dead server
/// does not. A server that has ended and was not waited for counts as gone.
pub(super) fn works_in(pid: i32, folder: &Path) -> bool {
    if !exists(pid) {
        return false;
    }
    if !Path::new("/proc/self/cwd").exists() {
        return true;
    }
    match (std::fs::read_link(format!("/proc/{pid}/cwd")), folder.canonicalize()) {
        (Ok(works_in), Ok(folder)) => works_in == folder,
        _ => false,
    }
}

pub(super) fn exists(pid: i32) -> bool {
    pid > 0 && !matches!(kill(Pid::from_raw(pid), None), Err(nix::Error::ESRCH))
}

pub(super) fn send(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        // It has ended by itself in the meantime.
        Ok(()) | Err(nix::Error::ESRCH) => Ok(()),
        Err(error) => Err(PrivateServerError::io(format!("signal process {pid}"))(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_from_a_stranger_by_its_folder() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(works_in(own, &std::env::current_dir().unwrap()));
        assert!(!works_in(own, Path::new("/")));
        assert!(!works_in(0, Path::new("/")));
    }
}
