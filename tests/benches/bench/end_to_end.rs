//! Four campaigns together on four numbers, from activation to READ.
//!
//! Everything is on the one machine: the engine with all roles, Postgres, RabbitMQ, and the sandbox in a process of
//! its own. The permit of each number is 1,000 messages/s, so that the pacer is in the path. What it is compared with is
//! the sandbox without an engine: the same calls by a bare client, the same statuses to a receiver that does nothing.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::ceiling::{self, Ceiling};
use crate::installation::Installation;
use crate::report::{Figures, Target};
use crate::sandbox::Behaviour;
use crate::site::{Database, Site};
use crate::stage::{Course, Queue, Stage};
use crate::statistics::{as_float, percentile};
use crate::table::number;

const SEGMENTS: [&str; 4] = ["north", "east", "south", "west"];
const CONTACTS_PER_SEGMENT: u32 = 12_500;
const RATE_PER_S: u32 = 1000;
/// All four, and what surrounds them, stay within ten minutes.
const VARIANT_MAX: Duration = Duration::from_secs(110);
/// Three webhooks for each message, one after the other.
const SINGLE_BODY_MAX: Duration = Duration::from_secs(200);

struct Variant {
    key: &'static str,
    queue: Queue,
    behaviour: Behaviour,
    /// Messages per second.
    target: Option<f64>,
    limit: Duration,
    /// Processor time and latency go into the table too.
    in_full: bool,
}

const VARIANTS: [Variant; 4] = [
    Variant {
        key: "end_to_end.rabbitmq",
        queue: Queue::Rabbitmq,
        behaviour: Behaviour::PLAIN,
        target: Some(2000.0),
        limit: VARIANT_MAX,
        in_full: true,
    },
    Variant {
        key: "end_to_end.rabbitmq.latency_200",
        queue: Queue::Rabbitmq,
        behaviour: Behaviour { latency_ms: 200, ..Behaviour::PLAIN },
        target: None,
        limit: VARIANT_MAX,
        in_full: false,
    },
    Variant {
        key: "end_to_end.postgres",
        queue: Queue::Postgres,
        behaviour: Behaviour::PLAIN,
        target: None,
        limit: VARIANT_MAX,
        in_full: false,
    },
    Variant {
        key: "end_to_end.rabbitmq.single_body",
        queue: Queue::Rabbitmq,
        behaviour: Behaviour { webhook_batch_max: 1, ..Behaviour::PLAIN },
        target: Some(1000.0),
        limit: SINGLE_BODY_MAX,
        in_full: false,
    },
];

pub(crate) async fn measure(site: &Site, figures: &mut Figures) -> Result<()> {
    site.progress.show("end_to_end: the sandbox alone");
    let ceiling = ceiling::measure(site).await.context("the sandbox alone")?;
    let key = "end_to_end.sandbox_ceiling";
    let permit = permit();
    let compared = |rate: f64| format!("no engine; {} times the permit of {}/s", number(rate / permit), number(permit));
    let (calls, read) = (ceiling.calls_per_s, ceiling.read_per_s);
    figures.row(format!("{key}.calls_per_s"), calls, "calls/s", compared(calls), None);
    figures.row(format!("{key}.read_per_s"), read, "messages/s", compared(read), None);
    figures.fact(format!("{key}.sandbox_cpu_s_per_1000"), ceiling.sandbox_cpu_s_per_1000);
    for variant in &VARIANTS {
        measure_variant(site, variant, &ceiling, figures).await.context(variant.key)?;
    }
    Ok(())
}

async fn measure_variant(site: &Site, variant: &Variant, ceiling: &Ceiling, figures: &mut Figures) -> Result<()> {
    site.progress.show(format!("{}: setting up", variant.key));
    let per_segment = site.scaled(CONTACTS_PER_SEGMENT);
    let messages = per_segment * u32::try_from(SEGMENTS.len())?;
    let database = site.database().await?;
    let installation = Installation::create(&database, &site.new_folder()?).await?;
    installation.contacts(&SEGMENTS, per_segment).await?;
    let mut stage = Stage::open(site, &database, &installation, variant.queue, variant.behaviour).await?;
    let template = stage.engine.template().await?;
    let mut campaigns = Vec::new();
    for (segment, place) in SEGMENTS.iter().zip(1..) {
        let phone_number_id = format!("10000000000010{place}");
        let sender = installation.sender(&phone_number_id, &stage.sandbox.address, RATE_PER_S).await?;
        campaigns.push(stage.engine.campaign(&template, segment, &sender).await?);
    }
    let course = stage.follow_to_read(site, variant.key, &campaigns, messages, variant.limit).await?;
    let latencies = Latencies::read(&database).await?;
    let warnings = stage.engine.process.warnings();
    stage.close(site).await?;
    site.drop_database(database).await?;

    figures.fact(format!("{}.messages", variant.key), messages);
    figures.fact(format!("{}.engine_warnings", variant.key), warnings);
    figures.fact(format!("{}.timeline", variant.key), course.timeline.clone());
    record(variant, messages, &course, &latencies, ceiling, figures);
    Ok(())
}

