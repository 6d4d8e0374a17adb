//! How a subcommand says that it failed: one message, the causes below it, and what to do next where that is known.

use std::error::Error as StdError;
use std::process::ExitCode;

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 2;

/// The subcommand was called wrongly; the same call can never succeed. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    message: String,
    next: Option<String>,
}

impl UsageError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), next: None }
    }

    /// What the person may do about it.
    #[must_use]
    pub fn next(self, step: impl Into<String>) -> Self {
        Self { next: Some(step.into()), ..self }
    }
}

/// The subcommand could not do its work. Exit code 1.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    message: String,
    next: Option<String>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), next: None, source: None }
    }

    /// What the person may do about it.
    #[must_use]
    pub fn next(self, step: impl Into<String>) -> Self {
        Self { next: Some(step.into()), ..self }
    }

    #[must_use]
    pub fn because(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }
}

/// What stderr says of an error.
pub(super) fn describe(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    let mut text = format!("ektola: {said}");
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Many libraries repeat the text of their cause in their own.
        if !said.contains(&cause) {
            text.push_str("\n  cause: ");
            text.push_str(&cause);
            said.push('\n');
            said.push_str(&cause);
        }
    }
    if let Some(step) = next_step(error) {
        text.push_str("\n  next: ");
        text.push_str(step);
    }
    text
}

/// The next step of an error, the outermost one if several are known.
pub(super) fn next_step(error: &anyhow::Error) -> Option<&str> {
    error.chain().find_map(|cause| {
        let usage = cause.downcast_ref::<UsageError>().and_then(|error| error.next.as_deref());
        usage.or_else(|| cause.downcast_ref::<Failure>().and_then(|error| error.next.as_deref()))
    })
}

pub(super) fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<UsageError>()) { EXIT_USAGE } else { EXIT_FAILED }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn causes_are_shown_once_and_the_next_step_last() {
        let inner = anyhow!("connection refused").context("error of the socket: connection refused");
        let error = anyhow::Error::from(Failure::new("the database does not answer").next("start it").because(inner));
        let expected =
            "ektola: the database does not answer\n  cause: error of the socket: connection refused\n  next: start it";
        assert_eq!(describe(&error), expected);
    }

    #[test]
    fn a_plain_error_is_one_line() {
        assert_eq!(describe(&anyhow!("no")), "ektola: no");
    }

    #[test]
    fn wrong_usage_is_told_from_failure_also_below_a_context() {
        let usage: anyhow::Result<()> = Err(UsageError::new("no such projection").next("choose one").into());
        let usage = usage.context("nothing was rebuilt").unwrap_err();
        assert_eq!(code(&usage), 2);
        assert_eq!(next_step(&usage), Some("choose one"));
        assert_eq!(code(&Failure::new("broken").into()), 1);
        assert_eq!(code(&anyhow!("broken")), 1);
    }
}
