//! Dead letters: what could not be applied or sent, kept for a person. The engine parks, a person lists, gives back or
//! discards; nothing here happens by itself.
//!
//! The reference of a webhook is its body's id, with a slash and the item's number where a single item is meant: given
//! back, exactly that is interpreted again, and alone, for it has failed before. The reference of a dispatch is the
//! message's id: given back, the message takes the place on the ready list that its last event gives it.

mod discard;
mod retry;
mod selection;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use domain::message::{MessageError, MessageStatus};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

pub use self::discard::discard;
pub use self::retry::retry;
pub use self::selection::Selection;
use crate::event_store::CommandError;

/// Why the letter of a message stays whose stored events this release cannot decode.
const HISTORY_UNREADABLE: Outcome =
    Outcome::Kept("its history cannot be read; it stays until a release can read it or the history is mended");
/// A reason may repeat what a server says.
const REASON_CHARS_MAX: usize = 500;

/// Where a dead letter comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A webhook, or a single item of one, that could not be interpreted.
    Webhook,
    /// A message that could not be handed to WhatsApp.
    Dispatch,
}

impl Source {
    pub const ALL: [Self; 2] = [Self::Webhook, Self::Dispatch];

    pub fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Dispatch => "dispatch",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.name() == name)
    }
}

/// Something to be parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    pub source: Source,
    /// The webhook body's id, or `id/item`; or the message's id.
    pub reference: String,
    /// `None`: not known.
    pub tenant_id: Option<TenantId>,
    /// Says nothing personal.
    pub reason: String,
    /// How often it was tried.
    pub attempts: u32,
}

#[derive(Debug, Clone)]
pub struct DeadLetter {
    pub id: i64,
    pub source: Source,
    pub reference: String,
    pub tenant_id: Option<TenantId>,
    pub reason: String,
    pub attempts: u32,
    pub parked_at: DateTime<Utc>,
}

/// How many letters there are of one source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCount {
    pub source: Source,
    pub letters: i64,
    /// `None` if there is none.
    pub oldest_parked_at: Option<DateTime<Utc>>,
}

/// What became of a letter. It is gone, except after [`Kept`](Self::Kept).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The webhook, or its item, is interpreted again.
    Pending,
    /// The message is on the ready list.
    Ready,
    /// The message is cancelled.
    Cancelled,
    /// The message does not wait to be sent, so there was nothing to do for it. `None`: there is no such message.
    Obsolete(Option<MessageStatus>),
    /// The letter of a webhook was taken away.
    Discarded,
    /// Nothing can be done with it.
    Kept(&'static str),
}

#[derive(Debug, Clone)]
pub struct Handled {
    pub id: i64,
    pub source: Source,
    pub reference: String,
    pub outcome: Outcome,
}

/// The letters that are to be taken away.
fn gone(handled: &[Handled]) -> Vec<i64> {
    let is_gone = |handled: &&Handled| !matches!(handled.outcome, Outcome::Kept(_));
    handled.iter().filter(is_gone).map(|handled| handled.id).collect()
}

/// What was done, letter by letter, and the ids that no letter has.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub handled: Vec<Handled>,
    pub unknown: Vec<i64>,
}

#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    #[error("the dead letters could not be read or changed")]
    Database(#[from] sqlx::Error),
    #[error("a message could not be cancelled")]
    Command(#[from] CommandError<MessageError>),
}

/// Parks what cannot go on by itself. What is parked already gets the new reason and its time.
pub async fn park_in_tx(
    connection: &mut PgConnection,
    parked: &[Parked],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    // A statement may touch a row only once; the order keeps two of them from waiting for each other.
    let by_reference: BTreeMap<(Source, &str), &Parked> =
        parked.iter().map(|parked| ((parked.source, parked.reference.as_str()), parked)).collect();
    let Some(first) = by_reference.values().next() else { return Ok(()) };
    tracing::warn!(
        parked = by_reference.len(),
        source = first.source.name(),
        reference = first.reference,
        reason = first.reason,
        "parked; `ektola dead-letters list` shows it"
    );
    let mut sources = Vec::with_capacity(by_reference.len());
    let mut references = Vec::with_capacity(by_reference.len());
    let mut tenants = Vec::with_capacity(by_reference.len());
    let mut reasons = Vec::with_capacity(by_reference.len());
    let mut attempts = Vec::with_capacity(by_reference.len());
    for parked in by_reference.values() {
        sources.push(parked.source.name().to_owned());
        references.push(parked.reference.clone());
        tenants.push(parked.tenant_id.map(|tenant| tenant.0));
        reasons.push(parked.reason.chars().filter(|char| *char != '\0').take(REASON_CHARS_MAX).collect());
        attempts.push(i32::try_from(parked.attempts).unwrap_or(i32::MAX));
    }
    sqlx::query!(
        "INSERT INTO dead_letters (source, reference, tenant_id, reason, attempts, parked_at)
         SELECT t.source, t.reference, t.tenant_id, t.reason, t.attempts, $6
         FROM unnest($1::text[], $2::text[], $3::uuid[], $4::text[], $5::integer[])
             AS t(source, reference, tenant_id, reason, attempts)
         ON CONFLICT (source, reference) DO UPDATE
         SET tenant_id = excluded.tenant_id, reason = excluded.reason, attempts = excluded.attempts,
             parked_at = excluded.parked_at",
        &sources,
        &references,
        &tenants as _,
        &reasons as &[String],
        &attempts,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The newest letters, of one source or of both.
pub async fn list(pool: &PgPool, source: Option<Source>, limit: u32) -> Result<Vec<DeadLetter>, sqlx::Error> {
    let rows = sqlx::query_as!(
        DeadLetterRow,
        "SELECT id, source, reference, tenant_id, reason, attempts, parked_at FROM dead_letters
         WHERE $1::text IS NULL OR source = $1 ORDER BY id DESC LIMIT $2",
        source.map(Source::name),
        i64::from(limit),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().filter_map(DeadLetterRow::letter).collect())
}

/// How many letters there are, for each source.
pub async fn counts(pool: &PgPool) -> Result<Vec<SourceCount>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT source, count(*) AS "letters!", min(parked_at) AS oldest_parked_at FROM dead_letters GROUP BY source"#
    )
    .fetch_all(pool)
    .await?;
    Ok(Source::ALL
        .into_iter()
        .map(|source| {
            let row = rows.iter().find(|row| row.source == source.name());
            SourceCount {
                source,
                letters: row.map_or(0, |row| row.letters),
                oldest_parked_at: row.and_then(|row| row.oldest_parked_at),
            }
        })
        .collect())
}

struct DeadLetterRow {
    id: i64,
    source: String,
    reference: String,
    tenant_id: Option<Uuid>,
    reason: String,
    attempts: i32,
    parked_at: DateTime<Utc>,
}

impl DeadLetterRow {
    /// `None` never happens: the table's check knows the same sources.
    fn letter(self) -> Option<DeadLetter> {
        Some(DeadLetter {
            id: self.id,
            source: Source::parse(&self.source)?,
            reference: self.reference,
            tenant_id: self.tenant_id.map(TenantId),
            reason: self.reason,
            attempts: u32::try_from(self.attempts).unwrap_or_default(),
            parked_at: self.parked_at,
        })
    }
}
