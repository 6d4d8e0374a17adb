//! A subscription's checkpoint: the position up to which everything has taken effect.

use domain::aggregate::Position;
use sqlx::{PgConnection, PgPool};

/// Makes the subscription known; it starts before the first event.
pub async fn register(pool: &PgPool, name: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("INSERT INTO subscriptions (name) VALUES ($1) ON CONFLICT (name) DO NOTHING", name)
        .execute(pool)
        .await?;
    Ok(())
}

pub async fn position_of(pool: &PgPool, name: &str) -> Result<Position, sqlx::Error> {
    Ok(sqlx::query_scalar!("SELECT position FROM subscriptions WHERE name = $1", name)
        .fetch_optional(pool)
        .await?
        .unwrap_or(0))
}

/// Reads the checkpoint and keeps others from moving it until the transaction ends.
pub async fn lock_position_in_tx(connection: &mut PgConnection, name: &str) -> Result<Position, sqlx::Error> {
    Ok(sqlx::query_scalar!("SELECT position FROM subscriptions WHERE name = $1 FOR UPDATE", name)
        .fetch_optional(connection)
        .await?
        .unwrap_or(0))
}

/// Moves the checkpoint from one position to another; `false` if somebody else has moved it, in which case the
/// caller's effects must not commit.
pub async fn advance_in_tx(
    connection: &mut PgConnection,
    name: &str,
    from: Position,
    to: Position,
) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query!(
        "UPDATE subscriptions SET position = $3, updated_at = clock_timestamp() WHERE name = $1 AND position = $2",
        name,
        from,
        to,
    )
    .execute(connection)
    .await?;
    Ok(moved.rows_affected() == 1)
}
