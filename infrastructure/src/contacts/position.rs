//! From which position of the log on a change to contacts counts.
//!
//! A change counts from the position after the last one that was drawn when it was made. So whoever starts a run after
//! a change sees it, and a run that was started before never does. For a run that starts while a large import is being
//! written this holds because of one lock per tenant: a change takes it before it reads its position and keeps it to
//! the end of its transaction; reading an audience shares it. A run whose position the change has not passed yet can
//! thus read no page before the change is complete, and sees all of it or nothing.

use domain::ids::TenantId;
use sqlx::{PgConnection, PgPool};

/// "EKTC" in ASCII: the class of the advisory locks of contacts.
const LOCK_CLASS: i32 = 0x454B_5443;

/// The position at which a change of this transaction begins to count.
pub(super) async fn next_position_in_tx(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT CASE WHEN is_called THEN last_value ELSE 0 END + 1 AS "position!" FROM events_position_seq"#
    )
    .fetch_one(connection)
    .await
}

/// Changes of a tenant's contacts take turns; audiences wait for them.
pub(super) async fn lock_for_change_in_tx(connection: &mut PgConnection, tenant: TenantId) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1, hashtext($2))", LOCK_CLASS, tenant.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// A statement of its own, before the one that reads: a statement sees what was committed when it began to wait.
pub(super) async fn lock_for_reading_in_tx(connection: &mut PgConnection, tenant: TenantId) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock_shared($1, hashtext($2))", LOCK_CLASS, tenant.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Is an import of the tenant being written at this moment? Whoever reads its audience now would wait for it.
pub async fn is_being_changed(pool: &PgPool, tenant: TenantId) -> Result<bool, sqlx::Error> {
    // In a statement of its own, so that the lock, if it is had, is given back at once.
    let free = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock_shared($1, hashtext($2)) AS "free!""#,
        LOCK_CLASS,
        tenant.to_string()
    )
    .fetch_one(pool)
    .await?;
    Ok(!free)
}
