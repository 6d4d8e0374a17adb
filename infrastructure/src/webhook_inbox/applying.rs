//! Gives statuses to their messages: all those of a step in one go.
//!
//! A status finds its message by our own id, which WhatsApp echoes, or by WhatsApp's. What a message refuses is parked
//! alone; a status whose message is not known yet waits for it.

use chrono::{DateTime, Utc};
use domain::aggregate::CommandEnvelope;
use domain::ids::{MessageId, TenantId};
use domain::message::{Acceptance, FailureClass, MessageCommand, MessageError};
use sqlx::PgPool;
use uuid::Uuid;

use super::interpreter::InterpretError;
use super::pending::Rest;
use super::reading::{Located, Place};
use crate::event_store::{Actor, Addressed, Attachment, CommandError, MessageStore};
use crate::whatsapp::webhook::{StatusItem, StatusKind};
use crate::whatsapp::{Channel, Reaction, reaction};

/// Whose command it was.
struct Origin {
    place: Place,
    tenant_id: TenantId,
    /// Found by our own id?
    by_callback: bool,
}

/// Applies statuses; what cannot be applied goes to `rest`.
pub(super) async fn apply(
    pool: &PgPool,
    messages: &MessageStore,
    located: Vec<Located>,
    now: DateTime<Utc>,
    rest: &mut Rest,
) -> Result<(), InterpretError> {
    let known = messages_of(pool, &located).await?;
    let mut commands = Vec::with_capacity(located.len());
    let mut origins = Vec::with_capacity(located.len());
    for (status, known) in located.into_iter().zip(known) {
        match status.status.callback.or(known) {
            None if !matches!(status.status.status, StatusKind::Other(_)) => rest.waiting.push(status),
            None => {}
            Some(message) => {
                let by_callback = status.status.callback.is_some();
                let origin = Origin { place: status.place, tenant_id: status.tenant_id, by_callback };
                if let Some(command) = address(message, status, by_callback, now) {
                    commands.push(command);
                    origins.push(origin);
                }
            }
        }
    }
    let answers = messages.execute_many(commands).await;
    for (origin, answer) in origins.into_iter().zip(answers) {
        match answer {
            Ok(_) => {}
            // Another application sends from the same number, with ids of its own.
            Err(CommandError::Refused(MessageError::NotFound)) if origin.by_callback => {
                tracing::debug!(body.id = origin.place.body_id, "a status names a message that is not ours");
            }
            Err(error @ (CommandError::Refused(_) | CommandError::Unreadable { .. } | CommandError::Poisoned(_))) => {
                rest.parked.push(origin.place.parked(Some(origin.tenant_id), error.to_string()));
            }
            Err(error) => return Err(InterpretError::Command(error)),
        }
    }
    Ok(())
}

/// The messages that WhatsApp's ids name, for statuses that do not name ours; one answer for each status.
async fn messages_of(pool: &PgPool, located: &[Located]) -> Result<Vec<Option<MessageId>>, sqlx::Error> {
    let mut messages = vec![None; located.len()];
    let mut numbers = Vec::new();
    let mut senders = Vec::new();
    let mut wamids = Vec::new();
    for (status, number) in located.iter().zip(0_i64..) {
        if status.status.callback.is_none() {
            numbers.push(number);
            senders.push(status.sender_id.0);
            wamids.push(status.status.wamid.as_str());
        }
    }
    if numbers.is_empty() {
        return Ok(messages);
    }
    let rows = sqlx::query!(
        r#"SELECT t.number AS "number!", p.message_id AS "message_id!"
           FROM unnest($1::bigint[], $2::uuid[], $3::text[]) AS t(number, sender_id, wamid)
           JOIN provider_messages p ON p.sender_id = t.sender_id AND p.wamid = t.wamid
           WHERE p.message_id IS NOT NULL"#,
        &numbers,
        &senders,
        &wamids as _,
    )
    .fetch_all(pool)
    .await?;
    for row in rows {
        let place = usize::try_from(row.number).ok().and_then(|number| messages.get_mut(number));
        if let Some(place) = place {
            *place = Some(MessageId(row.message_id));
        }
    }
    Ok(messages)
}

/// `None` for a status that says nothing to us. The message learns WhatsApp's id with its event, unless that is how it
/// was found.
fn address(
    message: MessageId,
    status: Located,
    by_callback: bool,
    now: DateTime<Utc>,
) -> Option<Addressed<MessageCommand>> {
    let StatusItem { wamid, status: kind, at, errors, pricing, .. } = status.status;
    let command = match kind {
        StatusKind::Sent => MessageCommand::MarkSent { attempt: None, acceptance: Acceptance::Accepted, at },
        StatusKind::Delivered => MessageCommand::MarkDelivered { at, pricing },
        StatusKind::Read => MessageCommand::MarkRead { at, pricing },
        StatusKind::Failed => failed(errors.first().copied(), at),
        StatusKind::Other(_) => return None,
    };
    let envelope = CommandEnvelope::new(status.tenant_id, now, command);
    let addressed = Addressed::new(Uuid::from(message), envelope, Actor::Engine("webhooks"));
    if !by_callback {
        return Some(addressed);
    }
    Some(addressed.with(Attachment::ProviderMessage { sender_id: status.sender_id.0, wamid, at: now }))
}

fn failed(code: Option<i32>, at: DateTime<Utc>) -> MessageCommand {
    let class = match code.map(|code| reaction(code, Channel::Status)) {
        Some(Reaction::Fail(class)) => class,
        Some(Reaction::StallSender | Reaction::StallTemplate) => FailureClass::Configuration,
        // A message that failed after it was accepted is not sent again by this release.
        Some(Reaction::Retry { .. } | Reaction::Ambiguous) | None => FailureClass::Permanent,
    };
    MessageCommand::MarkFailed { code: code.unwrap_or_default(), class, at }
}
