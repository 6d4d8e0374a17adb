//! Folding read models anew from a log of one and of ten million events, by the shipped command line, against the bare
//! SELECT of the same rows and against cqrs-es' own replay; and what a rebuild costs the sending beside it.

mod beside_sending;
mod stock_replay;

use anyhow::{Context as _, Result, ensure};
use futures::TryStreamExt as _;
use serde_json::Value;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::installation::Installation;
use crate::past;
use crate::report::{Figures, Target};
use crate::site::{Database, Site};
use crate::statistics::as_float;
use crate::table::number;

/// Of 10,000 messages, 50,000 events each.
const RUNS_SMALL: u32 = 20;
const RUNS_LARGE: u32 = 200;
/// For the replay into a view repository, which is slow.
const VIEW_MESSAGES: u32 = 2_000;
const ONE: &str = "messages";

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let view_rate = stock_replay::into_views(site, site.scaled(VIEW_MESSAGES)).await?;
    let small = measure_log(site, site.scaled(RUNS_SMALL)).await?;
    beside_sending::measure(site, figures, &small.database, &small.installation).await?;
    site.drop_database(small.database).await?;
    let large = measure_log(site, site.scaled(RUNS_LARGE)).await?;
    site.drop_database(large.database).await?;
    report(figures, &small.rates, &large.rates, view_rate);
    Ok(())
}

struct Measured {
    database: Database,
    installation: Installation,
    rates: Rates,
}

/// Events per second, if nothing else is said.
struct Rates {
    events: f64,
    one: f64,
    all: f64,
    select: f64,
    stock_no_op: f64,
    verify_one_s: f64,
    verify_all_s: f64,
    count_s: f64,
    switch_max_s: f64,
}

async fn measure_log(site: &Site, runs: u32) -> Result<Measured> {
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    // So that nothing of the past is news to an engine.
    let engine = Engine::start(&database, &installation, None, None).await?;
    past::wait_for_subscriptions(&database).await?;
    engine.process.stop().await?;
    let events = past::write(site, &database, &installation, runs, past::Rows::LogOnly).await?;
    site.progress.show(format!("rebuild: reading {} events", number(events)));
    let select = events / select_all(&database, events).await?;
    site.progress.show(format!("rebuild: cqrs-es replays {} events", number(events)));
    let stock_no_op = events / stock_replay::into_nothing(&database, events).await?;
    site.checkpoint().await?;
    // Nothing is live yet, so what was rebuilt differs from it and is switched to on purpose.
    site.progress.show(format!("rebuild: all read models from {} events", number(events)));
    let all = installation.run_whatever_it_finds(&["projections", "rebuild", "--all"]).await?;
    check_events(&all, events)?;
    let mut switch_max_s: f64 = 0.0;
    for projection in listed(&all)? {
        let switched = match &projection["switch"] {
            Value::Null => {
                let name = projection["name"].as_str().context("a projection has a name")?;
                installation.run(&["projections", "switch", name]).await?
            }
            switched => switched.clone(),
        };
        switch_max_s = switch_max_s.max(float(&switched, "seconds")?);
    }
    site.checkpoint().await?;
    site.progress.show(format!("rebuild: {ONE} from {} events", number(events)));
    let one = installation.run(&["projections", "rebuild", ONE]).await?;
    check_events(&one, events)?;
    for projection in listed(&one)? {
        ensure!(projection["verification"]["equal"] == true, "the rebuilt rows differ: {one}");
        switch_max_s = switch_max_s.max(float(&projection["switch"], "seconds")?);
    }
    let verification = |answer: &Value| -> Result<f64> {
        listed(answer)?.iter().map(|projection| float(&projection["verification"], "seconds")).sum()
    };
    let rates = Rates {
        events,
        one: float(&one, "events_per_second")?,
        all: float(&all, "events_per_second")?,
        select,
        stock_no_op,
        verify_one_s: verification(&one)?,
        verify_all_s: verification(&all)?,
        count_s: float(&one, "count_seconds")?,
        switch_max_s,
    };
    Ok(Measured { database, installation, rates })
}

