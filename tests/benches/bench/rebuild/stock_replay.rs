//! cqrs-es' own replay of the same log: into a query that does nothing, and into its own view repository.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Result, ensure};
use async_trait::async_trait;
use cqrs_es::persist::{GenericQuery, QueryReplay};
use cqrs_es::{EventEnvelope, Query, View};
use domain::message::{Message, MessageStatus};
use postgres_es::{PostgresEventRepository, PostgresViewRepository};
use serde::{Deserialize, Serialize};
use sqlx::{Executor as _, Row as _};
use tokio::time::Instant;

use crate::append::connect_plainly;
use crate::life::{Messages, STEPS};
use crate::own_store::{OwnStore, connect};
use crate::play::play;
use crate::site::{Database, Site};
use crate::statistics::as_float;

/// Answers the seconds. Its replay ends early and reports success when something fails, so the events are counted.
pub(super) async fn into_nothing(database: &Database, events: f64) -> Result<f64> {
    let pool = connect_plainly(database).await?;
    let query = Counting::default();
    let counted = query.events.clone();
    let replay = QueryReplay::<_, _, Message>::new(PostgresEventRepository::new(pool.clone()), query);
    let began = Instant::now();
    replay.replay_all().await?;
    let seconds = began.elapsed().as_secs_f64();
    let counted = as_float(counted.load(Ordering::Relaxed));
    ensure!(counted >= events, "cqrs-es replayed {counted} events of {events}");
    pool.close().await;
    Ok(seconds)
}

/// Answers the events per second, on a log of its own.
pub(super) async fn into_views(site: &Site, messages: u32) -> Result<f64> {
    site.progress.show("rebuild: cqrs-es replays into its view repository");
    let database = site.database().await?;
    let pool = connect(&database).await?;
    let own = OwnStore::start(&pool);
    let life = Messages::of_strangers();
    for step in STEPS {
        play(&own.messages, &life, messages, step, |_| None).await?;
    }
    own.stop().await;
    pool.close().await;
    database
        .execute("CREATE TABLE message_view (view_id text PRIMARY KEY, version bigint NOT NULL, payload json NOT NULL)")
        .await?;
    site.checkpoint().await?;
    let plain = connect_plainly(&database).await?;
    let views = Arc::new(PostgresViewRepository::<StatusView, Message>::new("message_view", plain.clone()));
    let replay =
        QueryReplay::<_, _, Message>::new(PostgresEventRepository::new(plain.clone()), GenericQuery::new(views));
    let began = Instant::now();
    replay.replay_all().await?;
    let seconds = began.elapsed().as_secs_f64();
    // Unchecked: only this bench has the table.
    let written = plain.fetch_one("SELECT count(*) FROM message_view").await?;
    let written: i64 = written.try_get(0)?;
    ensure!(written == i64::from(messages), "cqrs-es wrote {written} views of {messages}");
    plain.close().await;
    site.drop_database(database).await?;
    Ok(f64::from(messages) * as_float(STEPS.len()) / seconds)
}

#[derive(Default)]
struct Counting {
    events: Arc<AtomicUsize>,
}

#[async_trait]
impl Query<Message> for Counting {
    async fn dispatch(&self, _: &str, events: &[EventEnvelope<Message>]) {
        self.events.fetch_add(events.len(), Ordering::Relaxed);
    }
}

/// What the messages' read model shows, as a view of the library.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct StatusView {
    status: Option<MessageStatus>,
    events: u32,
}

impl View<Message> for StatusView {
    fn update(&mut self, event: &EventEnvelope<Message>) {
        self.status = Some(event.payload.transition().to);
        self.events += 1;
    }
}
