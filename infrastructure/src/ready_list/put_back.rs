//! Puts messages back that were taken off the list for a person to look at.

use std::collections::{BTreeMap, HashMap};

use chrono::DateTime;
use domain::event::{Event, RecordedEvent};
use domain::ids::TenantId;
use domain::message::MessageStatus;
use sqlx::PgConnection;
use uuid::Uuid;

use super::effect::{NAME, Place, write_places};
use crate::event_feed::lock_position_in_tx;

/// Holds the follower of the ready list where it is until the transaction ends.
///
/// With the lock and without a race, a row can be put on the list from the last event that is visible: the follower has
/// either seen that event, or will see it and write the row anew; whatever comes later, it sees the row.
pub(crate) struct Followed(());

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutBack {
    /// It is on the list, due as its last event says.
    Ready,
    /// It does not wait to be sent.
    NotWaiting(MessageStatus),
    /// Its last event cannot be read.
    Unreadable,
}

pub(crate) async fn lock_in_tx(connection: &mut PgConnection) -> Result<Followed, sqlx::Error> {
    lock_position_in_tx(connection, NAME).await.map(|_| Followed(()))
}

/// Puts messages on the list with the attempt that comes next. A message that does not exist is not in the answer.
pub(crate) async fn put_back_in_tx(
    connection: &mut PgConnection,
    _: &Followed,
    messages: &[Uuid],
) -> Result<HashMap<Uuid, PutBack>, sqlx::Error> {
    let ids: Vec<String> = messages.iter().map(Uuid::to_string).collect();
    let rows = sqlx::query!(
        r#"SELECT e.aggregate_id::uuid AS "id!", e.tenant_id AS "tenant_id!", e.position, e.sequence, e.event_type,
                  e.event_version, e.payload::text AS "payload!", e.metadata ->> 'at' AS at, e.recorded_at
           FROM unnest($1::text[]) AS message (id)
           CROSS JOIN LATERAL (
               SELECT * FROM events WHERE aggregate_type = 'Message' AND aggregate_id = message.id
               ORDER BY sequence DESC LIMIT 1
           ) e"#,
        &ids,
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut places = BTreeMap::new();
    let mut put_back = HashMap::new();
    for row in rows {
        let event = match Event::decode("Message", &row.event_type, &row.event_version, &row.payload) {
            Ok(event) => event,
            Err(error) => {
                tracing::error!(message.id = %row.id, error = &error as &dyn std::error::Error, "an event cannot be read");
                put_back.insert(row.id, PutBack::Unreadable);
                continue;
            }
        };
        let recorded = RecordedEvent {
            position: row.position,
            tenant_id: TenantId(row.tenant_id),
            aggregate_id: row.id,
            sequence: row.sequence,
            at: row.at.and_then(|at| at.parse().ok()).unwrap_or(row.recorded_at),
            event,
        };
        let Event::Message(message) = &recorded.event else { continue };
        match Place::after(message, &recorded) {
            Place::Ready { run_id, tenant_id, contact_id, attempt, position, due_at } => {
                // The feeder may be past its position already: as one that has fallen due it is found all the same.
                let due_at = due_at.or(Some(DateTime::UNIX_EPOCH));
                places.insert(row.id, Place::Ready { run_id, tenant_id, contact_id, attempt, position, due_at });
                put_back.insert(row.id, PutBack::Ready);
            }
            Place::Claimed { .. } | Place::Gone => {
                put_back.insert(row.id, PutBack::NotWaiting(message.transition().to));
            }
        }
    }
    write_places(connection, &places).await?;
    Ok(put_back)
}
