//! One task per process polls the mark, reads and decodes each event once, and keeps the newest in memory. A
//! subscription that is up to date is served from there; one that lags reads pages of its own.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::event::{DecodeError, Event, RecordedEvent};
use domain::ids::TenantId;
use sqlx::{PgExecutor, PgPool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mark::{HighWaterMark, MarkError};

#[derive(Debug, Clone)]
pub struct FeedConfig {
    /// Between two marks while events come in.
    pub poll_busy: Duration,
    /// Between two marks while the log is idle.
    pub poll_idle: Duration,
    /// A mark that stands still this long is worth a warning.
    pub stall_warning: Duration,
    /// Events per page.
    pub batch_max: usize,
    /// Events kept in memory.
    pub ring_max: usize,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            poll_busy: Duration::from_millis(25),
            poll_idle: Duration::from_millis(100),
            stall_warning: Duration::from_secs(1),
            batch_max: 1000,
            ring_max: 20_000,
        }
    }
}

/// How long a missing position is given to appear.
const GAP_GRACE: Duration = Duration::from_millis(100);
/// A database that has not answered by then is gone without a goodbye. A mark that waits for a slow writer takes less.
const READ_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("the database did not answer in time")]
    TimedOut,
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error("the events after position {after} could not be read")]
    Read {
        after: Position,
        #[source]
        source: sqlx::Error,
    },
    /// A stored event that this release cannot read. Nothing behind it is served, so that nothing is skipped.
    #[error("the event at position {position} cannot be read")]
    Undecodable {
        position: Position,
        #[source]
        source: DecodeError,
    },
}

/// A cheap handle to the process's feed.
#[derive(Clone)]
pub struct EventFeed {
    pool: PgPool,
    config: Arc<FeedConfig>,
    mark: watch::Receiver<Position>,
    ring: Arc<Mutex<Ring>>,
}

/// A page of the log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// May be empty: positions that were lost to a rollback stay gaps.
    pub events: Vec<Arc<RecordedEvent>>,
    /// Everything up to here has been seen once the events have been handled.
    pub up_to: Position,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<RecordedEvent>>,
    /// Everything after this position, up to the mark, is in `events`.
    after: Position,
}

impl EventFeed {
    /// Starts the task that reads the log, from where the log ends now.
    pub async fn start(
        pool: PgPool,
        config: FeedConfig,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
    ) -> Result<Self, FeedError> {
        let mut high_water = HighWaterMark::new(pool.clone(), config.stall_warning);
        let start = high_water.advance().await?;
        let (publish, mark) = watch::channel(start);
        let ring = Arc::new(Mutex::new(Ring { events: VecDeque::new(), after: start }));
        let feed = Self { pool, config: Arc::new(config), mark, ring };
        tasks.spawn(feed.clone().poll(high_water, publish, shutdown.clone()));
        Ok(feed)
    }

    /// The present mark: nothing at or below it can appear any more.
    pub fn mark(&self) -> Position {
        *self.mark.borrow()
    }

    /// Events in a page; a full one may have more behind it.
    pub(crate) fn page_max(&self) -> usize {
        self.config.batch_max
    }

    /// What comes after a position, in order, at most one page. Waits until the mark has passed the position.
    pub async fn next(&self, after: Position) -> Result<Batch, FeedError> {
        let mut mark = self.mark.clone();
        // The sender lives as long as the polling task; once it is gone there is nothing to wait for any more, and
        // the caller's own shutdown ends the wait.
        let Ok(seen) = mark.wait_for(|mark| *mark > after).await.map(|mark| *mark) else {
            return std::future::pending().await;
        };
        let events = match self.in_memory(after) {
            Some(events) => events,
            None => {
                let events = read_events(&self.pool, after, seen, self.config.batch_max).await?;
                events.into_iter().map(Arc::new).collect()
            }
        };
        let up_to = match events.last() {
            Some(last) if events.len() == self.config.batch_max => last.position,
            // The last positions below the mark may be gaps: a short page ends at the mark.
            last => last.map_or(seen, |last| seen.max(last.position)),
        };
        Ok(Batch { events, up_to })
    }

