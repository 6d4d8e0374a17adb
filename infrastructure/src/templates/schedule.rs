//! When the templates of an account are read again. Whoever takes an account owns it for a while, so that several
//! processes do not read it at once; reading it twice changes nothing.

use std::time::Duration;

use domain::ids::TenantId;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// Longer than an account takes to read; after that another process may.
const LEASE: Duration = Duration::from_secs(600);

pub(super) struct Due {
    pub(super) tenant: TenantId,
    pub(super) waba_id: String,
    /// What the account was due at; news that comes while it is read makes it due again.
    due_at: chrono::DateTime<chrono::Utc>,
    /// Why the last attempt failed.
    pub(super) error: Option<String>,
}

/// Asks for an account to be read as soon as possible.
pub(super) async fn ask_in_tx(tx: &mut PgConnection, tenants: &[Uuid], waba_id: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO template_syncs (tenant_id, waba_id, due_at)
         SELECT tenant, $2, clock_timestamp() FROM unnest($1::uuid[]) tenant
         ON CONFLICT (tenant_id, waba_id) DO UPDATE SET due_at = excluded.due_at
         WHERE template_syncs.error IS NULL",
        tenants,
        waba_id,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The account that has been due for the longest time, unless it was read less than `gap` ago. Those of the sandbox are
/// never due by themselves.
pub(super) async fn take(pool: &PgPool, gap: Duration) -> Result<Option<Due>, sqlx::Error> {
    sqlx::query!(
        "INSERT INTO template_syncs (tenant_id, waba_id, due_at)
         SELECT DISTINCT tenant_id, waba_id, clock_timestamp() FROM senders WHERE NOT sandbox
         ON CONFLICT (tenant_id, waba_id) DO NOTHING",
    )
    .execute(pool)
    .await?;
    let row = sqlx::query!(
        "UPDATE template_syncs t SET leased_until = clock_timestamp() + make_interval(secs => $1)
         WHERE (tenant_id, waba_id) = (
             SELECT d.tenant_id, d.waba_id FROM template_syncs d
             WHERE d.due_at <= clock_timestamp() AND d.leased_until < clock_timestamp()
               AND (d.ended_at IS NULL OR d.ended_at + make_interval(secs => $2) <= clock_timestamp())
               AND EXISTS (SELECT FROM senders s
                           WHERE s.tenant_id = d.tenant_id AND s.waba_id = d.waba_id AND NOT s.sandbox)
             ORDER BY d.due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
         RETURNING tenant_id, waba_id, due_at, error",
        LEASE.as_secs_f64(),
        gap.as_secs_f64(),
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Due {
        tenant: TenantId(row.tenant_id),
        waba_id: row.waba_id,
        due_at: row.due_at,
        error: row.error,
    }))
}

/// Notes down how it went and when to read the account again.
pub(super) async fn end(pool: &PgPool, due: &Due, error: Option<&str>, wait: Duration) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE template_syncs
         SET leased_until = '-infinity', ended_at = clock_timestamp(), error = $4,
             due_at = CASE WHEN due_at > $3 THEN due_at ELSE clock_timestamp() + make_interval(secs => $5) END
         WHERE tenant_id = $1 AND waba_id = $2",
        due.tenant.0,
        due.waba_id,
        due.due_at,
        error,
        wait.as_secs_f64(),
    )
    .execute(pool)
    .await?;
    Ok(())
}
