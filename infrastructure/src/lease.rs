//! A lease: the right of one process at a time to do a thing. Times are the database's, so that clocks need not agree.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

/// Takes or renews a lease; `false` while somebody else holds it.
pub async fn hold(pool: &PgPool, name: &str, holder: Uuid, ttl: Duration) -> Result<bool, sqlx::Error> {
    let held = sqlx::query!(
        "INSERT INTO leases (name, holder, expires_at)
         VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
         WHERE leases.holder = excluded.holder OR leases.expires_at < clock_timestamp()",
        name,
        holder,
        ttl.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    Ok(held.rows_affected() == 1)
}

/// Gives a lease back, so that the next holder need not wait for its end.
pub async fn release(pool: &PgPool, name: &str, holder: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM leases WHERE name = $1 AND holder = $2", name, holder).execute(pool).await?;
    Ok(())
}
