//! Servers of our own for one data folder: a Postgres cluster and, on request, a RabbitMQ node.
//!
//! They belong to the data folder and not to the process: after `kill -9` of the engine they go on, and the next start
//! on the same folder adopts them. They run in process groups of their own, so that Ctrl-C reaches the engine alone,
//! which drains before it stops them. Nothing of them listens beyond loopback. Neither server runs as root: started by
//! root, they take the user that the system's package made for them.

mod account;
mod binaries;
mod command;
pub mod packages;
mod place;
mod postgres;
mod process;
mod rabbitmq;
mod server_log;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use postgres::{Binaries, PostgresOptions, PrivatePostgres};
pub use rabbitmq::PrivateRabbitmq;

#[derive(Debug, thiserror::Error)]
pub enum PrivateServerError {
    /// The server's programs are not installed.
    #[error("{what} was not found; {remedy}")]
    NotInstalled { what: &'static str, remedy: String },
    /// The command is what the user has to run.
    #[error("{what} is not installed, and installing it needs root. Run this, then try again:\n    {command}")]
    NeedsRoot { what: &'static str, command: String },
    #[error("installing the package {package} failed ({status}); try it by hand as root: {command}\n{output}")]
    InstallFailed { package: &'static str, status: String, command: String, output: String },
    /// Started by root, and the user under which the server would run does not exist.
    #[error("the server must not run as root and there is no user {name:?}; {remedy}")]
    NoAccount { name: &'static str, remedy: &'static str },
    /// The data is of a major version for which no programs are installed.
    #[error("{} holds a cluster of Postgres {data}, but installed is {installed}; install postgresql-{data}", folder.display())]
    VersionMismatch { folder: PathBuf, data: u32, installed: String },
    /// A folder that we would trust belongs to somebody else.
    #[error("{} is not a folder that only the server's user may enter; remove it or choose another data folder", .0.display())]
    Untrusted(PathBuf),
    /// The server's data is where its user may not go any more.
    #[error("the user {user} may not enter {}, which holds its data; allow it (chmod o+x) or move the folder", folder.display())]
    Unreachable { user: String, folder: PathBuf },
    #[error("a name of a database or vhost consists of a-z, 0-9 and _, and {0:?} does not")]
    BadName(String),
    #[error("cannot {what}")]
    Io { what: String, source: io::Error },
    #[error("{program} failed ({status}): {output}")]
    Failed { program: String, status: String, output: String },
    /// The log says why; its end is part of the message.
    #[error("{server} ended while starting; the end of {}:\n{tail}", log.display())]
    EndedEarly { server: &'static str, log: PathBuf, tail: String },
    #[error("{what} took longer than {} s", limit.as_secs())]
    TimedOut { what: String, limit: Duration },
    #[error("the private Postgres does not answer")]
    Database(#[source] sqlx::Error),
}

impl PrivateServerError {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

type Result<T, E = PrivateServerError> = std::result::Result<T, E>;

/// Servers are started, stopped and asked through blocking programs.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    // The task is neither cancelled nor dropped before it ends, so a failed join is a panic of `work`.
    tokio::task::spawn_blocking(work).await.expect("starting and stopping servers does not panic")
}

/// Names of databases and vhosts go into statements and addresses as they are.
fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if name.starts_with(|first: char| first.is_ascii_lowercase()) && name.len() <= 63 && name.bytes().all(plain) {
        return Ok(());
    }
    Err(PrivateServerError::BadName(name.to_owned()))
}
