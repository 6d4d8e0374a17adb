//! Giving a parked sequence back, or giving its first event up.

use std::sync::Arc;

use domain::aggregate::Position;
use infrastructure::event_feed::{FeedError, lock_position_in_tx, read_sequence};
use infrastructure::postgres::is_refusal;
use sqlx::{PgConnection, PgPool};

use super::{AggregateKey, ParkedClass, key_of, told};
use crate::feeding::Target;
use crate::generation;
use crate::projection::Projection;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The projection has taken the whole sequence in.
    Applied { events: usize },
    /// It is parked again, from this position on.
    ParkedAgain { from_position: Position, error: String },
    /// Nothing of this aggregate is parked.
    NotParked,
}

#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    #[error("the parked events could not be applied")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Read(#[from] FeedError),
}

/// Applies the parked events of an aggregate, in order, in every generation that has parked them.
pub async fn retry(
    pool: &PgPool,
    projection: &Arc<dyn Projection>,
    aggregate: &AggregateKey,
) -> Result<Settled, SettleError> {
    settle(pool, projection, aggregate, 0).await
}

/// Leaves the first parked event out for good, and applies those behind it.
pub async fn discard(
    pool: &PgPool,
    projection: &Arc<dyn Projection>,
    aggregate: &AggregateKey,
) -> Result<Settled, SettleError> {
    settle(pool, projection, aggregate, 1).await
}

async fn settle(
    pool: &PgPool,
    projection: &Arc<dyn Projection>,
    aggregate: &AggregateKey,
    left_out: Position,
) -> Result<Settled, SettleError> {
    let mut worst = Settled::NotParked;
    for generation in generation::list(pool, Some(projection.name())).await? {
        let target = Target {
            projection: projection.clone(),
            generation: generation.number,
            subscription: generation.subscription,
        };
        let mut tx = pool.begin().await?;
        // The checkpoint first, as every follower does: nothing is applied to this generation meanwhile.
        let position = lock_position_in_tx(&mut tx, &target.subscription).await?;
        let Some(from) = unpark_in_tx(&mut tx, &target, aggregate).await? else { continue };
        let settled = apply_in_tx(&mut tx, &target, aggregate, (from.position - 1 + left_out, position), &from).await?;
        tx.commit().await?;
        // The live one is what people see; a failure anywhere is told.
        if !matches!(worst, Settled::ParkedAgain { .. }) {
            worst = settled;
        }
    }
    Ok(worst)
}

struct Parked {
    position: Position,
    attempts: i32,
    parked_at: chrono::DateTime<chrono::Utc>,
}

async fn unpark_in_tx(
    connection: &mut PgConnection,
    target: &Target,
    aggregate: &AggregateKey,
) -> Result<Option<Parked>, sqlx::Error> {
    sqlx::query_as!(
        Parked,
        "DELETE FROM projection_parked
         WHERE projection = $1 AND generation = $2 AND aggregate_type = $3 AND aggregate_id = $4
         RETURNING from_position AS position, attempts, parked_at",
        target.projection.name(),
        target.generation,
        aggregate.0,
        aggregate.1,
    )
    .fetch_optional(connection)
    .await
}

/// One event after the other, so that what can be taken in is, up to the one that cannot.
async fn apply_in_tx(
    connection: &mut PgConnection,
    target: &Target,
    aggregate: &AggregateKey,
    (after, until): (Position, Position),
    parked: &Parked,
) -> Result<Settled, SettleError> {
    let page = read_sequence(&mut *connection, (&aggregate.0, &aggregate.1), after, until).await?;
    let unreadable_from = page.unreadable.first().map_or(Position::MAX, |event| event.position);
    target.enter_in_tx(connection).await?;
    let mut events = 0;
    for event in page.events.into_iter().filter(|event| event.position < unreadable_from) {
        debug_assert_eq!(&key_of(&event), aggregate, "the log was asked for one aggregate");
        if !target.projection.concerns(&event) {
            continue;
        }
        let one = [Arc::new(event)];
        match target.apply_in_savepoint(connection, &one).await {
            Ok(()) => events += 1,
            Err(error) if is_refusal(&error) => {
                let [event] = &one;
                return park_again(connection, target, aggregate, event.position, ParkedClass::Refused, &error, parked)
                    .await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    match page.unreadable.first() {
        None => Ok(Settled::Applied { events }),
        Some(event) => {
            park_again(connection, target, aggregate, event.position, ParkedClass::Unreadable, event, parked).await
        }
    }
}

async fn park_again(
    connection: &mut PgConnection,
    target: &Target,
    aggregate: &AggregateKey,
    position: Position,
    class: ParkedClass,
    error: &dyn std::error::Error,
    parked: &Parked,
) -> Result<Settled, SettleError> {
    let error = told(error);
    // The same event keeps its count of attempts and its age; another one begins anew.
    let (attempts, since) =
        if position == parked.position { (parked.attempts + 1, Some(parked.parked_at)) } else { (1, None) };
    sqlx::query!(
        "INSERT INTO projection_parked
             (projection, generation, aggregate_type, aggregate_id, from_position, class, error, attempts, parked_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, coalesce($9, clock_timestamp()))",
        target.projection.name(),
        target.generation,
        aggregate.0,
        aggregate.1,
        position,
        class.name(),
        error,
        attempts,
        since,
    )
    .execute(connection)
    .await?;
    Ok(Settled::ParkedAgain { from_position: position, error })
}
