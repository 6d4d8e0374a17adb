//! The feeder: keeps only a few seconds of permit outstanding per sender and lane, chosen in turn over the runs, and
//! publishes again what was published and never claimed.
//!
//! So a small run never waits behind a million, and losing the whole broker costs seconds: the queue holds a copy of a
//! short stretch of this list, never the truth.

use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::CommandEnvelope;
use domain::ids::{MessageId, RunId, SenderId, TenantId};
use domain::message::{Lane, MessageCommand};
use futures::FutureExt;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::clock::Clock;
use crate::dispatch_queue::{DispatchItem, DispatchQueue, QueueError};
use crate::event_store::{Actor, Addressed, CommandError, MessageStore};
use crate::lease;

#[derive(Debug, Clone)]
pub struct FeederConfig {
    pub poll: Duration,
    /// How much permit may be in the queue, per sender and lane.
    pub outstanding: Duration,
    /// A message that was published and not claimed within this is published again.
    pub republish_after: Duration,
}

const LEASE: &str = "feeder";
const LEASE_TTL: Duration = Duration::from_secs(5);
/// How often lost messages and those of ended runs are looked for.
const CHORES: Duration = Duration::from_secs(1);
/// Messages of one run that has ended which are ended in one go.
const ENDED_PAGE: i64 = 500;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

pub struct Feeder {
    pub pool: PgPool,
    pub clock: Clock,
    pub queue: Arc<dyn DispatchQueue>,
    pub messages: MessageStore,
    pub config: FeederConfig,
    /// Says why no messages can be fed, while that is so.
    pub trouble: watch::Sender<Option<String>>,
}

