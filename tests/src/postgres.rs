//! One migrated database per test.
//!
//! The first test of a cluster migrates a template, named by the migrations; every other database is a copy of it,
//! which takes milliseconds. Tests share nothing else, so they run beside each other.

use std::time::Duration;

use infrastructure::postgres::MIGRATOR;
use sha2::{Digest, Sha256};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::POSTGRES_VARIABLE;

/// Enough for a test's own engine and its assertions; a cluster of the tests takes 300 in all.
const ENGINE_CONNECTIONS_MAX: u32 = 10;
const OWNER_CONNECTIONS_MAX: u32 = 4;
const DROP_TIMEOUT: Duration = Duration::from_secs(20);
/// The key of the advisory lock under which one process builds the template: "EKTO" in ASCII, and 2 for templates.
const TEMPLATE_LOCK: (i32, i32) = (0x454b_544f, 2);

static TEMPLATE: OnceCell<String> = OnceCell::const_new();

/// A database of this test alone, which goes when the value is dropped.
#[derive(Debug)]
pub struct TestDatabase {
    /// As the engine works: with the role `ektola_engine`.
    pub pool: PgPool,
    /// As the owner, who may do everything; for looking behind the engine's back.
    pub owner: PgPool,
    /// The owner's address of the database.
    pub url: String,
    maintenance: String,
    name: String,
    dropped: bool,
}

impl TestDatabase {
    /// # Panics
    ///
    /// When no cluster is named by the environment, or the cluster does not allow databases to be created.
    pub async fn create() -> Self {
        Self::create_on(&maintenance_url()).await
    }

    /// On the cluster of this address.
    ///
    /// # Panics
    ///
    /// When the cluster does not answer or does not allow databases to be created.
    pub async fn create_on(maintenance: &str) -> Self {
        let template = TEMPLATE.get_or_init(|| build_template(maintenance)).await;
        let name = format!("ektola_test_{}", Uuid::new_v4().simple());
        let mut connection = connect(maintenance).await;
        execute(&mut connection, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        close(connection).await;

        let url = with_database(maintenance, &name);
        let pool = infrastructure::postgres::connect(&url, ENGINE_CONNECTIONS_MAX)
            .await
            .unwrap_or_else(|error| panic!("the new test database does not answer: {error}"));
        let owner = PgPoolOptions::new()
            .max_connections(OWNER_CONNECTIONS_MAX)
            .connect(&url)
            .await
            .unwrap_or_else(|error| panic!("the new test database does not answer: {error}"));
        Self { pool, owner, url, maintenance: maintenance.to_owned(), name, dropped: false }
    }

    /// Where the statements of later connections find tables that they name without a schema.
    ///
    /// # Panics
    ///
    /// When the database does not answer.
    pub async fn set_search_path(&self, schemas: &str) {
        let statement = format!("ALTER DATABASE {} SET search_path = {schemas}", self.name);
        let set = self.owner.execute(statement.as_str()).await;
        set.unwrap_or_else(|error| panic!("the search path cannot be set: {error}"));
    }

    /// Ends the connections and drops the database.
    pub async fn close(mut self) {
        self.pool.close().await;
        self.owner.close().await;
        self.dropped = true;
        drop_database(&self.maintenance, &self.name).await;
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if self.dropped {
            return;
        }
        let (maintenance, name) = (std::mem::take(&mut self.maintenance), std::mem::take(&mut self.name));
        // A thread with a runtime of its own: the test's runtime may be on its way out. What it fails to drop goes
        // with the cluster.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                let _ = runtime
                    .block_on(async { tokio::time::timeout(DROP_TIMEOUT, drop_database(&maintenance, &name)).await });
            }
        });
        let _ = dropping.join();
    }
}

/// The address of a database in which others may be created.
fn maintenance_url() -> String {
    std::env::var(POSTGRES_VARIABLE)
        .or_else(|_| std::env::var("DATABASE_URL"))
        .ok()
        .filter(|url| !url.is_empty())
        .expect("run the tests through `make test`, or set DATABASE_URL to a Postgres where databases may be created")
}

