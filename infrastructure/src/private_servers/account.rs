//! The user under which a server runs: our own, or the package's when we are root.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, User, chown, geteuid};

use super::{PrivateServerError, Result};

/// Variables that the servers' programs may see. Everything else could change what they do (PGHOST, RABBITMQ_*).
const KEPT_VARIABLES: [&str; 4] = ["PATH", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT"];

#[derive(Debug, Clone)]
pub(super) struct Account {
    uid: Uid,
    gid: Gid,
    name: String,
    /// We are root and give that up for the server.
    drops: bool,
}

impl Account {
    pub(super) fn for_server(name: &'static str, remedy: &'static str) -> Result<Self> {
        let own = geteuid();
        let look_up = |user: nix::Result<Option<User>>| {
            user.map_err(|error| PrivateServerError::io("look up the server's user")(error.into()))
        };
        if !own.is_root() {
            let user = look_up(User::from_uid(own))?;
            // A user without an entry (a container's random uid) has no name, but may run servers.
            let name = user.map_or_else(|| own.to_string(), |user| user.name);
            return Ok(Self { uid: own, gid: nix::unistd::getegid(), name, drops: false });
        }
        let user = look_up(User::from_name(name))?.ok_or(PrivateServerError::NoAccount { name, remedy })?;
        Ok(Self { uid: user.uid, gid: user.gid, name: user.name, drops: true })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid.as_raw()
    }

    pub(super) fn drops_root(&self) -> bool {
        self.drops
    }

    /// A program run by this user, out of reach of the terminal, with a clean environment.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").stdin(Stdio::null()).env_clear().env("LC_ALL", "C");
        for name in KEPT_VARIABLES {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if self.drops {
            command.gid(self.gid.as_raw()).uid(self.uid.as_raw());
        }
        command.process_group(0);
        command
    }

    /// May this user enter the folder, with all that lies above it? The kernel answers, so lists of access count too.
    pub(super) fn can_enter(&self, folder: &Path) -> Result<bool> {
        if !self.drops {
            return Ok(true);
        }
        let status = self.command(Path::new("test")).arg("-x").arg(folder).status();
        Ok(status.map_err(PrivateServerError::io("ask whether the server's user may enter the folder"))?.success())
    }

    pub(super) fn give(&self, path: &Path) -> Result<()> {
        if !self.drops {
            return Ok(());
        }
        chown(path, Some(self.uid), Some(self.gid))
            .map_err(|error| PrivateServerError::io(format!("give {} to {}", path.display(), self.name))(error.into()))
    }
}
