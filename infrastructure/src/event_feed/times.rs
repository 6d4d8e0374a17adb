//! From instants to positions and back.
//!
//! The state as of an instant is the state as of the last position of that instant. An event's time is the engine's time
//! of its command; it is not strictly monotonic in position, since commands that are given at the same moment are
//! appended in some order, so an instant is found by halving a stretch of the log that samples of the clock have
//! narrowed down. A log that is older than the samples is halved as a whole.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::Position;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::feed::EventFeed;
use crate::clock::Clock;

const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// A mark lies behind the clock, by a moment or by the time that a slow writer takes: a sample tells only by so much
/// later that everything of an instant lies below it.
const MARK_LAG_MAX: TimeDelta = TimeDelta::minutes(10);

/// Takes the samples.
pub struct LogTimes {
    pub pool: PgPool,
    pub clock: Clock,
    pub feed: EventFeed,
}

impl LogTimes {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut last = 0;
        loop {
            let mark = self.feed.mark();
            if mark > last {
                match self.sample(mark).await {
                    Ok(()) => last = mark,
                    Err(error) => tracing::debug!(%error, "the time of a position was not kept"),
                }
            }
            tokio::select! {
                () = tokio::time::sleep(SAMPLE_EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn sample(&self, mark: Position) -> Result<(), sqlx::Error> {
        // Several processes may take samples.
        sqlx::query!(
            "INSERT INTO log_times (position, at) VALUES ($1, $2) ON CONFLICT (position) DO NOTHING",
            mark,
            self.clock.now(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }
}

/// The last position that the log had reached at an instant; 0 if that was before its first event.
pub async fn position_at(pool: &PgPool, instant: DateTime<Utc>) -> Result<Position, sqlx::Error> {
    let bracket = sqlx::query!(
        r#"SELECT coalesce((SELECT position FROM log_times WHERE at <= $1 ORDER BY at DESC, position DESC LIMIT 1), 0)
                      AS "low!",
                  coalesce((SELECT position FROM log_times WHERE at > $2 ORDER BY at, position LIMIT 1),
                           (SELECT max(position) FROM events), 0) AS "high!""#,
        instant,
        instant + MARK_LAG_MAX,
    )
    .fetch_one(pool)
    .await?;
    let (mut low, mut high) = (bracket.low, bracket.high);
    while low < high {
        let middle = low + (high - low + 1) / 2;
        match first_from(pool, middle, high).await? {
            Some((position, at)) if at <= instant => low = position,
            Some(_) | None => high = middle - 1,
        }
    }
    Ok(low)
}

async fn first_from(
    pool: &PgPool,
    from: Position,
    until: Position,
) -> Result<Option<(Position, DateTime<Utc>)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT position, coalesce((metadata ->> 'at')::timestamptz, recorded_at) AS "at!"
           FROM events WHERE position >= $1 AND position <= $2 ORDER BY position LIMIT 1"#,
        from,
        until,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| (row.position, row.at)))
}

/// When the log reached a position: the time of the last event at or below it. `None`: there is none.
pub async fn time_of(pool: &PgPool, position: Position) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT coalesce((metadata ->> 'at')::timestamptz, recorded_at) AS "at!"
           FROM events WHERE position <= $1 ORDER BY position DESC LIMIT 1"#,
        position,
    )
    .fetch_optional(pool)
    .await
}
