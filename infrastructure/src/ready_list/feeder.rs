//! The feeder: keeps only a few seconds of permit outstanding per sender and lane, chosen in turn over the runs, and
//! publishes again what was published and never claimed.
//!
//! So a small run never waits behind a million, and losing the whole broker costs seconds: the queue holds a copy of a
//! short stretch of the list, never the truth. What is outstanding is known from the log: the feeder hears of every claim
//! there and writes nothing down itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::{CommandEnvelope, Position};
use domain::event::{Event, RecordedEvent};
use domain::ids::{MessageId, SenderId, TenantId};
use domain::message::{Lane, MessageCommand, MessageEvent};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::outstanding::{Outstanding, QueueKey};
use super::pick::{self, Cursors};
use crate::clock::Clock;
use crate::dispatch_queue::{DispatchItem, DispatchQueue, PARCEL_ITEMS_MAX, Parcel, QueueError};
use crate::event_feed::{self, EventFeed};
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
/// How often retries that have fallen due are looked for.
const LATER: Duration = Duration::from_millis(250);
/// Messages of one run that has ended which are ended in one go.
const ENDED_PAGE: i64 = 500;
/// Messages that are published again in one go.
const REPUBLISHED_MAX: usize = 5_000;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A parcel holds this part of a second of the permit: small enough that a claim of whole parcels stays exact.
const PARCELS_PER_S: usize = 40;

