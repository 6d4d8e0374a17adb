//! The generations of a projection: each a set of tables with a checkpoint of its own.
//!
//! One is live; readers read it, in the schema `read_model`. A newer one is `building` while a rebuild fills it, and
//! `ready` from then on until it is switched to. The one that was live before is `previous`. All but the one that is
//! building are fed by the engine, so that a switch, forward or back, never goes back in time.

use domain::aggregate::Position;
use sqlx::{PgConnection, PgExecutor};

/// Where readers read.
pub const LIVE_SCHEMA: &str = "read_model";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationState {
    Live,
    Ready,
    Previous,
    Building,
}

impl GenerationState {
    const ALL: [Self; 4] = [Self::Live, Self::Ready, Self::Previous, Self::Building];

    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Ready => "ready",
            Self::Previous => "previous",
            Self::Building => "building",
        }
    }

    /// Does the engine feed it?
    pub fn is_followed(self) -> bool {
        self != Self::Building
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    pub projection: String,
    pub number: i32,
    /// The version of the projection that folded it.
    pub version: i32,
    pub schema: String,
    /// The name of its checkpoint.
    pub subscription: String,
    pub state: GenerationState,
    /// Events that the rebuild has read.
    pub events_read: i64,
    /// Where the rebuild ended; `None`: not yet, or there was none.
    pub built_up_to: Option<Position>,
    /// Everything at or below it is in its tables.
    pub position: Position,
}

struct Record {
    projection: String,
    number: i32,
    version: i32,
    schema: String,
    subscription: String,
    state: String,
    events_read: i64,
    built_up_to: Option<Position>,
    position: Position,
}

impl TryFrom<Record> for Generation {
    type Error = sqlx::Error;

    fn try_from(record: Record) -> Result<Self, sqlx::Error> {
        let state = GenerationState::ALL.into_iter().find(|state| state.name() == record.state);
        let state = state.ok_or_else(|| {
            sqlx::Error::Decode(format!("a generation has the unknown state {}", record.state).into())
        })?;
        Ok(Self {
            projection: record.projection,
            number: record.number,
            version: record.version,
            schema: record.schema,
            subscription: record.subscription,
            state,
            events_read: record.events_read,
            built_up_to: record.built_up_to,
            position: record.position,
        })
    }
}

/// Every generation of a projection, or of all, by name and number.
pub async fn list(executor: impl PgExecutor<'_>, projection: Option<&str>) -> Result<Vec<Generation>, sqlx::Error> {
    let records = sqlx::query_as!(
        Record,
        r#"SELECT b.projection, b.generation AS number, b.version, b.schema_name AS schema, b.subscription, b.state,
                  b.events_read, b.built_up_to, coalesce(s.position, 0) AS "position!"
           FROM projection_builds b LEFT JOIN subscriptions s ON s.name = b.subscription
           WHERE $1::text IS NULL OR b.projection = $1
           ORDER BY b.projection, b.generation"#,
        projection,
    )
    .fetch_all(executor)
    .await?;
    records.into_iter().map(Generation::try_from).collect()
}

/// The generation in this state.
pub async fn find(
    executor: impl PgExecutor<'_>,
    projection: &str,
    state: GenerationState,
) -> Result<Option<Generation>, sqlx::Error> {
    Ok(list(executor, Some(projection)).await?.into_iter().find(|generation| generation.state == state))
}

/// Makes the checkpoints of generations known that have none yet; each starts before the first event.
pub async fn register_all(executor: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO subscriptions (name) SELECT subscription FROM projection_builds ON CONFLICT (name) DO NOTHING"
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// Lets the transaction's statements find the tables of this schema, and those of the log beside them.
pub(crate) async fn enter_schema_in_tx(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT set_config('search_path', $1 || ', public', true)", schema).fetch_one(connection).await?;
    Ok(())
}
