//! The queue on the ready list itself: published rows are taken with `SKIP LOCKED` under a short lease.
//!
//! Whoever follows the log changes these rows too, in its own order. So every statement here locks its rows with
//! `SKIP LOCKED`: only the follower ever waits, and nobody can wait in a circle. A row that is skipped is one that the
//! follower is changing at this moment.

use std::time::Duration;

use async_trait::async_trait;
use domain::ids::{MessageId, RunId, SenderId, TenantId};
use domain::message::Lane;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Delivery, DispatchConsumer, DispatchItem, DispatchQueue, QueueError};

const POLL: Duration = Duration::from_millis(25);

#[derive(Clone)]
pub struct PostgresQueue {
    pool: PgPool,
    lease: Duration,
}

impl PostgresQueue {
    /// A taken row is not given to anybody else for this long; its claim removes it long before.
    pub const LEASE: Duration = Duration::from_secs(30);

    pub fn new(pool: PgPool, lease: Duration) -> Self {
        Self { pool, lease }
    }
}

#[async_trait]
impl DispatchQueue for PostgresQueue {
    /// The feeder marks the rows as published itself; that is all this queue needs.
    async fn publish(&self, items: &[DispatchItem]) -> Result<Vec<bool>, QueueError> {
        Ok(vec![true; items.len()])
    }

    /// Whoever consumes for a sender holds the sender's lease, so what an earlier holder has taken is free again.
    async fn consumer(&self, sender: SenderId) -> Result<Box<dyn DispatchConsumer>, QueueError> {
        sqlx::query!(
            "UPDATE ready_list SET leased_until = NULL WHERE message_id IN (
                 SELECT message_id FROM ready_list
                 WHERE sender_id = $1 AND published_at IS NOT NULL AND leased_until IS NOT NULL
                 FOR UPDATE SKIP LOCKED)",
            sender.0,
        )
        .execute(&self.pool)
        .await?;
        Ok(Box::new(Consumer { queue: self.clone(), sender, taken: Vec::new() }))
    }
}

struct Consumer {
    queue: PostgresQueue,
    sender: SenderId,
    /// What each tag stands for, as message and attempt; tags count from 0.
    taken: Vec<(Uuid, i32)>,
}

#[async_trait]
impl DispatchConsumer for Consumer {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let items = self.take(max).await?;
            if !items.is_empty() || tokio::time::Instant::now() >= until {
                let attempt = |item: &DispatchItem| i32::try_from(item.attempt).unwrap_or(i32::MAX);
                self.taken = items.iter().map(|item| (item.message_id.0, attempt(item))).collect();
                return Ok(items.into_iter().zip(0..).map(|(item, tag)| Delivery { item, tag }).collect());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Takes the rows away; whoever follows the log would do so a moment later. A row that stands for another attempt
    /// by now stays.
    async fn ack(&mut self, tags: &[u64]) -> Result<(), QueueError> {
        let (ids, attempts) = self.of_tags(tags);
        sqlx::query!(
            "DELETE FROM ready_list WHERE message_id IN (
                 SELECT r.message_id FROM ready_list r
                 JOIN unnest($1::uuid[], $2::integer[]) AS t(message_id, attempt)
                   ON r.message_id = t.message_id AND r.attempt = t.attempt
                 FOR UPDATE OF r SKIP LOCKED)",
            &ids,
            &attempts,
        )
        .execute(&self.queue.pool)
        .await?;
        Ok(())
    }

    /// The rows stay: if the message may still be sent, its row is the only way back, and the feeder publishes it again
    /// after a while. If not, whoever follows the log takes it away.
    async fn discard(&mut self, _: &[u64]) -> Result<(), QueueError> {
        Ok(())
    }

    async fn give_back(&mut self, tags: &[u64]) -> Result<(), QueueError> {
        let (ids, _) = self.of_tags(tags);
        sqlx::query!(
            "UPDATE ready_list SET leased_until = NULL WHERE message_id IN (
                 SELECT message_id FROM ready_list WHERE message_id = ANY($1) FOR UPDATE SKIP LOCKED)",
            &ids
        )
        .execute(&self.queue.pool)
        .await?;
        Ok(())
    }
}

impl Consumer {
    fn of_tags(&self, tags: &[u64]) -> (Vec<Uuid>, Vec<i32>) {
        tags.iter().filter_map(|tag| self.taken.get(usize::try_from(*tag).ok()?).copied()).unzip()
    }

    /// Reminders come before offers. The times are the database's, so that no clock of a process can hold rows up.
    async fn take(&self, max: usize) -> Result<Vec<DispatchItem>, QueueError> {
        let rows = sqlx::query!(
            r#"WITH due AS (
                   SELECT r.message_id FROM ready_list r
                   WHERE r.sender_id = $1 AND r.published_at IS NOT NULL
                     AND (r.leased_until IS NULL OR r.leased_until < clock_timestamp())
                   ORDER BY r.lane DESC, r.published_at, r.message_id LIMIT $2
                   FOR UPDATE SKIP LOCKED
               )
               UPDATE ready_list r SET leased_until = clock_timestamp() + make_interval(secs => $3)
               FROM due WHERE r.message_id = due.message_id
               RETURNING r.message_id, r.attempt, r.tenant_id, r.run_id, r.lane AS "lane!""#,
            self.sender.0,
            i64::try_from(max).unwrap_or(i64::MAX),
            self.queue.lease.as_secs_f64(),
        )
        .fetch_all(&self.queue.pool)
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                Some(DispatchItem {
                    message_id: MessageId(row.message_id),
                    attempt: u32::try_from(row.attempt).ok()?,
                    tenant_id: TenantId(row.tenant_id),
                    run_id: RunId(row.run_id),
                    sender_id: self.sender,
                    lane: Lane::parse(&row.lane)?,
                })
            })
            .collect())
    }
}
