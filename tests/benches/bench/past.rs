//! A past for a database: many runs whose messages have all been read, written by SQL.
//!
//! The events are those that the domain decides for one message; for each further message only the ids of the message,
//! the contact and the run differ.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chrono::TimeDelta;
use cqrs_es::DomainEvent as _;
use domain::ids::SenderId;
use infrastructure::clock::Clock;
use infrastructure::event_store::Metadata;
use tokio::time::Instant;
use uuid::Uuid;

use crate::installation::Installation;
use crate::life::{Messages, STEPS};
use crate::site::{Database, Site};
use crate::statistics::as_float;

const MESSAGES_PER_RUN: u32 = 10_000;
const CONNECTIONS: usize = 2;
/// Every follower of the log registers its subscription as it starts.
const REGISTERED_MAX: Duration = Duration::from_secs(10);

/// What is written beside the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    LogOnly,
    /// The rows that the events would have left in the messages' read model and in the erasable tables.
    All,
}

/// Writes so many runs, brings every checkpoint to their end, and answers the number of events.
pub(crate) async fn write(
    site: &Site,
    database: &Database,
    installation: &Installation,
    runs: u32,
    rows: Rows,
) -> Result<f64> {
    let next = AtomicU32::new(0);
    let writers = (0..CONNECTIONS).map(async |_| {
        let mut connection = database.connect().await?;
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            if run >= runs {
                return Ok::<_, anyhow::Error>(());
            }
            site.progress.show(format!("writing the past, run {} of {runs}", run + 1));
            let past = Run::new(installation, runs - run)?;
            past.insert(&mut connection, rows).await.context("the past cannot be written")?;
        }
    });
    futures::future::try_join_all(writers).await?;
    site.progress.show("vacuuming the past");
    let mut connection = database.connect().await?;
    let last = sqlx::query_scalar!(
        r#"UPDATE subscriptions SET position = (SELECT last_value FROM events_position_seq) RETURNING position"#
    )
    .fetch_all(&mut connection)
    .await?;
    let events = f64::from(runs) * f64::from(MESSAGES_PER_RUN) * as_float(STEPS.len());
    let counted =
        sqlx::query_scalar!(r#"SELECT count(*)::float8 AS "count!" FROM events WHERE position <= $1"#, last[0])
            .fetch_one(&mut connection)
            .await?;
    ensure!(counted >= events, "the past has {counted} events instead of {events}");
    database.execute("VACUUM (FREEZE, ANALYZE)").await?;
    site.checkpoint().await?;
    Ok(events)
}

/// Waits until the followers of a running engine are registered, so that a past can be put behind them.
pub(crate) async fn wait_for_subscriptions(database: &Database) -> Result<()> {
    let deadline = Instant::now() + REGISTERED_MAX;
    let mut connection = database.connect().await?;
    loop {
        let registered = sqlx::query_scalar!(
            r#"SELECT count(*) >= 3 AS "registered!" FROM subscriptions
               WHERE name IN ('ready-list', 'projection:runs', 'projection:messages')"#
        );
        if registered.fetch_one(&mut connection).await? {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the engine's subscriptions did not appear");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// One run of the past.
struct Run {
    messages: Messages,
    /// The first 48 bits of its messages' ids, in the form of a UUID.
    id_prefix: String,
    event_types: Vec<String>,
    event_versions: Vec<String>,
    payloads: Vec<String>,
    metadata: Vec<String>,
}

impl Run {
    fn new(installation: &Installation, days_ago: u32) -> Result<Self> {
        // The sender is one of the past too, so that nothing of it is due for the present one.
        let messages = Messages::new(installation.tenant_id, SenderId(Uuid::new_v4()));
        let events = messages.events(0, &STEPS)?;
        let nominal = Clock::system().now() - TimeDelta::days(i64::from(days_ago));
        let milliseconds = format!("{:012x}", nominal.timestamp_millis());
        let metadata = |step| {
            let envelope = messages.envelope(0, step);
            Metadata::of(&envelope, &Messages::actor()).to_json()
        };
        Ok(Self {
            id_prefix: format!("{}-{}", &milliseconds[..8], &milliseconds[8..]),
            event_types: events.iter().map(domain::message::MessageEvent::event_type).collect(),
            event_versions: events.iter().map(domain::message::MessageEvent::event_version).collect(),
            payloads: events.iter().map(serde_json::to_string).collect::<Result<_, _>>()?,
            metadata: STEPS.map(metadata).to_vec(),
            messages,
        })
    }

    async fn insert(&self, connection: &mut sqlx::PgConnection, rows: Rows) -> Result<(), sqlx::Error> {
        sqlx::query_file!(
            "benches/bench/past.sql",
            self.id_prefix,
            self.messages.run_id.0,
            f64::from(MESSAGES_PER_RUN),
            Messages::contact(0).to_string(),
            &self.event_types,
            &self.event_versions,
            &self.payloads,
            &self.metadata,
            self.messages.tenant_id.0,
            self.messages.sender_id.0,
            rows == Rows::All,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
