//! `ektola audit`: what the log says of one thing as of any instant, and evidence that nobody has changed the log.

mod aggregate;
mod head;
mod proof;
mod verify;

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use infrastructure::event_feed::position_at;
use infrastructure::seals::{PublicKey, SealKey};
use projections::audit::AuditKind;
use sqlx::PgPool;

use super::context::Context;
use super::error::{Failure, UsageError};
use super::status::zone_of_all;
use crate::http::as_of::instant;

#[derive(Debug, clap::Subcommand)]
pub enum AuditCommand {
    /// A campaign: its state, its events and its runs.
    Campaign(aggregate::AggregateArgs),
    /// A run: its state, its events and the counts of its messages.
    Run(aggregate::AggregateArgs),
    /// A message: its state and its events.
    Message(aggregate::AggregateArgs),
    /// A contact, by its id or its number: its consent, its messages, and what was known of it.
    Contact(aggregate::AggregateArgs),
    /// Check the whole log against its seals, and name the first row that was changed, removed, inserted or moved.
    Verify(verify::VerifyArgs),
    /// Print the signed root of the log, to be kept where whoever may change the database cannot reach it.
    Head,
    /// Export the proof that the events of a message are in the sealed log.
    Proof(proof::ProofArgs),
    /// Check an exported proof, with nothing but the file.
    Check(proof::CheckArgs),
}

pub async fn run(command: AuditCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        AuditCommand::Campaign(args) => aggregate::run(AuditKind::Campaign, &args, context).await,
        AuditCommand::Run(args) => aggregate::run(AuditKind::Run, &args, context).await,
        AuditCommand::Message(args) => aggregate::run(AuditKind::Message, &args, context).await,
        AuditCommand::Contact(args) => aggregate::run(AuditKind::Contact, &args, context).await,
        AuditCommand::Verify(args) => verify::run(&args, context).await,
        AuditCommand::Head => head::run(context).await,
        AuditCommand::Proof(args) => proof::export(&args, context).await,
        AuditCommand::Check(args) => proof::check_file(&args, context),
    }
}

/// A time or a position, as it was written.
#[derive(Debug, Clone)]
pub(super) enum Instant {
    Position(Position),
    Time(DateTime<Utc>),
}

/// A time without an offset is local time of the zone that all tenants share, or of UTC.
pub(super) async fn instant_of(pool: &PgPool, text: &str) -> anyhow::Result<Instant> {
    if let Ok(position) = text.trim().parse() {
        return Ok(Instant::Position(position));
    }
    let zone = zone_of_all(pool).await?;
    instant(text, &zone).map(Instant::Time).ok_or_else(|| {
        UsageError::new(format!("{text} is neither a position nor a time"))
            .next(format!("write 12345, 2026-12-01T10:00:00+05:30, or 2026-12-01T10:00 for local time of {zone}"))
            .into()
    })
}

pub(super) async fn position_of(pool: &PgPool, instant: &Instant) -> Result<Position, sqlx::Error> {
    match instant {
        Instant::Position(position) => Ok(*position),
        Instant::Time(time) => position_at(pool, *time).await,
    }
}

/// The keys that this installation trusts: its own, and those that its configuration names.
fn trusted_keys(context: &Context) -> anyhow::Result<Vec<PublicKey>> {
    let audit = context.load_config().map_err(|error| UsageError::new(error.to_string()))?.audit;
    let mut keys = audit.trusted_keys();
    let file = audit.key_file(&context.data);
    if file.exists() {
        keys.push(
            SealKey::load(&file).map_err(|error| Failure::new("the seal key cannot be used").because(error))?.public(),
        );
    }
    Ok(keys)
}

/// A public key, as digits or as a file that holds them.
fn public_key(text: &str) -> Result<PublicKey, String> {
    let from_file = || std::fs::read_to_string(Path::new(text)).ok().and_then(|text| PublicKey::parse(&text));
    PublicKey::parse(text)
        .or_else(from_file)
        .ok_or_else(|| "neither 64 hexadecimal digits nor a file that holds them".to_owned())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &PathBuf, what: &str) -> anyhow::Result<T> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::new(format!("{shown} cannot be read")).because(error))?;
    Ok(serde_json::from_str(&text).map_err(|error| Failure::new(format!("{shown} is not {what}")).because(error))?)
}
