//! Where logs go: to stderr, so that stdout stays the answer's.

use std::io::IsTerminal;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat, Source};

/// Of a subcommand that ends by itself: its answer says what happened. That a statement of an import or a rebuild takes
/// seconds is as it should be, so the database library says only what failed.
const COMMAND_FILTER: &str = "warn,sqlx=error";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Runs until it is stopped.
    Server,
    /// Ends by itself.
    Command,
}

/// From here on what is traced is logged.
pub fn start(config: &Config, kind: Kind) -> anyhow::Result<()> {
    let filter = filter_of(config, kind);
    let filter = EnvFilter::try_new(filter).with_context(|| format!("the log filter {filter:?} is not one"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match config.log.format {
        LogFormat::Text => {
            let no_color = super::context::variable("NO_COLOR").is_some();
            builder.with_ansi(std::io::stderr().is_terminal() && !no_color).try_init()
        }
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

fn filter_of(config: &Config, kind: Kind) -> &str {
    let chosen =
        config.effective().iter().any(|setting| setting.key == "log.filter" && setting.source != Source::Default);
    if kind == Kind::Command && !chosen { COMMAND_FILTER } else { &config.log.filter }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn a_short_command_is_quiet_unless_a_level_was_chosen() {
        let defaults = Config::default();
        assert_eq!(filter_of(&defaults, Kind::Server), defaults.log.filter);
        assert_eq!(filter_of(&defaults, Kind::Command), COMMAND_FILTER);
        let variable = ("EKTOLA_LOG__FILTER".to_owned(), "info".to_owned());
        let chosen = config::load(None, std::iter::once(variable)).unwrap();
        assert_eq!(filter_of(&chosen, Kind::Command), "info");
    }
}
