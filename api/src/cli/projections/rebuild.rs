use std::sync::Arc;

use domain::aggregate::Position;
use infrastructure::postgres;
use projections::projection::Projection;
use projections::rebuild::{self, BuildReport, BuildReports, Pace, RebuildError, Rebuilder, Step};
use projections::registry;
use serde::Serialize;

use super::super::context::Context;
use super::super::error::{Failure, UsageError};
use super::super::installation::Installation;
use super::super::output::{Output, Progress, count, duration};
use super::switch::{SwitchAnswer, text_of_switch};
use super::verify::{VerifyAnswer, text_of_verification};
use super::{failed, named};

#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    /// The name of the read model, as `projections list` shows it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// All read models, from one reading of the log.
    #[arg(long)]
    all: bool,
    /// Stop when the new version is built and verified; `projections switch` makes it live later.
    #[arg(long)]
    no_switch: bool,
    /// How much of its time the rebuild works while events arrive, in percent; otherwise as configured.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    share: Option<u32>,
}

#[derive(Serialize)]
struct RebuildAnswer {
    /// Events of the log that were read, those of an interrupted call included.
    events: i64,
    events_per_second: f64,
    /// Reading the log, folding and writing.
    load_seconds: f64,
    index_seconds: f64,
    /// Counting the events in the log.
    count_seconds: f64,
    projections: Vec<ProjectionAnswer>,
}

#[derive(Serialize)]
struct ProjectionAnswer {
    name: &'static str,
    version: i32,
    generation: i32,
    position: Position,
    events: i64,
    resumed_from: Position,
    parked: i64,
    verification: VerifyAnswer,
    /// Null if it was not switched to.
    switch: Option<SwitchAnswer>,
}

pub(super) async fn rebuild(args: &RebuildArgs, context: &Context) -> anyhow::Result<()> {
    let chosen = match &args.name {
        Some(name) => vec![named(name)?],
        None => registry::all(),
    };
    let share = match args.share {
        Some(share) => share,
        None => context.load_config().map_err(|error| UsageError::new(error.to_string()))?.events.rebuild_share_percent,
    };
    let answer = context
        .on_installation(async |installation: &Installation| {
            rebuild_on(installation, &chosen, Pace::new(share), !args.no_switch, context.out).await
        })
        .await?;
    context.out.answer(&answer, |_| answer.text())?;
    let unequal: Vec<&str> = answer
        .projections
        .iter()
        .filter(|projection| !projection.verification.holds())
        .map(|projection| projection.name)
        .collect();
    if unequal.is_empty() {
        return Ok(());
    }
    let first = unequal.first().copied().unwrap_or_default();
    Err(Failure::new(format!("rebuilt, and not switched to, since the rows differ: {}", unequal.join(", ")))
        .next(format!(
            "the live rows may have been changed by hand: ektola projections switch {first} takes the rebuilt ones, \
             ektola projections cancel {first} gives them up"
        ))
        .into())
}

async fn rebuild_on(
    installation: &Installation,
    chosen: &[Arc<dyn Projection>],
    pace: Pace,
    switches: bool,
    out: Output,
) -> anyhow::Result<RebuildAnswer> {
    // One for each projection, one to read the log and one to spare.
    let connections = u32::try_from(chosen.len()).unwrap_or(u32::MAX).saturating_add(2);
    let pool = postgres::connect(&installation.url, connections).await?;
    let mut rebuilder = Rebuilder::connect(&installation.url, &pool).await.map_err(failed)?;
    let what = match chosen {
        [one] => one.name(),
        _ => "read models",
    };
    let progress = out.progress(&format!("rebuilding {what}"), 0);
    let reports = rebuilder.build(chosen, pace, |step| show(&progress, what, step)).await.map_err(failed)?;
    let mut projections = Vec::new();
    for (projection, report) in chosen.iter().zip(&reports.projections) {
        progress.restart(&format!("verifying {}", report.projection), 0);
        projections.push(settle(&mut rebuilder, projection, report, switches).await.map_err(failed)?);
    }
    progress.finish();
    drop(rebuilder);
    pool.close().await;
    Ok(RebuildAnswer::of(&reports, projections))
}

/// The position of the log is what is shown, since positions and events are nearly the same.
fn show(progress: &Progress, what: &str, step: Step) {
    match step {
        Step::Loading { done, of, .. } => {
            progress.set_length(of.unsigned_abs());
            progress.set_position(done.min(of).unsigned_abs());
        }
        Step::Indexing => progress.restart(&format!("indexing {what}"), 0),
        Step::Counting => progress.restart(&format!("counting the events of {what} in the log"), 0),
    }
}

async fn settle(
    rebuilder: &mut Rebuilder,
    projection: &Arc<dyn Projection>,
    report: &BuildReport,
    switches: bool,
) -> Result<ProjectionAnswer, RebuildError> {
    let verification = VerifyAnswer::from(rebuild::verify(rebuilder, projection).await?);
    let switch = if switches && verification.holds() {
        let switched = rebuild::switch(rebuilder, projection, rebuild::Direction::Forward).await?;
        Some(SwitchAnswer::from(switched))
    } else {
        None
    };
    Ok(ProjectionAnswer {
        name: report.projection,
        version: report.version,
        generation: report.generation,
        position: report.position,
        events: report.events,
        resumed_from: report.resumed_from,
        parked: report.parked,
        verification,
        switch,
    })
}

impl RebuildAnswer {
    fn of(reports: &BuildReports, projections: Vec<ProjectionAnswer>) -> Self {
        let events = reports.projections.iter().map(|report| report.events).max().unwrap_or(0);
        let before = reports.projections.iter().map(|report| report.resumed_from).min().unwrap_or(0);
        let seconds = reports.load_seconds + reports.index_seconds;
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
        let read = (events - before).max(0) as f64;
        Self {
            events,
            events_per_second: if seconds > 0.0 { read / seconds } else { 0.0 },
            load_seconds: reports.load_seconds,
            index_seconds: reports.index_seconds,
            count_seconds: reports.count_seconds,
            projections,
        }
    }

    fn text(&self) -> String {
        let seconds = self.load_seconds + self.index_seconds;
        let mut lines = vec![format!(
            "{} events folded in {} ({} events/s), all of them counted in the log.",
            count(self.events),
            took(seconds),
            count(whole(self.events_per_second)),
        )];
        for projection in &self.projections {
            lines.push(text_of_verification(&projection.verification));
            if projection.parked > 0 {
                lines.push(format!(
                    "{}: {} aggregates could not be taken in; ektola projections parked {} lists them",
                    projection.name,
                    count(projection.parked),
                    projection.name
                ));
            }
            lines.extend(projection.switch.as_ref().map(text_of_switch));
        }
        lines.join("\n")
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a rate is far below 2^63")]
fn whole(rate: f64) -> i64 {
    rate.round() as i64
}

pub(super) fn took(seconds: f64) -> String {
    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    std::time::Duration::try_from_secs_f64(seconds).map_or_else(|_| format!("{seconds:.0} s"), duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_taken_is_readable() {
        assert_eq!(took(0.25), "250 ms");
        assert_eq!(took(2.04), "2.0 s");
        assert_eq!(took(125.0), "2 min 5 s");
    }
}