fn listed(answer: &Value) -> Result<&Vec<Value>> {
    answer["projections"].as_array().with_context(|| format!("the rebuilt read models are not listed: {answer}"))
}

/// The limit: the columns that a projection needs, in the order of the log, decoded by nobody. Answers the seconds.
pub(crate) async fn select_all(database: &Database, events: f64) -> Result<f64> {
    let mut connection = database.connect().await?;
    let began = Instant::now();
    let mut rows = sqlx::query!(
        r#"SELECT position, tenant_id, aggregate_type, aggregate_id, sequence, event_type, event_version,
                  payload::text AS "payload!", metadata ->> 'at' AS at, recorded_at
           FROM events ORDER BY position"#
    )
    .fetch(&mut connection);
    let mut count = 0_usize;
    while rows.try_next().await?.is_some() {
        count += 1;
    }
    ensure!(as_float(count) >= events, "{count} rows were read of {events}");
    Ok(began.elapsed().as_secs_f64())
}

fn check_events(answer: &Value, events: f64) -> Result<()> {
    let read = float(answer, "events")?;
    ensure!(read >= events, "{read} events were read of {events}: {answer}");
    Ok(())
}

fn float(answer: &Value, field: &str) -> Result<f64> {
    answer[field].as_f64().with_context(|| format!("the answer has no number {field}: {answer}"))
}

fn report(figures: &mut Figures, small: &Rates, large: &Rates, view_rate: f64) {
    let unit = "events/s";
    let against = |rates: &Rates| {
        format!(
            "{} events; bare SELECT {}, cqrs-es into nothing {} events/s",
            number(rates.events),
            number(rates.select),
            number(rates.stock_no_op)
        )
    };
    figures.row("rebuild.one.events_per_s", large.one, unit, against(large), Some(Target::AtLeast(100_000.0)));
    figures.row("rebuild.one.events_per_s_1m", small.one, unit, against(small), Some(Target::AtLeast(100_000.0)));
    figures.row("rebuild.all.events_per_s", large.all, unit, against(large), Some(Target::AtLeast(40_000.0)));
    figures.row("rebuild.all.events_per_s_1m", small.all, unit, against(small), Some(Target::AtLeast(40_000.0)));
    let ratio = "times";
    let the_limit = format!("1 is the limit; at {} events {:.2}", number(small.events), small.one / small.select);
    figures.row("rebuild.one_vs_select", large.one / large.select, ratio, the_limit, None);
    let also = format!("into a no-op query; at {} events {:.2}", number(small.events), small.one / small.stock_no_op);
    figures.row("rebuild.one_vs_cqrs_es_replay", large.one / large.stock_no_op, ratio, also, None);
    let also = format!("into its view repository, {} events/s on a log of its own", number(view_rate));
    figures.row("rebuild.one_vs_cqrs_es_view_repository", large.one / view_rate, ratio, also, None);
    let apart = format!("{:.1} s for all of them; counting in the log {:.1} s", large.verify_all_s, large.count_s);
    figures.row("rebuild.one.verify_s", large.verify_one_s, "s", apart, None);
    let switched = small.switch_max_s.max(large.switch_max_s);
    figures.row("rebuild.switch_max_s", switched, "s", "the longest of all", Some(Target::AtMost(1.0)));
    for (size, rates) in [("1m", small), ("10m", large)] {
        figures.fact(format!("rebuild.log_{size}.events"), rates.events);
        figures.fact(format!("rebuild.log_{size}.select_events_per_s"), rates.select);
        figures.fact(format!("rebuild.log_{size}.cqrs_es_no_op_events_per_s"), rates.stock_no_op);
        figures.fact(format!("rebuild.log_{size}.verify_all_s"), rates.verify_all_s);
    }
    figures.fact("rebuild.cqrs_es_view_repository_events_per_s", view_rate);
}
