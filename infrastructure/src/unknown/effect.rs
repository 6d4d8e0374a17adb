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
        let mut places: BTreeMap<Uuid, Vec<Place>> = BTreeMap::new();
        for event in events {
            let Event::Message(message) = &event.event else { continue };
            places.entry(event.aggregate_id).or_default().push(place_after(message, event));
        }
        for (message_id, steps) in places {
            for step in steps {
                take(connection, message_id, step).await?;
            }
        }
        Ok(())
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

async fn take(connection: &mut PgConnection, message_id: Uuid, place: Place) -> Result<(), sqlx::Error> {
    match place {
        Place::Unknown { run_id, tenant_id, attempt, since } => {
            sqlx::query!(
                "INSERT INTO unknown_outcomes (message_id, tenant_id, run_id, attempt, unknown_since)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (message_id) DO UPDATE
                 SET attempt = excluded.attempt, unknown_since = excluded.unknown_since, unconfirmed_at = NULL",
                message_id,
                tenant_id,
                run_id,
                attempt,
                since,
            )
            .execute(connection)
            .await?;
        }
        Place::Unconfirmed { at } => {
            sqlx::query!("UPDATE unknown_outcomes SET unconfirmed_at = $2 WHERE message_id = $1", message_id, at)
                .execute(connection)
                .await?;
        }
        Place::Settled => {
            sqlx::query!("DELETE FROM unknown_outcomes WHERE message_id = $1", message_id).execute(connection).await?;
        }
    }
    Ok(())
}
