//! Storing bodies: group commit.
//!
//! A webhook may be answered only when its body is safe, and a commit takes the same time for one body as for hundreds.
//! So one task writes for all callers: it takes the first body at once, and what comes while that commits makes the
//! next batch. Batches grow with the load, and a lone body waits for nobody. A batch is one statement, which is its own
//! transaction: one round trip. Nobody is answered before the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::SenderId;
use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::postgres::is_refusal;

#[derive(Debug, Clone)]
pub struct InboxConfig {
    /// Bodies that one commit stores.
    pub batch_max: usize,
    /// Bytes of bodies that one commit stores; a body that is larger is stored alone.
    pub batch_bytes_max: usize,
    /// Bodies that may wait for their commit. Whoever comes beyond that is refused, and WhatsApp comes again.
    pub queue_max: usize,
    /// Bytes of bodies that may wait for their commit.
    pub queue_bytes_max: usize,
}

/// A database that has not answered by then is gone without a goodbye. WhatsApp waits no longer either.
const COMMIT_MAX: Duration = Duration::from_secs(10);

/// Why a body was not stored. After [`Database`](Self::Database) and [`TimedOut`](Self::TimedOut) it may be stored all
/// the same: WhatsApp sends it again, and interpreting it twice changes nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InboxError {
    /// More is waiting than may wait.
    #[error("too many webhooks wait to be stored")]
    Full,
    #[error("the webhook could not be stored")]
    Database(#[source] Arc<sqlx::Error>),
    #[error("the database did not answer in time")]
    TimedOut,
    #[error("the engine is shutting down")]
    ShuttingDown,
}

/// A cheap handle to the writer.
#[derive(Clone)]
pub struct Inbox {
    waiting: mpsc::Sender<Waiting>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    /// Is the inbox full? So that an onslaught is logged once and not once per body.
    full: Arc<AtomicBool>,
}

/// A body whose caller waits for the commit.
struct Waiting {
    received_at: DateTime<Utc>,
    body: Bytes,
    verified_senders: Arc<[SenderId]>,
    answer: oneshot::Sender<Result<(), InboxError>>,
    _room: OwnedSemaphorePermit,
}

impl Inbox {
    /// Starts the writer. It ends when `shutdown` is cancelled, after what has been accepted is committed.
    pub fn start(pool: &PgPool, config: &InboxConfig, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let (waiting, bodies) = mpsc::channel(config.queue_max.max(1));
        let room_bytes = config.queue_bytes_max.clamp(1, Semaphore::MAX_PERMITS);
        let full = Arc::<AtomicBool>::default();
        let writer = Writer { pool: pool.clone(), config: config.clone(), bodies, held: None, full: full.clone() };
        tasks.spawn(writer.run(shutdown.clone()));
        Self { waiting, room: Arc::new(Semaphore::new(room_bytes)), room_bytes, full }
    }

    /// Stores a raw body and the note that it has to be interpreted, together, and returns when both are committed.
    /// `verified_senders` are those whose app secret verified the signature: nobody else's statuses in it will be
    /// believed.
    pub async fn store(
        &self,
        body: Bytes,
        verified_senders: Arc<[SenderId]>,
        received_at: DateTime<Utc>,
    ) -> Result<(), InboxError> {
        // The largest body takes the whole room, so none is too large for it.
        let bytes = u32::try_from(body.len().clamp(1, self.room_bytes)).unwrap_or(u32::MAX);
        let room = self.room.clone().try_acquire_many_owned(bytes).map_err(|_| self.refuse())?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { received_at, body, verified_senders, answer, _room: room };
        match self.waiting.try_send(waiting) {
            Ok(()) => answered.await.unwrap_or(Err(InboxError::ShuttingDown)),
            Err(mpsc::error::TrySendError::Full(_)) => Err(self.refuse()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(InboxError::ShuttingDown),
        }
    }

    fn refuse(&self) -> InboxError {
        if !self.full.swap(true, Ordering::Relaxed) {
            tracing::warn!("webhooks come faster than they can be stored; some are refused and come again");
        }
        InboxError::Full
    }
}

struct Writer {
    pool: PgPool,
    config: InboxConfig,
    bodies: mpsc::Receiver<Waiting>,
    /// Came with a batch that had no room for it: the first of the next.
    held: Option<Waiting>,
    full: Arc<AtomicBool>,
}

impl Writer {
    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                first = self.bodies.recv() => first,
                () = shutdown.cancelled(), if !self.bodies.is_closed() => {
                    self.bodies.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            self.store_from(first).await;
            self.full.store(false, Ordering::Relaxed);
        }
    }

    /// Stores batch after batch on one connection until nobody waits.
    async fn store_from(&mut self, first: Waiting) {
        let mut connection = None;
        let mut next = Some(first);
        while let Some(first) = next {
            let batch = self.gather(first);
            connection = self.store(batch, connection).await;
            next = self.held.take().or_else(|| self.bodies.try_recv().ok());
        }
    }

