//! Poison: a message that takes the process down with it, or whose claim can never be decided, must not come round for
//! ever. It is counted in Postgres, for the count has to survive the process, and parked for a person when it is enough.
//!
//! A delivery that comes again without having been given back was lost with its process. That is usually no fault of its
//! messages, and a parcel holds many, so the limit stands above what a bad day brings; and from the third time on each of
//! them is claimed alone, counted just before, so that in the end only the one that does it is counted.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::ids::MessageId;
use sqlx::PgPool;
use uuid::Uuid;

use crate::dead_letters::{self, Parked, Source};
use crate::dispatch_queue::DispatchItem;

/// From so many strikes of any of its messages on, a parcel's messages are claimed one by one.
pub(super) const SUSPECT: i32 = 3;

/// How often each of these messages was struck; those that never were are left out.
pub(super) async fn of(pool: &PgPool, items: &[DispatchItem]) -> Result<HashMap<MessageId, i32>, sqlx::Error> {
    let rows =
        sqlx::query!("SELECT message_id, strikes FROM dispatch_strikes WHERE message_id = ANY($1)", &ids(items),)
            .fetch_all(pool)
            .await?;
    Ok(rows.into_iter().map(|row| (MessageId(row.message_id), row.strikes)).collect())
}

/// Strikes each of these messages once more, before anything is done with them.
pub(super) async fn strike(pool: &PgPool, items: &[DispatchItem]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO dispatch_strikes (message_id, strikes) SELECT DISTINCT id, 1 FROM unnest($1::uuid[]) AS t(id)
         ON CONFLICT (message_id) DO UPDATE
         SET strikes = dispatch_strikes.strikes + 1, updated_at = clock_timestamp()",
        &ids(items),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// They have been claimed, or nothing is left to claim.
pub(super) async fn forgive(pool: &PgPool, items: &[DispatchItem]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM dispatch_strikes WHERE message_id = ANY($1)", &ids(items)).execute(pool).await?;
    Ok(())
}

/// Takes a message out of the feeder's way and puts it before a person, both or neither. Parking it twice is a no-op.
pub(super) async fn park(
    pool: &PgPool,
    item: &DispatchItem,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    let parked = sqlx::query!(
        "UPDATE ready_list SET due_at = 'infinity'
         WHERE message_id = $1 AND attempt = $2 AND due_at IS DISTINCT FROM 'infinity'",
        item.message_id.0,
        i32::try_from(item.attempt).unwrap_or(i32::MAX),
    )
    .execute(&mut *tx)
    .await?;
    if parked.rows_affected() == 1 {
        let letter = Parked {
            source: Source::Dispatch,
            reference: item.message_id.to_string(),
            tenant_id: Some(item.tenant_id),
            reason: reason.to_owned(),
            attempts: item.attempt,
        };
        dead_letters::park_in_tx(&mut tx, &[letter], now).await?;
    }
    sqlx::query!("DELETE FROM dispatch_strikes WHERE message_id = $1", item.message_id.0).execute(&mut *tx).await?;
    tx.commit().await?;
    tracing::error!(message.id = %item.message_id, reason, "a message is parked; see `ektola dead-letters list`");
    Ok(())
}

fn ids(items: &[DispatchItem]) -> Vec<Uuid> {
    items.iter().map(|item| item.message_id.0).collect()
}
