use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use infrastructure::postgres::MIGRATOR;
use serde::Serialize;
use sqlx::migrate::{Migrate as _, MigrateError};
use sqlx::{Executor as _, PgPool};
use tokio::time::timeout;
use utoipa::ToSchema;

use super::problem::chain;
use super::state::ApiState;

const DATABASE_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Serialize, ToSchema)]
pub(super) struct Liveness {
    live: bool,
}

/// Says that the process runs.
#[utoipa::path(get, path = "/livez", tag = "health", security(()), responses((status = 200, body = Liveness)))]
pub(super) async fn livez() -> Json<Liveness> {
    Json(Liveness { live: true })
}

#[derive(Serialize, ToSchema)]
pub(super) struct ReadinessDocument {
    ready: bool,
    /// What has to become true first; empty if the engine is ready.
    reasons: Vec<String>,
}

/// Says whether the engine can do its work, and if not, why.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "health",
    security(()),
    responses((status = 200, body = ReadinessDocument), (status = 503, body = ReadinessDocument))
)]
pub(super) async fn readyz(State(state): State<ApiState>) -> (StatusCode, Json<ReadinessDocument>) {
    let mut reasons = state.readiness.reasons();
    let database = match timeout(DATABASE_DEADLINE, fault_of_database(&state.pool)).await {
        Ok(fault) => fault,
        Err(_) => Some(format!("it did not answer within {} s", DATABASE_DEADLINE.as_secs())),
    };
    reasons.extend(database.map(|reason| format!("database: {reason}")));
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(ReadinessDocument { ready, reasons }))
}

async fn fault_of_database(pool: &PgPool) -> Option<String> {
    match applied_migrations(pool).await {
        Ok(applied) => {
            let missing = MIGRATOR.iter().filter(|known| !applied.contains(&known.version)).count();
            (missing > 0).then(|| format!("{missing} migrations are missing; run ektola migrate"))
        }
        Err(error) if code_of(&error).as_deref() == Some(UNDEFINED_TABLE) => {
            Some("it has no schema; run ektola migrate".to_owned())
        }
        // Where the engine logs in as somebody who may not see the list, somebody else looks after migrations.
        Err(error) if code_of(&error).as_deref() == Some(INSUFFICIENT_PRIVILEGE) => None,
        Err(error) => {
            tracing::warn!(error = chain(&error), "the database is not ready");
            Some("it does not answer".to_owned())
        }
    }
}

const UNDEFINED_TABLE: &str = "42P01";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

async fn applied_migrations(pool: &PgPool) -> Result<BTreeSet<i64>, MigrateError> {
    let mut transaction = pool.begin().await?;
    // The list belongs to the owner of the schema; the engine's own role cannot read it.
    transaction.execute("SET LOCAL ROLE NONE").await?;
    let applied = transaction.list_applied_migrations().await?;
    transaction.rollback().await?;
    Ok(applied.into_iter().map(|migration| migration.version).collect())
}

fn code_of(error: &MigrateError) -> Option<String> {
    match error {
        MigrateError::Execute(error) => Some(error.as_database_error()?.code()?.into_owned()),
        _ => None,
    }
}
