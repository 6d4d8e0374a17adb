//! Status webhooks, from the moment they are due to the moment they are visible.
//!
//! The messages have all been sent; each of them is now reported as delivered and as read, so that every status changes
//! something. The engine has the roles that statuses need. A little more than 5,000 statuses come each second, since the
//! last of them is visible only some time after it was sent.

mod bodies;
mod generator;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use domain::ids::SenderId;
use infrastructure::clock::Clock;
use infrastructure::event_store::{Attachment, RecipientRow};
use serde_json::json;
use sqlx::PgConnection;
use tokio::time::Instant;

use self::bodies::Origin;
use self::generator::{Answers, Request};
use crate::engine::Engine;
use crate::installation::Installation;
use crate::life::{Messages, Step};
use crate::own_store::{OwnStore, connect};
use crate::play::play;
use crate::receiver::Receiver;
use crate::report::{Figures, Target};
use crate::site::{Database, Site};
use crate::statistics::percentile;
use crate::table::number;
use crate::usage::{CpuSeconds, peak_mb};

const PHONE_NUMBER_ID: &str = "100000000000101";
const STATUSES_PER_S: u32 = 5_100;
const SECONDS: u32 = 60;
/// Each is delivered and read.
const STATUSES_PER_MESSAGE: u32 = 2;
const BATCH: u32 = 100;
/// Of the generator on its own.
const TRIAL_SECONDS: u32 = 5;
const FOLDED_MAX: Duration = Duration::from_secs(120);
/// After the last answer.
const VISIBLE_MAX: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// Of answer times, from due to answered.
const SHARES: [(&str, f64); 3] = [("p50_ms", 0.5), ("p99_ms", 0.99), ("max_ms", 1.0)];

/// Messages that have been sent, in a database that is copied for each measurement.
struct Prepared {
    database: Database,
    installation: Installation,
    messages: Messages,
    count: u32,
}

struct Outcome {
    answers: Answers,
    /// From the first due time until all statuses are visible.
    seconds: f64,
    statuses: f64,
    cpu: CpuSeconds,
    engine_peak_mb: f64,
    warnings: usize,
}

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    let prepared = prepare(site).await.context("the messages could not be prepared")?;
    let alone = try_generator(site, &prepared, figures).await.context("the generator alone")?;
    let per_s = f64::from(STATUSES_PER_S);
    let outcome = run(site, &prepared, "webhooks.single", 1, Some(per_s)).await.context("webhooks.single")?;
    record_paced(&outcome, "webhooks.single", &alone, figures);
    let per_s = per_s / f64::from(BATCH);
    let outcome = run(site, &prepared, "webhooks.batch100", BATCH, Some(per_s)).await.context("webhooks.batch100")?;
    record_paced(&outcome, "webhooks.batch100", &alone, figures);

    let key = "webhooks.batch100.burst";
    let paced = outcome.statuses / outcome.seconds;
    let outcome = run(site, &prepared, key, BATCH, None).await.context(key)?;
    let rate = outcome.statuses / outcome.seconds;
    let compared = format!("as fast as they are answered; {} times the paced rate", number(rate / paced));
    figures.row(format!("{key}.statuses_per_s"), rate, "statuses/s", compared, None);
    record_cost(&outcome, key, figures);
    site.drop_database(prepared.database).await?;
    Ok(())
}

async fn prepare(site: &Site) -> Result<Prepared> {
    site.progress.show("webhooks: messages that have been sent");
    let count = site.scaled(STATUSES_PER_S * SECONDS / STATUSES_PER_MESSAGE);
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    let sender: SenderId = installation.sender(PHONE_NUMBER_ID, "http://127.0.0.1:9", 1000).await?.parse()?;
    let messages = Messages::new(installation.tenant_id, sender);
    send(&database, &messages, count).await?;
    site.progress.show("webhooks: the read models take them in");
    let engine = Engine::start(&database, &installation, None, Some("projector")).await?;
    let mut connection = database.connect().await?;
    let deadline = Instant::now() + FOLDED_MAX;
    while !Visible::read(&mut connection).await?.all() {
        ensure!(Instant::now() < deadline, "the read models did not take them in");
        tokio::time::sleep(POLL).await;
    }
    drop(connection);
    engine.process.stop().await?;
    // As autovacuum would have done in time.
    database.execute("VACUUM (ANALYZE)").await?;
    Ok(Prepared { database, installation, messages, count })
}

