//! How events change the ready list, the open claims and the gates of runs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::Position;
use domain::campaign_run::CampaignRunEvent;
use domain::event::{Event, RecordedEvent};
use domain::message::{MessageEvent, MessageStatus, ReleaseReason};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::event_feed::TableEffect;

/// Fewer and larger batches while events come fast: a message that is claimed and answered within one leaves no trace in
/// the tables. What is ready waits no longer than this to be fed.
const GATHER: Duration = Duration::from_millis(50);
/// A message whose connection to WhatsApp could not be made is tried again after this.
const NOT_CONNECTED_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// The stored name of the subscription.
pub(super) const NAME: &str = "ready-list";

pub struct ReadyListEffect;

#[async_trait]
impl TableEffect for ReadyListEffect {
    fn name(&self) -> &'static str {
        NAME
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        matches!(event.event, Event::CampaignRun(_) | Event::Message(_))
    }

    fn gather(&self) -> Duration {
        GATHER
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        // Gates first, in order: a message's row needs the gate of its run, which started before it was queued,
        // except for a test message, whose gate follows in the same batch or a later one.
        for event in events {
            if let Event::CampaignRun(run) = &event.event {
                apply_gate(connection, event, run).await?;
            }
        }
        // Only the last word on each message counts; the map also sorts the rows.
        let mut places: BTreeMap<Uuid, Place> = BTreeMap::new();
        for event in events {
            if let Event::Message(message) = &event.event {
                places.insert(event.aggregate_id, Place::after(message, event));
            }
        }
        write_places(connection, &places).await
    }
}

async fn apply_gate(
    connection: &mut PgConnection,
    event: &RecordedEvent,
    run: &CampaignRunEvent,
) -> Result<(), sqlx::Error> {
    let state = match run {
        CampaignRunEvent::Started { definition, .. } => {
            sqlx::query!(
                "INSERT INTO run_gates (run_id, tenant_id, campaign_id, sender_id, lane, state)
                 VALUES ($1, $2, $3, $4, $5, 'open') ON CONFLICT (run_id) DO NOTHING",
                event.aggregate_id,
                event.tenant_id.0,
                definition.campaign_id.map(|id| id.0),
                definition.sender_id.0,
                definition.lane.name(),
            )
            .execute(connection)
            .await?;
            return Ok(());
        }
        CampaignRunEvent::Paused { .. } | CampaignRunEvent::Stalled { .. } => "paused",
        CampaignRunEvent::Resumed { .. } => "open",
        CampaignRunEvent::Cancelled { .. } => "cancelled",
        // What becomes pending after its run has completed is not sent any more.
        CampaignRunEvent::Expired { .. } | CampaignRunEvent::Completed { .. } => "expired",
        CampaignRunEvent::AudienceResolved { .. } => return Ok(()),
    };
    sqlx::query!("UPDATE run_gates SET state = $2 WHERE run_id = $1", event.aggregate_id, state)
        .execute(connection)
        .await?;
    Ok(())
}

/// Where a message stands after an event.
pub(super) enum Place {
    Ready {
        run_id: Uuid,
        tenant_id: Uuid,
        /// `None`: as the message's recipient says.
        contact_id: Option<Uuid>,
        attempt: i32,
        position: Position,
        /// `None`: at once, whatever the clock shows.
        due_at: Option<DateTime<Utc>>,
    },
    Claimed {
        run_id: Uuid,
        tenant_id: Uuid,
        attempt: i32,
        journal_id: Uuid,
        deadline: DateTime<Utc>,
    },
    Gone,
}

impl Place {
    pub(super) fn after(message: &MessageEvent, event: &RecordedEvent) -> Self {
        let ready = |attempt: u32, contact_id, due_at| Self::Ready {
            run_id: message.transition().run_id.0,
            tenant_id: event.tenant_id.0,
            contact_id,
            attempt: i32::try_from(attempt).unwrap_or(i32::MAX),
            position: event.position,
            due_at,
        };
        match message {
            MessageEvent::Queued { contact_id, .. } => ready(1, Some(contact_id.0), None),
            MessageEvent::DispatchStarted { transition, attempt, deadline, journal_id } => Self::Claimed {
                run_id: transition.run_id.0,
                tenant_id: event.tenant_id.0,
                attempt: i32::try_from(*attempt).unwrap_or(i32::MAX),
                journal_id: *journal_id,
                deadline: *deadline,
            },
            MessageEvent::DispatchReleased { attempt, reason, .. } => {
                let due_at = match reason {
                    ReleaseReason::NotConnected => Some(event.at + NOT_CONNECTED_PAUSE),
                    ReleaseReason::RunPaused
                    | ReleaseReason::RunEnded
                    | ReleaseReason::CampaignPaused
                    | ReleaseReason::CampaignEnded
                    | ReleaseReason::ContactOptedOut
                    | ReleaseReason::DeadlinePassed
                    | ReleaseReason::Shutdown
                    | ReleaseReason::NeverCalled => None,
                };
                ready(attempt + 1, None, due_at)
            }
            MessageEvent::Deferred { attempt, until, .. } => ready(attempt + 1, None, Some(*until)),
            MessageEvent::Settled { transition, attempt, .. } if transition.to == MessageStatus::Pending => {
                ready(attempt + 1, None, None)
            }
            MessageEvent::Skipped { .. }
            | MessageEvent::Sent { .. }
            | MessageEvent::Delivered { .. }
            | MessageEvent::Read { .. }
            | MessageEvent::Failed { .. }
            | MessageEvent::OutcomeUnknown { .. }
            | MessageEvent::Unconfirmed { .. }
            | MessageEvent::Settled { .. }
            | MessageEvent::Expired { .. }
            | MessageEvent::Cancelled { .. } => Self::Gone,
        }
    }
}