    fn in_memory(&self, after: Position) -> Option<Vec<Arc<RecordedEvent>>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if after < ring.after {
            return None;
        }
        let first = ring.events.partition_point(|event| event.position <= after);
        Some(ring.events.range(first..).take(self.config.batch_max).cloned().collect())
    }

    async fn poll(self, mut high_water: HighWaterMark, publish: watch::Sender<Position>, shutdown: CancellationToken) {
        let mut failing = false;
        loop {
            let reading = tokio::time::timeout(READ_MAX, self.read_on(&mut high_water, &publish));
            let pause = match reading.await.unwrap_or(Err(FeedError::TimedOut)) {
                Ok(true) => self.config.poll_busy,
                Ok(false) => self.config.poll_idle,
                Err(error) => {
                    if !failing {
                        tracing::error!(
                            error = &error as &dyn std::error::Error,
                            "the log cannot be read; trying again"
                        );
                    }
                    failing = true;
                    tokio::select! {
                        () = tokio::time::sleep(Duration::from_secs(1)) => continue,
                        () = shutdown.cancelled() => return,
                    }
                }
            };
            if std::mem::take(&mut failing) {
                tracing::info!("the log can be read again");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// `true` if there was something new.
    async fn read_on(
        &self,
        high_water: &mut HighWaterMark,
        publish: &watch::Sender<Position>,
    ) -> Result<bool, FeedError> {
        let mark = high_water.advance().await?;
        let mut after = *publish.borrow();
        if mark == after {
            return Ok(false);
        }
        loop {
            let events = self.read_page(after, mark).await?;
            let page_is_full = events.len() == self.config.batch_max;
            after = match events.last() {
                Some(last) if page_is_full => last.position,
                _ => mark,
            };
            self.keep(events);
            publish.send_replace(after);
            if !page_is_full {
                return Ok(true);
            }
        }
    }

    /// A page, read a second time if positions are missing in it. They were lost to a rollback or a conflict, which is rare:
    /// a belt beside the braces of the mark, for whoever reads past an event that is still to appear never sees it.
    async fn read_page(&self, after: Position, mark: Position) -> Result<Vec<RecordedEvent>, FeedError> {
        let limit = self.config.batch_max;
        let events = read_events(&self.pool, after, mark, limit).await?;
        if is_gapless(after, mark, limit, &events) {
            return Ok(events);
        }
        tokio::time::sleep(GAP_GRACE).await;
        let again = read_events(&self.pool, after, mark, limit).await?;
        let before: HashSet<Position> = events.iter().map(|event| event.position).collect();
        let until = events.last().map_or(after, |last| last.position);
        let appeared = |event: &&RecordedEvent| event.position <= until && !before.contains(&event.position);
        let late = again.iter().filter(appeared).count().max(again.len().saturating_sub(events.len()));
        if late > 0 {
            tracing::error!(
                events = late,
                after,
                mark,
                "events appeared below the high-water mark; they were waited for"
            );
        }
        Ok(again)
    }

    fn keep(&self, events: Vec<RecordedEvent>) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.events.extend(events.into_iter().map(Arc::new));
        while ring.events.len() > self.config.ring_max {
            if let Some(dropped) = ring.events.pop_front() {
                ring.after = dropped.position;
            }
        }
    }
}

/// Does a page hold every position of its stretch?
fn is_gapless(after: Position, mark: Position, limit: usize, events: &[RecordedEvent]) -> bool {
    let until = if events.len() == limit { events.last().map_or(mark, |last| last.position) } else { mark };
    usize::try_from(until - after).is_ok_and(|positions| positions == events.len())
}

/// Reads the events after one position, up to and including another, in order. `until` must be a mark.
pub async fn read_events(
    executor: impl PgExecutor<'_>,
    after: Position,
    until: Position,
    limit: usize,
) -> Result<Vec<RecordedEvent>, FeedError> {
    let rows = sqlx::query!(
        r#"SELECT position, tenant_id, aggregate_type, aggregate_id, sequence, event_type, event_version,
                payload::text AS "payload!", metadata ->> 'at' AS at, recorded_at
         FROM events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3"#,
        after,
        until,
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(executor)
    .await
    .map_err(|source| FeedError::Read { after, source })?;
    rows.into_iter()
        .map(|row| {
            let position = row.position;
            let undecodable = |source| FeedError::Undecodable { position, source };
            let event = Event::decode(&row.aggregate_type, &row.event_type, &row.event_version, &row.payload)
                .map_err(undecodable)?;
            let aggregate_id = row
                .aggregate_id
                .parse()
                .map_err(|_| undecodable(DecodeError::UnknownAggregate(row.aggregate_type.clone())))?;
            let at: DateTime<Utc> = row.at.and_then(|at| at.parse().ok()).unwrap_or(row.recorded_at);
            Ok(RecordedEvent {
                position,
                tenant_id: TenantId(row.tenant_id),
                aggregate_id,
                sequence: row.sequence,
                at,
                event,
            })
        })
        .collect()
}
