use projections::parking::{self, AggregateKey, ParkedRow, Settled};

use serde::Serialize;
use uuid::Uuid;

use super::super::context::Context;
use super::super::error::{Failure, UsageError};
use super::super::installation::Installation;
use super::super::output::{Align, Table, count, duration};
use super::named;

#[derive(Debug, clap::Args)]
pub struct ParkedArgs {
    /// Only those of this read model.
    name: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct RetryArgs {
    /// The name of the read model.
    name: String,
    /// The aggregate, as `projections parked` shows it.
    #[arg(value_name = "AGGREGATE", required_unless_present = "all", conflicts_with = "all")]
    aggregate: Option<Uuid>,
    /// Everything that the read model has parked.
    #[arg(long)]
    all: bool,
}

#[derive(Debug, clap::Args)]
pub struct DiscardArgs {
    /// The name of the read model.
    name: String,
    /// The aggregate, as `projections parked` shows it.
    #[arg(value_name = "AGGREGATE")]
    aggregate: Uuid,
}

#[derive(Serialize)]
struct SettleAnswer {
    aggregate_type: String,
    aggregate_id: String,
    /// Events that were taken in.
    events: usize,
    /// Null if nothing is parked any more.
    parked_from: Option<i64>,
    error: Option<String>,
}

pub(super) async fn list(args: &ParkedArgs, context: &Context) -> anyhow::Result<()> {
    args.name.as_deref().map(named).transpose()?;
    let rows = context
        .on_installation(async |installation: &Installation| {
            Ok(parking::list(&installation.pool, args.name.as_deref()).await?)
        })
        .await?;
    let now = context.clock.now();
    context.out.answer(&rows, |out| {
        if rows.is_empty() {
            return "Nothing is parked: the read models have taken every event in.".to_owned();
        }
        let mut table = Table::new([
            ("read model", Align::Left),
            ("aggregate", Align::Left),
            ("id", Align::Left),
            ("from position", Align::Right),
            ("class", Align::Left),
            ("attempts", Align::Right),
            ("age", Align::Right),
            ("error", Align::Left),
        ]);
        for row in &rows {
            table.row([
                row.projection.clone(),
                row.aggregate_type.clone(),
                row.aggregate_id.clone(),
                count(row.from_position),
                row.class.clone(),
                count(row.attempts),
                (now - row.parked_at).to_std().map_or_else(|_| "0 s".to_owned(), duration),
                row.error.clone(),
            ]);
        }
        format!("{}\n\nnext: `ektola projections retry NAME ID`, or `discard NAME ID`", out.table(&table))
    })
}

pub(super) async fn retry(args: &RetryArgs, context: &Context) -> anyhow::Result<()> {
    settle(&args.name, args.aggregate, true, context).await
}

pub(super) async fn discard(args: &DiscardArgs, context: &Context) -> anyhow::Result<()> {
    settle(&args.name, Some(args.aggregate), false, context).await
}

/// `aggregate`: `None` for everything that is parked.
async fn settle(name: &str, aggregate: Option<Uuid>, keeps_all: bool, context: &Context) -> anyhow::Result<()> {
    let projection = named(name)?;
    let answers = context
        .on_installation(async |installation: &Installation| {
            let parked = parking::list(&installation.pool, Some(name)).await?;
            let mut answers = Vec::new();
            for key in wanted(&parked, aggregate) {
                let settled = if keeps_all {
                    parking::retry(&installation.pool, &projection, &key).await?
                } else {
                    parking::discard(&installation.pool, &projection, &key).await?
                };
                answers.extend(SettleAnswer::of(key, settled));
            }
            Ok(answers)
        })
        .await?;
    if let (Some(aggregate), true) = (aggregate, answers.is_empty()) {
        return Err(UsageError::new(format!("{name} has parked nothing of {aggregate}"))
            .next(format!("ektola projections parked {name} lists what it has parked"))
            .into());
    }
    context.out.answer(&answers, |_| text_of(&answers))?;
    if answers.iter().any(|answer| answer.parked_from.is_some()) {
        return Err(Failure::new("something is parked still")
            .next(format!("ektola projections discard {name} ID leaves the event out for good"))
            .into());
    }
    Ok(())
}

fn wanted(parked: &[ParkedRow], aggregate: Option<Uuid>) -> Vec<AggregateKey> {
    let aggregate = aggregate.map(|id| id.to_string());
    let mut keys: Vec<AggregateKey> = parked
        .iter()
        .filter(|row| aggregate.as_ref().is_none_or(|id| *id == row.aggregate_id))
        .map(|row| (row.aggregate_type.clone(), row.aggregate_id.clone()))
        .collect();
    // The live version and another may both have parked it.
    let mut seen = std::collections::BTreeSet::new();
    keys.retain(|key| seen.insert(key.clone()));
    keys
}

impl SettleAnswer {
    fn of((aggregate_type, aggregate_id): AggregateKey, settled: Settled) -> Option<Self> {
        let (events, parked_from, error) = match settled {
            Settled::NotParked => return None,
            Settled::Applied { events } => (events, None, None),
            Settled::ParkedAgain { from_position, error } => (0, Some(from_position), Some(error)),
        };
        Some(Self { aggregate_type, aggregate_id, events, parked_from, error })
    }
}

fn text_of(answers: &[SettleAnswer]) -> String {
    if answers.is_empty() {
        return "Nothing is parked.".to_owned();
    }
    let lines = answers.iter().map(|answer| match (answer.parked_from, &answer.error) {
        (Some(from), Some(error)) => {
            let from = count(from);
            format!("{} {}: parked again from position {from}: {error}", answer.aggregate_type, answer.aggregate_id)
        }
        _ => format!("{} {}: {} events taken in", answer.aggregate_type, answer.aggregate_id, answer.events),
    });
    lines.collect::<Vec<_>>().join("\n")
}
