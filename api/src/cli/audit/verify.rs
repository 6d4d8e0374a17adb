use std::path::PathBuf;

use infrastructure::seals::{Difference, DifferenceKind, Head, PublicKey, VerifyProgress, VerifyReport, verify};
use serde::Serialize;

use super::super::context::Context;
use super::super::error::Failure;
use super::super::installation::Installation;
use super::super::output::{Output, Tone, count};
use super::{public_key, read_json, trusted_keys};

/// A row that has waited longer for its seal is worth a look.
const UNSEALED_MAX_S: f64 = 10.0;

#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// A head that was kept; it finds a log that was cut short or rewritten, seals included.
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// The key that must have signed, as digits or as a file; by default those that this installation trusts.
    #[arg(long, value_name = "KEY|FILE", value_parser = public_key)]
    public_key: Option<PublicKey>,
}

#[derive(Serialize)]
struct VerifyAnswer {
    #[serde(flatten)]
    report: VerifyReport,
    holds: bool,
    /// Were the keys compared with ones that are trusted?
    keys_trusted: bool,
    seconds: f64,
    events_per_second: f64,
}

pub(super) async fn run(args: &VerifyArgs, context: &Context) -> anyhow::Result<()> {
    let trusted = match args.public_key {
        Some(key) => vec![key],
        None => trusted_keys(context)?,
    };
    let head = match &args.head {
        Some(path) => {
            let head: Head = read_json(path, "a head as ektola audit head prints it")?;
            let shown = path.display();
            Some(
                head.check()
                    .map_err(|error| Failure::new(format!("{shown} is not a head to rely on")).because(error))?,
            )
        }
        None => None,
    };
    let began = tokio::time::Instant::now();
    let report = context
        .on_installation(async |installation: &Installation| {
            let progress = context.out.progress("checking the log", 0);
            let show = |now: VerifyProgress| {
                progress.set_length(now.of.unsigned_abs());
                progress.set_position(now.done.unsigned_abs());
            };
            let report = verify(&installation.pool, &trusted, head.as_ref(), show).await?;
            progress.finish();
            Ok(report)
        })
        .await?;
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
    let events_per_second = if seconds > 0.0 { report.events as f64 / seconds } else { 0.0 };
    let answer = VerifyAnswer {
        holds: report.difference.is_none(),
        keys_trusted: !trusted.is_empty(),
        report,
        seconds,
        events_per_second,
    };
    context.out.answer(&answer, |out| answer.text(*out))?;
    match &answer.report.difference {
        None => Ok(()),
        Some(difference) => Err(Failure::new(told(difference)).next(next_step(difference)).into()),
    }
}

impl VerifyAnswer {
    fn text(&self, out: Output) -> String {
        let report = &self.report;
        let mut lines = Vec::new();
        if self.holds {
            let checked = format!(
                "The log is as it was sealed: {} events in {} seals, up to position {} ({:.1} s).",
                count(report.events),
                count(report.seals),
                count(report.up_to_position),
                self.seconds
            );
            lines.push(out.paint(Tone::Good, checked));
        } else {
            lines.push(format!(
                "{} events were as they were sealed, before the first difference.",
                count(report.events)
            ));
        }
        for key in &report.keys {
            lines.push(format!("signed by {key}"));
        }
        if !self.keys_trusted && !report.keys.is_empty() {
            lines.push(
                "No trusted key is known here: compare the key with one that was kept, or give --public-key."
                    .to_owned(),
            );
        }
        let unsealed = &report.unsealed;
        if let (Some(first), Some(last)) = (unsealed.first_position, unsealed.last_position) {
            let waited = format!(
                "Not sealed yet: {} events, positions {} to {}, the oldest {:.1} s old.",
                count(unsealed.events),
                count(first),
                count(last),
                unsealed.oldest_age_s
            );
            let late = unsealed.oldest_age_s > UNSEALED_MAX_S;
            lines.push(if late { out.paint(Tone::Bad, waited) } else { waited });
            if late {
                lines.push("Nobody seals the log: run an engine with the role projector.".to_owned());
            }
        }
        lines.join("\n")
    }
}

fn told(difference: &Difference) -> String {
    let position = difference.position.map_or_else(|| "?".to_owned(), count);
    let seal = difference.seal.map_or_else(|| "?".to_owned(), count);
    match difference.kind {
        DifferenceKind::RowChanged => format!("the row at position {position} is not what was sealed (seal {seal})"),
        DifferenceKind::RowRemoved => format!("the row at position {position} is gone (seal {seal})"),
        DifferenceKind::RowInserted => {
            format!("the row at position {position} was not there when its stretch of the log was sealed (seal {seal})")
        }
        DifferenceKind::SealChanged => format!("seal {seal} was changed"),
        DifferenceKind::SealMissing => format!("seal {seal} is gone"),
        DifferenceKind::UnknownKey => format!("seal {seal} was signed by a key that is not trusted"),
        DifferenceKind::CutShort => format!("the log was cut short: seal {seal}, which the kept head names, is gone"),
        DifferenceKind::Rewritten => format!("the log was rewritten: seal {seal} is not the one that was kept"),
    }
}

fn next_step(difference: &Difference) -> String {
    match (difference.kind, difference.position) {
        (DifferenceKind::RowChanged | DifferenceKind::RowInserted, Some(position)) => {
            format!("ektola events show {position} shows the row; compare it with a backup")
        }
        (DifferenceKind::UnknownKey, _) => {
            "if the key was changed on purpose, name the old one in audit.trusted_keys".to_owned()
        }
        _ => "compare the log with a backup, and find out who could write to the database".to_owned(),
    }
}
