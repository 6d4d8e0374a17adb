//! Throws a read model away and folds it again from the log, also beside a running engine.
//!
//! The tables are emptied and the checkpoint is set to 0 in one transaction; from there on the rebuild is one more
//! follower of the same subscription. Each batch commits with the checkpoint by compare-and-set, so whoever applies a
//! batch, this rebuild or the engine's own follower, it is applied once, and who comes second reads on from there.
//! Until it is done, reads show what has been folded so far.
//!
//! Any error ends it: a connection that breaks never passes for the end of the log. The checkpoint then stands where
//! the work stopped, and a follower, or another rebuild, goes on.

use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::Position;
use domain::event::RecordedEvent;
use infrastructure::event_feed::{
    FeedError, HighWaterMark, MarkError, advance_in_tx, lock_position_in_tx, position_of, read_events, register,
};
use sqlx::PgPool;
use tokio::time::Instant;

use crate::projection::Projection;

/// Events per transaction: large, since every batch costs a commit and each counter is written once per batch.
const BATCH_MAX: usize = 5_000;
/// When the mark waits this long for a slow writer, it warns.
const STALL_WARNING: Duration = Duration::from_secs(1);

/// In positions of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    pub done: Position,
    pub of: Position,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RebuildReport {
    pub projection: &'static str,
    /// The projection's version that the rows have now.
    pub version: u32,
    /// Everything at or below this is in the tables.
    pub position: Position,
    /// The events of the log that this rebuild read and applied, those without interest to the projection included.
    pub events: u64,
    /// Batches that the engine's own follower, or another rebuild, has applied meanwhile.
    pub taken_over: u64,
    pub seconds: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error(transparent)]
    Read(#[from] FeedError),
    #[error("the read model could not be written")]
    Database(#[from] sqlx::Error),
    /// The log has another number of events than were applied; the read model must not be relied on.
    #[error("{applied} events were applied, but the log has {in_log} at these positions")]
    Incomplete { applied: u64, in_log: u64 },
}

/// Rebuilds one projection up to the mark of this moment; `progress` is told after each batch.
pub async fn rebuild(
    pool: &PgPool,
    projection: &dyn Projection,
    progress: impl Fn(RebuildProgress),
) -> Result<RebuildReport, RebuildError> {
    let began = Instant::now();
    register(pool, projection.subscription()).await?;
    let mark = HighWaterMark::new(pool.clone(), STALL_WARNING).advance().await?;
    clear(pool, projection).await?;
    let mut applied = Applied::default();
    let mut taken_over = 0;
    let mut position = 0;
    progress(RebuildProgress { done: position, of: mark });
    while position < mark {
        let events = read_events(pool, position, mark, BATCH_MAX).await?;
        let read = events.len();
        let up_to = match events.last() {
            Some(last) if read == BATCH_MAX => last.position,
            // The last positions below the mark may be gaps.
            _ => mark,
        };
        if apply(pool, projection, events, position, up_to).await? {
            applied.add(position, up_to, read);
            position = up_to;
        } else {
            taken_over += 1;
            position = position_of(pool, projection.subscription()).await?;
        }
        progress(RebuildProgress { done: position.min(mark), of: mark });
    }
    let events = applied.check(pool).await?;
    Ok(RebuildReport {
        projection: projection.name(),
        version: projection.version(),
        position,
        events,
        taken_over,
        seconds: began.elapsed().as_secs_f64(),
    })
}

async fn clear(pool: &PgPool, projection: &dyn Projection) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    // The checkpoint first, as every follower does: its row lock is the one that keeps them apart.
    let position = lock_position_in_tx(&mut tx, projection.subscription()).await?;
    projection.clear(&mut tx).await?;
    if !advance_in_tx(&mut tx, projection.subscription(), position, 0).await? {
        // The row was locked by this very transaction, so only its disappearance can be the cause.
        return Err(sqlx::Error::RowNotFound);
    }
    tx.commit().await
}

/// `false`: somebody else has moved the checkpoint, and nothing was applied.
async fn apply(
    pool: &PgPool,
    projection: &dyn Projection,
    events: Vec<RecordedEvent>,
    from: Position,
    up_to: Position,
) -> Result<bool, sqlx::Error> {
    let concerning: Vec<Arc<RecordedEvent>> =
        events.into_iter().filter(|event| projection.concerns(event)).map(Arc::new).collect();
    let mut tx = pool.begin().await?;
    if !advance_in_tx(&mut tx, projection.subscription(), from, up_to).await? {
        return Ok(false);
    }
    if !concerning.is_empty() {
        projection.apply(&mut tx, &concerning).await?;
    }
    tx.commit().await?;
    Ok(true)
}

/// The stretches of the log that were applied here, to be counted in the log itself at the end.
#[derive(Default)]
struct Applied {
    /// After the first position, up to and including the second.
    stretches: Vec<(Position, Position)>,
    events: u64,
}

impl Applied {
    fn add(&mut self, after: Position, up_to: Position, events: usize) {
        match self.stretches.last_mut() {
            Some((_, end)) if *end == after => *end = up_to,
            _ => self.stretches.push((after, up_to)),
        }
        self.events += u64::try_from(events).unwrap_or(u64::MAX);
    }

    async fn check(&self, pool: &PgPool) -> Result<u64, RebuildError> {
        let mut in_log = 0;
        for (after, up_to) in &self.stretches {
            let count = sqlx::query_scalar!(
                r#"SELECT count(*) AS "count!" FROM events WHERE position > $1 AND position <= $2"#,
                after,
                up_to,
            )
            .fetch_one(pool)
            .await?;
            in_log += count.unsigned_abs();
        }
        if in_log != self.events {
            return Err(RebuildError::Incomplete { applied: self.events, in_log });
        }
        Ok(self.events)
    }
}
