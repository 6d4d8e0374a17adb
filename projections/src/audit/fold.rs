//! The state of an aggregate as of a position, with the events that made it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::aggregate::{Decider, Position};
use domain::campaign::Campaign;
use domain::campaign_run::CampaignRun;
use domain::consent::Consent;
use domain::event::{DecodeError, Event};
use domain::message::Message;
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use super::log::{self, LoggedEvent};
use super::texts::text_of;

/// Runs of a campaign, and messages of a contact, that are shown with their status.
const LISTED_MAX: i64 = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditKind {
    Campaign,
    Run,
    Message,
    Contact,
}

impl AuditKind {
    pub fn aggregate_type(self) -> &'static str {
        match self {
            Self::Campaign => "Campaign",
            Self::Run => "CampaignRun",
            Self::Message => "Message",
            Self::Contact => "Consent",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the log could not be read")]
    Database(#[from] sqlx::Error),
    #[error("the event at position {position} cannot be read")]
    Undecodable {
        position: Position,
        #[source]
        source: DecodeError,
    },
}

/// As of a position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Audit {
    pub aggregate_type: &'static str,
    pub id: Uuid,
    pub tenant_id: Uuid,
    /// Nothing behind it is in here.
    pub as_of: Position,
    /// What the aggregate's rules know; null before its first event.
    pub state: Value,
    /// What belongs to it: the counts of a run, the runs of a campaign, the messages and attributes of a contact.
    pub related: Value,
    pub events: Vec<AuditedEvent>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditedEvent {
    pub position: Position,
    /// The engine's time.
    pub time: DateTime<Utc>,
    pub sequence: i64,
    pub event: String,
    pub version: String,
    /// Who gave the command: `token:ID`, `operator` or `engine:PART`.
    pub actor: Option<String>,
    /// The position of the event that it is a reaction to.
    pub cause: Option<Position>,
    /// The run that it belongs to, or else the aggregate.
    pub correlation: String,
    pub text: String,
    /// The event's own fields.
    pub data: Value,
}

/// `None`: the log knows nothing of it, whatever the position. `tenant`: whose it must be.
pub async fn audit(
    pool: &PgPool,
    kind: AuditKind,
    id: Uuid,
    as_of: Position,
    tenant: Option<Uuid>,
) -> Result<Option<Audit>, AuditError> {
    let rows = log::of_aggregate(pool, kind.aggregate_type(), &id.to_string(), as_of).await?;
    let owner = match rows.first() {
        Some(first) => Some(first.tenant_id),
        None => owner_of(pool, kind, id).await?,
    };
    let Some(tenant_id) = owner.filter(|owner| tenant.is_none_or(|tenant| tenant == *owner)) else { return Ok(None) };
    let (state, events) = match kind {
        AuditKind::Campaign => folded::<Campaign>(rows, |event| match event {
            Event::Campaign(event) => Some(event),
            _ => None,
        })?,
        AuditKind::Run => folded::<CampaignRun>(rows, |event| match event {
            Event::CampaignRun(event) => Some(event),
            _ => None,
        })?,
        AuditKind::Message => folded::<Message>(rows, |event| match event {
            Event::Message(event) => Some(event),
            _ => None,
        })?,
        AuditKind::Contact => folded::<Consent>(rows, |event| match event {
            Event::Consent(event) => Some(event),
            _ => None,
        })?,
    };
    let related = match kind {
        AuditKind::Message => Value::Null,
        AuditKind::Run => json!({"counts": counts_of(pool, id, as_of).await?}),
        AuditKind::Campaign => json!({"runs": runs_of(pool, &events, as_of).await?}),
        AuditKind::Contact => contact_of(pool, id, as_of).await?,
    };
    Ok(Some(Audit { aggregate_type: kind.aggregate_type(), id, tenant_id, as_of, state, related, events }))
}

/// Of one that has no event yet at the position, or, a contact, none at all.
async fn owner_of(pool: &PgPool, kind: AuditKind, id: Uuid) -> Result<Option<Uuid>, sqlx::Error> {
    let in_log = sqlx::query_scalar!(
        "SELECT tenant_id FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY sequence LIMIT 1",
        kind.aggregate_type(),
        id.to_string(),
    )
    .fetch_optional(pool)
    .await?;
    match (in_log, kind) {
        (None, AuditKind::Contact) => {
            sqlx::query_scalar!("SELECT tenant_id FROM contacts WHERE id = $1", id).fetch_optional(pool).await
        }
        (found, _) => Ok(found),
    }
}

fn folded<A: Decider + Serialize>(
    rows: Vec<LoggedEvent>,
    own: impl Fn(Event) -> Option<A::Event>,
) -> Result<(Value, Vec<AuditedEvent>), AuditError> {
    let mut state = A::default();
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let position = row.position;
        let event = Event::decode(&row.aggregate_type, &row.event_type, &row.event_version, &row.payload.to_string())
            .map_err(|source| AuditError::Undecodable { position, source })?;
        events.push(AuditedEvent {
            position,
            time: row.at(),
            sequence: row.sequence,
            actor: row.actor().map(str::to_owned),
            cause: row.cause(),
            correlation: row.correlation(),
            text: text_of(&event),
            data: row.payload[row.event_type.as_str()].clone(),
            event: row.event_type,
            version: row.event_version,
        });
        if let Some(own) = own(event) {
            state.evolve(&own);
        }
    }
    let state = if events.is_empty() { Value::Null } else { json!(state) };
    Ok((state, events))
}

/// The messages of a run by the status that each had at the position: one look at the log's key for each of them, so a
/// run of 100,000 takes a second or two.
async fn counts_of(pool: &PgPool, run: Uuid, as_of: Position) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT last.status AS "status!", count(*) AS "count!"
           FROM read_model.messages m
           CROSS JOIN LATERAL (
               SELECT e.payload -> e.event_type -> 'transition' ->> 'to' AS status
               FROM events e
               WHERE e.aggregate_type = 'Message' AND e.aggregate_id = m.id::text AND e.position <= $2
               ORDER BY e.sequence DESC LIMIT 1
           ) last
           WHERE m.run_id = $1 GROUP BY last.status"#,
        run,
        as_of,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.status, row.count)).collect())
}

