//! A run of 1,000,000 contacts: how much memory the engine takes while its audience is resolved, and how long that is.
//!
//! The engine starts after the import, so that its peak is that of the run. Sending begins meanwhile, at 80 messages/s;
//! the measurement ends when the ready list and the read models have taken in the whole audience.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use chrono::{DateTime, Utc};
use infrastructure::clock::Clock;
use sqlx::PgConnection;
use tokio::time::Instant;

use crate::append::insert;
use crate::installation::Installation;
use crate::life::Step;
use crate::report::{Figures, Target};
use crate::sandbox::Behaviour;
use crate::site::Site;
use crate::stage::{Queue, Stage};
use crate::table::number;
use crate::usage::peak_mb;

const CONTACTS: u32 = 1_000_000;
const PHONE_NUMBER_ID: &str = "100000000000101";
const SEGMENT: &str = "everybody";
const RATE_PER_S: u32 = 80;
/// Of the bare INSERT that the fan-out is compared with.
const COMPARED_EVENTS: u32 = 100_000;
const TAKEN_IN_MAX: Duration = Duration::from_secs(400);
const POLL: Duration = Duration::from_millis(500);

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let compared = site.scaled(COMPARED_EVENTS);
    let bare = insert::best(site, compared, &[Step::Queue], figures, "fan_out.insert").await?;

    let contacts = site.scaled(CONTACTS);
    site.progress.show(format!("fan_out: importing {contacts} contacts"));
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    let import_s = installation.contacts(&[SEGMENT], contacts).await?;
    let mut stage = Stage::open(site, &database, &installation, Queue::Rabbitmq, Behaviour::PLAIN).await?;
    let sender = installation.sender(PHONE_NUMBER_ID, &stage.sandbox.address, RATE_PER_S).await?;
    let template = stage.engine.template().await?;
    let campaign = stage.engine.campaign(&template, SEGMENT, &sender).await?;
    site.checkpoint().await?;
    let (before, idle_mb) = (stage.meter().read()?, peak_mb(stage.engine.pid())?);
    let activated = Clock::system().now();
    stage.engine.activate(&campaign).await?;
    let run = stage.engine.run_of(&campaign).await?;
    let mut connection = database.connect().await?;
    let (resolved, taken_in_s) = wait_until_taken_in(site, &mut stage, &mut connection, &run).await?;
    let (cpu, peak) = (stage.meter().read()? - before, peak_mb(stage.engine.pid())?);
    let totals = stage.totals(std::slice::from_ref(&run)).await?;
    ensure!(totals.audience == u64::from(contacts), "{} of {contacts} contacts got a message", totals.audience);
    let ledger = stage.sandbox.counts().await?;
    ensure!(ledger.doubled == 0, "{} messages were accepted more than once", ledger.doubled);
    figures.fact("fan_out.engine_warnings", stage.engine.process.warnings());
    drop(connection);
    stage.close(site).await?;
    site.drop_database(database).await?;

    let compared = format!("before the activation: {} MB", number(idle_mb));
    figures.row("fan_out.million_peak_mb", peak, "MB", compared, Some(Target::AtMost(100.0)));
    let contacts = f64::from(contacts);
    let seconds = (resolved - activated).as_seconds_f64();
    let rate = contacts / seconds;
    let compared = format!("the bare INSERT of their events: {} events/s", number(bare));
    figures.row("fan_out.contacts_per_s", rate, "contacts/s", compared, None);
    figures.fact("fan_out.resolved_s", seconds);
    figures.fact("fan_out.taken_in_s", taken_in_s);
    figures.fact("fan_out.import_contacts_per_s", contacts / import_s);
    figures.fact("fan_out.engine_cpu_s", cpu.engine);
    figures.fact("fan_out.postgres_cpu_s", cpu.postgres);
    figures.fact("fan_out.other_cpu_s", cpu.others());
    Ok(())
}

/// When the audience was resolved, by the database's clock, and after how many seconds everybody had read it.
async fn wait_until_taken_in(
    site: &Site,
    stage: &mut Stage,
    connection: &mut PgConnection,
    run: &str,
) -> Result<(DateTime<Utc>, f64)> {
    let began = Instant::now();
    loop {
        let resolved = sqlx::query!(
            "SELECT position, recorded_at FROM events
             WHERE aggregate_type = 'CampaignRun' AND aggregate_id = $1 AND event_type = 'AudienceResolved'",
            run
        )
        .fetch_optional(&mut *connection)
        .await?;
        let queued = stage.totals(&[run.to_owned()]).await?.audience;
        match resolved {
            Some(resolved) if slowest_reader(connection).await? >= resolved.position => {
                return Ok((resolved.recorded_at, began.elapsed().as_secs_f64()));
            }
            Some(_) => site.progress.show(format!("fan_out: resolved; the read models show {queued}")),
            None => site.progress.show(format!("fan_out: the read models show {queued}")),
        }
        stage.engine.process.check()?;
        if began.elapsed() > TAKEN_IN_MAX {
            bail!("after {} s the read models show {queued} messages", TAKEN_IN_MAX.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn slowest_reader(connection: &mut PgConnection) -> Result<i64> {
    let slowest = sqlx::query_scalar!(
        r#"SELECT coalesce(min(position), 0) AS "slowest!" FROM subscriptions
           WHERE name IN ('ready-list', 'projection:runs', 'projection:messages')"#
    );
    Ok(slowest.fetch_one(connection).await?)
}
