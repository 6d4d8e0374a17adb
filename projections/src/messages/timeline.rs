//! What happened to one message, told from the log itself. There is no table for it: it is asked for seldom, and the
//! events of a message lie together in the log's primary key.

use chrono::{DateTime, SecondsFormat, Utc};
use domain::aggregate::Position;
use domain::event::Event;
use domain::ids::{MessageId, TenantId};
use domain::message::{Acceptance, MessageEvent};
use serde::Serialize;
use sqlx::PgPool;

/// Attempts are bounded, so a message has far fewer events than this.
const ENTRIES_MAX: i64 = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TimelineEntry {
    pub position: Position,
    /// The engine's time.
    pub at: DateTime<Utc>,
    /// The event's stored name.
    pub event: String,
    /// For people: the status and what led to it.
    pub text: String,
}

/// The events of a message up to a position, in order.
pub(super) async fn of(
    pool: &PgPool,
    tenant: TenantId,
    message: MessageId,
    up_to: Position,
) -> Result<Vec<TimelineEntry>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT position, event_type, event_version, payload::text AS "payload!",
                  coalesce((metadata ->> 'at')::timestamptz, recorded_at) AS "at!"
           FROM events
           WHERE aggregate_type = 'Message' AND aggregate_id = $1 AND tenant_id = $2 AND position <= $3
           ORDER BY sequence LIMIT $4"#,
        message.to_string(),
        tenant.0,
        up_to,
        ENTRIES_MAX,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let event = Event::decode("Message", &row.event_type, &row.event_version, &row.payload)
                .map_err(|source| sqlx::Error::Decode(Box::new(source)))?;
            let text = match &event {
                Event::Message(message) => text_of(message),
                Event::Campaign(_) | Event::CampaignRun(_) | Event::Consent(_) => String::new(),
            };
            Ok(TimelineEntry { position: row.position, at: row.at, event: row.event_type, text })
        })
        .collect()
}

pub(crate) fn text_of(event: &MessageEvent) -> String {
    let what = match event {
        MessageEvent::Queued { lane, .. } => format!("queued in the {} lane", lane.name()),
        MessageEvent::Skipped { reason, .. } => format!("not queued ({})", reason.name()),
        MessageEvent::DispatchStarted { attempt, deadline, .. } => {
            format!("attempt {attempt} claimed, to be called before {}", shown(*deadline))
        }
        MessageEvent::DispatchReleased { attempt, reason, .. } => {
            format!("attempt {attempt} given back without a call ({})", reason.name())
        }
        MessageEvent::Sent { acceptance, at, .. } => {
            let how = match acceptance {
                Acceptance::Accepted => "accepted by WhatsApp",
                Acceptance::Held => "accepted by WhatsApp and held for quality assessment",
                Acceptance::Paused => "accepted by WhatsApp while its template is paused",
            };
            format!("{how} at {}", shown(*at))
        }
        MessageEvent::Delivered { at, .. } => format!("delivered to the contact at {}", shown(*at)),
        MessageEvent::Read { at, .. } => format!("read by the contact at {}", shown(*at)),
        MessageEvent::Failed { code, class, at, .. } => {
            format!("refused by WhatsApp with code {code} ({}) at {}", class.name(), shown(*at))
        }
        MessageEvent::Deferred { attempt, until, code, .. } => {
            format!("attempt {attempt} refused by WhatsApp with code {code}, to be tried again from {}", shown(*until))
        }
        MessageEvent::OutcomeUnknown { attempt, .. } => {
            format!("attempt {attempt} may or may not have reached WhatsApp")
        }
        MessageEvent::Unconfirmed { .. } => "WhatsApp reported nothing within the window".to_owned(),
        MessageEvent::Settled { attempt, .. } => format!("the outcome of attempt {attempt} was settled"),
        MessageEvent::Expired { .. } => "its time passed before it was sent".to_owned(),
        MessageEvent::Cancelled { .. } => "cancelled before it was sent".to_owned(),
    };
    format!("{}: {what}", event.transition().to.name())
}

fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
