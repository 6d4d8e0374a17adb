//! The moment in which another generation becomes the live one: a single transaction, in which the two change places.
//!
//! Both checkpoints are locked first, so nobody writes to either meanwhile, and the new one is brought to the position
//! of the live one, so that no reader sees a step back in time. Readers wait for the instant in which the tables move;
//! whoever reads for longer than a moment makes the switch wait and try again, not the other readers.

use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::Position;
use infrastructure::event_feed::{advance_in_tx, lock_position_in_tx, read_page};
use sqlx::{Connection, Executor, PgConnection};
use tokio::time::Instant;

use super::{RebuildError, Rebuilder, tables};
use crate::feeding::Target;
use crate::generation::{self, Generation, GenerationState, LIVE_SCHEMA};
use crate::projection::Projection;

/// Whoever is further behind than this is not switched to: bringing it up would hold readers up.
const BEHIND_MAX: Position = 10_000;
const PAGE_MAX: usize = 20_000;
/// How long the tables are waited for in one try; other readers queue behind it.
const LOCK_WAIT: &str = "SET LOCAL lock_timeout = '300ms'";
const TRIES_MAX: u32 = 100;
const PAUSE: Duration = Duration::from_millis(100);
/// The SQLSTATEs of a lock that was not to be had, and of a deadlock.
const LOCKED: [&str; 2] = ["55P03", "40P01"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// To the generation that was rebuilt.
    Forward,
    /// To the one that was live before.
    Back,
}

impl Direction {
    fn from(self) -> GenerationState {
        match self {
            Self::Forward => GenerationState::Ready,
            Self::Back => GenerationState::Previous,
        }
    }

