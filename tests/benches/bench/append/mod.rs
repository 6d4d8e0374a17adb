//! The write side alone: commands per second of the stock cqrs-es path and of ours, and the bare INSERT that neither can
//! be faster than. All on the same table, with its trigger and indexes, in a fresh database each.

pub(crate) mod bulk;
mod callers;
pub(crate) mod insert;
mod lone;

use anyhow::{Context as _, Result, ensure};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

use self::bulk::Sealing;
use self::callers::PathKind;
use crate::life::STEPS;
use crate::report::{Figures, Target};
use crate::site::{Database, Site};
use crate::table::number;

const CALLERS: [usize; 3] = [1, 16, 256];
/// As many as an engine has; with more, the stock path is slower.
const CONNECTIONS_MAX: u32 = 20;
const BULK_MESSAGES: u32 = 50_000;

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let messages = site.scaled(BULK_MESSAGES);
    site.progress.show("append.insert: preparing the events");
    let bare = insert::best(site, messages, &STEPS, figures, "append.insert").await.context("append.insert")?;
    let stock = measure_callers(site, PathKind::Stock, bare, figures).await?;
    measure_callers(site, PathKind::Ours, stock, figures).await?;

    site.progress.show("append.bulk");
    let bulk = bulk::measure(site, messages, Sealing::Off).await.context("append.bulk")?;
    figures.row("append.bulk.commands_per_s", bulk, "commands/s", "the next two rows", None);
    let compared = format!("the stock path at its best: {} commands/s", number(stock));
    figures.row("append.bulk_vs_stock", bulk / stock, "times", compared, Some(Target::AtLeast(12.0)));
    let compared = format!("the bare INSERT at its best: {} events/s", number(bare));
    figures.row("append.bulk_vs_insert", bulk / bare, "times", compared, Some(Target::AtLeast(0.5)));

    site.progress.show("append.lone");
    let lone = lone::measure(site).await.context("append.lone")?;
    let compared = format!("the stock path: {} ms, taking turns", number(lone.stock_ms));
    figures.row("append.lone.ours_ms", lone.ours_ms, "ms", compared, None);
    figures.fact("append.lone.stock_ms", lone.stock_ms);
    figures.fact("append.lone.commands_each", lone.commands_each);
    let (ratio, target) = (lone.ours_ms / lone.stock_ms, Some(Target::AtMost(1.1)));
    figures.row("append.lone_latency_vs_stock", ratio, "times", "the stock path, medians", target);
    Ok(())
}

/// The commands per second at the best of all numbers of callers.
async fn measure_callers(site: &Site, kind: PathKind, reference: f64, figures: &mut Figures) -> Result<f64> {
    let mut best: f64 = 0.0;
    for callers in CALLERS {
        let key = format!("append.{}.callers_{callers}.commands_per_s", kind.name());
        site.progress.show(&key);
        let rate = callers::measure(site, kind, callers).await.with_context(|| key.clone())?;
        best = best.max(rate);
        let compared = match kind {
            PathKind::Stock => format!("{} % of the bare INSERT", number(100.0 * rate / reference)),
            PathKind::Ours => format!("{} times the stock path at its best", number(rate / reference)),
        };
        figures.row(key, rate, "commands/s", compared, None);
    }
    Ok(best)
}

/// Connections with nothing set, on which the stock path and the bare INSERT are faster than on an engine's own: there
/// every statement is planned anew.
pub(crate) async fn connect_plainly(database: &Database) -> Result<PgPool> {
    let options = PgPoolOptions::new().max_connections(CONNECTIONS_MAX);
    options.connect(&database.url).await.context("the database does not answer")
}

/// Nothing counts that is not in the log.
async fn check_count(pool: &PgPool, expected: f64) -> Result<()> {
    let events = sqlx::query_scalar!(r#"SELECT count(*)::float8 AS "count!" FROM events"#).fetch_one(pool).await?;
    ensure!((events - expected).abs() < 0.5, "{events} events are in the log, {expected} were appended");
    Ok(())
}
