//! What every subcommand is told: where the installation is, and how to print.

use std::path::PathBuf;

use infrastructure::clock::Clock;
use infrastructure::senders::Secret;

use super::installation::{Installation, Server};
use super::output::Output;
use crate::config::{self, Config, ConfigError};

pub const DATABASE_VARIABLE: &str = "DATABASE_URL";

pub struct Context {
    /// The data folder; it need not exist.
    pub data: PathBuf,
    /// Is the answer one JSON document?
    pub json: bool,
    pub out: Output,
    pub clock: Clock,
    database_url: Option<String>,
}

impl Context {
    pub fn new(data: PathBuf, json: bool) -> Self {
        let database_url = variable(DATABASE_VARIABLE);
        Self { data, json, out: Output::new(json), clock: Clock::system(), database_url }
    }

    /// The database that somebody else runs, if the environment names one. It may hold a password: never print it.
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    pub fn load_config(&self) -> Result<Config, ConfigError> {
        // A variable that is not Unicode cannot be one of ours.
        let variables =
            std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        config::load(Some(&self.data), variables)
    }

    /// Does the work on the installation, which is current and answers, and leaves its servers as they were before,
    /// whatever becomes of the work.
    pub async fn on_installation<T>(
        &self,
        work: impl AsyncFnOnce(&Installation) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        Installation::lend(self, work).await
    }

    /// The same with nothing but the server: for the subcommands that bring the database up to date or examine it.
    pub async fn on_server<T>(&self, work: impl AsyncFnOnce(&Server) -> anyhow::Result<T>) -> anyhow::Result<T> {
        Server::lend(self, work).await
    }
}

/// A variable of the environment; an empty one counts as missing.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// For arguments whose value must not show up where arguments are printed.
#[expect(clippy::unnecessary_wraps, reason = "the signature is that of a value parser")]
pub(super) fn secret_argument(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text))
}
