use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::event::{Event, RecordedEvent};
use domain::message::{MessageEvent, MessageStatus};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::event_feed::TableEffect;

/// Keeps the table of unknown outcomes.
pub struct UnknownEffect;

/// Where a message stands after an event.
enum Place {
    Unknown { run_id: Uuid, tenant_id: Uuid, attempt: i32, since: DateTime<Utc> },
    Unconfirmed { at: DateTime<Utc> },
    Settled,
}

#[async_trait]
impl TableEffect for UnknownEffect {
    fn name(&self) -> &'static str {
        "unknown-outcomes"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        let Event::Message(message) = &event.event else { return false };
        let transition = message.transition();
        let in_doubt = |status| matches!(status, MessageStatus::Unknown | MessageStatus::Unconfirmed);
        in_doubt(transition.to) || transition.from.is_some_and(in_doubt)
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        // What is unknown and unconfirmed within one batch has waited for its window all the same.
        let mut unknown = Columns::default();
        let mut unconfirmed: BTreeMap<Uuid, DateTime<Utc>> = BTreeMap::new();
        let mut settled: Vec<Uuid> = Vec::new();
        // Only the last word on each message counts; the map also sorts the rows.
        let mut last: BTreeMap<Uuid, Place> = BTreeMap::new();
        for event in events {
            let Event::Message(message) = &event.event else { continue };
            let place = place_after(message, event);
            if let (Place::Unconfirmed { .. }, Some(Place::Unknown { run_id, tenant_id, attempt, since })) =
                (&place, last.get(&event.aggregate_id))
            {
                unknown.push(event.aggregate_id, *run_id, *tenant_id, *attempt, *since);
            }
            last.insert(event.aggregate_id, place);
        }
        for (message_id, place) in last {
            match place {
                Place::Unknown { run_id, tenant_id, attempt, since } => {
                    unknown.push(message_id, run_id, tenant_id, attempt, since);
                }
                Place::Unconfirmed { at } => drop(unconfirmed.insert(message_id, at)),
                Place::Settled => settled.push(message_id),
            }
        }
        write(connection, &unknown, unconfirmed, &settled).await
    }
}

fn place_after(message: &MessageEvent, event: &RecordedEvent) -> Place {
    match message {
        MessageEvent::OutcomeUnknown { transition, attempt } => Place::Unknown {
            run_id: transition.run_id.0,
            tenant_id: event.tenant_id.0,
            attempt: i32::try_from(*attempt).unwrap_or(i32::MAX),
            since: event.at,
        },
        MessageEvent::Unconfirmed { .. } => Place::Unconfirmed { at: event.at },
        MessageEvent::Queued { .. }
        | MessageEvent::Skipped { .. }
        | MessageEvent::DispatchStarted { .. }
        | MessageEvent::DispatchReleased { .. }
        | MessageEvent::Sent { .. }
        | MessageEvent::Delivered { .. }
        | MessageEvent::Read { .. }
        | MessageEvent::Failed { .. }
        | MessageEvent::Deferred { .. }
        | MessageEvent::Settled { .. }
        | MessageEvent::Expired { .. }
        | MessageEvent::Cancelled { .. } => Place::Settled,
    }
}

#[derive(Default)]
struct Columns {
    messages: Vec<Uuid>,
    runs: Vec<Uuid>,
    tenants: Vec<Uuid>,
    attempts: Vec<i32>,
    since: Vec<DateTime<Utc>>,
}

impl Columns {
    fn push(&mut self, message: Uuid, run: Uuid, tenant: Uuid, attempt: i32, since: DateTime<Utc>) {
        self.messages.push(message);
        self.runs.push(run);
        self.tenants.push(tenant);
        self.attempts.push(attempt);
        self.since.push(since);
    }
}

async fn write(
    connection: &mut PgConnection,
    unknown: &Columns,
    unconfirmed: BTreeMap<Uuid, DateTime<Utc>>,
    settled: &[Uuid],
) -> Result<(), sqlx::Error> {
    if !settled.is_empty() {
        sqlx::query!("DELETE FROM unknown_outcomes WHERE message_id = ANY($1)", settled)
            .execute(&mut *connection)
            .await?;
    }
    if !unknown.messages.is_empty() {
        sqlx::query!(
            "INSERT INTO unknown_outcomes (message_id, run_id, tenant_id, attempt, unknown_since, resend)
             SELECT t.message_id, t.run_id, t.tenant_id, t.attempt, t.unknown_since, EXISTS (
                 SELECT FROM events e
                 WHERE e.aggregate_type = 'Message' AND e.aggregate_id = t.message_id::text AND e.sequence = 1
                   AND e.payload -> 'MessageQueued' ->> 'on_unknown' = 'resend'
             )
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::timestamptz[])
                 AS t(message_id, run_id, tenant_id, attempt, unknown_since)
             ON CONFLICT (message_id) DO UPDATE
             SET attempt = excluded.attempt, unknown_since = excluded.unknown_since, unconfirmed_at = NULL",
            &unknown.messages,
            &unknown.runs,
            &unknown.tenants,
            &unknown.attempts,
            &unknown.since,
        )
        .execute(&mut *connection)
        .await?;
    }
    if unconfirmed.is_empty() {
        return Ok(());
    }
    let (messages, times): (Vec<Uuid>, Vec<DateTime<Utc>>) = unconfirmed.into_iter().unzip();
    sqlx::query!(
        "UPDATE unknown_outcomes u SET unconfirmed_at = t.at
         FROM unnest($1::uuid[], $2::timestamptz[]) AS t(message_id, at) WHERE u.message_id = t.message_id",
        &messages,
        &times,
    )
    .execute(connection)
    .await?;
    Ok(())
}
