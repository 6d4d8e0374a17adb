//! Turns stored webhook bodies into commands, many at a time.
//!
//! A status finds its message by our own id, which WhatsApp echoes, or by WhatsApp's id. One whose message is not known
//! yet waits on the row of `provider_messages` that the dispatcher will fill in; the two cannot miss each other. What
//! cannot be applied is parked alone, and the rest of its body goes on. Interpreting a body twice changes nothing.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::CommandEnvelope;
use domain::ids::{MessageId, SenderId, TenantId};
use domain::message::{Acceptance, FailureClass, MessageCommand, MessageError};
use futures::FutureExt;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::event_store::{Actor, Addressed, Attachment, CommandError, MessageStore};
use crate::whatsapp::webhook::{StatusItem, StatusKind, WebhookItem, parse};
use crate::whatsapp::{Channel, Reaction, reaction};

#[derive(Debug, Clone)]
pub struct InterpreterConfig {
    /// Bodies taken in one go.
    pub batch_max: i64,
    pub poll: Duration,
    /// A body that failed so often is parked.
    pub attempts_max: i32,
}

/// A body that is being interpreted is not taken by anybody else for this long.
const LEASE_S: f64 = 15.0;
/// How often waiting statuses are looked through while none is taken up.
const WAITING_POLL: Duration = Duration::from_secs(1);
/// A status whose message is still not known after this belongs to another application that sends from the same number.
const WAITING_MAX: TimeDelta = TimeDelta::hours(1);
/// Waiting statuses taken up in one go.
const WAITING_PAGE: i64 = 1000;

#[derive(Clone)]
pub struct Interpreter {
    pub pool: PgPool,
    pub clock: Clock,
    pub messages: MessageStore,
    pub config: InterpreterConfig,
}

