//! What a message costs when the log is empty and when it holds 5,000,000 events, measured in turns.
//!
//! Both databases come from the same one. Into the large one a past is written: the events of 1,000,000 messages from
//! QueueMessage to READ, with the rows that they would have left in the messages' read model and in the erasable tables.
//! The checkpoints stand at its end, and it has been vacuumed and analyzed, as autovacuum would have done in time. The
//! small one is copied afresh for each run; the large one keeps what the runs add, a thousandth of it each time.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;

use crate::installation::Installation;
use crate::past;
use crate::report::{Figures, Target};
use crate::sandbox::Behaviour;
use crate::site::{Database, Site};
use crate::stage::{Queue, Stage};
use crate::statistics::median;
use crate::table::number;

const MESSAGES: u32 = 5_000;
const PAST_RUNS: u32 = 100;
const TURNS: u32 = 3;
const PHONE_NUMBER_ID: &str = "100000000000101";
const SEGMENT: &str = "everybody";
const RATE_PER_S: u32 = 1000;
const RUN_MAX: Duration = Duration::from_secs(40);
const FILL_MAX: Duration = Duration::from_secs(330);

/// A database of which runs are made, with its tenant.
struct Origin {
    database: Database,
    installation: Installation,
    template: String,
}

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    site.progress.show("growth: setting up");
    let empty = Arc::new(prepare(site).await?);
    let large = site.copy_of(&empty.database.name).await?;
    let large = Origin {
        installation: empty.installation.in_database(&large, &site.new_folder()?),
        template: empty.template.clone(),
        database: large,
    };
    let began = Instant::now();
    let runs = site.scaled(PAST_RUNS);
    let filled =
        tokio::time::timeout(FILL_MAX, past::write(site, &large.database, &large.installation, runs, past::Rows::All));
    let events = filled.await.context("the past was not written in time")??;
    let fill_s = began.elapsed().as_secs_f64();

    let (mut with_none, mut with_many) = (Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        site.progress.show(format!("growth: turn {turn}, an empty log"));
        let fresh = site.copy_of(&empty.database.name).await?;
        let fresh = Origin {
            installation: empty.installation.in_database(&fresh, &site.new_folder()?),
            template: empty.template.clone(),
            database: fresh,
        };
        with_none.push(cpu_ms_per_message(site, &fresh, "growth, an empty log").await?);
        site.drop_database(fresh.database).await?;
        site.progress.show(format!("growth: turn {turn}, {events} events"));
        with_many.push(cpu_ms_per_message(site, &large, "growth, a long log").await?);
    }
    let size_mb = database_mb(&large.database).await?;
    site.drop_database(large.database).await?;
    let empty = Arc::into_inner(empty).context("the empty database is still used")?;
    site.drop_database(empty.database).await?;

    let (small, big) = (median(&with_none), median(&with_many));
    let turns = |values: &[f64]| values.iter().map(|value| number(*value)).collect::<Vec<_>>().join(", ");
    let unit = "CPU ms/message";
    let compared = format!("engine and Postgres; the turns: {}", turns(&with_none));
    figures.row("growth.empty.cpu_ms_per_message", small, unit, compared, None);
    let compared = format!("{} events; the turns: {}", number(events), turns(&with_many));
    figures.row("growth.filled.cpu_ms_per_message", big, unit, compared, None);
    figures.row("growth.cost_ratio_5m", big / small, "times", "medians", Some(Target::AtMost(1.1)));
    figures.fact("growth.empty.turns_cpu_ms_per_message", with_none);
    figures.fact("growth.filled.turns_cpu_ms_per_message", with_many);
    figures.fact("growth.filled.events", events);
    figures.fact("growth.filled.database_mb", size_mb);
    figures.fact("growth.filled.fill_s", fill_s);
    Ok(())
}

/// A tenant with contacts and a template, and an engine that has run once, so that its subscriptions are there.
async fn prepare(site: &Site) -> Result<Origin> {
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    installation.contacts(&[SEGMENT], site.scaled(MESSAGES)).await?;
    let stage = Stage::open(site, &database, &installation, Queue::Rabbitmq, Behaviour::PLAIN).await?;
    let template = stage.engine.template().await?;
    past::wait_for_subscriptions(&database).await?;
    stage.close(site).await?;
    Ok(Origin { database, installation, template })
}

/// Of the engine and Postgres, from activation to READ.
async fn cpu_ms_per_message(site: &Site, origin: &Origin, what: &str) -> Result<f64> {
    let messages = site.scaled(MESSAGES);
    let installation = origin.installation.in_database(&origin.database, &site.new_folder()?);
    let mut stage = Stage::open(site, &origin.database, &installation, Queue::Rabbitmq, Behaviour::PLAIN).await?;
    let sender = installation.sender(PHONE_NUMBER_ID, &stage.sandbox.address, RATE_PER_S).await?;
    let campaign = stage.engine.campaign(&origin.template, SEGMENT, &sender).await?;
    let course = stage.follow_to_read(site, what, &[campaign], messages, RUN_MAX).await?;
    ensure!(course.cpu.engine > 0.0, "the engine's processor time cannot be read");
    stage.close(site).await?;
    Ok(1e3 * (course.cpu.engine + course.cpu.postgres) / f64::from(messages))
}

async fn database_mb(database: &Database) -> Result<f64> {
    let mut connection = database.connect().await?;
    let bytes = sqlx::query_scalar!(r#"SELECT pg_database_size(current_database())::float8 AS "bytes!""#);
    Ok(bytes.fetch_one(&mut connection).await? / 1e6)
}
