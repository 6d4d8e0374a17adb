//! The installation on which a subcommand works: the database that somebody else runs, or the private Postgres of the
//! data folder.
//!
//! A private Postgres that does not run is started for the duration of the work. It counts its users, so that stopping
//! it afterwards, whatever became of the work, leaves one alone that an engine or another subcommand uses.

use std::pin::pin;

use anyhow::Context as _;
use infrastructure::postgres;
use infrastructure::private_servers::{PostgresOptions, PrivatePostgres};
use sqlx::{Connection, PgConnection, PgPool};

use super::context::{Context, DATABASE_VARIABLE};
use super::dev::DATABASE;
use super::error::Failure;
use super::schema::SchemaState;
use crate::shutdown;

/// Enough for one subcommand; the engine beside it needs the others.
const CONNECTIONS_MAX: u32 = 4;

/// The server with the installation's database, which may still lack migrations.
pub struct Server {
    /// The owner's address of the database. It may hold a password: never print it.
    pub url: String,
    private: Option<PrivatePostgres>,
}

/// The current database, through the engine's role.
pub struct Installation {
    pub pool: PgPool,
    /// The owner's address of the database. It may hold a password: never print it.
    pub url: String,
    /// Does the private Postgres of a data folder hold it?
    pub is_private: bool,
}

impl Installation {
    pub(super) async fn lend<T>(
        context: &Context,
        work: impl AsyncFnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        Server::lend(context, async |server: &Server| {
            let installation = Self::open(server, context).await?;
            let result = work(&installation).await;
            installation.pool.close().await;
            result
        })
        .await
    }

    async fn open(server: &Server, context: &Context) -> anyhow::Result<Self> {
        let mut owner = server.connect().await?;
        let schema = SchemaState::read(&mut owner).await.context("the database's migrations cannot be read")?;
        schema.check(&server.call(context, "migrate"))?;
        drop(owner.close().await);
        Ok(Self { pool: server.pool().await?, url: server.url.clone(), is_private: server.is_private() })
    }
}

impl Server {
    pub(super) async fn lend<T>(
        context: &Context,
        work: impl AsyncFnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        // A server that is being started must be known before it can be stopped, so a person who interrupts has to
        // wait for that; from then on an interruption ends the work at once.
        let mut interrupted = pin!(shutdown::requested());
        let mut opening = pin!(Self::open(context));
        let (server, go_on) = tokio::select! {
            biased;
            () = &mut interrupted => (opening.await?, false),
            server = &mut opening => (server?, true),
        };
        let result = if go_on {
            tokio::select! {
                biased;
                () = &mut interrupted => Err(Failure::new("interrupted").into()),
                result = work(&server) => result,
            }
        } else {
            Err(Failure::new("interrupted").into())
        };
        let closed = server.close().await;
        // What went wrong first is what the person has to know.
        let result = result?;
        closed?;
        Ok(result)
    }

    pub fn is_private(&self) -> bool {
        self.private.is_some()
    }

    /// As the owner of the database.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        PgConnection::connect(&self.url).await.map_err(|error| self.unreachable(error).into())
    }

    /// As the engine works.
    pub async fn pool(&self) -> anyhow::Result<PgPool> {
        postgres::connect(&self.url, CONNECTIONS_MAX).await.map_err(|error| self.unreachable(error).into())
    }

    /// How another subcommand is called for this installation.
    pub fn call(&self, context: &Context, subcommand: &str) -> String {
        if self.is_private() {
            format!("ektola {subcommand} --data {}", context.data.display())
        } else {
            format!("ektola {subcommand}")
        }
    }

    fn unreachable(&self, error: sqlx::Error) -> Failure {
        let failure = Failure::new("the database cannot be reached").because(error);
        if self.is_private() {
            failure.next("ektola doctor says what is wrong with the installation")
        } else {
            failure.next(format!("check the address in {DATABASE_VARIABLE} and that the server runs"))
        }
    }

    async fn open(context: &Context) -> anyhow::Result<Self> {
        if let Some(url) = context.database_url() {
            return Ok(Self { url: url.to_owned(), private: None });
        }
        let data = &context.data;
        if !PrivatePostgres::exists(data) {
            return Err(Failure::new(format!("there is no installation in {}", data.display()))
                .next(format!(
                    "ektola dev --data {} makes one; --data DIR or {DATABASE_VARIABLE} names another",
                    data.display()
                ))
                .into());
        }
        let started = PrivatePostgres::start(data, DATABASE, PostgresOptions::default()).await;
        let postgres = started.map_err(|error| {
            Failure::new(format!("the private Postgres in {} does not start", data.display()))
                .because(error)
                .next(format!("ektola doctor --data {}", data.display()))
        })?;
        Ok(Self { url: postgres.url(), private: Some(postgres) })
    }

    async fn close(self) -> anyhow::Result<()> {
        match self.private {
            // Answers whether it was the last user and has stopped the server.
            Some(postgres) => {
                postgres.stop().await.map(drop).context("the use of the private Postgres did not end in order")
            }
            None => Ok(()),
        }
    }
}
