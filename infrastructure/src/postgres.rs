//! Connections to Postgres, and the migrations.
//!
//! Migrations run as the owner of the database. The engine's own connections take the role `ektola_engine`, which may
//! read and append events but never change them, whatever the login role could do.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool};

pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// How long a connection may be waited for.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The engine's pool: durable commits whatever the server's default is, no transaction left idle (it would hold up
/// every reader of the log), and dead peers noticed.
pub async fn connect(url: &str, connections_max: u32) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name("ektola")
        .options([
            ("synchronous_commit", "on"),
            // The options travel as one line, so the space in the value is escaped.
            ("default_transaction_isolation", "read\\ committed"),
            ("idle_in_transaction_session_timeout", "5s"),
            // A plan that is kept from the time when a table was small reads the whole table once it has grown, until
            // the table is analyzed: measured, 70 ms instead of 2 for 100 rows among 300,000.
            ("plan_cache_mode", "force_custom_plan"),
            // Every query here is short; compiling one costs more than running it.
            ("jit", "off"),
            ("tcp_keepalives_idle", "30"),
            ("tcp_keepalives_interval", "10"),
            ("tcp_keepalives_count", "3"),
        ])
        .statement_cache_capacity(256);
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute("SET ROLE ektola_engine").await.map(|_| ()) })
        })
        .connect_with(options)
        .await
}

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("cannot connect to the database")]
    Connect(#[source] sqlx::Error),
    #[error("a migration failed; the login role must own the database and may need CREATEROLE for the first one")]
    Migrate(#[source] sqlx::migrate::MigrateError),
}

/// Brings the schema up to date. Several processes may do this at once; they take turns.
pub async fn migrate(url: &str) -> Result<(), MigrateError> {
    let mut connection = PgConnection::connect(url).await.map_err(MigrateError::Connect)?;
    MIGRATOR.run(&mut connection).await.map_err(MigrateError::Migrate)
}
