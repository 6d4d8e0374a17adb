//! Is what was rebuilt what is live? Both are brought to one position, and seen in one snapshot of it: their rows are
//! counted, and digested in a way that does not depend on their order. Where both were folded by the same version they
//! must be equal; where they were not, the difference is what the new version brings, and is stated.

use std::sync::Arc;

use domain::aggregate::Position;
use infrastructure::postgres::PLAN_BY_SIZE;
use serde::Serialize;
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::time::Instant;

use super::switch::align_in_tx;
use super::{RebuildError, Rebuilder};
use crate::generation::{self, Generation, GenerationState};
use crate::projection::Projection;

/// Both are followed, and one of them may move between the alignment and the snapshot.
const TRIES_MAX: u32 = 200;
/// Rows that are shown of a difference.
const SHOWN_MAX: usize = 3;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    pub projection: &'static str,
    /// The other generation: one that was rebuilt, or the one that was live before.
    pub generation: i32,
    pub state: GenerationState,
    pub version: i32,
    pub live_version: i32,
    /// Where both were compared.
    pub position: Position,
    pub tables: Vec<TableReport>,
    /// Aggregates that the live one, and the other, could not take in.
    pub parked: [i64; 2],
    pub seconds: f64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableReport {
    pub table: &'static str,
    pub live_rows: i64,
    pub rows: i64,
    pub live_digest: String,
    pub digest: String,
    /// `None`: they are equal.
    pub difference: Option<TableDifference>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableDifference {
    /// Rows of the live one that the other does not have.
    pub only_live: i64,
    /// Rows of the other that the live one does not have.
    pub only_other: i64,
    /// A few of both, as text. Read models hold no personal value.
    pub examples: Vec<String>,
}

impl VerifyReport {
    pub fn is_equal(&self) -> bool {
        self.tables.iter().all(|table| table.difference.is_none())
    }

    /// Must they be equal?
    pub fn versions_agree(&self) -> bool {
        self.version == self.live_version
    }
}

/// Compares the live generation with the one that is ready, or else with the one that was live before.
pub async fn verify(rebuilder: &mut Rebuilder, projection: &Arc<dyn Projection>) -> Result<VerifyReport, RebuildError> {
    let began = Instant::now();
    let none = |wanted| RebuildError::None { projection: projection.name().to_owned(), wanted };
    let pool = &rebuilder.pool;
    let live = generation::find(pool, projection.name(), GenerationState::Live).await?.ok_or_else(|| none("live"))?;
    let ready = generation::find(pool, projection.name(), GenerationState::Ready).await?;
    let other = match ready {
        Some(ready) => ready,
        None => {
            generation::find(pool, projection.name(), GenerationState::Previous).await?.ok_or_else(|| none("other"))?
        }
    };
    let mut snapshot = rebuilder.pool.acquire().await?;
    let position = snapshot_of_one_position(&mut rebuilder.owner, &mut snapshot, projection, &live, &other).await?;
    let compared = compare(&mut snapshot, projection, &live, &other).await;
    snapshot.execute("ROLLBACK").await?;
    let mut parked = [0; 2];
    for (count, generation) in parked.iter_mut().zip([&live, &other]) {
        *count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM projection_parked WHERE projection = $1 AND generation = $2"#,
            generation.projection,
            generation.number,
        )
        .fetch_one(&rebuilder.pool)
        .await?;
    }
    Ok(VerifyReport {
        projection: projection.name(),
        generation: other.number,
        state: other.state,
        version: other.version,
        live_version: live.version,
        position,
        tables: compared?,
        parked,
        seconds: began.elapsed().as_secs_f64(),
    })
}

/// Leaves a transaction open on `snapshot` that sees both at the position that is answered. The checkpoints are locked
/// only while the two are aligned, so both are followed on while they are compared.
async fn snapshot_of_one_position(
    owner: &mut PgConnection,
    snapshot: &mut PgConnection,
    projection: &Arc<dyn Projection>,
    live: &Generation,
    other: &Generation,
) -> Result<Position, RebuildError> {
    for _ in 0..TRIES_MAX {
        let mut tx = owner.begin().await?;
        align_in_tx(&mut tx, projection, [live, other]).await?;
        tx.commit().await?;
        snapshot.execute("BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let positions = sqlx::query_scalar!(
            "SELECT position FROM subscriptions WHERE name IN ($1, $2)",
            live.subscription,
            other.subscription,
        )
        .fetch_all(&mut *snapshot)
        .await?;
        if let [one, another] = positions.as_slice()
            && one == another
        {
            return Ok(*one);
        }
        snapshot.execute("ROLLBACK").await?;
    }
    Err(RebuildError::Unsteady { projection: projection.name().to_owned() })
}

async fn compare(
    snapshot: &mut PgConnection,
    projection: &Arc<dyn Projection>,
    live: &Generation,
    other: &Generation,
) -> Result<Vec<TableReport>, RebuildError> {
    // Whole tables are read, so the plans are those of a report.
    snapshot.execute(PLAN_BY_SIZE).await?;
    let mut reports = Vec::new();
    for table in projection.tables() {
        let (live_rows, live_digest) = digest(snapshot, &live.schema, table).await?;
        let (rows, digest) = digest(snapshot, &other.schema, table).await?;
        let is_equal = (live_rows, &live_digest) == (rows, &digest);
        let difference = if is_equal { None } else { Some(difference(snapshot, live, other, table).await?) };
        reports.push(TableReport { table, live_rows, rows, live_digest, digest, difference });
    }
    Ok(reports)
}

/// The number of rows, and the sum of their hashes: equal rows give equal sums in any order.
async fn digest(snapshot: &mut PgConnection, schema: &str, table: &str) -> Result<(i64, String), sqlx::Error> {
    let statement =
        format!("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {schema}.{table} t");
    let row = snapshot.fetch_one(statement.as_str()).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

async fn difference(
    snapshot: &mut PgConnection,
    live: &Generation,
    other: &Generation,
    table: &str,
) -> Result<TableDifference, sqlx::Error> {
    let (mut counts, mut examples) = ([0; 2], Vec::new());
    for (place, (one, another)) in [(live, other), (other, live)].into_iter().enumerate() {
        let only = format!(
            "SELECT t::text FROM {}.{table} t EXCEPT ALL SELECT t::text FROM {}.{table} t",
            one.schema, another.schema
        );
        let count = snapshot.fetch_one(format!("SELECT count(*) FROM ({only}) d").as_str()).await?;
        if let Some(slot) = counts.get_mut(place) {
            *slot = count.try_get(0)?;
        }
        let shown = snapshot.fetch_all(format!("{only} LIMIT {SHOWN_MAX}").as_str()).await?;
        let whose = if place == 0 { "live" } else { "other" };
        for row in shown {
            examples.push(format!("{whose}: {}", row.try_get::<String, _>(0)?));
        }
    }
    let [only_live, only_other] = counts;
    Ok(TableDifference { only_live, only_other, examples })
}
