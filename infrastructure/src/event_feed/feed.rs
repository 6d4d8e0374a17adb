//! One task per process polls the mark, reads and decodes each event once, and keeps the newest in memory. A
//! subscription that is up to date is served from there; one that lags reads pages of its own.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
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
use uuid::Uuid;

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
    #[error(transparent)]
    Unreadable(#[from] Arc<UnreadableEvent>),
}

/// A stored event that this release cannot read.
#[derive(Debug, thiserror::Error)]
#[error("the event at position {position} cannot be read")]
pub struct UnreadableEvent {
    pub position: Position,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub event_type: String,
    #[source]
    pub source: DecodeError,
}

/// A cheap handle to the process's feed.
#[derive(Clone)]
pub struct EventFeed {
    pool: PgPool,
    config: Arc<FeedConfig>,
    mark: watch::Receiver<Position>,
    ring: Arc<Mutex<Ring>>,
    /// The last unreadable event that was complained of.
    complained: Arc<AtomicI64>,
}

/// A page of the log.
#[derive(Debug, Clone)]
pub struct Batch {
    /// May be empty: positions that were lost to a rollback stay gaps.
    pub events: Vec<Arc<RecordedEvent>>,
    /// In order, and only for those who asked for them.
    pub unreadable: Vec<Arc<UnreadableEvent>>,
    /// Everything up to here has been seen once the events have been handled.
    pub up_to: Position,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<RecordedEvent>>,
    unreadable: VecDeque<Arc<UnreadableEvent>>,
    /// Everything after this position, up to the mark, is here.
    after: Position,
}

/// A stretch of the log, decoded.
#[derive(Debug, Default)]
pub struct Page {
    pub events: Vec<RecordedEvent>,
    /// In order.
    pub unreadable: Vec<UnreadableEvent>,
}

impl Page {
    pub fn len(&self) -> usize {
        self.events.len() + self.unreadable.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn last_position(&self) -> Option<Position> {
        let event = self.events.last().map(|event| event.position);
        event.max(self.unreadable.last().map(|event| event.position))
    }
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
        let ring = Arc::new(Mutex::new(Ring { after: start, ..Ring::default() }));
        let feed = Self { pool, config: Arc::new(config), mark, ring, complained: Arc::default() };
        tasks.spawn(feed.clone().poll(high_water, publish, shutdown.clone()));
        Ok(feed)
    }

    /// The present mark: nothing at or below it can appear any more.
    pub fn mark(&self) -> Position {
        *self.mark.borrow()
    }

    /// Waits until the mark has passed a position, and answers it.
    pub async fn moved(&self, after: Position) -> Position {
        let mut mark = self.mark.clone();
        // The sender lives as long as the polling task; once it is gone there is nothing to wait for any more, and
        // the caller's own shutdown ends the wait.
        let Ok(seen) = mark.wait_for(|mark| *mark > after).await.map(|mark| *mark) else {
            return std::future::pending().await;
        };
        seen
    }

    /// Events in a page; a full one may have more behind it.
    pub(crate) fn page_max(&self) -> usize {
        self.config.batch_max
    }

    /// What comes after a position, in order, at most one page. Waits until the mark has passed the position.
    ///
    /// An event that this release cannot read is never passed: who reacts to events must not skip any. Whoever stands
    /// before one waits, until another release takes over.
    pub async fn next(&self, after: Position) -> Result<Batch, FeedError> {
        let mut batch = self.next_with_unreadable(after).await?;
        if let Some(first) = batch.unreadable.first() {
            let end = first.position;
            if self.complained.swap(end, Ordering::Relaxed) != end {
                let error: &dyn std::error::Error = &**first;
                tracing::error!(position = end, error, "the log cannot be read on; what reacts to it stands still");
            }
            batch.events.retain(|event| event.position < end);
            if batch.events.is_empty() {
                return std::future::pending().await;
            }
            batch.up_to = end - 1;
            batch.unreadable.clear();
        }
        Ok(batch)
    }

    /// The same for those who can set an unreadable event aside.
    pub async fn next_with_unreadable(&self, after: Position) -> Result<Batch, FeedError> {
        let seen = self.moved(after).await;
        if let Some(batch) = self.in_memory(after, seen) {
            return Ok(batch);
        }
        let page = read_page(&self.pool, after, seen, self.config.batch_max).await?;
        let up_to = match page.last_position() {
            Some(last) if page.len() == self.config.batch_max => last,
            // The last positions below the mark may be gaps: a short page ends at the mark.
            _ => seen,
        };
        Ok(Batch {
            events: page.events.into_iter().map(Arc::new).collect(),
            unreadable: page.unreadable.into_iter().map(Arc::new).collect(),
            up_to,
        })
    }