/// By the commands of the dispatcher, with what it stores beside the events.
async fn send(database: &Database, messages: &Messages, count: u32) -> Result<()> {
    let pool = connect(database).await?;
    let own = OwnStore::start(&pool);
    let (tenant_id, sender_id) = (messages.tenant_id.0, messages.sender_id.0);
    let at = Clock::system().now();
    let to = move |number| RecipientRow {
        tenant_id,
        contact_id: Messages::contact(number).0,
        phone: bodies::recipient(number),
        variables: json!({"1": format!("Customer {number}")}),
    };
    play(&own.messages, messages, count, Step::Queue, move |number| Some(Attachment::Recipient(to(number)))).await?;
    play(&own.messages, messages, count, Step::Begin, |_| None).await?;
    let answered =
        move |number| Attachment::ProviderMessage { sender_id, wamid: bodies::wamid(number), attempt: None, at };
    play(&own.messages, messages, count, Step::Sent, move |number| Some(answered(number))).await?;
    own.stop().await;
    pool.close().await;
    Ok(())
}

/// The answer times of a receiver that does nothing: what the generator and the machine themselves take.
async fn try_generator(site: &Site, prepared: &Prepared, figures: &mut Figures) -> Result<Answers> {
    site.progress.show("webhooks: the generator alone");
    let receiver = Receiver::start().await?;
    let count = site.scaled(STATUSES_PER_S * TRIAL_SECONDS / STATUSES_PER_MESSAGE);
    let requests = requests(prepared, receiver.address, count, 1)?;
    let before = site.meter().read()?;
    let answers = generator::at_rate(receiver.address, requests, f64::from(STATUSES_PER_S)).await?;
    let cpu = site.meter().read()? - before;
    for (name, share) in SHARES {
        figures.fact(format!("webhooks.generator.{name}"), percentile(&answers.times_ms, share));
    }
    // Its receiver, which does next to nothing, is in the same process.
    figures.fact("webhooks.generator.cpu_s_per_1000", 1000.0 * cpu.bench / f64::from(count * STATUSES_PER_MESSAGE));
    Ok(answers)
}