    /// The first body and what else waits by now, as far as it fits into one commit.
    fn gather(&mut self, first: Waiting) -> Vec<Waiting> {
        let mut bytes = first.body.len();
        let mut batch = vec![first];
        while batch.len() < self.config.batch_max
            && let Ok(waiting) = self.bodies.try_recv()
        {
            bytes = bytes.saturating_add(waiting.body.len());
            if bytes > self.config.batch_bytes_max {
                self.held = Some(waiting);
                break;
            }
            batch.push(waiting);
        }
        batch
    }

    /// Stores a batch and answers its callers. The connection comes back if it may be used again.
    async fn store(
        &self,
        batch: Vec<Waiting>,
        connection: Option<PoolConnection<Postgres>>,
    ) -> Option<PoolConnection<Postgres>> {
        let acquired = match connection {
            Some(connection) => Ok(connection),
            None => self.pool.acquire().await,
        };
        let mut connection = match acquired {
            Ok(connection) => connection,
            Err(error) => {
                fail(batch, &unavailable(error));
                return None;
            }
        };
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let inserted = tokio::time::timeout(COMMIT_MAX, insert(&mut connection, &part)).await;
            let error = match inserted {
                Ok(Ok(())) => {
                    answer(part, &Ok(()));
                    continue;
                }
                // Somewhere in it is a body that the database will not have. Halved until that one stands alone.
                Ok(Err(error)) if is_refusal(&error) => {
                    if part.len() > 1 {
                        parts.push(part.split_off(part.len() / 2));
                        parts.push(part);
                    } else {
                        fail(part, &unavailable(error));
                    }
                    continue;
                }
                Ok(Err(error)) => unavailable(error),
                Err(_) => InboxError::TimedOut,
            };
            // What is under way on this connection is not known.
            connection.close_on_drop();
            parts.push(part);
            fail(parts.into_iter().flatten(), &error);
            return None;
        }
        Some(connection)
    }
}

fn unavailable(error: sqlx::Error) -> InboxError {
    InboxError::Database(Arc::new(error))
}

/// The one place where a failure to store is logged: once for all who waited for it.
fn fail(waiting: impl IntoIterator<Item = Waiting>, error: &InboxError) {
    let refused = answer(waiting, &Err(error.clone()));
    tracing::error!(webhooks = refused, error = error as &dyn std::error::Error, "webhooks could not be stored");
}

/// Answers how many waited. A caller may have gone; what was committed is interpreted all the same.
fn answer(waiting: impl IntoIterator<Item = Waiting>, result: &Result<(), InboxError>) -> usize {
    waiting.into_iter().map(|waiting| drop(waiting.answer.send(result.clone()))).count()
}

/// Bodies and pending rows in one statement, which commits by itself.
async fn insert(connection: &mut PgConnection, batch: &[Waiting]) -> Result<(), sqlx::Error> {
    let mut received_at = Vec::with_capacity(batch.len());
    let mut bodies: Vec<&[u8]> = Vec::with_capacity(batch.len());
    let mut senders = SenderLists::default();
    for waiting in batch {
        received_at.push(waiting.received_at);
        bodies.push(&waiting.body);
        senders.push(&waiting.verified_senders);
    }
    // The lists of senders are slices of one array: an array of arrays cannot hold lists of different lengths.
    sqlx::query!(
        "WITH stored AS (
             INSERT INTO webhook_bodies (received_at, body, verified_senders)
             SELECT t.received_at, t.body, ($3::uuid[])[t.first_sender:t.last_sender]
             FROM unnest($1::timestamptz[], $2::bytea[], $4::integer[], $5::integer[])
                 AS t(received_at, body, first_sender, last_sender)
             RETURNING id
         )
         INSERT INTO webhook_pending (body_id) SELECT id FROM stored",
        &received_at,
        &bodies as _,
        &senders.all,
        &senders.first,
        &senders.last,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lists of senders, one after the other. Most bodies of a batch have the same one, which stands there once.
#[derive(Default)]
struct SenderLists<'a> {
    all: Vec<Uuid>,
    /// The bounds of each body's list in `all`, counted from 1, both included.
    first: Vec<i32>,
    last: Vec<i32>,
    latest: Option<&'a [SenderId]>,
}

impl<'a> SenderLists<'a> {
    fn push(&mut self, senders: &'a [SenderId]) {
        if self.latest != Some(senders) {
            self.latest = Some(senders);
            self.all.extend(senders.iter().map(|sender| sender.0));
        }
        let last = i32::try_from(self.all.len()).unwrap_or(i32::MAX);
        let length = i32::try_from(senders.len()).unwrap_or(i32::MAX);
        self.first.push(last - length + 1);
        self.last.push(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_in_a_row_stand_there_once() {
        let ids = [1, 2, 3].map(|number| SenderId(Uuid::from_u128(number)));
        let mut lists = SenderLists::default();
        for list in [&ids[..2], &ids[..2], &ids[2..], &[], &ids[..2]] {
            lists.push(list);
        }
        assert_eq!(lists.all.len(), 5);
        assert_eq!(lists.first, [1, 1, 3, 4, 4]);
        assert_eq!(lists.last, [2, 2, 3, 3, 5]);
    }
}
