//! What a projection could not take in is set aside: the events of one aggregate, from the first that failed on. The
//! projection itself goes on, and so do all other aggregates. A person gives the sequence back with
//! [`retry`], or gives its first event up with [`discard`].

mod settle;

use std::error::Error;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::event::{Event, RecordedEvent};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

pub use self::settle::{SettleError, Settled, discard, retry};
use crate::feeding::Target;

/// The stored type and id.
pub type AggregateKey = (String, String);

/// How much of an error is kept, in characters.
const ERROR_MAX: usize = 500;
/// How many are listed.
const LISTED_MAX: i64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParkedClass {
    /// This release cannot decode the event.
    Unreadable,
    /// The database refused what the event means.
    Refused,
}

impl ParkedClass {
    fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Refused => "refused",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParkedRow {
    pub projection: String,
    pub generation: i32,
    pub aggregate_type: String,
    pub aggregate_id: String,
    /// The first event that is left out; all later ones of the aggregate are too.
    pub from_position: Position,
    /// `unreadable`: this release cannot decode it; `refused`: the database refused what it means.
    pub class: String,
    pub error: String,
    pub attempts: i32,
    pub parked_at: DateTime<Utc>,
    /// When it was last tried.
    pub tried_at: DateTime<Utc>,
}

/// The parked sequences of a projection, or of all; the oldest first, at most 1,000.
pub async fn list(pool: &PgPool, projection: Option<&str>) -> Result<Vec<ParkedRow>, sqlx::Error> {
    sqlx::query_as!(
        ParkedRow,
        "SELECT projection, generation, aggregate_type, aggregate_id, from_position, class, error, attempts, parked_at,
                tried_at
         FROM projection_parked WHERE $1::text IS NULL OR projection = $1
         ORDER BY parked_at, projection, generation, aggregate_type, aggregate_id LIMIT $2",
        projection,
        LISTED_MAX,
    )
    .fetch_all(pool)
    .await
}

pub(crate) fn key_of(event: &RecordedEvent) -> AggregateKey {
    let name = match &event.event {
        Event::Campaign(_) => "Campaign",
        Event::CampaignRun(_) => "CampaignRun",
        Event::Message(_) => "Message",
        Event::Consent(_) => "Consent",
    };
    (name.to_owned(), event.aggregate_id.to_string())
}

/// An error with its causes, on one line.
pub(crate) fn told(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.chars().take(ERROR_MAX).collect()
}

/// Parks a sequence, unless it is parked already from an earlier event on.
pub(crate) async fn park_in_tx(
    connection: &mut PgConnection,
    target: &Target,
    key: &AggregateKey,
    position: Position,
    class: ParkedClass,
    error: &str,
) -> Result<(), sqlx::Error> {
    let parked = sqlx::query!(
        "INSERT INTO projection_parked (projection, generation, aggregate_type, aggregate_id, from_position, class, error)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (projection, generation, aggregate_type, aggregate_id) DO NOTHING",
        target.projection.name(),
        target.generation,
        key.0,
        key.1,
        position,
        class.name(),
        error,
    )
    .execute(connection)
    .await?;
    if parked.rows_affected() == 1 {
        tracing::error!(
            projection = target.projection.name(),
            aggregate.kind = key.0,
            aggregate.id = key.1,
            position,
            error,
            "a projection cannot take an event in; it leaves the aggregate out and goes on"
        );
    }
    Ok(())
}
