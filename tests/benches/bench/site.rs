//! Where everything is measured: a temporary folder with a Postgres and a RabbitMQ of its own, and the shipped binary.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use infrastructure::private_servers::packages::{ensure_postgres_installed, ensure_rabbitmq_installed};
use infrastructure::private_servers::{PostgresOptions, PrivatePostgres, PrivateRabbitmq};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

use crate::progress::Progress;
use crate::usage::Meter;

/// What every database is a copy of: the schema of this release and nothing else.
const EMPTY: &str = "bench_empty";
const MAINTENANCE: &str = "maintenance";
/// The engine's 20, and room for callers without an engine.
const CONNECTIONS_MAX: u32 = 100;
/// Divides every count and duration, for trying the bench itself.
const DIVISOR_VARIABLE: &str = "EKTOLA_BENCH_DIVISOR";

pub(crate) struct Site {
    folder: TempDir,
    postgres: PrivatePostgres,
    rabbitmq: Option<PrivateRabbitmq>,
    names: AtomicU32,
    divisor: u32,
    pub(crate) progress: Progress,
}

impl Site {
    pub(crate) async fn open(with_rabbitmq: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ektola-bench-").tempdir().context("no temporary folder")?;
        // The servers' users have to pass through it; what is private inside has its own mode.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let progress = Progress::start();
        progress.show("starting the servers");
        let mut say = |line: &str| eprintln!("{line}");
        ensure_postgres_installed(&mut say).await?;
        if with_rabbitmq {
            ensure_rabbitmq_installed(&mut say).await?;
        }
        // As `ektola dev` runs it: nothing is tuned for the bench.
        let options = PostgresOptions { connections_max: CONNECTIONS_MAX, ..PostgresOptions::default() };
        let postgres =
            PrivatePostgres::start(folder.path(), MAINTENANCE, options).await.context("cannot start Postgres")?;
        let mut site =
            Self { folder, postgres, rabbitmq: None, names: AtomicU32::new(0), divisor: divisor(), progress };
        match site.prepare(with_rabbitmq).await {
            Ok(()) => Ok(site),
            Err(error) => {
                site.close().await?;
                Err(error)
            }
        }
    }

    async fn prepare(&mut self, with_rabbitmq: bool) -> Result<()> {
        if with_rabbitmq {
            let started = PrivateRabbitmq::start(self.folder.path()).await;
            self.rabbitmq = Some(started.context("cannot start RabbitMQ")?);
        }
        self.execute(&format!("CREATE DATABASE {EMPTY}")).await?;
        infrastructure::postgres::migrate(&self.postgres.url_of(EMPTY)).await?;
        Ok(())
    }

    /// Ends the servers and removes everything.
    pub(crate) async fn close(self) -> Result<()> {
        let rabbitmq = match self.rabbitmq {
            Some(node) => node.destroy().await,
            None => Ok(()),
        };
        self.postgres.destroy().await.context("cannot stop Postgres")?;
        rabbitmq.context("cannot stop RabbitMQ")?;
        self.folder.close().context("cannot remove the folder of the bench")
    }

    /// A count of contacts, messages or commands; smaller when the bench itself is tried.
    pub(crate) fn scaled(&self, count: u32) -> u32 {
        (count / self.divisor).max(1)
    }

    pub(crate) fn divisor(&self) -> u32 {
        self.divisor
    }

    /// A name that nothing else of this site has.
    fn new_name(&self, prefix: &str) -> String {
        format!("{prefix}_{}", self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// A new folder for one engine.
    pub(crate) fn new_folder(&self) -> Result<PathBuf> {
        let folder = self.folder.path().join(self.new_name("run"));
        std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(folder)
    }

    /// An empty database of this release.
    pub(crate) async fn database(&self) -> Result<Database> {
        self.copy_of(EMPTY).await
    }

    /// A database with all that another one holds, to which nobody may be connected.
    pub(crate) async fn copy_of(&self, template: &str) -> Result<Database> {
        let name = self.new_name("bench");
        self.execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
        Ok(Database { url: self.postgres.url_of(&name), name })
    }

    pub(crate) async fn drop_database(&self, database: Database) -> Result<()> {
        self.execute(&format!("DROP DATABASE {} WITH (FORCE)", database.name)).await
    }

    /// So that what is measured next does not pay for what was written before.
    pub(crate) async fn checkpoint(&self) -> Result<()> {
        self.execute("CHECKPOINT").await
    }

    async fn execute(&self, statement: &str) -> Result<()> {
        execute(&self.postgres.url_of(MAINTENANCE), statement).await
    }

    /// The value of each setting of the running server.
    pub(crate) async fn postgres_settings(&self, names: &[&str]) -> Result<BTreeMap<String, String>> {
        let mut connection = PgConnection::connect(&self.postgres.url_of(MAINTENANCE)).await?;
        let mut found = BTreeMap::new();
        for name in names {
            let value = sqlx::query_scalar!(r#"SELECT current_setting($1) AS "value!""#, name)
                .fetch_one(&mut connection)
                .await?;
            found.insert((*name).to_owned(), value);
        }
        connection.close().await?;
        Ok(found)
    }

    /// A vhost of its own for one engine: its name and its address.
    pub(crate) async fn vhost(&self) -> Result<(String, String)> {
        let name = self.new_name("bench");
        let url = self.node()?.create_vhost(&name).await?;
        Ok((name, url))
    }

    /// Fails unless each queue of the vhost survives the end of the node.
    pub(crate) async fn check_queues_are_durable(&self, vhost: &str) -> Result<()> {
        for (name, durable) in self.node()?.queues(vhost).await? {
            ensure!(durable, "the queue {name} is not durable");
        }
        Ok(())
    }

    /// The port on which RabbitMQ speaks AMQP, when it runs.
    pub(crate) fn amqp_port(&self) -> Option<u16> {
        self.rabbitmq.as_ref().map(|node| node.ports()[0])
    }

    fn node(&self) -> Result<&PrivateRabbitmq> {
        self.rabbitmq.as_ref().context("this part was started without RabbitMQ")
    }

    /// The servers' processes; those of one run are added.
    pub(crate) fn meter(&self) -> Meter {
        Meter { postgres: self.postgres.pid(), ..Meter::default() }
    }

    pub(crate) fn rabbitmq_pid(&self) -> Option<i32> {
        self.rabbitmq.as_ref().map(PrivateRabbitmq::pid)
    }

    /// The folder in which Postgres keeps its data.
    pub(crate) fn data(&self) -> &Path {
        self.postgres.data()
    }
}

/// One database of the site.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    /// The owner's address.
    pub(crate) url: String,
}

impl Database {
    pub(crate) async fn execute(&self, statement: &str) -> Result<()> {
        execute(&self.url, statement).await
    }

    pub(crate) async fn connect(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.url).await.context("the database does not answer")
    }
}

async fn execute(url: &str, statement: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await.context("Postgres does not answer")?;
    connection.execute(statement).await.with_context(|| statement.to_owned())?;
    connection.close().await?;
    Ok(())
}

fn divisor() -> u32 {
    std::env::var(DIVISOR_VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(1).max(1)
}

/// The shipped binary, which lies beside the bench's own folder.
pub(crate) fn ektola() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let release = own.parent().and_then(Path::parent).context("the bench lies in no folder of cargo's")?;
    let path = release.join("ektola");
    ensure!(path.is_file(), "{} is missing; run it by `make bench`", path.display());
    Ok(path)
}
