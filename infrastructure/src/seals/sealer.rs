//! Follows the log's high-water mark and seals what lies below it, segment after segment.
//!
//! It takes no lock on the log and reads behind its end, so no writer waits for it. One process seals at a time, by a
//! lease; should two of them meet all the same, only one seal with a number can be stored.

use std::time::Duration;

use domain::aggregate::Position;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::canonical::{SealedRow, read_rows};
use super::header::{Seal, SealHeader, insert_seal, last_seal};
use super::key::SealKey;
use super::tree::{Hash, leaf, root};
use crate::clock::Clock;
use crate::event_feed::{HighWaterMark, MarkError};
use crate::lease;

const LEASE: &str = "sealer";
const LEASE_TTL: Duration = Duration::from_secs(10);
const STALL_WARNING: Duration = Duration::from_secs(1);
/// Between two segments of a long log that is sealed for the first time, so that the engine beside it is not slowed.
const BREATH: Duration = Duration::from_millis(10);
/// How long hints reach, in positions behind the beginning of their segment.
const SPAN_MAX: Position = u32::MAX as Position;
/// Bytes of a leaf's hash in a hint.
pub(super) const HINT_HASH: usize = 8;

#[derive(Debug, Clone)]
pub struct SealerConfig {
    /// How often what is new is sealed.
    pub every: Duration,
    /// Events of one segment at most.
    pub segment_max: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error("the log could not be sealed")]
    Database(#[from] sqlx::Error),
    #[error("the rows of the log could not be hashed")]
    Hashing(#[from] tokio::task::JoinError),
}

pub struct Sealer {
    pub pool: PgPool,
    pub clock: Clock,
    pub key: SealKey,
    pub config: SealerConfig,
}

impl Sealer {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let holder = Uuid::new_v4();
        let mut mark = HighWaterMark::new(self.pool.clone(), STALL_WARNING);
        let mut failing = false;
        loop {
            match self.turn(holder, &mut mark, &shutdown).await {
                Ok(()) => failing = false,
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let error: &dyn std::error::Error = &error;
                        tracing::warn!(error, "the log could not be sealed; trying again");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.config.every) => {}
                () = shutdown.cancelled() => break,
            }
        }
        // Whoever comes next need not wait for the end of the lease; if it cannot be given back, it ends by itself.
        drop(lease::release(&self.pool, LEASE, holder).await);
    }

    async fn turn(
        &self,
        holder: Uuid,
        mark: &mut HighWaterMark,
        shutdown: &CancellationToken,
    ) -> Result<(), SealError> {
        while !shutdown.is_cancelled() && lease::hold(&self.pool, LEASE, holder, LEASE_TTL).await? {
            let until = mark.advance().await?;
            let Some(sealed) = self.seal_next(until).await? else { return Ok(()) };
            if sealed < self.config.segment_max {
                return Ok(());
            }
            tokio::time::sleep(BREATH).await;
        }
        Ok(())
    }

    /// Seals the next segment up to a mark; `None` if there is nothing to seal.
    pub async fn seal_next(&self, mark: Position) -> Result<Option<u32>, SealError> {
        let last = last_seal(&self.pool).await?;
        let after = last.as_ref().map_or(0, |seal| seal.header.up_to);
        let until = mark.min(after.saturating_add(SPAN_MAX));
        let limit = self.config.segment_max;
        let rows = read_rows(&self.pool, after, until, i64::from(limit)).await?;
        let Some(end) = rows.last().map(|row| row.position) else { return Ok(None) };
        let count = u32::try_from(rows.len()).unwrap_or(limit);
        // The last positions below the mark may be gaps; they belong to it as well.
        let up_to = if count == limit { end } else { until };
        let (hashed, hints) = tokio::task::spawn_blocking(move || {
            let leaves = leaves_of(&rows);
            let hints = hints_of(after, &rows, &leaves);
            (root(&leaves), hints)
        })
        .await?;
        let header = SealHeader {
            number: last.as_ref().map_or(1, |seal| seal.header.number + 1),
            after,
            up_to,
            events: i64::from(count),
            root: hashed,
            previous: last.as_ref().map_or([0; 32], |seal| seal.header.hash()),
            sealed_at: micros(self.clock.now()),
            key: self.key.public(),
        };
        let seal: Seal = header.sign(&self.key, hints);
        insert_seal(&self.pool, &seal).await?;
        Ok(Some(count))
    }
}

/// As precise as the database keeps it, so that what is signed is what is read again.
fn micros(time: chrono::DateTime<chrono::Utc>) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

pub(super) fn leaves_of(rows: &[SealedRow]) -> Vec<Hash> {
    rows.iter().map(|row| leaf(&row.canonical())).collect()
}

fn hints_of(after: Position, rows: &[SealedRow], leaves: &[Hash]) -> Vec<u8> {
    let mut hints = Vec::with_capacity(rows.len() * (4 + HINT_HASH));
    for (row, leaf) in rows.iter().zip(leaves) {
        hints.extend(u32::try_from(row.position - after).unwrap_or(u32::MAX).to_be_bytes());
        hints.extend(leaf.iter().take(HINT_HASH));
    }
    hints
}