async fn run(site: &Site, prepared: &Prepared, key: &str, per_body: u32, per_s: Option<f64>) -> Result<Outcome> {
    site.progress.show(format!("{key}: setting up"));
    let database = site.copy_of(&prepared.database.name).await?;
    let installation = prepared.installation.in_database(&database, &site.new_folder()?);
    let engine = Engine::start(&database, &installation, None, Some("webhooks,projector")).await?;
    let address: SocketAddr = engine.address.trim_start_matches("http://").parse()?;
    let requests = requests(prepared, address, prepared.count, usize::try_from(per_body)?)?;
    let mut connection = database.connect().await?;
    site.checkpoint().await?;
    let mut meter = site.meter();
    meter.engine = Some(engine.pid());
    let before = meter.read()?;
    site.progress.show(format!("{key}: {} bodies", requests.len()));
    let answers = match per_s {
        Some(per_s) => generator::at_rate(address, requests, per_s).await?,
        None => generator::at_once(address, requests).await?,
    };
    while !Visible::read(&mut connection).await?.all() {
        site.progress.show(format!("{key}: all are answered; waiting until all are visible"));
        if answers.last_answer.elapsed() > VISIBLE_MAX {
            bail!("not all statuses were visible {} s after the last answer", VISIBLE_MAX.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    let seconds = answers.first_due.elapsed().as_secs_f64();
    let (cpu, engine_peak_mb) = (meter.read()? - before, peak_mb(engine.pid())?);
    check(&mut connection, prepared.count).await?;
    drop(connection);
    let warnings = engine.process.warnings();
    engine.process.stop().await?;
    site.drop_database(database).await?;
    let statuses = f64::from(prepared.count * STATUSES_PER_MESSAGE);
    Ok(Outcome { answers, seconds, statuses, cpu, engine_peak_mb, warnings })
}

fn requests(prepared: &Prepared, address: SocketAddr, count: u32, per_body: usize) -> Result<Arc<Vec<Request>>> {
    let origin = Origin {
        messages: &prepared.messages,
        phone_number_id: PHONE_NUMBER_ID,
        host: address.to_string(),
        at: Clock::system().now().timestamp(),
    };
    origin.requests(count, per_body).map(Arc::new)
}

fn record_paced(outcome: &Outcome, key: &str, alone: &Answers, figures: &mut Figures) {
    let rate = outcome.statuses / outcome.seconds;
    let compared = format!("{}/s came, until the last was visible", number(f64::from(STATUSES_PER_S)));
    figures.row(format!("{key}.statuses_per_s"), rate, "statuses/s", compared, Some(Target::AtLeast(5000.0)));
    for (name, share) in SHARES {
        let value = percentile(&outcome.answers.times_ms, share);
        let compared = format!("the generator alone: {} ms", number(percentile(&alone.times_ms, share)));
        let target = (name == "p99_ms").then_some(Target::AtMost(250.0));
        figures.row(format!("{key}.{name}"), value, "ms", compared, target);
    }
    record_cost(outcome, key, figures);
}

fn record_cost(outcome: &Outcome, key: &str, figures: &mut Figures) {
    let Outcome { cpu, .. } = outcome;
    let per_1000 = |seconds: f64| 1000.0 * seconds / outcome.statuses;
    let compared = format!("engine and Postgres; the generator took {} s", number(per_1000(cpu.bench)));
    figures.row(format!("{key}.cpu_s_per_1000"), per_1000(cpu.sum()), "s", compared, None);
    figures.fact(format!("{key}.cpu.engine_s_per_1000"), per_1000(cpu.engine));
    figures.fact(format!("{key}.cpu.postgres_s_per_1000"), per_1000(cpu.postgres));
    figures.fact(format!("{key}.other_cpu_s"), cpu.others());
    figures.fact(format!("{key}.seconds"), outcome.seconds);
    figures.fact(format!("{key}.engine_peak_mb"), outcome.engine_peak_mb);
    figures.fact(format!("{key}.engine_warnings"), outcome.warnings);
}

/// How far the engine is with what it was told.
struct Visible {
    pending: bool,
    shown: i64,
    last: i64,
}

impl Visible {
    async fn read(connection: &mut PgConnection) -> Result<Self> {
        let row = sqlx::query!(
            r#"SELECT EXISTS (SELECT FROM webhook_pending) AS "pending!",
                      (SELECT coalesce(min(position), 0) FROM subscriptions WHERE name = 'projection:messages') AS "shown!",
                      (SELECT last_value FROM events_position_seq) AS "last!""#
        )
        .fetch_one(connection)
        .await?;
        Ok(Self { pending: row.pending, shown: row.shown, last: row.last })
    }

    /// Is everything interpreted, and shown by the read model of messages?
    fn all(&self) -> bool {
        !self.pending && self.shown >= self.last
    }
}

async fn check(connection: &mut PgConnection, messages: u32) -> Result<()> {
    let row = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM read_model.messages WHERE status = 'read') AS "read!",
                  (SELECT count(*) FROM dead_letters) AS "dead!""#
    )
    .fetch_one(connection)
    .await?;
    ensure!(row.dead == 0, "{} webhooks were parked", row.dead);
    ensure!(row.read == i64::from(messages), "{} of {messages} messages are shown as read", row.read);
    Ok(())
}