    fn in_memory(&self, after: Position, seen: Position) -> Option<Batch> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        if after < ring.after {
            return None;
        }
        let first = ring.events.partition_point(|event| event.position <= after);
        let events: Vec<_> = ring.events.range(first..).take(self.config.batch_max).cloned().collect();
        let up_to = match events.last() {
            Some(last) if events.len() == self.config.batch_max => last.position,
            last => last.map_or(seen, |last| seen.max(last.position)),
        };
        let within = |event: &&Arc<UnreadableEvent>| event.position > after && event.position <= up_to;
        let unreadable = ring.unreadable.iter().filter(within).cloned().collect();
        Some(Batch { events, unreadable, up_to })
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
            let page = self.read_page(after, mark).await?;
            let page_is_full = page.len() == self.config.batch_max;
            after = match page.last_position() {
                Some(last) if page_is_full => last,
                _ => mark,
            };
            self.keep(page);
            publish.send_replace(after);
            if !page_is_full {
                return Ok(true);
            }
        }
    }

    /// A page, read a second time if positions are missing in it. They were lost to a rollback or a conflict, which is rare:
    /// a belt beside the braces of the mark, for whoever reads past an event that is still to appear never sees it.
    async fn read_page(&self, after: Position, mark: Position) -> Result<Page, FeedError> {
        let limit = self.config.batch_max;
        let page = read_page(&self.pool, after, mark, limit).await?;
        if is_gapless(after, mark, limit, &page) {
            return Ok(page);
        }
        tokio::time::sleep(GAP_GRACE).await;
        let again = read_page(&self.pool, after, mark, limit).await?;
        let before: HashSet<Position> = page.events.iter().map(|event| event.position).collect();
        let until = page.last_position().unwrap_or(after);
        let appeared = |event: &&RecordedEvent| event.position <= until && !before.contains(&event.position);
        let late = again.events.iter().filter(appeared).count().max(again.len().saturating_sub(page.len()));
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

    fn keep(&self, page: Page) {
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        ring.events.extend(page.events.into_iter().map(Arc::new));
        ring.unreadable.extend(page.unreadable.into_iter().map(Arc::new));
        while ring.events.len() > self.config.ring_max {
            if let Some(dropped) = ring.events.pop_front() {
                ring.after = dropped.position;
            }
        }
        let after = ring.after;
        ring.unreadable.retain(|event| event.position > after);
        // They take the place of events, so that a log of nothing else does not fill the memory.
        while ring.unreadable.len() > self.config.ring_max {
            if let Some(dropped) = ring.unreadable.pop_front() {
                ring.after = dropped.position;
            }
        }
    }
}

/// Does a page hold every position of its stretch?
fn is_gapless(after: Position, mark: Position, limit: usize, page: &Page) -> bool {
    let until = if page.len() == limit { page.last_position().unwrap_or(mark) } else { mark };
    usize::try_from(until - after).is_ok_and(|positions| positions == page.len())
}

/// Reads the events after one position, up to and including another, in order. `until` must be a mark. One that cannot
/// be read is an error.
pub async fn read_events(
    executor: impl PgExecutor<'_>,
    after: Position,
    until: Position,
    limit: usize,
) -> Result<Vec<RecordedEvent>, FeedError> {
    let page = read_page(executor, after, until, limit).await?;
    match page.unreadable.into_iter().next() {
        Some(unreadable) => Err(Arc::new(unreadable).into()),
        None => Ok(page.events),
    }
}

/// The same for those who can set an unreadable event aside.
pub async fn read_page(
    executor: impl PgExecutor<'_>,
    after: Position,
    until: Position,
    limit: usize,
) -> Result<Page, FeedError> {
    let rows = sqlx::query_as!(
        StoredRow,
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
    Ok(Page::of(rows))
}

/// The events of one aggregate in a stretch of the log, in order.
pub async fn read_sequence(
    executor: impl PgExecutor<'_>,
    aggregate: (&str, &str),
    after: Position,
    until: Position,
) -> Result<Page, FeedError> {
    let rows = sqlx::query_as!(
        StoredRow,
        r#"SELECT position, tenant_id, aggregate_type, aggregate_id, sequence, event_type, event_version,
                payload::text AS "payload!", metadata ->> 'at' AS at, recorded_at
         FROM events
         WHERE aggregate_type = $1 AND aggregate_id = $2 AND position > $3 AND position <= $4 ORDER BY sequence"#,
        aggregate.0,
        aggregate.1,
        after,
        until,
    )
    .fetch_all(executor)
    .await
    .map_err(|source| FeedError::Read { after, source })?;
    Ok(Page::of(rows))
}

struct StoredRow {
    position: Position,
    tenant_id: Uuid,
    aggregate_type: String,
    aggregate_id: String,
    sequence: i64,
    event_type: String,
    event_version: String,
    payload: String,
    at: Option<String>,
    recorded_at: DateTime<Utc>,
}

impl Page {
    fn of(rows: Vec<StoredRow>) -> Self {
        let mut page = Self { events: Vec::with_capacity(rows.len()), unreadable: Vec::new() };
        for row in rows {
            match row.decode() {
                Ok(event) => page.events.push(event),
                Err(source) => page.unreadable.push(UnreadableEvent {
                    position: row.position,
                    aggregate_type: row.aggregate_type,
                    aggregate_id: row.aggregate_id,
                    event_type: row.event_type,
                    source,
                }),
            }
        }
        page
    }
}

impl StoredRow {
    fn decode(&self) -> Result<RecordedEvent, DecodeError> {
        let event = Event::decode(&self.aggregate_type, &self.event_type, &self.event_version, &self.payload)?;
        let aggregate_id = Uuid::try_parse(&self.aggregate_id)
            .map_err(|_| DecodeError::UnknownAggregate(self.aggregate_type.clone()))?;
        let at = self.at.as_deref().and_then(|at| at.parse().ok()).unwrap_or(self.recorded_at);
        Ok(RecordedEvent {
            position: self.position,
            tenant_id: TenantId(self.tenant_id),
            aggregate_id,
            sequence: self.sequence,
            at,
            event,
        })
    }
}
