//! Gives statuses to their messages: all those of a step in one go.
//!
//! A status finds its message by our own id, which WhatsApp echoes, or by WhatsApp's. What a message refuses is parked
//! alone; a status whose message is not known yet waits for it.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::CommandEnvelope;
use domain::ids::{MessageId, SenderId, TenantId};
use domain::message::{Acceptance, FailureClass, Message, MessageCommand, MessageError, MessageStatus};
use sqlx::PgPool;
use uuid::Uuid;

use super::interpreter::InterpretError;
use super::pending::Rest;
use super::reading::{Located, Place};
use crate::event_store::{Actor, Addressed, Attachment, CommandError, MessageStore};
use crate::whatsapp::webhook::{StatusItem, StatusKind};
use crate::whatsapp::{Channel, Reaction, RetryLadder, reaction};

/// Whose command it was.
struct Origin {
    place: Place,
    tenant_id: TenantId,
    /// Found by our own id?
    by_callback: bool,
    /// Of a status that says no more than that WhatsApp has accepted.
    acceptance: Option<AcceptanceWord>,
}

struct AcceptanceWord {
    message: MessageId,
    sender_id: SenderId,
    wamid: String,
    at: DateTime<Utc>,
}

/// What a retry after a status takes.
#[derive(Debug, Clone, Copy)]
pub struct FailureRules {
    /// How long a message waits before it is tried again.
    pub waits: RetryLadder,
    /// How often one message is tried again after such a status.
    pub retries_max: u32,
}

/// A message, and the attempt that WhatsApp's id belongs to, where that is known.
#[derive(Clone, Copy)]
struct Meant {
    message: MessageId,
    attempt: Option<u32>,
}

