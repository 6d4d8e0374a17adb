//! A subscription whose effect is rows in tables: the rows commit with the checkpoint, so nothing is applied twice and
//! nothing is left out, whatever dies in between. Commands that events ask for are given first, and are given again
//! after a crash.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::aggregate::Position;
use domain::event::RecordedEvent;
use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::feed::{Batch, EventFeed, FeedError, UnreadableEvent};
use super::subscription::{advance_in_tx, position_of, register};

/// What a subscription does with events.
#[async_trait]
pub trait TableEffect: Send + Sync {
    /// The stored name of the subscription.
    fn name(&self) -> &str;

    /// Events that do not concern it are passed over without a transaction.
    fn concerns(&self, event: &RecordedEvent) -> bool;

    /// How long events are gathered while they come fast: fewer and larger batches write fewer rows, since several
    /// events of one message become one change. Nothing waits while little happens.
    fn gather(&self) -> Duration {
        Duration::ZERO
    }

    /// Gives the commands that these events ask for, before their rows are written. Each must be a no-op when it is given
    /// again, for nobody knows of them before the checkpoint has moved.
    async fn act(&self, _: &[Arc<RecordedEvent>]) -> Result<(), ActError> {
        Ok(())
    }

    /// Makes its checkpoint known; it starts before the first event.
    async fn register(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        register(pool, self.name()).await
    }

    /// Does it set events aside that this release cannot read, instead of standing still before them?
    fn parks(&self) -> bool {
        false
    }

    /// Sets such events aside, before the events of the same batch are applied.
    async fn park(&self, _: &mut PgConnection, _: &[Arc<UnreadableEvent>]) -> Result<(), sqlx::Error> {
        Ok(())
    }

    /// Writes the rows of these events, which concern it and come in order. No other effect is allowed here.
    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error>;
}

/// A command could not be given.
pub type ActError = Box<dyn std::error::Error + Send + Sync>;

/// Events come fast when a batch has so many.
pub(crate) const FAST_BATCH: usize = 100;
/// While nothing concerns a subscription, its checkpoint is stored after so many events, or so much time: what it says of
/// a lag is true within that.
const IDLE_CHECKPOINT_EVERY: Position = 5_000;
const QUIET: Duration = Duration::from_secs(1);
/// A database that has not answered by then is gone without a goodbye.
const APPLY_MAX: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Whoever was overtaken by another process lets it get away.
const OVERTAKEN_PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("the rows of the events up to position {up_to} could not be written")]
    Apply {
        up_to: Position,
        #[source]
        source: sqlx::Error,
    },
    #[error("what the events up to position {up_to} ask for could not be done")]
    Act {
        up_to: Position,
        #[source]
        source: ActError,
    },
    #[error("the checkpoint could not be read")]
    Checkpoint(#[from] sqlx::Error),
}

/// Follows the log until `shutdown`; `progress` shows how far it has come. Failures are retried for ever, from the
/// last checkpoint; if another process has moved the checkpoint, this one reads on from there.
pub async fn follow(
    pool: PgPool,
    feed: EventFeed,
    effect: Arc<dyn TableEffect>,
    progress: watch::Sender<Position>,
    shutdown: CancellationToken,
) {
    loop {
        let failed = tokio::select! {
            () = shutdown.cancelled() => return,
            result = follow_from_checkpoint(&pool, &feed, &*effect, &progress) => result.err(),
        };
        let pause = if let Some(error) = failed {
            let name = effect.name();
            tracing::warn!(
                subscription = name,
                error = &error as &dyn std::error::Error,
                "the subscription starts again"
            );
            RETRY_PAUSE
        } else {
            OVERTAKEN_PAUSE
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Ends without an error when another process has moved the checkpoint.
async fn follow_from_checkpoint(
    pool: &PgPool,
    feed: &EventFeed,
    effect: &dyn TableEffect,
    progress: &watch::Sender<Position>,
) -> Result<(), FollowError> {
    effect.register(pool).await?;
    let mut stored = position_of(pool, effect.name()).await?;
    let mut seen = stored;
    let mut stored_at = tokio::time::Instant::now();
    progress.send_replace(seen);
    loop {
        let next = async { if effect.parks() { feed.next_with_unreadable(seen).await } else { feed.next(seen).await } };
        let batch = match tokio::time::timeout(QUIET, next).await {
            Ok(batch) => batch?,
            Err(_) if seen > stored => Batch { events: Vec::new(), unreadable: Vec::new(), up_to: seen },
            Err(_) => continue,
        };
        let quiet = stored_at.elapsed() >= QUIET;
        let concerning: Vec<Arc<RecordedEvent>> =
            batch.events.iter().filter(|event| effect.concerns(event)).cloned().collect();
        let concerns = !concerning.is_empty() || !batch.unreadable.is_empty();
        if concerns || quiet || batch.up_to - stored >= IDLE_CHECKPOINT_EVERY {
            let acted = effect.act(&concerning).await;
            acted.map_err(|source| FollowError::Act { up_to: batch.up_to, source })?;
            let applied = tokio::time::timeout(APPLY_MAX, apply_batch(pool, effect, &concerning, &batch, stored))
                .await
                .unwrap_or(Err(sqlx::Error::PoolTimedOut))
                .map_err(|source| FollowError::Apply { up_to: batch.up_to, source })?;
            if !applied {
                return Ok(());
            }
            stored = batch.up_to;
            stored_at = tokio::time::Instant::now();
        }
        seen = batch.up_to;
        progress.send_replace(seen);
        if (FAST_BATCH..feed.page_max()).contains(&batch.events.len()) {
            tokio::time::sleep(effect.gather()).await;
        }
    }
}

async fn apply_batch(
    pool: &PgPool,
    effect: &dyn TableEffect,
    concerning: &[Arc<RecordedEvent>],
    batch: &Batch,
    stored: Position,
) -> Result<bool, sqlx::Error> {
    let mut tx = pool.begin().await?;
    // The checkpoint first: its row lock keeps a second process from doing the same work at the same time.
    if !advance_in_tx(&mut tx, effect.name(), stored, batch.up_to).await? {
        return Ok(false);
    }
    if !batch.unreadable.is_empty() {
        effect.park(&mut tx, &batch.unreadable).await?;
    }
    if !concerning.is_empty() {
        effect.apply(&mut tx, concerning).await?;
    }
    tx.commit().await?;
    Ok(true)
}
