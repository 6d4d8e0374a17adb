//! Folds a projection anew from the log, beside the live one and while messages flow, and puts it in its place.
//!
//! The new generation lies in a schema of its own. It is filled in large batches, each committed with its checkpoint,
//! so whoever is killed in the middle goes on from the last one; only then come its indexes, and what has happened
//! meanwhile. Before it is `ready` the events it has read are counted in the log itself: a connection that broke, or
//! anything else that ends early, never passes for the end of the log. From there on the engine feeds it like the live
//! one, until it is switched to ([`switch`](switch()), after [`verify`](verify())) or given up ([`cancel`](cancel())).
//!
//! One at a time rebuilds a projection, by a lock of the database that ends with the connection.

mod load;
mod pace;
mod switch;
mod tables;
mod verify;

use std::sync::Arc;

use domain::aggregate::Position;
use infrastructure::event_feed::{FeedError, HighWaterMark, MarkError};
use infrastructure::postgres::PLAN_BY_SIZE;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::time::Instant;

pub use self::pace::Pace;
pub use self::switch::{Direction, SwitchReport, cancel, switch};
pub use self::verify::{TableDifference, TableReport, VerifyReport, verify};
use crate::generation::{self, Generation, GenerationState};
use crate::projection::Projection;
use load::{Leg, load};

/// What is still to be read when the indexes are made, at most, and when it becomes ready.
const NEARLY: Position = 1_000;
/// When the mark waits this long for a slow writer, it warns.
const STALL_WARNING: std::time::Duration = std::time::Duration::from_secs(1);

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// In positions of the log; `events` have been read by this call.
    Loading {
        done: Position,
        of: Position,
        events: u64,
    },
    Indexing,
    Counting,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BuildReport {
    pub projection: &'static str,
    /// The projection's version that the rows have.
    pub version: i32,
    pub generation: i32,
    /// Everything at or below this is in the tables.
    pub position: Position,
    /// The events of the log up to there, those without interest to the projection included.
    pub events: i64,
    /// Read before this call, by one that was interrupted.
    pub resumed_from: Position,
    /// Aggregates whose events could not be taken in.
    pub parked: i64,
}