#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("the ready list could not be read or changed")]
    Database(#[from] sqlx::Error),
    #[error("the dispatch queue did not take messages")]
    Queue(#[from] QueueError),
    #[error("messages of an ended run could not be ended")]
    Command(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Feeder {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let holder = Uuid::new_v4();
        let mut failing = false;
        let mut holding = false;
        let mut chores = tokio::time::interval(CHORES);
        chores.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let chores_are_due = chores.tick().now_or_never().is_some();
            let turn = async {
                // Two feeders would publish the same rows twice: harmless, and a waste.
                if chores_are_due {
                    holding = lease::hold(&self.pool, LEASE, holder, LEASE_TTL).await?;
                }
                if !holding {
                    return Ok(());
                }
                if chores_are_due {
                    self.republish().await?;
                    self.end_messages_of_ended_runs().await?;
                }
                self.feed().await
            };
            let pause = match turn.await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        tracing::info!("messages are being fed again");
                        self.trouble.send_replace(None);
                    }
                    self.config.poll
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        self.trouble.send_replace(Some(error.to_string()));
                        tracing::warn!(
                            error = &error as &dyn std::error::Error,
                            "no messages can be fed; trying again"
                        );
                    }
                    RETRY_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
        }
        if let Err(error) = lease::release(&self.pool, LEASE, holder).await {
            tracing::debug!(%error, "the feeder's lease ends by itself");
        }
    }

    async fn feed(&self) -> Result<(), FeedError> {
        // One row per sender and lane that has an open run, with what is outstanding there.
        let queues = sqlx::query!(
            r#"SELECT g.sender_id, g.lane, s.rate_per_s,
                   (SELECT count(*) FROM ready_list r
                    WHERE r.sender_id = g.sender_id AND r.lane = g.lane AND r.published_at IS NOT NULL) AS "outstanding!"
               FROM (SELECT DISTINCT sender_id, lane FROM run_gates WHERE state = 'open') g
               JOIN senders s ON s.id = g.sender_id"#
        )
        .fetch_all(&self.pool)
        .await?;
        for queue in queues {
            let permit = f64::from(queue.rate_per_s) * self.config.outstanding.as_secs_f64();
            #[expect(clippy::cast_possible_truncation, reason = "at most 1,000/s times a few seconds")]
            let room = permit.ceil() as i64 - queue.outstanding;
            let Some(lane) = Lane::parse(&queue.lane).filter(|_| room > 0) else { continue };
            let items = self.next_items(SenderId(queue.sender_id), lane, room).await?;
            self.publish(&items).await?;
        }
        Ok(())
    }

    /// The next due messages of a sender and lane, the runs taking turns: each run offers its first rows, and the
    /// first of every run come before the second of any.
    async fn next_items(&self, sender: SenderId, lane: Lane, room: i64) -> Result<Vec<DispatchItem>, FeedError> {
        let rows = sqlx::query!(
            r#"SELECT r.message_id AS "message_id!", r.attempt AS "attempt!", r.run_id AS "run_id!",
                      r.tenant_id AS "tenant_id!"
               FROM run_gates g
               CROSS JOIN LATERAL (
                   SELECT message_id, attempt, run_id, tenant_id,
                          row_number() OVER (ORDER BY due_at, message_id) AS turn
                   FROM ready_list
                   WHERE run_id = g.run_id AND published_at IS NULL AND due_at <= $3
                   ORDER BY due_at, message_id LIMIT $4
               ) r
               WHERE g.state = 'open' AND g.sender_id = $1 AND g.lane = $2
               ORDER BY r.turn, r.run_id LIMIT $4"#,
            sender.0,
            lane.name(),
            self.clock.now(),
            room,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| DispatchItem {
                message_id: MessageId(row.message_id),
                attempt: u32::try_from(row.attempt).unwrap_or(u32::MAX),
                tenant_id: TenantId(row.tenant_id),
                run_id: RunId(row.run_id),
                sender_id: sender,
                lane,
            })
            .collect())
    }

    /// Publishes, then remembers: a crash in between publishes twice, and the second copy finds the attempt begun.
    async fn publish(&self, items: &[DispatchItem]) -> Result<(), FeedError> {
        if items.is_empty() {
            return Ok(());
        }
        let published = self.queue.publish(items).await?;
        let mut ids = Vec::new();
        let mut attempts = Vec::new();
        let mut senders = Vec::new();
        let mut lanes = Vec::new();
        for (item, _) in items.iter().zip(published).filter(|(_, taken)| *taken) {
            ids.push(item.message_id.0);
            attempts.push(i32::try_from(item.attempt).unwrap_or(i32::MAX));
            senders.push(item.sender_id.0);
            lanes.push(item.lane.name().to_owned());
        }
        sqlx::query!(
            "UPDATE ready_list r SET published_at = clock_timestamp(), sender_id = t.sender_id, lane = t.lane
             FROM (
                 SELECT u.* FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::text[])
                     AS u(message_id, attempt, sender_id, lane)
                 JOIN ready_list l
                   ON l.message_id = u.message_id AND l.attempt = u.attempt AND l.published_at IS NULL
                 FOR UPDATE OF l SKIP LOCKED
             ) t
             WHERE r.message_id = t.message_id",
            &ids,
            &attempts,
            &senders,
            &lanes,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn republish(&self) -> Result<(), FeedError> {
        let lost = sqlx::query!(
            "UPDATE ready_list SET published_at = NULL, leased_until = NULL WHERE message_id IN (
                 SELECT message_id FROM ready_list
                 WHERE published_at < clock_timestamp() - make_interval(secs => $1)
                   AND (leased_until IS NULL OR leased_until < clock_timestamp())
                 FOR UPDATE SKIP LOCKED)",
            self.config.republish_after.as_secs_f64(),
        )
        .execute(&self.pool)
        .await?;
        if lost.rows_affected() > 0 {
            tracing::debug!(messages = lost.rows_affected(), "messages that nobody claimed are published again");
        }
        Ok(())
    }

    /// What waits in a run that was cancelled or has expired is ended, page by page.
    async fn end_messages_of_ended_runs(&self) -> Result<(), FeedError> {
        let rows = sqlx::query!(
            // The order by is what makes the planner take the index of unpublished rows; what is published comes back.
            r#"SELECT r.message_id AS "message_id!", r.tenant_id AS "tenant_id!", g.state
               FROM run_gates g
               CROSS JOIN LATERAL (
                   SELECT message_id, tenant_id FROM ready_list WHERE run_id = g.run_id AND published_at IS NULL
                   ORDER BY due_at, message_id LIMIT $1
               ) r
               WHERE g.state IN ('cancelled', 'expired') LIMIT $1"#,
            ENDED_PAGE,
        )
        .fetch_all(&self.pool)
        .await?;
        let commands = rows
            .into_iter()
            .map(|row| {
                let command = if row.state == "cancelled" { MessageCommand::Cancel } else { MessageCommand::Expire };
                let envelope = CommandEnvelope::new(TenantId(row.tenant_id), self.clock.now(), command);
                Addressed::new(row.message_id, envelope, Actor::Engine("feeder"))
            })
            .collect();
        for result in self.messages.execute_many(commands).await {
            match result {
                // Refused: it is being sent at this moment, or has ended otherwise.
                Ok(_) | Err(CommandError::Refused(_)) => {}
                Err(error) => return Err(FeedError::Command(Box::new(error))),
            }
        }
        Ok(())
    }
}
