//! `ektola status`: the whole installation at a glance.

use std::collections::BTreeMap;
use std::fmt::Display;

use chrono::{DateTime, Utc};
use infrastructure::tenants::{self, Tenant};
use projections::status::read::{Overview, overview};
use serde::Serialize;
use sqlx::PgPool;

use super::context::Context;
use super::installation::Installation;
use super::output::{Align, Output, Table, count, duration, instant};
use super::tenant;

#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Show the campaigns, runs and messages of one tenant only.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

#[derive(Serialize)]
struct StatusAnswer {
    #[serde(flatten)]
    overview: Overview,
    /// Webhooks that are stored and not interpreted yet.
    webhooks_pending: i64,
    /// What could not be applied and waits for a person.
    dead_letters: i64,
    /// What stands still until a person acts.
    notices: i64,
}

pub async fn run(args: &StatusArgs, context: &Context) -> anyhow::Result<()> {
    let (answer, zone) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenant = tenant::named(pool, args.tenant.as_deref()).await?;
            let zone = match &tenant {
                Some(tenant) => tenant.zone.clone(),
                None => zone_of_all(pool).await?,
            };
            Ok((read(pool, tenant.as_ref()).await?, zone))
        })
        .await?;
    let now = context.clock.now();
    context.out.answer(&answer, |out| text_of(&answer, *out, now, &zone))
}

async fn read(pool: &PgPool, tenant: Option<&Tenant>) -> Result<StatusAnswer, sqlx::Error> {
    // Before the overview: what is interpreted in between shows there, and is never missing from both.
    let waiting = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM webhook_pending) AS "webhooks_pending!",
                  (SELECT count(*) FROM dead_letters) AS "dead_letters!",
                  (SELECT count(*) FROM notices WHERE done_at IS NULL AND ($1::uuid IS NULL OR tenant_id = $1)) AS "notices!""#,
        tenant.map(|tenant| tenant.id.0),
    )
    .fetch_one(pool)
    .await?;
    Ok(StatusAnswer {
        overview: overview(pool, tenant.map(|tenant| tenant.id)).await?,
        webhooks_pending: waiting.webhooks_pending,
        dead_letters: waiting.dead_letters,
        notices: waiting.notices,
    })
}

/// The zone that all tenants share, or UTC.
pub async fn zone_of_all(pool: &PgPool) -> Result<String, sqlx::Error> {
    let tenants = tenants::list_tenants(pool).await?;
    let first = tenants.first().map(|tenant| tenant.zone.clone());
    Ok(first.filter(|zone| tenants.iter().all(|tenant| tenant.zone == *zone)).unwrap_or_else(|| "UTC".to_owned()))
}

fn text_of(answer: &StatusAnswer, out: Output, now: DateTime<Utc>, zone: &str) -> String {
    let overview = &answer.overview;
    let mut fields = Table::of_fields();
    fields.field("active campaigns", count(overview.active_campaigns));
    fields.field("runs", listed(&overview.runs));
    let open: BTreeMap<_, _> = overview.open_messages.iter().map(|(status, number)| (status.name(), *number)).collect();
    fields.field("open messages", listed(&open));
    fields.field("waiting for their turn", format!("{} messages", count(overview.ready)));
    let later = match overview.next_due_at {
        Some(due) => format!("{} messages, the first {}", count(overview.later), waiting_since(due, now, zone)),
        None => "none".to_owned(),
    };
    fields.field("to be sent later", later);
    fields.field("parked", format!("{} messages", count(overview.parked)));
    fields.field("webhooks to interpret", count(answer.webhooks_pending));
    let unknown: i64 = overview.unknown_webhooks.iter().map(|unknown| unknown.count).sum();
    if unknown > 0 {
        fields.field("not interpreted", format!("{} items of webhooks; --json names them", count(unknown)));
    }
    fields.field("dead letters", count(answer.dead_letters));
    fields.field("notices", count(answer.notices));
    fields.field("log position", count(overview.log_position));

    let columns = [
        ("subscription", Align::Left),
        ("position", Align::Right),
        ("lag (events)", Align::Right),
        ("lag (s)", Align::Right),
    ];
    let mut subscriptions = Table::new(columns);
    for row in &overview.subscriptions {
        let lag_seconds = format!("{:.1}", row.lag_seconds);
        subscriptions.row([row.name.clone(), count(row.position), count(row.lag), lag_seconds]);
    }
    if overview.subscriptions.is_empty() {
        return out.table(&fields);
    }
    format!("{}\n\n{}", out.table(&fields), out.table(&subscriptions))
}

fn listed(counts: &BTreeMap<impl Display + Ord, i64>) -> String {
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.iter().map(|(name, number)| format!("{} {name}", count(*number))).collect::<Vec<_>>().join(", ")
}

fn waiting_since(due: DateTime<Utc>, now: DateTime<Utc>, zone: &str) -> String {
    let when = instant(due, zone);
    match (now - due).to_std() {
        Ok(since) => format!("due since {when} ({})", duration(since)),
        Err(_) => format!("due at {when}"),
    }
}

#[cfg(test)]
mod tests {
    use domain::message::MessageStatus;
    use projections::status::read::SubscriptionRow;

    use super::*;

    fn answer() -> StatusAnswer {
        let overview = Overview {
            active_campaigns: 2,
            runs: BTreeMap::from([("completed".to_owned(), 5), ("running".to_owned(), 1)]),
            open_messages: BTreeMap::from([(MessageStatus::Pending, 1500), (MessageStatus::Unknown, 0)]),
            ready: 1200,
            later: 30,
            next_due_at: DateTime::from_timestamp(1_767_355_200, 0),
            parked: 1,
            log_position: 123_456,
            unknown_webhooks: Vec::new(),
            subscriptions: vec![SubscriptionRow {
                name: "projection:runs".to_owned(),
                position: 123_450,
                lag: 6,
                lag_seconds: 0.25,
            }],
        };
        StatusAnswer { overview, webhooks_pending: 3, dead_letters: 0, notices: 0 }
    }

    #[test]
    fn everything_is_shown_aligned_and_with_its_unit() {
        let now = DateTime::from_timestamp(1_767_355_265, 0).unwrap();
        let text = text_of(&answer(), Output::plain(), now, "Asia/Kolkata");
        for line in [
            "active campaigns        2",
            "runs                    5 completed, 1 running",
            "open messages           1,500 pending, 0 unknown",
            "waiting for their turn  1,200 messages",
            "to be sent later        30 messages, the first due since 2026-01-02 17:30:00 Asia/Kolkata (1 min 5 s)",
            "parked                  1 messages",
            "projection:runs   123,450             6      0.2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn the_document_has_the_figures_at_its_top() {
        let document = serde_json::to_value(answer()).unwrap();
        assert_eq!(document["webhooks_pending"], 3);
        assert_eq!(document["open_messages"]["pending"], 1500);
        assert_eq!(document["subscriptions"][0]["lag"], 6);
    }

    #[test]
    fn what_is_not_due_yet_is_not_late() {
        let due = DateTime::from_timestamp(60, 0).unwrap();
        assert_eq!(waiting_since(due, DateTime::UNIX_EPOCH, "UTC"), "due at 1970-01-01 00:01:00 UTC");
    }
}
