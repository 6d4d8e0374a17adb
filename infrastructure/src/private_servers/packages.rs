//! Installing the servers from the system's packages when they are missing.
//!
//! It needs root, or a `sudo` that asks for no password; without either, the error holds the exact command. What it does
//! is said before it is done.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;

use super::server_log::ServerLog;
use super::{PrivatePostgres, PrivateRabbitmq, PrivateServerError, Result, blocking};

const INSTALL: &str = include_str!("install_package.sh");

/// Installs Postgres unless it is there; `say` gets one line before anything is changed.
pub async fn ensure_postgres_installed(say: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    match PrivatePostgres::find_binaries() {
        Err(PrivateServerError::NotInstalled { what, .. }) => install(what, "postgresql", say).await,
        found => found.map(|_| ()),
    }
}

/// Installs RabbitMQ unless it is there; `say` gets one line before anything is changed.
pub async fn ensure_rabbitmq_installed(say: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    match PrivateRabbitmq::find_scripts() {
        Err(PrivateServerError::NotInstalled { what, .. }) => install(what, "rabbitmq-server", say).await,
        found => found.map(|_| ()),
    }
}

async fn install(what: &'static str, package: &'static str, say: &mut (dyn FnMut(&str) + Send)) -> Result<()> {
    let Some(apt_get) = find_program("apt-get") else {
        let remedy = format!("install it with this system's package manager (on Debian the package is {package})");
        return Err(PrivateServerError::NotInstalled { what, remedy });
    };
    let by_hand = format!("apt-get update && apt-get install -y --no-install-recommends {package}");
    let sudo = if geteuid().is_root() {
        None
    } else {
        let sudo = find_program("sudo").filter(|sudo| asks_for_no_password(sudo));
        Some(sudo.ok_or(PrivateServerError::NeedsRoot { what, command: format!("sudo sh -c '{by_hand}'") })?)
    };
    let how = if sudo.is_some() { "with sudo" } else { "as root" };
    say(&format!(
        "{what} is not installed; installing the package {package} {how} ({}), without enabling or starting a service",
        apt_get.display()
    ));
    blocking(move || run_script(sudo.as_deref(), package, by_hand)).await
}

fn run_script(sudo: Option<&Path>, package: &'static str, by_hand: String) -> Result<()> {
    let folder =
        tempfile::tempdir().map_err(PrivateServerError::io("make a folder for the log of the installation"))?;
    let log = ServerLog::open(&folder.path().join("log"))?;
    let mut command = match sudo {
        Some(sudo) => {
            let mut command = Command::new(sudo);
            command.args(["-n", "sh"]);
            command
        }
        None => Command::new("sh"),
    };
    // Out of the terminal's reach, and with its words in a file: it goes on to its end when Ctrl-C ends us.
    command.args(["-c", INSTALL, "ektola-install", package]).current_dir("/").process_group(0);
    command.stdin(Stdio::null()).stdout(log.handle()?).stderr(log.handle()?);
    let status = command.status().map_err(PrivateServerError::io("run the installation"))?;
    if status.success() {
        return Ok(());
    }
    let output = log.said();
    Err(PrivateServerError::InstallFailed { package, status: status.to_string(), command: by_hand, output })
}

fn find_program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn asks_for_no_password(sudo: &Path) -> bool {
    let mut command = Command::new(sudo);
    command.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
