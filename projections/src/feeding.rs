//! How events get into one generation of a projection, the same way whoever brings them: the engine that follows the
//! log, a rebuild, or the hand that brings two generations to one position.
//!
//! A batch that the database refuses for what is in it is applied again, one aggregate after the other. Those that are
//! still refused are parked (see [`parking`]); the projection goes on. Anything that says nothing of the events, such
//! as a connection that broke, parks nobody: the batch fails and is tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domain::event::RecordedEvent;
use infrastructure::event_feed::{Page, TableEffect, UnreadableEvent};
use infrastructure::postgres::is_refusal;
use sqlx::{Acquire, PgConnection, PgPool};
use tokio::sync::Notify;

use crate::generation::enter_schema_in_tx;
use crate::parking::{self, AggregateKey, ParkedClass};
use crate::projection::Projection;

/// One generation to be fed.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) projection: Arc<dyn Projection>,
    pub(crate) generation: i32,
    pub(crate) subscription: String,
}

impl Target {
    /// Writes what these events mean; all concern the projection. Part of the transaction that moves the checkpoint,
    /// whose row must be locked already: a switch, which moves the tables, holds that lock too.
    pub(crate) async fn apply_in_tx(
        &self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
    ) -> Result<(), sqlx::Error> {
        let place = self.enter_in_tx(connection).await?;
        self.apply_in_place(connection, events, &place).await
    }

    async fn apply_in_place(
        &self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
        place: &Place,
    ) -> Result<(), sqlx::Error> {
        let open: Vec<Arc<RecordedEvent>>;
        let events = if place.parked.is_empty() {
            events
        } else {
            open = events.iter().filter(|event| !is_parked(&place.parked, event)).cloned().collect();
            &open
        };
        if events.is_empty() {
            return Ok(());
        }
        match self.apply_in_savepoint(connection, events).await {
            Err(error) if is_refusal(&error) => self.apply_one_by_one(connection, events).await,
            applied => applied,
        }
    }

    /// Sets events aside that cannot be read.
    pub(crate) async fn park_unreadable_in_tx(
        &self,
        connection: &mut PgConnection,
        events: &[Arc<UnreadableEvent>],
    ) -> Result<(), sqlx::Error> {
        for event in events {
            let key = (event.aggregate_type.clone(), event.aggregate_id.clone());
            let error = parking::told(&**event);
            parking::park_in_tx(connection, self, &key, event.position, ParkedClass::Unreadable, &error).await?;
        }
        Ok(())
    }

    /// Applies a stretch of the log that was read for this generation alone.
    pub(crate) async fn apply_page_in_tx(&self, connection: &mut PgConnection, page: Page) -> Result<(), sqlx::Error> {
        let unreadable: Vec<_> = page.unreadable.into_iter().map(Arc::new).collect();
        self.park_unreadable_in_tx(connection, &unreadable).await?;
        let concerning: Vec<_> =
            page.events.into_iter().filter(|event| self.projection.concerns(event)).map(Arc::new).collect();
        if concerning.is_empty() { Ok(()) } else { self.apply_in_tx(connection, &concerning).await }
    }

    /// Where the generation's tables lie now, and what it has parked.
    pub(crate) async fn enter_in_tx(&self, connection: &mut PgConnection) -> Result<Place, sqlx::Error> {
        let row = sqlx::query!(
            r#"SELECT b.schema_name, b.state = 'live' AS "is_live!",
                      coalesce(array_agg(p.aggregate_type) FILTER (WHERE p.aggregate_type IS NOT NULL), '{}') AS "types!",
                      coalesce(array_agg(p.aggregate_id) FILTER (WHERE p.aggregate_id IS NOT NULL), '{}') AS "ids!",
                      coalesce(array_agg(p.from_position) FILTER (WHERE p.from_position IS NOT NULL), '{}') AS "from!"
               FROM projection_builds b LEFT JOIN projection_parked p USING (projection, generation)
               WHERE b.projection = $1 AND b.generation = $2 GROUP BY b.schema_name, b.state"#,
            self.projection.name(),
            self.generation,
        )
        .fetch_one(&mut *connection)
        .await?;
        enter_schema_in_tx(connection, &row.schema_name).await?;
        let parked = row.types.into_iter().zip(row.ids).zip(row.from).collect();
        Ok(Place { is_live: row.is_live, parked })
    }

