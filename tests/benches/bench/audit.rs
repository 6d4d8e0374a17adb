//! How fast the log is sealed and checked against its seals, by the shipped binary, against the bare SELECT of the same
//! rows; and what sealing costs those who write meanwhile.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::time::Instant;

use crate::append::bulk::{self, Sealing};
use crate::engine::Engine;
use crate::installation::Installation;
use crate::past;
use crate::rebuild::select_all;
use crate::report::Figures;
use crate::site::Site;
use crate::statistics::{percentile, sorted};
use crate::table::number;

/// Of 10,000 messages, 50,000 events each.
const RUNS: u32 = 20;
const SEALED_MAX: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(100);
/// Written with and without a sealer, taking turns.
const WRITTEN_MESSAGES: u32 = 50_000;
const TURNS: usize = 3;

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    let engine = Engine::start(&database, &installation, None, None).await?;
    past::wait_for_subscriptions(&database).await?;
    engine.process.stop().await?;
    let events = past::write(site, &database, &installation, site.scaled(RUNS), past::Rows::LogOnly).await?;
    let select = events / select_all(&database, events).await?;

    site.progress.show(format!("audit: sealing {} events", number(events)));
    let engine = Engine::start(&database, &installation, None, None).await?;
    let began = Instant::now();
    let mut connection = database.connect().await?;
    loop {
        let sealed = sqlx::query_scalar!(r#"SELECT coalesce(sum(events), 0)::float8 AS "sealed!" FROM log_seals"#)
            .fetch_one(&mut connection)
            .await?;
        if sealed >= events {
            break;
        }
        ensure!(began.elapsed() < SEALED_MAX, "only {sealed} of {events} events were sealed in time");
        tokio::time::sleep(POLL).await;
    }
    let sealing = events / began.elapsed().as_secs_f64();
    drop(connection);
    engine.process.stop().await?;

    site.checkpoint().await?;
    site.progress.show(format!("audit: checking {} events", number(events)));
    let checked = installation.run(&["audit", "verify"]).await?;
    ensure!(checked["holds"] == true && checked["keys_trusted"] == true, "the log does not hold: {checked}");
    let verify = checked["events_per_second"].as_f64().context("the rate is a number")?;
    site.drop_database(database).await?;

    let compared = format!("{} events; bare SELECT {} events/s", number(events), number(select));
    figures.row("audit.verify_events_per_s", verify, "events/s", compared, None);
    let compared = "one that is sealed for the first time, beside an idle engine, with pauses";
    figures.row("audit.seal_events_per_s", sealing, "events/s", compared, None);
    figures.fact("audit.events", events);

    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        site.progress.show(format!("audit: writing with and without a sealer, {turn} of {TURNS}"));
        alone.push(bulk::measure(site, site.scaled(WRITTEN_MESSAGES), Sealing::Off).await?);
        beside.push(bulk::measure(site, site.scaled(WRITTEN_MESSAGES), Sealing::On).await?);
    }
    let (alone, beside) = (percentile(&sorted(&alone), 0.5), percentile(&sorted(&beside), 0.5));
    let compared = format!("{} commands/s without a sealer, {} with one", number(alone), number(beside));
    figures.row("audit.sealer_slowdown", alone / beside - 1.0, "of the time", compared, None);
    Ok(())
}
