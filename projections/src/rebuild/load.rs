//! The log, read once and folded into all generations that are being built. The next stretch is read and decoded by a
//! task of its own while the present one is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domain::aggregate::Position;
use domain::event::RecordedEvent;
use futures::future::try_join_all;
use infrastructure::event_feed::{HighWaterMark, Page, UnreadableEvent, advance_in_tx, read_page};
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::pace::Pace;
use super::{RebuildError, STALL_WARNING, Step};
use crate::feeding::Target;
use crate::generation::Generation;
use crate::projection::Projection;

/// Rows of one query.
const PAGE_MAX: usize = 10_000;
/// Besides the one that is being written and the one that is being read.
const STRETCHES_AHEAD: usize = 1;

/// A generation that is being built, and how far it is.
pub(super) struct Leg {
    pub(super) target: Target,
    pub(super) position: Position,
}

impl Leg {
    pub(super) fn of(projection: &Arc<dyn Projection>, generation: &Generation) -> Self {
        let target = Target {
            projection: projection.clone(),
            generation: generation.number,
            subscription: generation.subscription.clone(),
        };
        Self { target, position: generation.position }
    }
}

/// A decoded part of the log.
struct Stretch {
    events: Vec<Arc<RecordedEvent>>,
    unreadable: Vec<Arc<UnreadableEvent>>,
    up_to: Position,
}

impl Stretch {
    fn len(&self) -> usize {
        self.events.len() + self.unreadable.len()
    }
}

/// Brings all of them to `until`, which must be a mark. Those that are behind the others, after an interruption, are
/// brought to their place first.
pub(super) async fn load(
    pool: &PgPool,
    legs: &mut [Leg],
    until: Position,
    pace: &mut Pace,
    progress: &impl Fn(Step),
) -> Result<(), RebuildError> {
    let mut loader = Loader { pool, pace, mark: HighWaterMark::new(pool.clone(), STALL_WARNING), of: until, events: 0 };
    loop {
        let Some(from) = legs.iter().map(|leg| leg.position).min().filter(|from| *from < until) else { return Ok(()) };
        let next = legs.iter().map(|leg| leg.position).filter(|position| *position > from).min();
        let mut group: Vec<&mut Leg> = legs.iter_mut().filter(|leg| leg.position == from).collect();
        loader.load_group(&mut group, from, next.map_or(until, |next| next.min(until)), progress).await?;
    }
}

struct Loader<'a> {
    pool: &'a PgPool,
    pace: &'a mut Pace,
    mark: HighWaterMark,
    of: Position,
    events: u64,
}

impl Loader<'_> {
    async fn load_group(
        &mut self,
        group: &mut [&mut Leg],
        from: Position,
        until: Position,
        progress: &impl Fn(Step),
    ) -> Result<(), RebuildError> {
        progress(Step::Loading { done: from, of: self.of, events: self.events });
        let (send, mut stretches) = mpsc::channel(STRETCHES_AHEAD);
        let events_max = Arc::new(AtomicUsize::new(self.pace.events_max()));
        // Ends with this call, whatever becomes of it.
        let mut reader = JoinSet::new();
        reader.spawn(read_on(self.pool.clone(), from, until, Arc::clone(&events_max), send));
        let mut reached = from;
        while let Some(stretch) = stretches.recv().await {
            let stretch = stretch?;
            try_join_all(group.iter_mut().map(|leg| apply(self.pool, leg, &stretch))).await?;
            reached = stretch.up_to;
            self.events += u64::try_from(stretch.len()).unwrap_or(u64::MAX);
            progress(Step::Loading { done: reached, of: self.of, events: self.events });
            if self.pace.wants_to_see() {
                self.pace.see(self.mark.advance().await?);
            }
            events_max.store(self.pace.events_max(), Ordering::Relaxed);
            self.pace.rest().await;
        }
        // A reader that broke off must not look like the end of the log.
        if reached == until { Ok(()) } else { Err(RebuildError::BrokenOff { position: reached }) }
    }
}

/// Reads and decodes one stretch after the other, until all are read, one fails, or nobody wants them any more.
async fn read_on(
    pool: PgPool,
    from: Position,
    until: Position,
    events_max: Arc<AtomicUsize>,
    send: mpsc::Sender<Result<Stretch, RebuildError>>,
) {
    let mut after = from;
    while after < until {
        let stretch = read_stretch(&pool, after, until, events_max.load(Ordering::Relaxed)).await;
        after = stretch.as_ref().map_or(until, |stretch| stretch.up_to);
        if send.send(stretch).await.is_err() {
            return;
        }
    }
}

async fn read_stretch(
    pool: &PgPool,
    after: Position,
    until: Position,
    events_max: usize,
) -> Result<Stretch, RebuildError> {
    let mut stretch = Stretch { events: Vec::new(), unreadable: Vec::new(), up_to: after };
    while stretch.up_to < until && stretch.len() < events_max {
        let page: Page = read_page(pool, stretch.up_to, until, PAGE_MAX.min(events_max)).await?;
        stretch.up_to = match page.last_position() {
            Some(last) if page.len() == PAGE_MAX.min(events_max) => last,
            // The last positions below the mark may be gaps.
            _ => until,
        };
        stretch.events.extend(page.events.into_iter().map(Arc::new));
        stretch.unreadable.extend(page.unreadable.into_iter().map(Arc::new));
    }
    Ok(stretch)
}

async fn apply(pool: &PgPool, leg: &mut Leg, stretch: &Stretch) -> Result<(), RebuildError> {
    let target = &leg.target;
    let projection = target.projection.name();
    let concerning: Vec<Arc<RecordedEvent>> =
        stretch.events.iter().filter(|event| target.projection.concerns(event)).cloned().collect();
    let mut tx = pool.begin().await?;
    if !advance_in_tx(&mut tx, &target.subscription, leg.position, stretch.up_to).await? {
        return Err(RebuildError::Overtaken { projection: projection.to_owned() });
    }
    sqlx::query!(
        "UPDATE projection_builds SET events_read = events_read + $3 WHERE projection = $1 AND generation = $2",
        projection,
        target.generation,
        i64::try_from(stretch.len()).unwrap_or(i64::MAX),
    )
    .execute(&mut *tx)
    .await?;
    target.park_unreadable_in_tx(&mut tx, &stretch.unreadable).await?;
    if !concerning.is_empty() {
        target.apply_in_tx(&mut tx, &concerning).await?;
    }
    tx.commit().await?;
    leg.position = stretch.up_to;
    Ok(())
}