#[derive(Debug, thiserror::Error)]
enum InterpretError {
    #[error("the inbox could not be read or changed")]
    Database(#[from] sqlx::Error),
    #[error("a status could not be applied")]
    Command(#[source] Box<dyn std::error::Error + Send + Sync>),
}

struct Body {
    id: i64,
    body: Vec<u8>,
    verified_senders: Vec<Uuid>,
}

/// A status with where it came from.
struct Located {
    body_id: i64,
    item: i32,
    sender_id: SenderId,
    tenant_id: TenantId,
    status: StatusItem,
}

struct Parked {
    body_id: i64,
    item: Option<i32>,
    reason: String,
}

/// The owner of a WhatsApp number.
#[derive(Clone, Copy)]
struct Owner {
    sender_id: SenderId,
    tenant_id: TenantId,
}

impl Interpreter {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut failing = false;
        let mut look_at_waiting = tokio::time::interval(WAITING_POLL);
        look_at_waiting.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let waiting_is_due = look_at_waiting.tick().now_or_never().is_some();
            let turn = async {
                let bodies = self.interpret_pending().await?;
                let waiting = waiting_is_due && self.apply_waiting().await?;
                Ok::<bool, InterpretError>(bodies || waiting)
            };
            let pause = match turn.await {
                Ok(more) => {
                    failing = false;
                    if more { Duration::ZERO } else { self.config.poll }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = &error as &dyn std::error::Error, "webhooks wait; trying again");
                    }
                    Duration::from_millis(500)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// `true` if there may be more.
    async fn interpret_pending(&self) -> Result<bool, InterpretError> {
        let bodies = self.take().await?;
        if bodies.is_empty() {
            return Ok(false);
        }
        let interpreted = self.interpret(&bodies).await;
        if interpreted.is_err() {
            self.give_back(&bodies).await?;
        }
        interpreted.map(|()| true)
    }

    async fn interpret(&self, bodies: &[Body]) -> Result<(), InterpretError> {
        let owners = self.owners().await?;
        let mut located = Vec::new();
        let mut parked = Vec::new();
        for body in bodies {
            locate(body, &owners, &mut located, &mut parked);
        }
        self.apply(located, &mut parked).await?;
        let ids: Vec<i64> = bodies.iter().map(|body| body.id).collect();
        let mut tx = self.pool.begin().await?;
        for item in parked {
            park_in_tx(&mut tx, &item, self.clock.now()).await?;
        }
        sqlx::query!("DELETE FROM webhook_pending WHERE body_id = ANY($1)", &ids).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The store was in trouble, not the bodies: they come again at once, and it does not count against them.
    async fn give_back(&self, bodies: &[Body]) -> Result<(), sqlx::Error> {
        let ids: Vec<i64> = bodies.iter().map(|body| body.id).collect();
        sqlx::query!(
            "UPDATE webhook_pending SET not_before = '-infinity', attempts = attempts - 1 WHERE body_id = ANY($1)",
            &ids
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// The next bodies, under a short lease. One that was taken too often is parked instead: something about it ends
    /// the process, or the database refuses it.
    async fn take(&self) -> Result<Vec<Body>, sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let given_up = sqlx::query_scalar!(
            "DELETE FROM webhook_pending WHERE attempts >= $1 AND not_before <= clock_timestamp() RETURNING body_id",
            self.config.attempts_max,
        )
        .fetch_all(&mut *tx)
        .await?;
        for body_id in given_up {
            let reason = format!("could not be interpreted in {} attempts", self.config.attempts_max);
            park_in_tx(&mut tx, &Parked { body_id, item: None, reason }, self.clock.now()).await?;
        }
        tx.commit().await?;
        let rows = sqlx::query!(
            "WITH due AS (
                 SELECT body_id FROM webhook_pending WHERE not_before <= clock_timestamp()
                 ORDER BY body_id LIMIT $1 FOR UPDATE SKIP LOCKED
             ), taken AS (
                 UPDATE webhook_pending p
                 SET not_before = clock_timestamp() + make_interval(secs => $2), attempts = attempts + 1
                 FROM due WHERE p.body_id = due.body_id RETURNING p.body_id
             )
             SELECT b.id, b.body, b.verified_senders FROM taken JOIN webhook_bodies b ON b.id = taken.body_id
             ORDER BY b.id",
            self.config.batch_max,
            LEASE_S,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Body { id: row.id, body: row.body, verified_senders: row.verified_senders })
            .collect())
    }

    async fn owners(&self) -> Result<HashMap<String, Owner>, sqlx::Error> {
        let rows = sqlx::query!("SELECT id, tenant_id, phone_number_id FROM senders").fetch_all(&self.pool).await?;
        Ok(rows
            .into_iter()
            .map(|row| {
                let owner = Owner { sender_id: SenderId(row.id), tenant_id: TenantId(row.tenant_id) };
                (row.phone_number_id, owner)
            })
            .collect())
    }

    /// Applies statuses in one batch; what cannot be applied goes to `parked`.
    async fn apply(&self, located: Vec<Located>, parked: &mut Vec<Parked>) -> Result<(), InterpretError> {
        let known = self.messages_of(&located).await?;
        let mut commands = Vec::with_capacity(located.len());
        let mut of_command = Vec::with_capacity(located.len());
        let mut waiting = Vec::new();
        for status in located {
            let key = (status.sender_id.0, status.status.wamid.clone());
            let message = status.status.callback.map(|id| id.0).or_else(|| known.get(&key).copied());
            match (message, command_for(&status.status)) {
                (_, None) => {}
                (None, Some(_)) => waiting.push(status),
                (Some(message), Some(command)) => {
                    commands.push(self.address(&status, message, command));
                    of_command.push((status.body_id, status.item, status.status.callback.is_some()));
                }
            }
        }
        self.wait_for_message(waiting).await?;
        let answers = self.messages.execute_many(commands).await;
        for ((body_id, item, by_callback), answer) in of_command.into_iter().zip(answers) {
            match answer {
                Ok(_) => {}
                // Another application sends from the same number, with ids of its own.
                Err(CommandError::Refused(MessageError::NotFound)) if by_callback => {
                    tracing::debug!(body.id = body_id, "a status names a message that is not ours");
                }
                Err(CommandError::Refused(refusal)) => {
                    parked.push(Parked { body_id, item: Some(item), reason: refusal.to_string() });
                }
                Err(error @ (CommandError::Unreadable { .. } | CommandError::Poisoned(_))) => {
                    parked.push(Parked { body_id, item: Some(item), reason: error.to_string() });
                }
                Err(error) => return Err(InterpretError::Command(Box::new(error))),
            }
        }
        Ok(())
    }

    fn address(&self, status: &Located, message: Uuid, command: MessageCommand) -> Addressed<MessageCommand> {
        let envelope = CommandEnvelope::new(status.tenant_id, self.clock.now(), command);
        let known_by = Attachment::ProviderMessage {
            sender_id: status.sender_id.0,
            wamid: status.status.wamid.clone(),
            at: self.clock.now(),
        };
        Addressed::new(MessageId(message), envelope, Actor::Engine("webhooks")).with(known_by)
    }

    async fn messages_of(&self, located: &[Located]) -> Result<HashMap<(Uuid, String), Uuid>, sqlx::Error> {
        let (senders, wamids): (Vec<Uuid>, Vec<String>) = located
            .iter()
            .filter(|status| status.status.callback.is_none())
            .map(|status| (status.sender_id.0, status.status.wamid.clone()))
            .unzip();
        if senders.is_empty() {
            return Ok(HashMap::new());
        }
        let rows = sqlx::query!(
            r#"SELECT p.sender_id, p.wamid, p.message_id AS "message_id!"
               FROM provider_messages p JOIN unnest($1::uuid[], $2::text[]) AS t(sender_id, wamid)
                 ON p.sender_id = t.sender_id AND p.wamid = t.wamid
               WHERE p.message_id IS NOT NULL"#,
            &senders,
            &wamids,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.into_iter().map(|row| ((row.sender_id, row.wamid), row.message_id)).collect())
    }

    /// Leaves statuses at the row where their message will be known; the row is created here if the dispatcher has
    /// not created it yet.
    async fn wait_for_message(&self, mut waiting: Vec<Located>) -> Result<(), sqlx::Error> {
        if waiting.is_empty() {
            return Ok(());
        }
        // In the order in which appends write the same rows, so that the two cannot deadlock.
        waiting.sort_by(|a, b| (a.sender_id, &a.status.wamid).cmp(&(b.sender_id, &b.status.wamid)));
        let now = self.clock.now();
        let mut tx = self.pool.begin().await?;
        for status in &waiting {
            sqlx::query!(
                "INSERT INTO provider_messages (sender_id, wamid, created_at) VALUES ($1, $2, $3)
                 ON CONFLICT (sender_id, wamid) DO NOTHING",
                status.sender_id.0,
                status.status.wamid,
                now,
            )
            .execute(&mut *tx)
            .await?;
            let stored = serde_json::to_value(&status.status).expect("a status has a JSON form");
            sqlx::query!(
                "INSERT INTO webhook_waiting (sender_id, wamid, body_id, item, status, waiting_since)
                 VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
                status.sender_id.0,
                status.status.wamid,
                status.body_id,
                status.item,
                stored,
                now,
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await
    }

    /// Takes up statuses whose message is known by now, and gives up those that nobody will ever name. `true` if there
    /// may be more.
    async fn apply_waiting(&self) -> Result<bool, InterpretError> {
        sqlx::query!("DELETE FROM webhook_waiting WHERE waiting_since < $1", self.clock.now() - WAITING_MAX)
            .execute(&self.pool)
            .await?;
        let rows = sqlx::query!(
            r#"SELECT w.sender_id, w.wamid, w.body_id, w.item, w.status, s.tenant_id, p.message_id AS "message_id!"
               FROM webhook_waiting w
               JOIN provider_messages p ON p.sender_id = w.sender_id AND p.wamid = w.wamid
               JOIN senders s ON s.id = w.sender_id
               WHERE p.message_id IS NOT NULL ORDER BY w.body_id, w.item LIMIT $1"#,
            WAITING_PAGE,
        )
        .fetch_all(&self.pool)
        .await?;
        if rows.is_empty() {
            return Ok(false);
        }
        let (bodies, items): (Vec<i64>, Vec<i32>) = rows.iter().map(|row| (row.body_id, row.item)).unzip();
        let mut located = Vec::new();
        let mut parked = Vec::new();
        for row in rows {
            match serde_json::from_value::<StatusItem>(row.status) {
                Ok(mut status) => {
                    status.callback = Some(MessageId(row.message_id));
                    let (sender_id, tenant_id) = (SenderId(row.sender_id), TenantId(row.tenant_id));
                    located.push(Located { body_id: row.body_id, item: row.item, sender_id, tenant_id, status });
                }
                Err(error) => parked.push(Parked {
                    body_id: row.body_id,
                    item: Some(row.item),
                    reason: format!("the waiting status cannot be read: {error}"),
                }),
            }
        }
        self.apply(located, &mut parked).await?;
        let mut tx = self.pool.begin().await?;
        for item in parked {
            park_in_tx(&mut tx, &item, self.clock.now()).await?;
        }
        sqlx::query!(
            "DELETE FROM webhook_waiting w USING unnest($1::bigint[], $2::integer[]) AS t(body_id, item)
             WHERE w.body_id = t.body_id AND w.item = t.item",
            &bodies,
            &items,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Splits a body into statuses that may be believed and items that have to be parked.
fn locate(body: &Body, owners: &HashMap<String, Owner>, located: &mut Vec<Located>, parked: &mut Vec<Parked>) {
    let items = match parse(&body.body) {
        Ok(items) => items,
        Err(error) => {
            parked.push(Parked { body_id: body.id, item: None, reason: error.to_string() });
            return;
        }
    };
    for (item, index) in items.into_iter().zip(0..) {
        match item {
            WebhookItem::Status(status) => match owners.get(&status.phone_number_id) {
                // One sender's secret never speaks for another's number.
                Some(owner) if body.verified_senders.contains(&owner.sender_id.0) => located.push(Located {
                    body_id: body.id,
                    item: index,
                    sender_id: owner.sender_id,
                    tenant_id: owner.tenant_id,
                    status,
                }),
                Some(_) => parked.push(Parked {
                    body_id: body.id,
                    item: Some(index),
                    reason: "foreign: signed with the secret of another number".to_owned(),
                }),
                None => parked.push(Parked {
                    body_id: body.id,
                    item: Some(index),
                    reason: "foreign: no sender has this phone number id".to_owned(),
                }),
            },
            WebhookItem::Inbound { .. } | WebhookItem::Other { .. } => {}
            WebhookItem::Unreadable { reason, .. } => {
                parked.push(Parked { body_id: body.id, item: Some(index), reason: reason.to_string() });
            }
        }
    }
}

fn command_for(status: &StatusItem) -> Option<MessageCommand> {
    let (at, pricing) = (status.at, status.pricing.clone());
    match &status.status {
        StatusKind::Sent => Some(MessageCommand::MarkSent { attempt: None, acceptance: Acceptance::Accepted, at }),
        StatusKind::Delivered => Some(MessageCommand::MarkDelivered { at, pricing }),
        StatusKind::Read => Some(MessageCommand::MarkRead { at, pricing }),
        StatusKind::Failed => {
            let code = status.errors.first().copied();
            let class = match code.map(|code| reaction(code, Channel::Status)) {
                Some(Reaction::Fail(class)) => class,
                Some(Reaction::StallSender | Reaction::StallTemplate) => FailureClass::Configuration,
                // A message that failed after it was accepted is not sent again by this release.
                Some(Reaction::Retry { .. } | Reaction::Ambiguous) | None => FailureClass::Permanent,
            };
            Some(MessageCommand::MarkFailed { code: code.unwrap_or_default(), class, at })
        }
        StatusKind::Other(_) => None,
    }
}

async fn park_in_tx(
    connection: &mut sqlx::PgConnection,
    parked: &Parked,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let reference = match parked.item {
        Some(item) => format!("{}/{item}", parked.body_id),
        None => parked.body_id.to_string(),
    };
    tracing::warn!(webhook = %reference, reason = %parked.reason, "a webhook item is parked");
    sqlx::query!(
        "INSERT INTO dead_letters (source, reference, reason, parked_at) VALUES ('webhook', $1, $2, $3)",
        reference,
        parked.reason,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}
