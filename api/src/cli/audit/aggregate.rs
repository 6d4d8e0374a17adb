use domain::aggregate::Position;
use domain::phone;
use infrastructure::event_feed::HighWaterMark;
use projections::audit::{Audit, AuditKind, AuditedEvent, Change, audit, changes};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::super::context::Context;
use super::super::error::{Failure, UsageError};
use super::super::installation::Installation;
use super::super::output::{Align, Output, Table, count, instant};
use super::super::status::zone_of_all;
use super::{instant_of, position_of};

const STALL_WARNING: std::time::Duration = std::time::Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub struct AggregateArgs {
    /// The id; of a contact also the number.
    id: String,
    /// The state as of a time or a position of the log, instead of now.
    #[arg(long, value_name = "TIME|POSITION", conflicts_with = "diff")]
    as_of: Option<String>,
    /// What changed between two times or positions, and the events in between.
    #[arg(long, value_name = "A..B")]
    diff: Option<String>,
}

#[derive(Serialize)]
struct DiffAnswer {
    aggregate_type: &'static str,
    id: Uuid,
    tenant_id: Uuid,
    from: Position,
    to: Position,
    changes: Vec<Change>,
    /// Behind the first position, up to and including the second.
    events: Vec<AuditedEvent>,
}

pub(super) async fn run(kind: AuditKind, args: &AggregateArgs, context: &Context) -> anyhow::Result<()> {
    context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let id = id_of(pool, kind, &args.id).await?;
            let zone = zone_of_all(pool).await?;
            match &args.diff {
                Some(span) => diff(pool, kind, id, span, context.out, &zone).await,
                None => show(pool, kind, id, args.as_of.as_deref(), context.out, &zone).await,
            }
        })
        .await
}

async fn show(
    pool: &PgPool,
    kind: AuditKind,
    id: Uuid,
    as_of: Option<&str>,
    out: Output,
    zone: &str,
) -> anyhow::Result<()> {
    let as_of = match as_of {
        Some(text) => position_of(pool, &instant_of(pool, text).await?).await?.min(last_position(pool).await?),
        None => last_position(pool).await?,
    };
    let found = find(pool, kind, id, as_of).await?;
    out.answer(&found, |out| {
        let mut text = format!(
            "{} {} of tenant {}, as of position {}\n\n",
            found.aggregate_type,
            found.id,
            found.tenant_id,
            count(found.as_of)
        );
        if found.events.is_empty() {
            text.push_str("It has no event up to there.");
        } else {
            text.push_str(&events_table(&found.events, *out, zone));
        }
        for (name, value) in [("state", &found.state), ("related", &found.related)] {
            if !value.is_null() {
                text.push_str(&format!("\n\n{name}\n{}", serde_json::to_string_pretty(value).unwrap_or_default()));
            }
        }
        text
    })
}

async fn diff(pool: &PgPool, kind: AuditKind, id: Uuid, span: &str, out: Output, zone: &str) -> anyhow::Result<()> {
    let (from, to) = span.split_once("..").ok_or_else(|| {
        UsageError::new(format!("{span} does not name two times or positions"))
            .next("write them with two dots between them: --diff 100..200")
    })?;
    let from = position_of(pool, &instant_of(pool, from).await?).await?;
    let to = position_of(pool, &instant_of(pool, to).await?).await?.min(last_position(pool).await?);
    if from > to {
        return Err(UsageError::new("the first of the two lies behind the second").next("exchange them").into());
    }
    let before = find(pool, kind, id, from).await?;
    let after = find(pool, kind, id, to).await?;
    let states = |audit: &Audit| serde_json::json!({"state": audit.state, "related": audit.related});
    let answer = DiffAnswer {
        aggregate_type: after.aggregate_type,
        id,
        tenant_id: after.tenant_id,
        from,
        to,
        changes: changes(&states(&before), &states(&after)),
        events: after.events.into_iter().filter(|event| event.position > from).collect(),
    };
    out.answer(&answer, |out| {
        let (from, to) = (count(answer.from), count(answer.to));
        if answer.events.is_empty() && answer.changes.is_empty() {
            return format!("Nothing changed between position {from} and position {to}.");
        }
        let mut table = Table::new([("field", Align::Left), ("before", Align::Left), ("after", Align::Left)]);
        for change in &answer.changes {
            table.row([change.path.clone(), change.before.to_string(), change.after.to_string()]);
        }
        let events = events_table(&answer.events, *out, zone);
        format!("From position {from} to position {to}\n\n{}\n\n{events}", out.table(&table))
    })
}

fn events_table(events: &[AuditedEvent], out: Output, zone: &str) -> String {
    let mut table = Table::new([
        ("position", Align::Right),
        ("time", Align::Left),
        ("event", Align::Left),
        ("actor", Align::Left),
        ("cause", Align::Right),
        ("correlation", Align::Left),
        ("what", Align::Left),
    ]);
    for event in events {
        table.row([
            count(event.position),
            instant(event.time, zone),
            event.event.clone(),
            event.actor.clone().unwrap_or_default(),
            event.cause.map(count).unwrap_or_default(),
            event.correlation.clone(),
            event.text.clone(),
        ]);
    }
    out.table(&table)
}

async fn find(pool: &PgPool, kind: AuditKind, id: Uuid, as_of: Position) -> anyhow::Result<Audit> {
    let found = audit(pool, kind, id, as_of, None).await?;
    let what = match kind {
        AuditKind::Campaign => "campaign",
        AuditKind::Run => "run",
        AuditKind::Message => "message",
        AuditKind::Contact => "contact",
    };
    found.ok_or_else(|| Failure::new(format!("the log knows no {what} {id}")).into())
}

/// The high-water mark: nothing at or below it can still appear, so the same question has the same answer later.
async fn last_position(pool: &PgPool) -> anyhow::Result<Position> {
    Ok(HighWaterMark::new(pool.clone(), STALL_WARNING).advance().await?)
}

/// A number may be one of several tenants' contacts.
async fn id_of(pool: &PgPool, kind: AuditKind, text: &str) -> anyhow::Result<Uuid> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    if kind != AuditKind::Contact {
        return Err(UsageError::new(format!("{text} is not an id")).into());
    }
    let phone = phone::normalize(text)
        .map_err(|error| UsageError::new(format!("{text} is neither an id nor a number: {error}")))?;
    let found = sqlx::query!(
        "SELECT c.id, t.name FROM contacts c JOIN tenants t ON t.id = c.tenant_id WHERE c.phone = $1 ORDER BY t.name",
        phone.as_str(),
    )
    .fetch_all(pool)
    .await?;
    match found.as_slice() {
        [one] => Ok(one.id),
        [] => Err(Failure::new("no tenant has a contact with this number").into()),
        several => {
            let shown: Vec<String> = several.iter().map(|row| format!("{} ({})", row.id, row.name)).collect();
            Err(UsageError::new("several tenants have a contact with this number")
                .next(format!("name one by its id: {}", shown.join(", ")))
                .into())
        }
    }
}