/// Builds the template unless the cluster has it, and answers its name.
async fn build_template(maintenance: &str) -> String {
    let template = format!("ektola_template_{}", migrations_hash());
    let building = format!("{template}_building");
    let mut connection = connect(maintenance).await;
    // Session locks: they end with the connection, whatever happens to this process.
    sqlx::query!("SELECT pg_advisory_lock($1, $2)", TEMPLATE_LOCK.0, TEMPLATE_LOCK.1)
        .execute(&mut connection)
        .await
        .unwrap_or_else(|error| panic!("cannot lock the template: {error}"));
    let exists = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1) AS "exists!""#,
        template.as_str()
    )
    .fetch_one(&mut connection)
    .await
    .unwrap_or_else(|error| panic!("cannot look for the template: {error}"));
    if !exists {
        // Under another name until it is complete, so that a half-migrated one is never copied.
        execute(&mut connection, &format!("DROP DATABASE IF EXISTS {building} WITH (FORCE)")).await;
        execute(&mut connection, &format!("CREATE DATABASE {building}")).await;
        infrastructure::postgres::migrate(&with_database(maintenance, &building))
            .await
            .unwrap_or_else(|error| panic!("the migrations fail on an empty database: {error:?}"));
        execute(&mut connection, &format!("ALTER DATABASE {building} RENAME TO {template}")).await;
    }
    close(connection).await;
    template
}

fn migrations_hash() -> String {
    let mut hash = Sha256::new();
    for migration in MIGRATOR.iter() {
        hash.update(migration.version.to_be_bytes());
        hash.update(&migration.checksum);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

async fn drop_database(maintenance: &str, name: &str) {
    if let Ok(mut connection) = PgConnection::connect(maintenance).await {
        let _ = connection.execute(format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)").as_str()).await;
        close(connection).await;
    }
}

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url)
        .await
        .unwrap_or_else(|error| panic!("the Postgres of the tests does not answer: {error}"))
}

async fn execute(connection: &mut PgConnection, statement: &str) {
    connection.execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
}

async fn close(connection: PgConnection) {
    // The server notices a connection that ends without a goodbye just as well.
    let _ = connection.close().await;
}

/// The same server and login, another database.
fn with_database(url: &str, name: &str) -> String {
    let (server, query) = url.split_once('?').map_or((url, None), |(server, query)| (server, Some(query)));
    let authority = server.find("://").map_or(0, |at| at + 3);
    let end = server[authority..].find('/').map_or(server.len(), |at| authority + at);
    let query = query.map_or(String::new(), |query| format!("?{query}"));
    format!("{}/{name}{query}", &server[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_an_address_is_replaced_and_nothing_else() {
        for (url, expected) in [
            ("postgres://me:secret@host:5433/old", "postgres://me:secret@host:5433/new"),
            ("postgres://host", "postgres://host/new"),
            ("postgres://host/old?sslmode=disable", "postgres://host/new?sslmode=disable"),
            ("postgres:///old?host=%2Frun%2Fpg&user=me", "postgres:///new?host=%2Frun%2Fpg&user=me"),
        ] {
            assert_eq!(with_database(url, "new"), expected);
        }
    }

    #[tokio::test]
    async fn a_test_has_a_migrated_database_of_its_own_and_leaves_none() {
        let first = TestDatabase::create().await;
        let second = TestDatabase::create().await;
        assert_ne!(first.name, second.name);
        let role = sqlx::query_scalar!(r#"SELECT current_user::text AS "role!""#).fetch_one(&first.pool).await.unwrap();
        assert_eq!(role, "ektola_engine");
        let events = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events"#).fetch_one(&second.pool).await;
        assert_eq!(events.unwrap(), 0);

        let names = [first.name.clone(), second.name.clone()];
        first.close().await;
        drop(second);
        let mut connection = connect(&maintenance_url()).await;
        let left = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM pg_database WHERE datname = ANY($1)"#,
            names.as_slice() as _
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert_eq!(left, 0);
    }
}