/// Applies statuses; what cannot be applied goes to `rest`.
pub(super) async fn apply(
    pool: &PgPool,
    messages: &MessageStore,
    rules: &FailureRules,
    located: Vec<Located>,
    now: DateTime<Utc>,
    rest: &mut Rest,
) -> Result<(), InterpretError> {
    let known = messages_of(pool, &located).await?;
    let ended_runs = ended_runs_of(pool, &located, &known).await?;
    let mut commands = Vec::with_capacity(located.len());
    let mut origins = Vec::with_capacity(located.len());
    for (status, known) in located.into_iter().zip(known) {
        let meant = match status.status.callback {
            Some(message) => {
                // An id of WhatsApp's that names another message of ours says nothing of this one.
                let attempt = known.filter(|known| known.message == message).and_then(|known| known.attempt);
                Some(Meant { message, attempt })
            }
            None => known,
        };
        match meant {
            None if !matches!(status.status.status, StatusKind::Other(_)) => rest.waiting.push(status),
            None => {}
            Some(meant) => {
                let by_callback = status.status.callback.is_some();
                let acceptance = (by_callback && status.status.status == StatusKind::Sent).then(|| AcceptanceWord {
                    message: meant.message,
                    sender_id: status.sender_id,
                    wamid: status.status.wamid.clone(),
                    at: status.status.at,
                });
                let origin = Origin { place: status.place, tenant_id: status.tenant_id, by_callback, acceptance };
                let rules = (!ended_runs.contains(&meant.message)).then_some(rules);
                if let Some(command) = address(meant, status, rules, now) {
                    commands.push(command);
                    origins.push(origin);
                }
            }
        }
    }
    let answers = messages.execute_many(commands).await;
    let mut unclear = Vec::new();
    for (origin, answer) in origins.into_iter().zip(answers) {
        match answer {
            // It may be the word that a later attempt waits for.
            Ok(committed) if committed.events.is_empty() && is_in_doubt(&committed.state) => unclear.push(origin),
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
    settle_later_attempts(pool, messages, unclear, now).await
}

fn is_in_doubt(message: &Message) -> bool {
    message.attempt > 1
        && matches!(
            message.status(),
            Some(MessageStatus::Dispatching | MessageStatus::Unknown | MessageStatus::Unconfirmed)
        )
}

/// That WhatsApp has accepted is said of every attempt, and without saying of which. Where a later attempt is in doubt,
/// the id decides: it belongs to an attempt that is known, or else to the latest.
async fn settle_later_attempts(
    pool: &PgPool,
    messages: &MessageStore,
    unclear: Vec<Origin>,
    now: DateTime<Utc>,
) -> Result<(), InterpretError> {
    let words: Vec<(TenantId, AcceptanceWord)> =
        unclear.into_iter().filter_map(|origin| Some((origin.tenant_id, origin.acceptance?))).collect();
    if words.is_empty() {
        return Ok(());
    }
    let senders: Vec<Uuid> = words.iter().map(|(_, word)| word.sender_id.0).collect();
    let wamids: Vec<&str> = words.iter().map(|(_, word)| word.wamid.as_str()).collect();
    let known = sqlx::query!(
        r#"SELECT t.place AS "place!", p.attempt
           FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS t(sender_id, wamid, place)
           LEFT JOIN provider_messages p ON p.sender_id = t.sender_id AND p.wamid = t.wamid
           ORDER BY t.place"#,
        &senders,
        &wamids as _,
    )
    .fetch_all(pool)
    .await?;
    let mut commands = Vec::new();
    for ((tenant_id, word), known) in words.into_iter().zip(known) {
        let command = match known.attempt.and_then(|attempt| u32::try_from(attempt).ok()) {
            Some(attempt) => {
                MessageCommand::MarkSent { attempt: Some(attempt), acceptance: Acceptance::Accepted, at: word.at }
            }
            None => MessageCommand::ConfirmLatestAttempt { at: word.at },
        };
        let known_by =
            Attachment::ProviderMessage { sender_id: word.sender_id.0, wamid: word.wamid, attempt: None, at: now };
        let envelope = CommandEnvelope::new(tenant_id, now, command);
        let addressed = Addressed::new(Uuid::from(word.message), envelope, Actor::Engine("webhooks"));
        commands.push(addressed.with(known_by));
    }
    for answer in messages.execute_many(commands).await {
        match answer {
            Ok(_) | Err(CommandError::Refused(_)) => {}
            Err(error) => return Err(InterpretError::Command(error)),
        }
    }
    Ok(())
}

/// The messages that WhatsApp's ids name, for statuses that do not name ours and for those of which it matters which
/// attempt they are about; one answer for each status.
async fn messages_of(pool: &PgPool, located: &[Located]) -> Result<Vec<Option<Meant>>, sqlx::Error> {
    let mut messages = vec![None; located.len()];
    let mut numbers = Vec::new();
    let mut senders = Vec::new();
    let mut wamids = Vec::new();
    for (status, number) in located.iter().zip(0_i64..) {
        if status.status.callback.is_none() || status.status.status == StatusKind::Failed {
            numbers.push(number);
            senders.push(status.sender_id.0);
            wamids.push(status.status.wamid.as_str());
        }
    }
    if numbers.is_empty() {
        return Ok(messages);
    }
    let rows = sqlx::query!(
        r#"SELECT t.number AS "number!", p.message_id AS "message_id!", p.attempt
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
            let attempt = row.attempt.and_then(|attempt| u32::try_from(attempt).ok());
            *place = Some(Meant { message: MessageId(row.message_id), attempt });
        }
    }
    Ok(messages)
}

/// Those messages of failures that may be retried whose run has ended: a message that becomes pending after that is not
/// sent any more.
async fn ended_runs_of(
    pool: &PgPool,
    located: &[Located],
    known: &[Option<Meant>],
) -> Result<HashSet<MessageId>, sqlx::Error> {
    let retried = |status: &StatusItem| {
        status.status == StatusKind::Failed
            && status
                .errors
                .first()
                .is_some_and(|code| matches!(reaction(*code, Channel::Status), Reaction::Retry { .. }))
    };
    let messages: Vec<String> = located
        .iter()
        .zip(known)
        .filter(|(located, _)| retried(&located.status))
        .filter_map(|(located, known)| located.status.callback.or(known.map(|known| known.message)))
        .map(|message| message.to_string())
        .collect();
    if messages.is_empty() {
        return Ok(HashSet::new());
    }
    let ended = sqlx::query_scalar!(
        r#"SELECT message.aggregate_id::uuid AS "id!"
           FROM events message
           CROSS JOIN LATERAL (
               SELECT event_type FROM events
               WHERE aggregate_type = 'CampaignRun'
                 AND aggregate_id = message.payload -> message.event_type -> 'transition' ->> 'run_id'
               ORDER BY sequence DESC LIMIT 1
           ) run
           WHERE message.aggregate_type = 'Message' AND message.aggregate_id = ANY($1) AND message.sequence = 1
             AND run.event_type IN ('RunCompleted', 'RunCancelled', 'RunExpired')"#,
        &messages,
    )
    .fetch_all(pool)
    .await?;
    Ok(ended.into_iter().map(MessageId).collect())
}

/// `None` for a status that says nothing to us. The message learns WhatsApp's id with its event, unless that is how it
/// was found.
fn address(
    meant: Meant,
    status: Located,
    rules: Option<&FailureRules>,
    now: DateTime<Utc>,
) -> Option<Addressed<MessageCommand>> {
    let StatusItem { wamid, status: kind, at, errors, pricing, callback, .. } = status.status;
    let command = match kind {
        StatusKind::Sent => MessageCommand::MarkSent { attempt: None, acceptance: Acceptance::Accepted, at },
        StatusKind::Delivered => MessageCommand::MarkDelivered { at, pricing },
        StatusKind::Read => MessageCommand::MarkRead { at, pricing },
        StatusKind::Failed => failed(meant.attempt, errors.first().copied(), at, rules, now),
        StatusKind::Other(_) => return None,
    };
    let envelope = CommandEnvelope::new(status.tenant_id, now, command);
    let addressed = Addressed::new(Uuid::from(meant.message), envelope, Actor::Engine("webhooks"));
    if callback.is_none() {
        return Some(addressed);
    }
    let known_by = Attachment::ProviderMessage { sender_id: status.sender_id.0, wamid, attempt: None, at: now };
    Some(addressed.with(known_by))
}

/// `rules`: `None` where nothing is retried any more.
fn failed(
    attempt: Option<u32>,
    code: Option<i32>,
    at: DateTime<Utc>,
    rules: Option<&FailureRules>,
    now: DateTime<Utc>,
) -> MessageCommand {
    let reaction = code.map(|code| reaction(code, Channel::Status));
    let code = code.unwrap_or_default();
    let class = match (reaction, rules) {
        (Some(Reaction::Retry { rung, scope }), Some(rules)) => {
            let wait = TimeDelta::from_std(rules.waits.first(rung, scope, None)).unwrap_or(TimeDelta::days(1));
            let retries_max = rules.retries_max;
            return MessageCommand::RetryFailed { attempt, code, at, until: now + wait, retries_max };
        }
        (Some(Reaction::Retry { .. }), None) => FailureClass::RetriesExhausted,
        (Some(Reaction::Fail(class)), _) => class,
        (Some(Reaction::Pause(_)), _) => FailureClass::Configuration,
        (Some(Reaction::Ambiguous) | None, _) => FailureClass::Permanent,
    };
    MessageCommand::MarkFailed { attempt, code, class, at }
}
