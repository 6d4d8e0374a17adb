//! Connections to Postgres, and the migrations.
//!
//! Migrations run as the owner of the database. The engine's own connections take the role `ektola_engine`, which may
//! read and append events but never change them, whatever the login role could do.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgConnection, PgPool};

pub static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("../migrations");

/// For a transaction that reads or joins whole tables instead of finding rows by key.
pub const PLAN_BY_SIZE: &str = "SET LOCAL plan_cache_mode = 'auto'; SET LOCAL enable_seqscan = on; \
    SET LOCAL enable_bitmapscan = on; SET LOCAL enable_hashjoin = on; SET LOCAL enable_mergejoin = on;";

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
            // Every statement of the engine finds its rows by key, a few hundred at a time. Planned once and so: a plan that
            // is chosen by size reads a whole table while the table is small, and does so for a long time after it has
            // grown. Measured on 20,000 messages: 43 µs for each event loaded instead of 4. Bulk work asks for the other
            // ways in its own transaction (see `PLAN_BY_SIZE`).
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
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

/// Did the server refuse what it was given? Anything else (no connection, no answer, a server that is stopping, full,
/// read-only or without the right schema) says nothing of what was given, and passes.
pub fn is_refusal(error: &sqlx::Error) -> bool {
    // Cardinality, data and constraint violations, limits of a statement, errors raised by a trigger, internal errors.
    const CLASSES: [&str; 6] = ["21", "22", "23", "54", "P0", "XX"];
    match error {
        sqlx::Error::Encode(_) => true,
        error => error
            .as_database_error()
            .and_then(|error| error.code())
            .is_some_and(|code| CLASSES.iter().any(|class| code.starts_with(class))),
    }
}