/// The runs that the campaign had triggered, with the last that the log said of each.
async fn runs_of(pool: &PgPool, events: &[AuditedEvent], as_of: Position) -> Result<Vec<Value>, sqlx::Error> {
    let ids: Vec<String> = events
        .iter()
        .filter(|event| event.event == "RunTriggered")
        .filter_map(|event| event.data["run_id"].as_str().map(str::to_owned))
        .rev()
        .take(usize::try_from(LISTED_MAX).unwrap_or(usize::MAX))
        .collect();
    let rows = sqlx::query!(
        r#"SELECT n.id AS "id!", last.event_type AS "last_event?", last.position AS "position?"
           FROM unnest($1::text[]) WITH ORDINALITY AS n(id, number)
           LEFT JOIN LATERAL (
               SELECT e.event_type, e.position FROM events e
               WHERE e.aggregate_type = 'CampaignRun' AND e.aggregate_id = n.id AND e.position <= $2
               ORDER BY e.sequence DESC LIMIT 1
           ) last ON true
           ORDER BY n.number"#,
        &ids,
        as_of,
    )
    .fetch_all(pool)
    .await?;
    let shown =
        |row: &(String, Option<String>, Option<i64>)| json!({"id": row.0, "last_event": row.1, "position": row.2});
    Ok(rows.into_iter().map(|row| shown(&(row.id, row.last_event, row.position))).collect())
}

/// What was known of a contact at the position, as far as it was not erased since.
async fn contact_of(pool: &PgPool, contact: Uuid, as_of: Position) -> Result<Value, sqlx::Error> {
    let attributes = sqlx::query_scalar!(
        "SELECT attributes FROM contact_versions
         WHERE contact_id = $1 AND from_position <= $2 AND (to_position IS NULL OR to_position > $2)
         ORDER BY from_position DESC LIMIT 1",
        contact,
        as_of,
    )
    .fetch_optional(pool)
    .await?;
    let segments = sqlx::query_scalar!(
        "SELECT segment FROM contact_segments
         WHERE contact_id = $1 AND from_position <= $2 AND (to_position IS NULL OR to_position > $2)
         ORDER BY segment",
        contact,
        as_of,
    )
    .fetch_all(pool)
    .await?;
    let messages = sqlx::query!(
        r#"SELECT m.id, m.run_id, last.status AS "status!", last.position AS "position!"
           FROM read_model.messages m
           CROSS JOIN LATERAL (
               SELECT e.payload -> e.event_type -> 'transition' ->> 'to' AS status, e.position
               FROM events e
               WHERE e.aggregate_type = 'Message' AND e.aggregate_id = m.id::text AND e.position <= $2
               ORDER BY e.sequence DESC LIMIT 1
           ) last
           WHERE m.contact_id = $1 ORDER BY last.position DESC LIMIT $3"#,
        contact,
        as_of,
        LISTED_MAX,
    )
    .fetch_all(pool)
    .await?;
    let messages: Vec<Value> = messages
        .into_iter()
        .map(|row| json!({"id": row.id, "run_id": row.run_id, "status": row.status, "position": row.position}))
        .collect();
    Ok(json!({"attributes": attributes, "segments": segments, "messages": messages}))
}
