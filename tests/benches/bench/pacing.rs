//! One number at a permit of 80 and then of 1,000 messages/s, with work waiting all the time and three webhooks a message
//! coming in. What counts is when the sandbox read each call.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use infrastructure::clock::Clock;
use tokio::time::Instant;

use crate::installation::Installation;
use crate::report::{Figures, Target};
use crate::sandbox::Behaviour;
use crate::site::{Database, Site};
use crate::stage::{Queue, Stage};
use crate::statistics::{as_float, most_within};
use crate::table::number;
use crate::usage::CpuSeconds;

const PHONE_NUMBER_ID: &str = "100000000000101";
const SEGMENT: &str = "everybody";
/// Both permits are used for little more than a minute.
const CONTACTS: u32 = 90_000;
const RATES_PER_S: [u32; 2] = [80, 1000];
const WINDOW: Duration = Duration::from_secs(60);
/// Between the change of a permit, or the end of the fan-out, and the window: the feeder needs a moment to follow.
const LEAD: Duration = Duration::from_secs(5);
const RESOLVED_MAX: Duration = Duration::from_secs(150);
const POLL: Duration = Duration::from_secs(1);
const SECOND_MS: f64 = 1000.0;

/// Times are milliseconds since 1970.
struct Phase {
    rate_per_s: u32,
    /// From here on calls may be at this rate.
    from_ms: f64,
    window_from_ms: f64,
    window_to_ms: f64,
    cpu: CpuSeconds,
}

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    site.progress.show("pacing: setting up");
    let contacts = site.scaled(CONTACTS);
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    installation.contacts(&[SEGMENT], contacts).await?;
    let mut stage = Stage::open(site, &database, &installation, Queue::Rabbitmq, Behaviour::PLAIN).await?;
    let [slow, _] = RATES_PER_S;
    let sender = installation.sender(PHONE_NUMBER_ID, &stage.sandbox.address, slow).await?;
    let template = stage.engine.template().await?;
    let campaign = stage.engine.campaign(&template, SEGMENT, &sender).await?;
    let clock = Clock::system();
    let mut from_ms = now_ms(&clock);
    stage.engine.activate(&campaign).await?;
    let run = stage.engine.run_of(&campaign).await?;
    wait_until_resolved(site, &mut stage, &run).await?;
    let mut phases = Vec::new();
    for rate_per_s in RATES_PER_S {
        if rate_per_s != slow {
            from_ms = now_ms(&clock);
            installation.set_rate(PHONE_NUMBER_ID, rate_per_s).await?;
        }
        watch(site, &mut stage, rate_per_s, LEAD / site.divisor().min(2)).await?;
        let (before, window_from_ms) = (stage.meter().read()?, now_ms(&clock));
        watch(site, &mut stage, rate_per_s, WINDOW / site.divisor()).await?;
        let (cpu, window_to_ms) = (stage.meter().read()? - before, now_ms(&clock));
        check_that_work_waits(&database).await?;
        phases.push(Phase { rate_per_s, from_ms, window_from_ms, window_to_ms, cpu });
    }
    let ledger = stage.sandbox.counts().await?;
    ensure!(ledger.doubled == 0, "{} messages were accepted more than once", ledger.doubled);
    let calls = stage.sandbox.call_times().await?;
    let warnings = stage.engine.process.warnings();
    stage.close(site).await?;
    site.drop_database(database).await?;
    figures.fact("pacing.engine_warnings", warnings);
    for (place, phase) in phases.iter().enumerate() {
        let until_ms = phases.get(place + 1).map_or(f64::INFINITY, |next| next.from_ms);
        record(phase, &calls, until_ms, figures);
    }
    Ok(())
}

fn record(phase: &Phase, calls: &[f64], until_ms: f64, figures: &mut Figures) {
    let Phase { rate_per_s, from_ms, window_from_ms, window_to_ms, cpu } = phase;
    let key = format!("pacing.p{rate_per_s}");
    let between = |from: f64, to: f64| -> Vec<f64> {
        calls.iter().copied().filter(|moment| (from..to).contains(moment)).collect()
    };
    let in_window = between(*window_from_ms, *window_to_ms);
    let seconds = (window_to_ms - window_from_ms) / SECOND_MS;
    let per_s = as_float(in_window.len()) / seconds;
    let permit = f64::from(*rate_per_s);
    let compared = format!("{} calls/s for {} s, {} permitted", number(per_s), number(seconds), number(permit));
    figures.row(format!("{key}.mean_ratio"), per_s / permit, "", compared, Some(Target::AtLeast(0.98)));
    let all = between(*from_ms, until_ms);
    let worst = as_float(most_within(&all, SECOND_MS));
    let compared = format!("any 1,000 ms among {} calls", number(as_float(all.len())));
    figures.row(format!("{key}.worst_second"), worst, "calls", compared, Some(Target::AtMost(permit)));
    figures.fact(format!("{key}.calls_per_s"), per_s);
    figures.fact(format!("{key}.window_s"), seconds);
    figures.fact(format!("{key}.cpu_s"), cpu.sum());
    figures.fact(format!("{key}.other_cpu_s"), cpu.others());
    let mut each_second = Vec::new();
    let mut from = *window_from_ms;
    while from < *window_to_ms {
        each_second.push(between(from, from + SECOND_MS).len());
        from += SECOND_MS;
    }
    figures.fact(format!("{key}.calls_in_each_second"), each_second);
}

async fn wait_until_resolved(site: &Site, stage: &mut Stage, run: &str) -> Result<()> {
    let deadline = Instant::now() + RESOLVED_MAX;
    loop {
        let totals = stage.totals(&[run.to_owned()]).await?;
        site.progress.show(format!("pacing: {} queued, {} sent", totals.audience, totals.sent));
        if totals.resolved == 1 {
            return Ok(());
        }
        stage.engine.process.check()?;
        if Instant::now() > deadline {
            bail!("the audience was not resolved within {} s", RESOLVED_MAX.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn watch(site: &Site, stage: &mut Stage, rate_per_s: u32, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        tokio::time::sleep_until(end.min(Instant::now() + POLL)).await;
        stage.engine.process.check()?;
        stage.sandbox.process.check()?;
        let accepted = stage.sandbox.counts().await?.accepted;
        site.progress.show(format!("pacing.p{rate_per_s}: {accepted} calls"));
    }
    Ok(())
}

/// A mean counts only while there is something to send.
async fn check_that_work_waits(database: &Database) -> Result<()> {
    let mut connection = database.connect().await?;
    let waits = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM ready_list) AS "waits!""#);
    let waits = waits.fetch_one(&mut connection).await.context("the ready list cannot be read")?;
    ensure!(waits, "all messages were sent before the window was over");
    Ok(())
}

fn now_ms(clock: &Clock) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^52")]
    let ms = clock.now().timestamp_micros() as f64 / SECOND_MS;
    ms
}