/// Of all numbers together.
fn permit() -> f64 {
    as_float(SEGMENTS.len()) * f64::from(RATE_PER_S)
}

fn record(
    variant: &Variant,
    messages: u32,
    course: &Course,
    latencies: &Latencies,
    ceiling: &Ceiling,
    figures: &mut Figures,
) {
    let key = variant.key;
    let messages = f64::from(messages);
    let rate = messages / course.seconds;
    let permit = permit();
    let compared = format!(
        "{} % of the permit of {}/s; the sandbox alone: {}/s",
        number(100.0 * rate / permit),
        number(permit),
        number(ceiling.read_per_s),
    );
    figures.row(format!("{key}.messages_per_s"), rate, "messages/s", compared, variant.target.map(Target::AtLeast));
    figures.fact(format!("{key}.seconds"), course.seconds);

    let cpu = &course.cpu;
    let per_1000 = |seconds: f64| 1000.0 * seconds / messages;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let compared = format!(
        "of {} s that {cores} cores had; others used {} s of them",
        number(per_1000(as_float(cores) * course.seconds)),
        number(per_1000(cpu.others())),
    );
    figures.row(format!("{key}.cpu_s_per_1000"), per_1000(cpu.sum()), "s", compared, None);
    let components =
        [("engine", cpu.engine), ("postgres", cpu.postgres), ("rabbitmq", cpu.rabbitmq), ("sandbox", cpu.sandbox)];
    for (name, seconds) in components {
        let key = format!("{key}.cpu.{name}_s_per_1000");
        if variant.in_full {
            let compared = format!("{} % of all four", number(100.0 * seconds / cpu.sum()));
            figures.row(key, per_1000(seconds), "s", compared, None);
        } else {
            figures.fact(key, per_1000(seconds));
        }
    }
    figures.fact(format!("{key}.other_cpu_s"), cpu.others());
    figures.fact(format!("{key}.bench_cpu_s"), cpu.bench);
    let compared = format!("before the activation: {} MB", number(course.engine_idle_mb));
    figures.row(format!("{key}.engine_peak_mb"), course.engine_peak_mb, "MB", compared, None);

    let shares = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99)];
    for (name, share) in shares {
        let value = percentile(&latencies.queued_to_accepted_ms, share);
        let key_of_share = format!("{key}.queued_to_accepted_ms.{name}");
        let claimed = percentile(&latencies.claimed_to_accepted_ms, share);
        if variant.in_full {
            let compared = format!("from claimed to accepted: {} ms", number(claimed));
            figures.row(key_of_share, value, "ms", compared, None);
        } else {
            figures.fact(key_of_share, value);
        }
        figures.fact(format!("{key}.claimed_to_accepted_ms.{name}"), claimed);
    }
}

/// By the engine's clock, as the log has it. From queued to accepted holds the wait for the permit.
struct Latencies {
    queued_to_accepted_ms: Vec<f64>,
    claimed_to_accepted_ms: Vec<f64>,
}

impl Latencies {
    async fn read(database: &Database) -> Result<Self> {
        let mut connection = database.connect().await?;
        let rows = sqlx::query!(
            r#"SELECT extract(epoch FROM accepted - queued)::float8 * 1000 AS "queued_ms!",
                      extract(epoch FROM accepted - claimed)::float8 * 1000 AS "claimed_ms!"
               FROM (
                   SELECT min((metadata ->> 'at')::timestamptz) FILTER (WHERE event_type = 'MessageQueued') AS queued,
                          max((metadata ->> 'at')::timestamptz) FILTER (WHERE event_type = 'DispatchStarted') AS claimed,
                          min((metadata ->> 'at')::timestamptz) FILTER (WHERE event_type = 'MessageSent') AS accepted
                   FROM events WHERE aggregate_type = 'Message' GROUP BY aggregate_id
               ) AS m WHERE queued IS NOT NULL AND claimed IS NOT NULL AND accepted IS NOT NULL"#
        )
        .fetch_all(&mut connection)
        .await?;
        let (mut queued, mut claimed): (Vec<f64>, Vec<f64>) =
            rows.into_iter().map(|row| (row.queued_ms, row.claimed_ms)).unzip();
        queued.sort_by(f64::total_cmp);
        claimed.sort_by(f64::total_cmp);
        Ok(Self { queued_to_accepted_ms: queued, claimed_to_accepted_ms: claimed })
    }
}
