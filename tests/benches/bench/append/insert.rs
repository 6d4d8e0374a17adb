//! The bare multi-row INSERT of the same events, made before the clock starts: the limit of any write path on this table.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use cqrs_es::DomainEvent as _;
use infrastructure::event_store::Metadata;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{check_count, connect_plainly};
use crate::life::{Messages, STEPS, Step};
use crate::report::Figures;
use crate::site::Site;
use crate::statistics::as_float;
use crate::table::number;

const BATCH_SIZES: [usize; 4] = [100, 500, 1000, 2000];
const CONNECTIONS: [usize; 3] = [1, 2, 4];

/// Rows as columns; the payloads as text, which Postgres has to read in any case.
#[derive(Debug, Default)]
struct Rows {
    aggregate_ids: Vec<String>,
    sequences: Vec<i64>,
    event_types: Vec<String>,
    event_versions: Vec<String>,
    payloads: Vec<String>,
    metadata: Vec<String>,
}

/// Events per second at the best batch size and number of connections.
pub(crate) async fn best(site: &Site, messages: u32, steps: &[Step], figures: &mut Figures, key: &str) -> Result<f64> {
    let rows = Arc::new(Rows::of(messages, steps)?);
    let mut best: (f64, usize, usize) = (0.0, 0, 0);
    let mut worst = f64::INFINITY;
    for connections in CONNECTIONS {
        for batch in BATCH_SIZES {
            site.progress.show(format!("{key}: {connections} connections, {batch} rows in a statement"));
            let rate = measure(site, &rows, batch, connections).await?;
            figures.fact(format!("{key}.connections_{connections}.rows_{batch}.events_per_s"), rate);
            worst = worst.min(rate);
            if rate > best.0 {
                best = (rate, batch, connections);
            }
        }
    }
    let (rows, connections) = (best.1, best.2);
    let compared = format!("{rows} rows a statement, {connections} connections; at its worst {}/s", number(worst));
    figures.row(format!("{key}.best_events_per_s"), best.0, "events/s", compared, None);
    Ok(best.0)
}

async fn measure(site: &Site, rows: &Arc<Rows>, batch: usize, connections: usize) -> Result<f64> {
    let database = site.database().await?;
    site.checkpoint().await?;
    let pool = connect_plainly(&database).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut writers = JoinSet::new();
    for _ in 0..connections {
        let (pool, rows, next) = (pool.clone(), Arc::clone(rows), Arc::clone(&next));
        writers.spawn(async move {
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= rows.sequences.len() {
                    return Ok::<_, anyhow::Error>(());
                }
                rows.insert(&pool, first..rows.sequences.len().min(first + batch)).await?;
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    let took = began.elapsed().as_secs_f64();
    let events = as_float(rows.sequences.len());
    check_count(&pool, events).await?;
    pool.close().await;
    site.drop_database(database).await?;
    Ok(events / took)
}

impl Rows {
    /// In the order in which bulk commands append them: step by step over all messages.
    fn of(count: u32, steps: &[Step]) -> Result<Self> {
        let messages = Messages::of_strangers();
        let lives: Vec<_> = (0..count).map(|number| messages.events(number, steps)).collect::<Result<_>>()?;
        let mut rows = Self::default();
        for (place, step) in STEPS.iter().enumerate().take(steps.len()) {
            for (life, number) in lives.iter().zip(0..) {
                let event = &life[place];
                rows.aggregate_ids.push(messages.message(number).to_string());
                rows.sequences.push(i64::try_from(place)? + 1);
                rows.event_types.push(event.event_type());
                rows.event_versions.push(event.event_version());
                rows.payloads.push(serde_json::to_string(event)?);
                let metadata = Metadata::of(&messages.envelope(number, *step), &Messages::actor());
                rows.metadata.push(metadata.to_json().to_string());
            }
        }
        Ok(rows)
    }

    async fn insert(&self, pool: &PgPool, range: std::ops::Range<usize>) -> Result<()> {
        sqlx::query!(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             SELECT 'Message', aggregate_id, sequence, event_type, event_version, payload::jsonb, metadata::jsonb
             FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
                 AS t(aggregate_id, sequence, event_type, event_version, payload, metadata)",
            &self.aggregate_ids[range.clone()],
            &self.sequences[range.clone()],
            &self.event_types[range.clone()],
            &self.event_versions[range.clone()],
            &self.payloads[range.clone()],
            &self.metadata[range],
        )
        .execute(pool)
        .await?;
        Ok(())
    }
}
