//! The high-water mark: the position at or below which nothing can appear any more.
//!
//! Every writer takes a shared advisory lock before its first position is drawn and holds it until its transaction
//! ends. So: read the sequence, then list the transactions that hold the lock, then wait until just those are gone.
//! A position at or below the value read was drawn by one of them or by one that had ended before; both have ended
//! now. Nobody is blocked by this: the mark waits for writers, never the other way round, and writers that begin in
//! the meantime are not waited for. A transaction that appended nothing holds no lock. Positions lost to a rollback
//! stay gaps and hold nothing up.

use std::time::Duration;

use domain::aggregate::Position;
use sqlx::PgPool;

/// How often the writers that are being waited for are looked at again.
const RECHECK: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    #[error("the high-water mark of the log could not be read")]
    Database(#[from] sqlx::Error),
    /// The database was restored, or another one has taken its place. What was read before may never have happened.
    #[error("the log ends at {now}, but it was at {before} before: the database was replaced; restart the engine")]
    WentBack { before: Position, now: Position },
}

/// Reads marks; remembers the last one, so that an idle log costs one cheap query.
#[derive(Debug)]
pub struct HighWaterMark {
    pool: PgPool,
    last: Position,
    stall_warning: Duration,
}

impl HighWaterMark {
    /// A mark that stands still for `stall_warning` because of a slow writer is worth a warning.
    pub fn new(pool: PgPool, stall_warning: Duration) -> Self {
        Self { pool, last: 0, stall_warning }
    }

    /// Reads the next mark. Waits for the writers of this moment, and for no others.
    pub async fn advance(&mut self) -> Result<Position, MarkError> {
        let seen = sqlx::query!(
            r#"SELECT last_position AS "last_position!", writers AS "writers!" FROM events_position_and_writers()"#
        )
        .fetch_one(&self.pool)
        .await?;
        if seen.last_position > self.last && !seen.writers.is_empty() {
            self.wait_for(seen.writers).await?;
        }
        if seen.last_position < self.last {
            return Err(MarkError::WentBack { before: self.last, now: seen.last_position });
        }
        self.last = seen.last_position;
        Ok(self.last)
    }

    async fn wait_for(&self, mut writers: Vec<String>) -> Result<(), MarkError> {
        let began = tokio::time::Instant::now();
        let mut warned = false;
        while !writers.is_empty() {
            tokio::time::sleep(RECHECK).await;
            let present = sqlx::query_scalar!(r#"SELECT events_writers() AS "writers!""#).fetch_one(&self.pool).await?;
            writers.retain(|writer| present.contains(writer));
            if !warned && began.elapsed() >= self.stall_warning {
                warned = true;
                tracing::warn!(
                    writers = writers.len(),
                    wait_ms = began.elapsed().as_millis(),
                    "the high-water mark waits for a slow writer; projections and dispatch stand still behind it"
                );
            }
        }
        Ok(())
    }
}
