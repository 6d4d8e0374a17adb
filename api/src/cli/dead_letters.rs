//! `ektola dead-letters`: what could not be applied and is kept for a person.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgPool;

use super::context::Context;
use super::installation::Installation;
use super::output::{Align, Table, instant};
use super::status::zone_of_all;

#[derive(Debug, clap::Subcommand)]
pub enum DeadLettersCommand {
    /// List what could not be applied, newest first, each with its reason.
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// How many are listed at most, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Serialize)]
struct DeadLetterRow {
    id: i64,
    /// `webhook` or `dispatch`.
    source: String,
    /// The webhook body's id, or the message's.
    reference: String,
    reason: String,
    parked_at: DateTime<Utc>,
}

pub async fn run(command: DeadLettersCommand, context: &Context) -> anyhow::Result<()> {
    let DeadLettersCommand::List(args) = command;
    let (letters, zone) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            Ok((newest(pool, args.limit).await?, zone_of_all(pool).await?))
        })
        .await?;
    context.out.answer(&letters, |out| {
        if letters.is_empty() {
            return "There are no dead letters.".to_owned();
        }
        let mut table = Table::new([
            ("id", Align::Right),
            ("parked", Align::Left),
            ("source", Align::Left),
            ("reference", Align::Left),
            ("reason", Align::Left),
        ]);
        for letter in &letters {
            table.row([
                letter.id.to_string(),
                instant(letter.parked_at, &zone),
                letter.source.clone(),
                letter.reference.clone(),
                letter.reason.clone(),
            ]);
        }
        out.table(&table)
    })
}

async fn newest(pool: &PgPool, limit: u32) -> Result<Vec<DeadLetterRow>, sqlx::Error> {
    sqlx::query_as!(
        DeadLetterRow,
        "SELECT id, source, reference, reason, parked_at FROM dead_letters ORDER BY id DESC LIMIT $1",
        i64::from(limit),
    )
    .fetch_all(pool)
    .await
}