pub struct Feeder {
    pub pool: PgPool,
    pub clock: Clock,
    pub queue: Arc<dyn DispatchQueue>,
    pub messages: MessageStore,
    pub feed: EventFeed,
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
    #[error("claims could not be followed in the log")]
    Log(#[from] event_feed::FeedError),
    #[error("messages of an ended run could not be ended")]
    Command(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A sender's lane with open runs.
struct OpenQueue {
    key: QueueKey,
    rate_per_s: usize,
    runs: Vec<Uuid>,
}

impl Feeder {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let holder = Uuid::new_v4();
        let mut failing = false;
        while !shutdown.is_cancelled() {
            let failed = tokio::select! {
                () = shutdown.cancelled() => break,
                result = self.hold_and_feed(holder, &mut failing) => result.err(),
            };
            if let Some(error) = failed
                && !std::mem::replace(&mut failing, true)
            {
                self.trouble.send_replace(Some(error.to_string()));
                tracing::warn!(error = &error as &dyn std::error::Error, "no messages can be fed; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PAUSE) => {}
                () = shutdown.cancelled() => break,
            }
        }
        if let Err(error) = lease::release(&self.pool, LEASE, holder).await {
            tracing::debug!(%error, "the feeder's lease ends by itself");
        }
    }

    /// Feeds as long as the lease is held: two feeders would publish the same rows twice, which is harmless and a waste.
    async fn hold_and_feed(&self, holder: Uuid, failing: &mut bool) -> Result<(), FeedError> {
        if !lease::hold(&self.pool, LEASE, holder, LEASE_TTL).await? {
            return Ok(());
        }
        let mut turn =
            Turn { feeder: self, outstanding: Outstanding::default(), cursors: Cursors::new(), seen: self.feed.mark() };
        let every = |period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        let (mut poll, mut later, mut chores) = (every(self.config.poll), every(LATER), every(CHORES));
        loop {
            tokio::select! {
                biased;
                _ = chores.tick() => {
                    if !lease::hold(&self.pool, LEASE, holder, LEASE_TTL).await? {
                        return Ok(());
                    }
                    turn.republish().await?;
                    self.end_messages_of_ended_runs().await?;
                }
                _ = later.tick() => turn.feed_due().await?,
                _ = poll.tick() => {
                    turn.feed_at_once().await?;
                    if std::mem::take(failing) {
                        tracing::info!("messages are being fed again");
                        self.trouble.send_replace(None);
                    }
                }
                batch = self.feed.next(turn.seen) => {
                    let batch = batch?;
                    turn.heed(&batch.events);
                    turn.seen = batch.up_to;
                }
            }
        }
    }

    async fn open_queues(&self) -> Result<Vec<OpenQueue>, sqlx::Error> {
        let rows = sqlx::query!(
            r#"SELECT g.sender_id, g.lane, s.rate_per_s, array_agg(g.run_id ORDER BY g.run_id) AS "runs!"
               FROM run_gates g JOIN senders s ON s.id = g.sender_id
               WHERE g.state = 'open' GROUP BY g.sender_id, g.lane, s.rate_per_s"#
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                let key = (SenderId(row.sender_id), Lane::parse(&row.lane)?);
                let rate_per_s = usize::try_from(row.rate_per_s).unwrap_or_default().max(1);
                Some(OpenQueue { key, rate_per_s, runs: row.runs })
            })
            .collect())
    }

    /// What waits in a run that was cancelled or has expired is ended, page by page.
    async fn end_messages_of_ended_runs(&self) -> Result<(), FeedError> {
        let rows = sqlx::query!(
            // Both kinds of rows by their own index; none covers the two together.
            r#"SELECT r.message_id AS "message_id!", r.tenant_id AS "tenant_id!", g.state
               FROM run_gates g
               CROSS JOIN LATERAL (
                   (SELECT message_id, tenant_id FROM ready_list WHERE run_id = g.run_id AND due_at IS NULL
                    ORDER BY position LIMIT $1)
                   UNION ALL
                   (SELECT message_id, tenant_id FROM ready_list WHERE run_id = g.run_id AND due_at IS NOT NULL
                    ORDER BY due_at LIMIT $1)
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

/// What a feeder knows while it holds the lease.
struct Turn<'a> {
    feeder: &'a Feeder,
    outstanding: Outstanding,
    cursors: Cursors,
    /// How far claims have been followed in the log.
    seen: Position,
}

impl Turn<'_> {
    /// A claim, or the end of a message, makes its copy in the queue worthless.
    fn heed(&mut self, events: &[Arc<RecordedEvent>]) {
        for event in events {
            let Event::Message(message) = &event.event else { continue };
            let ended = match message {
                MessageEvent::DispatchStarted { attempt, .. } => *attempt,
                // These make a message ready: the copy that may be outstanding by now is younger than the event.
                MessageEvent::Queued { .. }
                | MessageEvent::DispatchReleased { .. }
                | MessageEvent::Deferred { .. }
                | MessageEvent::Settled { .. }
                // And these come after the claim.
                | MessageEvent::Skipped { .. }
                | MessageEvent::Sent { .. }
                | MessageEvent::Delivered { .. }
                | MessageEvent::Read { .. }
                | MessageEvent::Failed { .. }
                | MessageEvent::OutcomeUnknown { .. }
                | MessageEvent::Unconfirmed { .. } => continue,
                MessageEvent::Expired { .. } | MessageEvent::Cancelled { .. } => u32::MAX,
            };
            self.outstanding.heard_of(MessageId(event.aggregate_id), ended);
        }
    }

    fn room(&self, queue: &OpenQueue) -> usize {
        let outstanding_ms = usize::try_from(self.feeder.config.outstanding.as_millis()).unwrap_or(usize::MAX);
        let permit = queue.rate_per_s.saturating_mul(outstanding_ms).div_ceil(1000);
        permit.saturating_sub(self.outstanding.count(queue.key))
    }

    async fn feed_at_once(&mut self) -> Result<(), FeedError> {
        let queues = self.feeder.open_queues().await?;
        self.cursors.retain(|run, _| queues.iter().any(|queue| queue.runs.binary_search(run).is_ok()));
        for queue in queues {
            let room = self.room(&queue);
            if room == 0 {
                continue;
            }
            // Kept only if everything was published: what the queue did not take is picked again.
            let mut cursors = self.cursors.clone();
            let items = pick::at_once(&self.feeder.pool, &queue.runs, &mut cursors, room).await?;
            let fresh: Vec<DispatchItem> =
                items.into_iter().filter(|item| !self.outstanding.contains(item.message_id, item.attempt)).collect();
            if self.publish(&queue, &fresh).await? {
                self.cursors = cursors;
            }
        }
        Ok(())
    }

    async fn feed_due(&mut self) -> Result<(), FeedError> {
        let now = self.feeder.clock.now();
        for queue in self.feeder.open_queues().await? {
            let room = self.room(&queue);
            let items = pick::due(&self.feeder.pool, &queue.runs, now, room).await?;
            if !items.is_empty() && self.publish(&queue, &items).await? {
                pick::no_longer_later(&self.feeder.pool, &items).await?;
            }
        }
        Ok(())
    }

    /// `true` if the queue has taken everything.
    async fn publish(&mut self, queue: &OpenQueue, items: &[DispatchItem]) -> Result<bool, FeedError> {
        if items.is_empty() {
            return Ok(true);
        }
        let size = queue.rate_per_s.div_ceil(PARCELS_PER_S).clamp(1, PARCEL_ITEMS_MAX);
        let (sender_id, lane) = queue.key;
        let parcels: Vec<Parcel> =
            items.chunks(size).map(|items| Parcel { sender_id, lane, items: items.to_vec() }).collect();
        let taken = self.feeder.queue.publish(&parcels).await?;
        let now = Instant::now();
        for (parcel, _) in parcels.iter().zip(&taken).filter(|(_, taken)| **taken) {
            self.outstanding.published(parcel, now);
        }
        Ok(taken.iter().all(|taken| *taken))
    }

    async fn republish(&mut self) -> Result<(), FeedError> {
        let after = self.feeder.config.republish_after;
        let overdue = self.outstanding.overdue(Instant::now(), after, REPUBLISHED_MAX);
        if overdue.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = overdue.iter().map(|(message, _)| message.0).collect();
        let ready = pick::still_ready(&self.feeder.pool, &ids).await?;
        let queues = self.feeder.open_queues().await?;
        let mut still_open: HashSet<MessageId> = HashSet::new();
        for queue in &queues {
            let items: Vec<DispatchItem> =
                ready.iter().filter(|item| queue.runs.binary_search(&item.run_id.0).is_ok()).cloned().collect();
            still_open.extend(items.iter().map(|item| item.message_id));
            if !self.publish(queue, &items).await? {
                self.cursors.retain(|run, _| !queue.runs.contains(run));
            }
        }
        // What was not published again was claimed or has ended, or its run may not send now: then it is fed from the top
        // when it may.
        for (message, _) in overdue {
            if !still_open.contains(&message) {
                self.outstanding.heard_of(message, u32::MAX);
            }
        }
        if !still_open.is_empty() {
            tracing::debug!(messages = still_open.len(), "messages that nobody claimed were published again");
        }
        Ok(())
    }
}