/// Of all projections together.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildReports {
    pub projections: Vec<BuildReport>,
    /// Reading, folding and writing.
    pub load_seconds: f64,
    pub index_seconds: f64,
    /// Counting the events in the log.
    pub count_seconds: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    Mark(#[from] MarkError),
    #[error(transparent)]
    Read(#[from] FeedError),
    #[error("the read model could not be written")]
    Database(#[from] sqlx::Error),
    /// The log has another number of events than were read; the generation is not to be relied on.
    #[error("{read} events were read for {projection}, but the log has {in_log} up to position {position}")]
    Incomplete { projection: String, read: i64, in_log: i64, position: Position },
    /// The task that reads the log has ended too early.
    #[error("reading the log broke off at position {position}")]
    BrokenOff { position: Position },
    #[error("{projection} is being rebuilt by somebody else at this moment")]
    Busy { projection: String },
    /// Two feed it that should not.
    #[error("the checkpoint of the new {projection} was moved by somebody else")]
    Overtaken { projection: String },
    #[error("{projection} has no {wanted} version")]
    None { projection: String, wanted: &'static str },
    #[error("the {wanted} version of {projection} is {lag} events behind the live one")]
    Behind { projection: String, wanted: &'static str, lag: Position },
    #[error("the two versions of {projection} could not be brought to one position")]
    Unsteady { projection: String },
}

/// The connections of a rebuild.
pub struct Rebuilder {
    /// The owner of the database, who alone may make and move tables. It holds the locks.
    owner: PgConnection,
    pool: PgPool,
}

impl Rebuilder {
    /// `pool` works as the engine does; it should have one connection for each projection and one more.
    pub async fn connect(owner_url: &str, pool: &PgPool) -> Result<Self, RebuildError> {
        let owner = PgConnection::connect(owner_url).await?;
        Ok(Self { owner, pool: pool.clone() })
    }

    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Builds a new generation of each projection, all from one reading of the log, up to readiness. What an
    /// interrupted call has built is taken up.
    pub async fn build(
        &mut self,
        projections: &[Arc<dyn Projection>],
        pace: Pace,
        progress: impl Fn(Step),
    ) -> Result<BuildReports, RebuildError> {
        let mut pace = pace;
        for projection in projections {
            self.lock(projection.name()).await?;
        }
        let mut begun = Vec::new();
        for projection in projections {
            begun.push(self.take_up_or_begin(projection).await?);
        }
        let building: Vec<(Arc<dyn Projection>, Generation)> = projections
            .iter()
            .cloned()
            .zip(begun.iter().cloned())
            .filter(|(_, generation)| generation.state == GenerationState::Building)
            .collect();
        let mut times = Times::default();
        if !building.is_empty() {
            self.fill(&building, &mut pace, &mut times, &progress).await?;
        }
        let mut reports = Vec::new();
        for (projection, before) in projections.iter().zip(&begun) {
            reports.push(self.report(&**projection, before).await?);
        }
        Ok(BuildReports {
            projections: reports,
            load_seconds: times.load,
            index_seconds: times.index,
            count_seconds: times.count,
        })
    }

    async fn fill(
        &mut self,
        building: &[(Arc<dyn Projection>, Generation)],
        pace: &mut Pace,
        times: &mut Times,
        progress: &impl Fn(Step),
    ) -> Result<(), RebuildError> {
        let mut legs: Vec<Leg> =
            building.iter().map(|(projection, generation)| Leg::of(projection, generation)).collect();
        let mut mark = HighWaterMark::new(self.pool.clone(), STALL_WARNING);
        let began = Instant::now();
        self.catch_up(&mut legs, &mut mark, pace, progress).await?;
        times.load = began.elapsed().as_secs_f64();

        progress(Step::Indexing);
        let began = Instant::now();
        for (projection, generation) in building {
            tables::complete(&mut self.owner, &**projection, &generation.schema, pace.gives_way()).await?;
        }
        times.index = began.elapsed().as_secs_f64();

        let began = Instant::now();
        self.catch_up(&mut legs, &mut mark, pace, progress).await?;
        times.load += began.elapsed().as_secs_f64();

        progress(Step::Counting);
        let began = Instant::now();
        for (leg, (_, generation)) in legs.iter().zip(building) {
            self.finish(leg, generation).await?;
        }
        times.count = began.elapsed().as_secs_f64();
        Ok(())
    }

    async fn catch_up(
        &self,
        legs: &mut [Leg],
        mark: &mut HighWaterMark,
        pace: &mut Pace,
        progress: &impl Fn(Step),
    ) -> Result<(), RebuildError> {
        loop {
            let until = mark.advance().await?;
            pace.see(until);
            load(&self.pool, legs, until, pace, progress).await?;
            if mark.advance().await? - until <= NEARLY {
                return Ok(());
            }
        }
    }

    /// Checks that nothing is missing, and hands the generation over to the engine.
    async fn finish(&mut self, leg: &Leg, generation: &Generation) -> Result<(), RebuildError> {
        let projection = leg.target.projection.name();
        let mut tx = self.pool.begin().await?;
        tx.execute(PLAN_BY_SIZE).await?;
        let in_log =
            sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events WHERE position <= $1"#, leg.position)
                .fetch_one(&mut *tx)
                .await?;
        tx.rollback().await?;
        let read = sqlx::query_scalar!(
            "SELECT events_read FROM projection_builds WHERE projection = $1 AND generation = $2",
            projection,
            generation.number,
        )
        .fetch_one(&self.pool)
        .await?;
        if in_log != read {
            let projection = projection.to_owned();
            return Err(RebuildError::Incomplete { projection, read, in_log, position: leg.position });
        }
        sqlx::query!(
            "UPDATE projection_builds SET state = 'ready', built_up_to = $3
             WHERE projection = $1 AND generation = $2 AND state = 'building'",
            projection,
            generation.number,
            leg.position,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// One that is ready, or half built by the present version of the projection, is taken up; another is dropped.
    async fn take_up_or_begin(&mut self, projection: &Arc<dyn Projection>) -> Result<Generation, RebuildError> {
        let version = i32::try_from(projection.version()).unwrap_or(i32::MAX);
        for state in [GenerationState::Ready, GenerationState::Building] {
            if let Some(found) = generation::find(&self.pool, projection.name(), state).await? {
                if found.version == version {
                    return Ok(found);
                }
                tables::drop_generation(&mut self.owner, &found).await?;
            }
        }
        Ok(tables::create_generation(&mut self.owner, &**projection).await?)
    }

    async fn report(&self, projection: &dyn Projection, before: &Generation) -> Result<BuildReport, RebuildError> {
        let found = generation::list(&self.pool, Some(projection.name())).await?;
        let generation = found.into_iter().find(|generation| generation.number == before.number);
        let generation = generation.ok_or_else(|| RebuildError::None {
            projection: projection.name().to_owned(),
            wanted: GenerationState::Ready.name(),
        })?;
        let parked = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM projection_parked WHERE projection = $1 AND generation = $2"#,
            projection.name(),
            generation.number,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(BuildReport {
            projection: projection.name(),
            version: generation.version,
            generation: generation.number,
            position: generation.position,
            events: generation.events_read,
            resumed_from: before.position,
            parked,
        })
    }

    async fn lock(&mut self, projection: &str) -> Result<(), RebuildError> {
        lock(&mut self.owner, projection).await
    }
}

#[derive(Default)]
struct Times {
    load: f64,
    index: f64,
    count: f64,
}

/// Keeps others from changing the generations of a projection, until the connection ends.
async fn lock(owner: &mut PgConnection, projection: &str) -> Result<(), RebuildError> {
    // Keyed by "EKTO" in ASCII and the projection's name.
    let locked = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_lock(1162564687, hashtext('rebuild of ' || $1)) AS "locked!""#,
        projection
    )
    .fetch_one(owner)
    .await?;
    if locked { Ok(()) } else { Err(RebuildError::Busy { projection: projection.to_owned() }) }
}
