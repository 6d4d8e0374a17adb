//! `ektola doctor`: everything that the engine needs, each with what to do if it is missing.
//!
//! A check that fails never keeps another one from being made.

mod database;
mod surroundings;

use serde::Serialize;

use super::context::Context;
use super::error::{Failure, next_step};
use super::installation::Server;
use super::output::{Output, Tone};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Good,
    Bad,
    /// Cannot be checked here, or does not matter.
    Skipped,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    /// What was found.
    found: String,
    /// What to do about it.
    next: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, found: found.into(), next: None }
    }

    fn bad(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Bad, found: found.into(), next: Some(next.into()) }
    }

    fn skipped(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Skipped, found: found.into(), next: None }
    }

    /// An error with all its causes, and its own next step if it has one.
    fn from_error(name: &'static str, error: &anyhow::Error, next: &str) -> Self {
        let mut found = error.to_string();
        for cause in error.chain().skip(1).map(ToString::to_string) {
            if !found.contains(&cause) {
                found.push_str(": ");
                found.push_str(&cause);
            }
        }
        Self::bad(name, found, next_step(error).unwrap_or(next))
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    ok: bool,
    checks: &'a [Check],
}

pub async fn run(context: &Context) -> anyhow::Result<()> {
    let mut checks = surroundings::before_database(context);
    // Whatever keeps the server from being used is what its check has found.
    match context.on_server(async |server: &Server| Ok(database::check(server, context).await)).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(Check::from_error("database", &error, "look at the cause above")),
    }
    checks.extend(surroundings::after_database(context).await);
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Bad).count();
    context.out.answer(&Answer { ok: failed == 0, checks: &checks }, |out| text_of(&checks, *out))?;
    match failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} of {} checks failed", checks.len())).into()),
    }
}

fn text_of(checks: &[Check], out: Output) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let mark = match check.verdict {
            Verdict::Good => out.paint(Tone::Good, '✓'),
            Verdict::Bad => out.paint(Tone::Bad, '✗'),
            Verdict::Skipped => out.paint(Tone::Quiet, '–'),
        };
        lines.push(format!("{mark} {:width$}  {}", check.name, check.found));
        lines.extend(check.next.as_ref().map(|next| format!("  {:width$}  next: {next}", "")));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn each_failed_check_has_its_next_step_below_it() {
        let checks = [
            Check::good("disk", "9.5 GiB free"),
            Check::bad("senders", "there is none", "ektola sender add"),
            Check::skipped("rabbitmq", "not used"),
        ];
        let expected = "✓ disk      9.5 GiB free\n✗ senders   there is none\n            next: ektola sender add\n– rabbitmq  not used";
        assert_eq!(text_of(&checks, Output::plain()), expected);
    }

    #[test]
    fn an_error_brings_its_causes_and_its_next_step() {
        let error = anyhow::Error::from(Failure::new("no answer").next("start it").because(anyhow!("refused")));
        assert_eq!(
            Check::from_error("database", &error, "?"),
            Check::bad("database", "no answer: refused", "start it")
        );
        assert_eq!(Check::from_error("database", &anyhow!("no"), "look"), Check::bad("database", "no", "look"));
    }
}