#[derive(Default)]
struct ReadyColumns {
    message_ids: Vec<Uuid>,
    run_ids: Vec<Uuid>,
    tenant_ids: Vec<Uuid>,
    contact_ids: Vec<Option<Uuid>>,
    attempts: Vec<i32>,
    positions: Vec<Position>,
    due_at: Vec<Option<DateTime<Utc>>>,
}

#[derive(Default)]
struct ClaimColumns {
    message_ids: Vec<Uuid>,
    run_ids: Vec<Uuid>,
    tenant_ids: Vec<Uuid>,
    attempts: Vec<i32>,
    journal_ids: Vec<Uuid>,
    deadlines: Vec<DateTime<Utc>>,
}

pub(super) async fn write_places(
    connection: &mut PgConnection,
    places: &BTreeMap<Uuid, Place>,
) -> Result<(), sqlx::Error> {
    let mut ready = ReadyColumns::default();
    let mut claims = ClaimColumns::default();
    let mut not_ready = Vec::new();
    let mut not_claimed = Vec::new();
    for (id, place) in places {
        match place {
            Place::Ready { run_id, tenant_id, contact_id, attempt, position, due_at } => {
                ready.message_ids.push(*id);
                ready.run_ids.push(*run_id);
                ready.tenant_ids.push(*tenant_id);
                ready.contact_ids.push(*contact_id);
                ready.attempts.push(*attempt);
                ready.positions.push(*position);
                ready.due_at.push(*due_at);
                not_claimed.push(*id);
            }
            Place::Claimed { run_id, tenant_id, attempt, journal_id, deadline } => {
                claims.message_ids.push(*id);
                claims.run_ids.push(*run_id);
                claims.tenant_ids.push(*tenant_id);
                claims.attempts.push(*attempt);
                claims.journal_ids.push(*journal_id);
                claims.deadlines.push(*deadline);
                not_ready.push(*id);
            }
            Place::Gone => {
                not_ready.push(*id);
                not_claimed.push(*id);
            }
        }
    }
    if !not_ready.is_empty() {
        sqlx::query!("DELETE FROM ready_list WHERE message_id = ANY($1)", &not_ready).execute(&mut *connection).await?;
    }
    if !not_claimed.is_empty() {
        sqlx::query!("DELETE FROM open_claims WHERE message_id = ANY($1)", &not_claimed)
            .execute(&mut *connection)
            .await?;
    }
    if !ready.message_ids.is_empty() {
        insert_ready(connection, &ready).await?;
    }
    if !claims.message_ids.is_empty() {
        insert_claims(connection, &claims).await?;
    }
    Ok(())
}

/// The sender and the lane are found through the run's gate when the row is fed, so a row needs no gate yet. In the order
/// of the log, as the feeder reads it. A message whose recipient was erased has nobody to go to.
async fn insert_ready(connection: &mut PgConnection, rows: &ReadyColumns) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO ready_list (message_id, run_id, tenant_id, contact_id, attempt, position, due_at)
         SELECT n.message_id, n.run_id, n.tenant_id, n.contact_id, n.attempt, n.position, n.due_at
         FROM (
             SELECT t.message_id, t.run_id, t.tenant_id, t.attempt, t.position, t.due_at,
                    coalesce(
                        t.contact_id,
                        (SELECT r.contact_id FROM message_recipients r WHERE r.message_id = t.message_id),
                        '00000000-0000-0000-0000-000000000000'
                    ) AS contact_id
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::integer[], $6::bigint[], $7::timestamptz[])
                 AS t(message_id, run_id, tenant_id, contact_id, attempt, position, due_at)
         ) n
         ON CONFLICT (message_id) DO UPDATE
         SET attempt = excluded.attempt, position = excluded.position, due_at = excluded.due_at",
        &rows.message_ids,
        &rows.run_ids,
        &rows.tenant_ids,
        &rows.contact_ids as &[Option<Uuid>],
        &rows.attempts,
        &rows.positions,
        &rows.due_at as &[Option<DateTime<Utc>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn insert_claims(connection: &mut PgConnection, rows: &ClaimColumns) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO open_claims (message_id, run_id, tenant_id, attempt, journal_id, deadline)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::integer[], $5::uuid[], $6::timestamptz[])
         ON CONFLICT (message_id) DO UPDATE
         SET attempt = excluded.attempt, journal_id = excluded.journal_id, deadline = excluded.deadline",
        &rows.message_ids,
        &rows.run_ids,
        &rows.tenant_ids,
        &rows.attempts,
        &rows.journal_ids,
        &rows.deadlines,
    )
    .execute(connection)
    .await?;
    Ok(())
}
