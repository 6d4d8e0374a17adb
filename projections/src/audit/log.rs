//! The log as it is stored, for people and programs: whole rows, in order, filtered, and never above the high-water mark.

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::event::{AGGREGATE_TYPES, Event};
use domain::ids::TenantId;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

/// One row of the log.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoggedEvent {
    pub position: Position,
    pub tenant_id: Uuid,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    pub payload: Value,
    pub metadata: Value,
    /// The database's time of the append; not monotonic in position.
    pub recorded_at: DateTime<Utc>,
}

/// Everything that is given has to fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub tenant: Option<TenantId>,
    /// Stored names; empty for all.
    pub types: Vec<String>,
    pub aggregate_type: Option<String>,
    pub aggregate_id: Option<String>,
    /// The run itself, its messages, and what triggered it.
    pub run: Option<Uuid>,
}

impl EventFilter {
    /// Only events of these names.
    pub fn only_types<'a>(&mut self, names: impl IntoIterator<Item = &'a str>) -> Result<(), String> {
        for name in names.into_iter().map(str::trim) {
            let known = AGGREGATE_TYPES.into_iter().filter_map(Event::stored_versions).flatten();
            if !known.clone().any(|(known, _)| *known == name) {
                return Err(format!("no event is named {name:?}; docs/events.md lists them all"));
            }
            self.types.push(name.to_owned());
        }
        Ok(())
    }

    /// Only those of an aggregate, as TYPE/ID, or of all of one type.
    pub fn only_aggregate(&mut self, text: &str) -> Result<(), String> {
        let (kind, id) = text.split_once('/').map_or((text, None), |(kind, id)| (kind, Some(id)));
        if !AGGREGATE_TYPES.contains(&kind) {
            return Err(format!("must be TYPE or TYPE/ID, where TYPE is one of {}", AGGREGATE_TYPES.join(", ")));
        }
        let id =
            id.map(|id| id.parse::<Uuid>().map_err(|_| format!("{id:?} is not the id of a {kind}"))).transpose()?;
        self.aggregate_type = Some(kind.to_owned());
        self.aggregate_id = id.map(|id| id.to_string());
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    pub events: Vec<LoggedEvent>,
    /// Everything up to here has been looked at: where the next page goes on.
    pub next_after: Position,
}

impl LoggedEvent {
    /// The engine's time of the command that led to it.
    pub fn at(&self) -> DateTime<Utc> {
        self.metadata["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or(self.recorded_at)
    }

    /// `token:ID`, `operator` or `engine:PART`.
    pub fn actor(&self) -> Option<&str> {
        self.metadata["actor"].as_str()
    }

    /// The position of the event that led to it, if it is the engine's reaction.
    pub fn cause(&self) -> Option<Position> {
        self.metadata["cause"].as_str()?.parse().ok()
    }

    /// What belongs together: the run of runs, messages and triggers, otherwise the aggregate itself.
    pub fn correlation(&self) -> String {
        let fields = &self.payload[self.event_type.as_str()];
        let run = fields["transition"]["run_id"].as_str().or_else(|| fields["run_id"].as_str());
        run.map_or_else(|| self.aggregate_id.clone(), str::to_owned)
    }
}

/// Looks at most at `scan_max` rows after a position, up to a mark, and answers at most `limit` of those that fit.
pub async fn page(
    pool: &PgPool,
    filter: &EventFilter,
    after: Position,
    mark: Position,
    limit: i64,
    scan_max: i64,
) -> Result<EventPage, sqlx::Error> {
    // How far one look reaches, by the index of positions alone.
    let reached = sqlx::query_scalar!(
        r#"SELECT max(position) FROM (
               SELECT position FROM events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3
           ) looked_at HAVING count(*) = $3"#,
        after,
        mark,
        scan_max,
    )
    .fetch_optional(pool)
    .await?
    .flatten()
    .unwrap_or(mark);
    let events = sqlx::query_as!(
        LoggedEvent,
        r#"SELECT position, tenant_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
                  metadata, recorded_at
           FROM events
           WHERE position > $1 AND position <= $2
             AND ($3::uuid IS NULL OR tenant_id = $3)
             AND (cardinality($4::text[]) = 0 OR event_type = ANY($4))
             AND ($5::text IS NULL OR aggregate_type = $5)
             AND ($6::text IS NULL OR aggregate_id = $6)
             AND ($7::text IS NULL OR aggregate_id = $7
                  OR payload -> event_type -> 'transition' ->> 'run_id' = $7
                  OR payload -> event_type ->> 'run_id' = $7)
           ORDER BY position LIMIT $8"#,
        after,
        reached,
        filter.tenant.map(Uuid::from),
        &filter.types,
        filter.aggregate_type,
        filter.aggregate_id,
        filter.run.map(|run| run.to_string()),
        limit,
    )
    .fetch_all(pool)
    .await?;
    let is_full = i64::try_from(events.len()).is_ok_and(|found| found == limit);
    let next_after = events.last().filter(|_| is_full).map_or(reached, |last| last.position);
    Ok(EventPage { events, next_after: next_after.max(after) })
}

/// The events of one aggregate up to a position, in order.
pub async fn of_aggregate(
    pool: &PgPool,
    aggregate_type: &str,
    aggregate_id: &str,
    up_to: Position,
) -> Result<Vec<LoggedEvent>, sqlx::Error> {
    sqlx::query_as!(
        LoggedEvent,
        r#"SELECT position, tenant_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
                  metadata, recorded_at
           FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 AND position <= $3 ORDER BY sequence"#,
        aggregate_type,
        aggregate_id,
        up_to,
    )
    .fetch_all(pool)
    .await
}

/// One row by its position.
pub async fn at(pool: &PgPool, position: Position) -> Result<Option<LoggedEvent>, sqlx::Error> {
    sqlx::query_as!(
        LoggedEvent,
        r#"SELECT position, tenant_id, aggregate_type, aggregate_id, sequence, event_type, event_version, payload,
                  metadata, recorded_at
           FROM events WHERE position = $1"#,
        position,
    )
    .fetch_optional(pool)
    .await
}

/// How many rows of a stretch fit: what an export has to have written.
pub async fn count(pool: &PgPool, filter: &EventFilter, after: Position, until: Position) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
           FROM events
           WHERE position > $1 AND position <= $2
             AND ($3::uuid IS NULL OR tenant_id = $3)
             AND (cardinality($4::text[]) = 0 OR event_type = ANY($4))
             AND ($5::text IS NULL OR aggregate_type = $5)
             AND ($6::text IS NULL OR aggregate_id = $6)
             AND ($7::text IS NULL OR aggregate_id = $7
                  OR payload -> event_type -> 'transition' ->> 'run_id' = $7
                  OR payload -> event_type ->> 'run_id' = $7)"#,
        after,
        until,
        filter.tenant.map(Uuid::from),
        &filter.types,
        filter.aggregate_type,
        filter.aggregate_id,
        filter.run.map(|run| run.to_string()),
    )
    .fetch_one(pool)
    .await
}
