//! Callers that each have one command under way at a time and play the lives of messages of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Result;
use cqrs_es::CqrsFramework;
use cqrs_es::persist::PersistedEventStore;
use domain::message::Message;
use infrastructure::event_store::{Addressed, MessageStore, Metadata};
use postgres_es::PostgresEventRepository;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{check_count, connect_plainly};
use crate::life::{Messages, STEPS, Step};
use crate::own_store::{OwnStore, connect};
use crate::site::Site;

const WARM_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(8);

type StockFramework = CqrsFramework<Message, PersistedEventStore<PostgresEventRepository, Message>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PathKind {
    /// cqrs-es over postgres-es: one command, one transaction.
    Stock,
    Ours,
}

impl PathKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Ours => "ours",
        }
    }
}

/// One of the two ways a command can take.
#[derive(Clone)]
pub(super) enum WritePath {
    Stock(Arc<StockFramework>),
    Ours(MessageStore),
}

impl WritePath {
    pub(super) fn stock(pool: &PgPool) -> Self {
        let store = PersistedEventStore::new_event_store(PostgresEventRepository::new(pool.clone()));
        Self::Stock(Arc::new(CqrsFramework::new(store, Vec::new(), ())))
    }

    pub(super) async fn execute(&self, messages: &Messages, number: u32, step: Step) -> Result<()> {
        let envelope = messages.envelope(number, step);
        let (id, actor) = (messages.message(number), Messages::actor());
        match self {
            Self::Stock(framework) => {
                let metadata = Metadata::of(&envelope, &actor).to_map();
                framework.execute_with_metadata(&id.to_string(), envelope, metadata).await?;
            }
            Self::Ours(store) => {
                store.execute(Addressed::new(id, envelope, actor)).await?;
            }
        }
        Ok(())
    }
}

/// Commands per second.
pub(super) async fn measure(site: &Site, kind: PathKind, callers: usize) -> Result<f64> {
    let database = site.database().await?;
    site.checkpoint().await?;
    let pool = match kind {
        PathKind::Stock => connect_plainly(&database).await?,
        PathKind::Ours => connect(&database).await?,
    };
    let own = (kind == PathKind::Ours).then(|| OwnStore::start(&pool));
    let path = own.as_ref().map_or_else(|| WritePath::stock(&pool), |own| WritePath::Ours(own.messages.clone()));
    let (messages, next, done) = (Messages::of_strangers(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let warm_up = WARM_UP / site.divisor();
    let measured = MEASURED / site.divisor();
    let deadline = Instant::now() + warm_up + measured;
    let mut tasks = JoinSet::new();
    for _ in 0..callers {
        let (path, messages, next, done) = (path.clone(), messages.clone(), Arc::clone(&next), Arc::clone(&done));
        tasks.spawn(async move {
            while Instant::now() < deadline {
                let number = next.fetch_add(1, Ordering::Relaxed);
                for step in STEPS {
                    path.execute(&messages, number, step).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    tokio::time::sleep(warm_up).await;
    let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep_until(deadline).await;
    let (after, took) = (done.load(Ordering::Relaxed), began.elapsed());
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    if let Some(own) = own {
        own.stop().await;
    }
    check_count(&pool, f64::from(done.load(Ordering::Relaxed))).await?;
    pool.close().await;
    site.drop_database(database).await?;
    Ok(f64::from(after - before) / took.as_secs_f64())
}
