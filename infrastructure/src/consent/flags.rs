//! Contacts that cannot be reached for a while, as WhatsApp's refusals say.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::event::{Event, RecordedEvent};
use domain::message::{FailureClass, MessageEvent, MessageStatus};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::event_feed::TableEffect;

pub(super) const UNDELIVERABLE: &str = "undeliverable";
const COOLING: &str = "cooling";

/// Follows refusals. A message that was delivered after all takes its contact's flag away.
pub struct ContactFlagsEffect;

/// What an event says about the contact of its message.
#[derive(Clone, Copy)]
enum Said {
    Flag { kind: &'static str, code: i32, at: DateTime<Utc> },
    Reached,
}

/// By contact and kind of flag: tenant, code and time of the flag; none where it goes.
type LastWords = BTreeMap<(Uuid, &'static str), Option<(Uuid, i32, DateTime<Utc>)>>;

fn said(event: &RecordedEvent) -> Option<Said> {
    let Event::Message(message) = &event.event else { return None };
    match message {
        MessageEvent::Failed { code, class, .. } => {
            let kind = match class {
                FailureClass::Undeliverable => UNDELIVERABLE,
                FailureClass::Cooling => COOLING,
                FailureClass::Permanent
                | FailureClass::Stopped
                | FailureClass::Configuration
                | FailureClass::RetriesExhausted => return None,
            };
            // By the engine's clock, as it is read: the provider's may be another.
            Some(Said::Flag { kind, code: *code, at: event.at })
        }
        MessageEvent::Delivered { transition, .. } | MessageEvent::Read { transition, .. } => {
            (transition.from == Some(MessageStatus::Failed)).then_some(Said::Reached)
        }
        MessageEvent::Queued { .. }
        | MessageEvent::Skipped { .. }
        | MessageEvent::DispatchStarted { .. }
        | MessageEvent::DispatchReleased { .. }
        | MessageEvent::Sent { .. }
        | MessageEvent::Deferred { .. }
        | MessageEvent::OutcomeUnknown { .. }
        | MessageEvent::Unconfirmed { .. }
        | MessageEvent::Settled { .. }
        | MessageEvent::Expired { .. }
        | MessageEvent::Cancelled { .. } => None,
    }
}

#[async_trait]
impl TableEffect for ContactFlagsEffect {
    fn name(&self) -> &'static str {
        "contact-flags"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        said(event).is_some()
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let messages: Vec<Uuid> = events.iter().map(|event| event.aggregate_id).collect();
        let rows =
            sqlx::query!("SELECT message_id, contact_id FROM message_recipients WHERE message_id = ANY($1)", &messages)
                .fetch_all(&mut *connection)
                .await?;
        let contacts: BTreeMap<Uuid, Uuid> = rows.into_iter().map(|row| (row.message_id, row.contact_id)).collect();
        // The last word on each contact counts; the map also sorts the rows.
        let mut last = LastWords::new();
        for event in events {
            // Of whom was erased nothing is noted.
            let (Some(said), Some(contact)) = (said(event), contacts.get(&event.aggregate_id)) else { continue };
            match said {
                Said::Flag { kind, code, at } => {
                    last.insert((*contact, kind), Some((event.tenant_id.0, code, at)));
                }
                Said::Reached => {
                    last.insert((*contact, UNDELIVERABLE), None);
                    last.insert((*contact, COOLING), None);
                }
            }
        }
        write(connection, &last).await
    }
}

async fn write(connection: &mut PgConnection, last: &LastWords) -> Result<(), sqlx::Error> {
    let (mut contacts, mut kinds, mut tenants, mut codes, mut times) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut reached: Vec<Uuid> = Vec::new();
    for ((contact, kind), flag) in last {
        let Some((tenant, code, at)) = flag else {
            reached.push(*contact);
            continue;
        };
        contacts.push(*contact);
        kinds.push(*kind);
        tenants.push(*tenant);
        codes.push(*code);
        times.push(*at);
    }
    if !reached.is_empty() {
        sqlx::query!("DELETE FROM contact_flags WHERE contact_id = ANY($1)", &reached)
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query!(
        "INSERT INTO contact_flags AS known (contact_id, kind, tenant_id, code, flagged_at)
         SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::integer[], $5::timestamptz[])
         ON CONFLICT (contact_id, kind) DO UPDATE
         SET code = excluded.code, flagged_at = greatest(known.flagged_at, excluded.flagged_at)",
        &contacts,
        &kinds as _,
        &tenants,
        &codes,
        &times,
    )
    .execute(connection)
    .await?;
    Ok(())
}