    pub(crate) async fn apply_in_savepoint(
        &self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
    ) -> Result<(), sqlx::Error> {
        let mut savepoint = connection.begin().await?;
        self.projection.apply(&mut savepoint, events).await?;
        savepoint.commit().await
    }

    async fn apply_one_by_one(
        &self,
        connection: &mut PgConnection,
        events: &[Arc<RecordedEvent>],
    ) -> Result<(), sqlx::Error> {
        let mut sequences: BTreeMap<AggregateKey, Vec<Arc<RecordedEvent>>> = BTreeMap::new();
        for event in events {
            sequences.entry(parking::key_of(event)).or_default().push(event.clone());
        }
        // In the order of their first events: a run before its messages.
        let mut sequences: Vec<_> = sequences.into_iter().collect();
        sequences.sort_by_key(|(_, events)| events.first().map(|event| event.position));
        let mut parked = BTreeSet::new();
        for (key, events) in sequences {
            for event in events {
                if parked.contains(&key) {
                    break;
                }
                let one = [event];
                match self.apply_in_savepoint(connection, &one).await {
                    Err(error) if is_refusal(&error) => {
                        let [event] = &one;
                        let (error, position) = (parking::told(&error), event.position);
                        parking::park_in_tx(connection, self, &key, position, ParkedClass::Refused, &error).await?;
                        parked.insert(key.clone());
                    }
                    applied => applied?,
                }
            }
        }
        Ok(())
    }
}

pub(crate) struct Place {
    is_live: bool,
    parked: BTreeMap<AggregateKey, i64>,
}

fn is_parked(parked: &BTreeMap<AggregateKey, i64>, event: &RecordedEvent) -> bool {
    parked.get(&parking::key_of(event)).is_some_and(|from| event.position >= *from)
}

/// What a follower and its projector tell each other of the generation.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// What the projector takes it for.
    is_live: AtomicBool,
    /// A switch has made that untrue. Set before the follower tells of any progress that comes after the switch.
    is_stale: AtomicBool,
    stale: Notify,
}

impl Standing {
    pub(crate) fn set(&self, is_live: bool) {
        self.is_live.store(is_live, Ordering::SeqCst);
        self.is_stale.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::SeqCst)
    }

    pub(crate) async fn becomes_stale(&self) {
        self.stale.notified().await;
    }

    fn compare(&self, is_live: bool) {
        if is_live != self.is_live.load(Ordering::SeqCst) {
            self.is_stale.store(true, Ordering::SeqCst);
            self.stale.notify_one();
        }
    }
}

/// A generation as a subscription of the feed.
pub(crate) struct Feeding {
    pub(crate) target: Target,
    pub(crate) gather: Duration,
    pub(crate) standing: Arc<Standing>,
}

#[async_trait]
impl TableEffect for Feeding {
    fn name(&self) -> &str {
        &self.target.subscription
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        self.target.projection.concerns(event)
    }

    fn gather(&self) -> Duration {
        self.gather
    }

    /// Its checkpoint comes and goes with the generation.
    async fn register(&self, _: &PgPool) -> Result<(), sqlx::Error> {
        Ok(())
    }

    fn parks(&self) -> bool {
        true
    }

    async fn park(&self, connection: &mut PgConnection, events: &[Arc<UnreadableEvent>]) -> Result<(), sqlx::Error> {
        self.target.park_unreadable_in_tx(connection, events).await
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let place = self.target.enter_in_tx(connection).await?;
        self.standing.compare(place.is_live);
        self.target.apply_in_place(connection, events, &place).await
    }
}
