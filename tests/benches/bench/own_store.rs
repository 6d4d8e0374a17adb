//! Our write path without an engine around it.

use anyhow::{Context as _, Result};
use infrastructure::event_store::{BatchConfig, MessageStore};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::site::Database;

/// As many as an engine has.
const CONNECTIONS_MAX: u32 = 20;

pub(crate) struct OwnStore {
    pub(crate) messages: MessageStore,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl OwnStore {
    /// Every command loads its aggregate from Postgres, as on the stock path. Two writers, so that one decides while the
    /// other waits for the database.
    pub(crate) fn start(pool: &PgPool) -> Self {
        let config = BatchConfig { states_max: 0, writers: 3, batch_max: 2000, ..BatchConfig::default() };
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        Self { messages: MessageStore::start(pool, &config, &tasks, &shutdown), tasks, shutdown }
    }

    /// What was accepted is committed.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Connections as an engine makes them.
pub(crate) async fn connect(database: &Database) -> Result<PgPool> {
    infrastructure::postgres::connect(&database.url, CONNECTIONS_MAX).await.context("the database does not answer")
}
