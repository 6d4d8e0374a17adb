//! `ektola projections`: the read models, how far they are, and folding one of them again.

use domain::aggregate::Position;
use projections::rebuild::{RebuildProgress, rebuild};
use projections::{registry, status::read::overview};
use serde::Serialize;

use super::context::Context;
use super::error::UsageError;
use super::installation::Installation;
use super::output::{Align, Table, count, duration};

#[derive(Debug, clap::Subcommand)]
pub enum ProjectionsCommand {
    /// List the read models with the position of the log that each has reached.
    #[command(visible_alias = "status")]
    List,
    /// Throw a read model away and fold it again from the log; sending goes on meanwhile.
    Rebuild(RebuildArgs),
}

#[derive(Debug, clap::Args)]
pub struct RebuildArgs {
    /// The name of the read model, as `projections list` shows it.
    name: String,
}

#[derive(Serialize)]
struct ProjectionAnswer {
    name: &'static str,
    version: u32,
    /// Everything at or below this position is in it.
    position: Position,
    /// Positions up to the end of the log.
    lag: Position,
}

#[derive(Serialize)]
struct RebuildAnswer {
    name: &'static str,
    version: u32,
    position: Position,
    /// Read and applied here; the engine's own follower may have applied others meanwhile.
    events: u64,
    seconds: f64,
    #[serde(skip)]
    taken_over: u64,
}

pub async fn run(command: ProjectionsCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        ProjectionsCommand::List => list(context).await,
        ProjectionsCommand::Rebuild(args) => rebuild_one(&args, context).await,
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let overview = context
        .on_installation(async |installation: &Installation| Ok(overview(&installation.pool, None).await?))
        .await?;
    let answer: Vec<ProjectionAnswer> = registry::all()
        .iter()
        .map(|projection| {
            let row = overview.subscriptions.iter().find(|row| row.name == projection.subscription());
            ProjectionAnswer {
                name: projection.name(),
                version: projection.version(),
                // One that has never run has read nothing.
                position: row.map_or(0, |row| row.position),
                lag: row.map_or(overview.log_position, |row| row.lag),
            }
        })
        .collect();
    context.out.answer(&answer, |out| {
        let mut table = Table::new([
            ("name", Align::Left),
            ("version", Align::Right),
            ("position", Align::Right),
            ("lag (events)", Align::Right),
        ]);
        for projection in &answer {
            let (position, lag) = (count(projection.position), count(projection.lag));
            table.row([projection.name.to_owned(), count(projection.version), position, lag]);
        }
        out.table(&table)
    })
}

async fn rebuild_one(args: &RebuildArgs, context: &Context) -> anyhow::Result<()> {
    let projection = registry::find(&args.name).ok_or_else(|| unknown(&args.name))?;
    let report = context
        .on_installation(async |installation: &Installation| {
            let progress = context.out.progress(&format!("rebuilding {}", projection.name()), 0);
            let show = |now: RebuildProgress| {
                progress.set_length(now.of.unsigned_abs());
                progress.set_position(now.done.unsigned_abs());
            };
            let report = rebuild(&installation.pool, &*projection, show).await?;
            progress.finish();
            Ok(report)
        })
        .await?;
    let answer = RebuildAnswer {
        name: report.projection,
        version: report.version,
        position: report.position,
        events: report.events,
        seconds: report.seconds,
        taken_over: report.taken_over,
    };
    context.out.answer(&answer, |_| answer.text())
}

impl RebuildAnswer {
    fn text(&self) -> String {
        let helper = if self.taken_over > 0 { " here, the others by the running engine," } else { "" };
        format!(
            "{} is rebuilt up to position {}: {} events{helper} in {}.",
            self.name,
            count(self.position),
            count(self.events),
            took(self.seconds)
        )
    }
}

fn took(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    std::time::Duration::try_from_secs_f64(seconds).map_or_else(|_| format!("{seconds:.0} s"), duration)
}

fn unknown(name: &str) -> UsageError {
    let known: Vec<&str> = registry::all().iter().map(|projection| projection.name()).collect();
    UsageError::new(format!("there is no read model named {name}")).next(format!("choose one of: {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_all_known_ones() {
        let error = anyhow::Error::from(unknown("mesages"));
        let next = super::super::error::next_step(&error).unwrap();
        for projection in registry::all() {
            assert!(next.contains(projection.name()), "{next}");
        }
    }

    #[test]
    fn events_that_the_engine_applied_are_not_passed_over() {
        let alone =
            RebuildAnswer { name: "runs", version: 1, position: 1200, events: 1100, seconds: 2.0, taken_over: 0 };
        assert_eq!(alone.text(), "runs is rebuilt up to position 1,200: 1,100 events in 2.0 s.");
        let beside = RebuildAnswer { events: 0, taken_over: 3, ..alone };
        assert_eq!(
            beside.text(),
            "runs is rebuilt up to position 1,200: 0 events here, the others by the running engine, in 2.0 s."
        );
    }

    #[test]
    fn the_time_taken_is_readable() {
        assert_eq!(took(0.25), "0.2 s");
        assert_eq!(took(125.0), "2 min 5 s");
    }
}
