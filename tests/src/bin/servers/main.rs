//! Runs a command with real servers of its own, and prepares the checked queries against one.
//!
//!     servers run [--rabbitmq] -- COMMAND [ARGUMENT]...
//!     servers prepare [--check]
//!
//! The servers live in a temporary folder and end with the command, however it ends. `DATABASE_URL` and `AMQP_URL`, when
//! set, name servers to use instead.

mod prepare;
mod run;

use std::process::ExitCode;

use anyhow::{Context, Result};
use infrastructure::private_servers::packages::{ensure_postgres_installed, ensure_rabbitmq_installed};
use infrastructure::private_servers::{PostgresOptions, PrivatePostgres, PrivateRabbitmq};
use tempfile::TempDir;

const USAGE: &str = "usage: servers run [--rabbitmq] -- COMMAND [ARGUMENT]...\n       servers prepare [--check]";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["run", "--rabbitmq", "--", command @ ..] if !command.is_empty() => run::run(command, true).await,
        ["run", "--", command @ ..] if !command.is_empty() => run::run(command, false).await,
        ["prepare"] => prepare::prepare().await,
        ["prepare", "--check"] => prepare::check().await,
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("servers: {error:#}");
        ExitCode::FAILURE
    })
}

/// The private servers of one command.
struct Servers {
    folder: TempDir,
    postgres: Option<PrivatePostgres>,
    rabbitmq: Option<PrivateRabbitmq>,
}

impl Servers {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ektola-servers-").tempdir().context("no temporary folder")?;
        // The servers' users have to pass through it; what is private inside has its own mode.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self { folder, postgres: None, rabbitmq: None })
    }

    /// The address of the maintenance database: of `DATABASE_URL`, or of a new cluster.
    async fn postgres(&mut self) -> Result<String> {
        if let Some(url) = set("DATABASE_URL") {
            return Ok(url);
        }
        ensure_postgres_installed(&mut say).await?;
        let started = PrivatePostgres::start(self.folder.path(), "maintenance", PostgresOptions::for_tests()).await;
        let server = self.postgres.insert(started.context("cannot start Postgres")?);
        server.location_note().iter().for_each(|note| say(note));
        Ok(server.url())
    }

    /// Starts a node in the folder, unless `AMQP_URL` names a broker.
    async fn rabbitmq(&mut self) -> Result<Option<&std::path::Path>> {
        if set("AMQP_URL").is_some() {
            return Ok(None);
        }
        ensure_rabbitmq_installed(&mut say).await?;
        let started = PrivateRabbitmq::start(self.folder.path()).await;
        let server = self.rabbitmq.insert(started.context("cannot start RabbitMQ")?);
        server.location_note().iter().for_each(|note| say(note));
        Ok(Some(self.folder.path()))
    }

    async fn destroy(self) -> Result<()> {
        let rabbitmq = match self.rabbitmq {
            Some(server) => server.destroy().await,
            None => Ok(()),
        };
        if let Some(server) = self.postgres {
            server.destroy().await.context("cannot stop Postgres")?;
        }
        rabbitmq.context("cannot stop RabbitMQ")?;
        self.folder.close().context("cannot remove the folder of the servers")
    }
}

fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

fn say(line: &str) {
    eprintln!("servers: {line}");
}