    /// What becomes of the one that was live.
    fn leaves(self) -> GenerationState {
        match self {
            Self::Forward => GenerationState::Previous,
            Self::Back => GenerationState::Ready,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct SwitchReport {
    pub projection: &'static str,
    pub version: i32,
    pub generation: i32,
    /// Everything at or below it is in the tables that are live now.
    pub position: Position,
    /// How long the transaction took in which the tables changed places.
    pub seconds: f64,
}

/// Makes another generation the live one. The one that was live is kept and fed.
pub async fn switch(
    rebuilder: &mut Rebuilder,
    projection: &Arc<dyn Projection>,
    direction: Direction,
) -> Result<SwitchReport, RebuildError> {
    super::lock(&mut rebuilder.owner, projection.name()).await?;
    let wanted = direction.from();
    let none = || RebuildError::None { projection: projection.name().to_owned(), wanted: wanted.name() };
    let other = generation::find(&rebuilder.pool, projection.name(), wanted).await?.ok_or_else(none)?;
    let live = generation::find(&rebuilder.pool, projection.name(), GenerationState::Live).await?.ok_or_else(none)?;
    // Only one is kept to go back to.
    if let Some(stale) = generation::find(&rebuilder.pool, projection.name(), direction.leaves()).await? {
        tables::drop_generation(&mut rebuilder.owner, &stale).await?;
    }
    for _ in 0..TRIES_MAX {
        let began = Instant::now();
        match change_places(&mut rebuilder.owner, projection, &live, &other, direction).await {
            Ok(position) => {
                return Ok(SwitchReport {
                    projection: projection.name(),
                    version: other.version,
                    generation: other.number,
                    position,
                    seconds: began.elapsed().as_secs_f64(),
                });
            }
            Err(RebuildError::Database(error)) if is_locked(&error) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
    Err(RebuildError::Unsteady { projection: projection.name().to_owned() })
}

fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| LOCKED.contains(&&*code))
}

async fn change_places(
    owner: &mut PgConnection,
    projection: &Arc<dyn Projection>,
    live: &Generation,
    other: &Generation,
    direction: Direction,
) -> Result<Position, RebuildError> {
    let mut tx = owner.begin().await?;
    tx.execute(LOCK_WAIT).await?;
    let position = align_in_tx(&mut tx, projection, [live, other]).await?;
    let left = format!("{LIVE_SCHEMA}_{}_{}", live.projection, live.number);
    tx.execute(format!("CREATE SCHEMA IF NOT EXISTS {left}").as_str()).await?;
    tx.execute(format!("GRANT USAGE ON SCHEMA {left} TO ektola_engine").as_str()).await?;
    for (schema, to) in [(LIVE_SCHEMA, left.as_str()), (other.schema.as_str(), LIVE_SCHEMA)] {
        for table in projection.tables() {
            tx.execute(format!("ALTER TABLE {schema}.{table} SET SCHEMA {to}").as_str()).await?;
        }
    }
    tx.execute(format!("DROP SCHEMA {}", other.schema).as_str()).await?;
    for (generation, schema, state) in
        [(live, left.as_str(), direction.leaves()), (other, LIVE_SCHEMA, GenerationState::Live)]
    {
        sqlx::query!(
            "UPDATE projection_builds SET schema_name = $3, state = $4, switched_at = clock_timestamp()
             WHERE projection = $1 AND generation = $2",
            generation.projection,
            generation.number,
            schema,
            state.name(),
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(position)
}

/// Locks both checkpoints, the live one first, and brings whoever is behind to the position of the other, which it
/// answers.
pub(super) async fn align_in_tx(
    connection: &mut PgConnection,
    projection: &Arc<dyn Projection>,
    generations: [&Generation; 2],
) -> Result<Position, RebuildError> {
    let mut positions = [0; 2];
    for (position, generation) in positions.iter_mut().zip(generations) {
        *position = lock_position_in_tx(connection, &generation.subscription).await?;
    }
    let target = positions.into_iter().max().unwrap_or_default();
    for (position, generation) in positions.into_iter().zip(generations) {
        let lag = target - position;
        if lag > BEHIND_MAX {
            return Err(RebuildError::Behind {
                projection: generation.projection.clone(),
                wanted: generation.state.name(),
                lag,
            });
        }
        if lag > 0 {
            bring_in_tx(connection, projection, generation, position, target).await?;
        }
    }
    Ok(target)
}

async fn bring_in_tx(
    connection: &mut PgConnection,
    projection: &Arc<dyn Projection>,
    generation: &Generation,
    from: Position,
    to: Position,
) -> Result<(), RebuildError> {
    let target = Target {
        projection: projection.clone(),
        generation: generation.number,
        subscription: generation.subscription.clone(),
    };
    // The other one has read up to there, so it lies below the mark.
    let page = read_page(&mut *connection, from, to, PAGE_MAX).await?;
    if generation.state == GenerationState::Building {
        sqlx::query!(
            "UPDATE projection_builds SET events_read = events_read + $3 WHERE projection = $1 AND generation = $2",
            generation.projection,
            generation.number,
            i64::try_from(page.len()).unwrap_or(i64::MAX),
        )
        .execute(&mut *connection)
        .await?;
    }
    if !advance_in_tx(connection, &generation.subscription, from, to).await? {
        return Err(RebuildError::Overtaken { projection: generation.projection.clone() });
    }
    target.apply_page_in_tx(connection, page).await?;
    Ok(())
}

/// Gives up what is being built or is ready; where there is neither, the generation that was live before. Answers what
/// was given up.
pub async fn cancel(rebuilder: &mut Rebuilder, projection: &Arc<dyn Projection>) -> Result<Generation, RebuildError> {
    super::lock(&mut rebuilder.owner, projection.name()).await?;
    for state in [GenerationState::Building, GenerationState::Ready, GenerationState::Previous] {
        if let Some(found) = generation::find(&rebuilder.pool, projection.name(), state).await? {
            tables::drop_generation(&mut rebuilder.owner, &found).await?;
            return Ok(found);
        }
    }
    Err(RebuildError::None { projection: projection.name().to_owned(), wanted: "other" })
}
