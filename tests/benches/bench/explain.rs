//! How long it takes to say why, and to list messages, when the log holds ten million events: over HTTP, of the shipped
//! binary, against a lookup of the same message by its id. Then every contact of a run of 100,000 is asked about.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::installation::Installation;
use crate::past;
use crate::report::{Figures, Target};
use crate::sandbox::Behaviour;
use crate::site::Site;
use crate::stage::{Queue, Stage};
use crate::statistics::{percentile, sorted};
use crate::table::number;

/// Of 10,000 messages, 50,000 events each.
const PAST_RUNS: u32 = 200;
/// Of each of the two segments.
const CONTACTS: u32 = 100_000;
const ASKED: u32 = 2_000;
const STRIDE: u32 = 7_919;
/// Requests at a time while every contact is asked about.
const AT_A_TIME: usize = 4;
const PHONE_NUMBER_ID: &str = "100000000000101";
const SEGMENT: &str = "everybody";
/// Who is in none but this one is not in the audience.
const OTHERS: &str = "others";
const RATE_PER_S: u32 = 1000;
const FILL_MAX: Duration = Duration::from_secs(480);
const RUN_MAX: Duration = Duration::from_secs(240);

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    let contacts = site.scaled(CONTACTS);
    installation.contacts(&[SEGMENT, OTHERS], contacts).await?;
    let engine = Engine::start(&database, &installation, None, None).await?;
    past::wait_for_subscriptions(&database).await?;
    engine.process.stop().await?;
    let runs = site.scaled(PAST_RUNS);
    let filled = tokio::time::timeout(FILL_MAX, past::write(site, &database, &installation, runs, past::Rows::All));
    let events = filled.await.context("the past was not written in time")??;

    let mut stage = Stage::open(site, &database, &installation, Queue::Postgres, Behaviour::PLAIN).await?;
    let sender = installation.sender(PHONE_NUMBER_ID, &stage.sandbox.address, RATE_PER_S).await?;
    let template = stage.engine.template().await?;
    let campaigns = [stage.engine.campaign(&template, SEGMENT, &sender).await?];
    stage.follow_to_read(site, "explain: a run", &campaigns, contacts, RUN_MAX).await?;
    let campaign = &campaigns[0];
    let run = stage.engine.run_of(campaign).await?;

    site.progress.show(format!("explain: asking why beside {} events", number(events)));
    let mut why = Vec::new();
    for asked in 0..ASKED {
        // Numbers of both segments, as the contacts were numbered, far from each other.
        let number = asked * STRIDE % (2 * contacts);
        let expected = if number < contacts { "read" } else { "not_in_audience" };
        why.push(ask(&stage.engine, campaign, number, expected).await?);
    }
    site.progress.show(format!("explain: asking about every contact of the run, {}", number(f64::from(contacts))));
    let began = Instant::now();
    futures::stream::iter(0..contacts)
        .map(|number| ask(&stage.engine, campaign, number, "read"))
        .buffer_unordered(AT_A_TIME)
        .try_for_each(async |_| Ok(()))
        .await?;
    let all = f64::from(contacts) / began.elapsed().as_secs_f64();
    let mut lookups = Vec::new();
    let mut searches = Vec::new();
    let mut pages = Vec::new();
    let page = stage.engine.get(&format!("/v1/runs/{run}/messages?limit=100")).await?;
    let items = page["items"].as_array().context("messages are listed")?;
    for item in items {
        let id = item["id"].as_str().context("a message has an id")?;
        lookups.push(timed(&stage.engine, &format!("/v1/messages/{id}")).await?.1);
        let phone = item["phone"].as_str().context("a message has a number")?.trim_start_matches('+').to_owned();
        searches.push(timed(&stage.engine, &format!("/v1/messages?phone={phone}")).await?.1);
        pages.push(timed(&stage.engine, &format!("/v1/messages?status=read&campaign={campaign}&limit=100")).await?.1);
    }
    let whole = timed(&stage.engine, "/v1/messages?limit=100").await?.1;
    stage.close(site).await?;
    site.drop_database(database).await?;

    let (why, lookups) = (sorted(&why), sorted(&lookups));
    let compared = format!(
        "{} events; a message by its id: median {:.1} ms, p99 {:.1} ms",
        number(events),
        percentile(&lookups, 0.5),
        percentile(&lookups, 0.99)
    );
    figures.row("explain.p99_ms", percentile(&why, 0.99), "ms", compared, Some(Target::AtMost(50.0)));
    figures.row("explain.p50_ms", percentile(&why, 0.5), "ms", "half of them not in the audience", None);
    let compared = format!("every contact of a run of {}, {AT_A_TIME} requests at a time", number(f64::from(contacts)));
    figures.row("explain.all_per_s", all, "answers/s", compared, None);
    let (searches, pages) = (sorted(&searches), sorted(&pages));
    figures.row("explain.lists.by_phone_p99_ms", percentile(&searches, 0.99), "ms", "messages of one number", None);
    let compared = "100 messages of a campaign by status";
    figures.row("explain.lists.by_status_p99_ms", percentile(&pages, 0.99), "ms", compared, None);
    figures.row("explain.lists.newest_ms", whole, "ms", "the 100 newest messages, asked once", None);
    figures.fact("explain.events", events);
    figures.fact("explain.asked", why.len());
    Ok(())
}

/// Answers the milliseconds it took.
async fn ask(engine: &Engine, campaign: &str, number: u32, expected: &str) -> Result<f64> {
    let path = format!("/v1/explain?contact=9{number:09}&campaign={campaign}");
    let (answer, ms) = timed(engine, &path).await?;
    ensure!(answer["outcome"] == expected, "{path}: {answer}");
    Ok(ms)
}

async fn timed(engine: &Engine, path: &str) -> Result<(serde_json::Value, f64)> {
    let began = Instant::now();
    let answer = engine.get(path).await?;
    Ok((answer, began.elapsed().as_secs_f64() * 1e3))
}
