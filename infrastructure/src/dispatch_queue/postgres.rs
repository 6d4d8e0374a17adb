//! The queue in Postgres itself: parcels are rows that are taken with `SKIP LOCKED` under a short lease.

use std::time::Duration;

use async_trait::async_trait;
use domain::ids::SenderId;
use domain::message::Lane;
use sqlx::PgPool;
use sqlx::types::Json;

use super::lanes::LaneTurns;
use super::{Delivery, DispatchConsumer, DispatchItem, DispatchQueue, Parcel, QueueError, Tag};

const POLL: Duration = Duration::from_millis(25);
/// Parcels taken in one go.
const TAKE_MAX: usize = 100;

#[derive(Clone)]
pub struct PostgresQueue {
    pool: PgPool,
    lease: Duration,
}

impl PostgresQueue {
    /// A taken parcel is not given to anybody else for this long; its acknowledgement removes it long before.
    pub const LEASE: Duration = Duration::from_secs(30);

    pub fn new(pool: PgPool, lease: Duration) -> Self {
        Self { pool, lease }
    }
}

#[async_trait]
impl DispatchQueue for PostgresQueue {
    async fn publish(&self, parcels: &[Parcel]) -> Result<Vec<bool>, QueueError> {
        let (mut senders, mut lanes, mut items) = (Vec::new(), Vec::new(), Vec::new());
        for parcel in parcels {
            senders.push(parcel.sender_id.0);
            lanes.push(parcel.lane.name().to_owned());
            items.push(serde_json::to_value(&parcel.items).expect("ids and numbers have a JSON form"));
        }
        sqlx::query!(
            "INSERT INTO dispatch_parcels (sender_id, lane, items)
             SELECT * FROM unnest($1::uuid[], $2::text[], $3::jsonb[])",
            &senders,
            &lanes,
            &items,
        )
        .execute(&self.pool)
        .await?;
        Ok(vec![true; parcels.len()])
    }

    /// What an earlier holder of the sender's lease has taken is free again.
    async fn consumer(&self, sender: SenderId) -> Result<Box<dyn DispatchConsumer>, QueueError> {
        sqlx::query!("UPDATE dispatch_parcels SET leased_until = NULL WHERE sender_id = $1", sender.0)
            .execute(&self.pool)
            .await?;
        Ok(Box::new(Consumer { queue: self.clone(), sender, turns: LaneTurns::default() }))
    }
}

struct Consumer {
    queue: PostgresQueue,
    sender: SenderId,
    turns: LaneTurns,
}

#[async_trait]
impl DispatchConsumer for Consumer {
    async fn next(&mut self, items: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            let mut taken = Vec::new();
            let mut wanted = items;
            for lane in self.turns.order() {
                if wanted > 0 {
                    let deliveries = self.take(lane, wanted).await?;
                    wanted = wanted.saturating_sub(deliveries.iter().map(|d| d.parcel.items.len()).sum());
                    taken.extend(deliveries);
                }
            }
            if !taken.is_empty() || tokio::time::Instant::now() >= until {
                if !taken.is_empty() {
                    self.turns.next();
                }
                return Ok(taken);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn ack(&mut self, tags: &[Tag]) -> Result<(), QueueError> {
        let ids = ids(tags);
        if !ids.is_empty() {
            sqlx::query!("DELETE FROM dispatch_parcels WHERE id = ANY($1)", &ids).execute(&self.queue.pool).await?;
        }
        Ok(())
    }
}

fn ids(tags: &[Tag]) -> Vec<i64> {
    tags.iter().filter_map(|tag| i64::try_from(tag.number).ok()).collect()
}

impl Consumer {
    /// The times are the database's, so that no clock of a process can hold rows up.
    async fn take(&self, lane: Lane, items: usize) -> Result<Vec<Delivery>, QueueError> {
        let rows = sqlx::query!(
            r#"WITH due AS (
                   SELECT id, items, sum(jsonb_array_length(items)) OVER (ORDER BY id) - jsonb_array_length(items) AS before
                   FROM (
                       SELECT id, items FROM dispatch_parcels
                       WHERE sender_id = $1 AND lane = $2
                         AND (leased_until IS NULL OR leased_until < clock_timestamp())
                       ORDER BY id LIMIT $5
                       FOR UPDATE SKIP LOCKED
                   ) free
               )
               UPDATE dispatch_parcels p
               SET leased_until = clock_timestamp() + make_interval(secs => $4), deliveries = deliveries + 1
               FROM due WHERE p.id = due.id AND due.before < $3
               RETURNING p.id, p.items AS "items: Json<Vec<DispatchItem>>", p.deliveries"#,
            self.sender.0,
            lane.name(),
            i64::try_from(items).unwrap_or(i64::MAX),
            self.queue.lease.as_secs_f64(),
            i64::try_from(items.min(TAKE_MAX)).unwrap_or(i64::MAX),
        )
        .fetch_all(&self.queue.pool)
        .await?;
        let mut deliveries: Vec<Delivery> = rows
            .into_iter()
            .filter_map(|row| {
                Some(Delivery {
                    parcel: Parcel { sender_id: self.sender, lane, items: row.items.0 },
                    tag: Tag { lane, number: u64::try_from(row.id).ok()? },
                    redelivered: row.deliveries > 1,
                })
            })
            .collect();
        deliveries.sort_by_key(|delivery| delivery.tag.number);
        Ok(deliveries)
    }
}
