//! `ektola totals` and `ektola billing`: what happened per day, and what WhatsApp says of the price.

use std::collections::BTreeSet;

use domain::ids::{CampaignId, SenderId};
use projections::activity::read as activity;
use projections::billing::read as billing;
use uuid::Uuid;

use super::context::Context;
use super::error::UsageError;
use super::installation::Installation;
use super::output::{Align, Table, count};
use super::tenant;
use crate::http::totals::DaySpan;

/// In the order of a message's life; others are shown behind them if they happened.
const SHOWN_FIRST: [&str; 6] = ["queued", "skipped", "sent", "delivered", "read", "failed"];
const SHOWN_IF_ANY: [&str; 7] = ["attempted", "released", "deferred", "unknown", "unconfirmed", "expired", "cancelled"];

#[derive(Debug, clap::Args)]
pub struct SpanArgs {
    /// The first day, in the tenant's zone; 30 days back by default.
    #[arg(long, value_name = "DAY")]
    from: Option<String>,
    /// The last day; today by default.
    #[arg(long, value_name = "DAY")]
    to: Option<String>,
    /// The tenant; the only one, or `demo`, by default.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct TotalsArgs {
    #[command(flatten)]
    span: SpanArgs,
    /// Only what went from this number, by its id as `sender list --json` shows it.
    #[arg(long, value_name = "ID")]
    sender: Option<Uuid>,
}

#[derive(Debug, clap::Args)]
pub struct BillingArgs {
    #[command(flatten)]
    span: SpanArgs,
    /// Only the messages of this campaign.
    #[arg(long, value_name = "ID")]
    campaign: Option<Uuid>,
}

impl SpanArgs {
    fn read(&self, zone: &str, context: &Context) -> Result<DaySpan, UsageError> {
        DaySpan::of(self.from.as_deref(), self.to.as_deref(), zone, context.clock.now())
            .map_err(|(name, reason)| UsageError::new(format!("--{name} {reason}")))
    }
}

pub async fn totals(args: &TotalsArgs, context: &Context) -> anyhow::Result<()> {
    let (days, span, zone) = context
        .on_installation(async |installation: &Installation| {
            let tenant = tenant::choose(&installation.pool, args.span.tenant.as_deref()).await?;
            let span = args.span.read(&tenant.zone, context)?;
            let sender = args.sender.map(SenderId);
            let instants = span.instants(&tenant.zone);
            let days = activity::days(&installation.pool, tenant.id, &tenant.zone, sender, instants).await?;
            Ok((days, span, tenant.zone))
        })
        .await?;
    context.out.answer(&days, |out| {
        if days.is_empty() {
            return format!("Nothing happened from {} to {} ({zone}).", span.from, span.to);
        }
        let happened: BTreeSet<&str> = days.iter().flat_map(|day| day.counts.keys().map(String::as_str)).collect();
        let kinds: Vec<&'static str> =
            SHOWN_FIRST.into_iter().chain(SHOWN_IF_ANY.into_iter().filter(|kind| happened.contains(kind))).collect();
        let columns = [("day", Align::Left), ("type", Align::Left)];
        let mut table = Table::new(columns.into_iter().chain(kinds.iter().map(|kind| (*kind, Align::Right))));
        for day in &days {
            let mut cells = vec![day.day.to_string(), day.campaign_type.clone().unwrap_or_else(|| "test".to_owned())];
            cells.extend(kinds.iter().map(|kind| count(day.counts.get(*kind).copied().unwrap_or(0))));
            table.row(cells);
        }
        format!("{}\n\nmessages per day, {zone}", out.table(&table))
    })
}

pub async fn billing(args: &BillingArgs, context: &Context) -> anyhow::Result<()> {
    let (rows, span, zone) = context
        .on_installation(async |installation: &Installation| {
            let tenant = tenant::choose(&installation.pool, args.span.tenant.as_deref()).await?;
            let span = args.span.read(&tenant.zone, context)?;
            let campaign = args.campaign.map(CampaignId);
            let instants = span.instants(&tenant.zone);
            let rows = billing::days(&installation.pool, tenant.id, &tenant.zone, campaign, instants).await?;
            Ok((rows, span, tenant.zone))
        })
        .await?;
    context.out.answer(&rows, |out| {
        if rows.is_empty() {
            return format!("WhatsApp spoke of no price from {} to {} ({zone}).", span.from, span.to);
        }
        let mut table = Table::new([
            ("day", Align::Left),
            ("campaign", Align::Left),
            ("category", Align::Left),
            ("pricing", Align::Left),
            ("billable", Align::Left),
            ("messages", Align::Right),
        ]);
        for row in &rows {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
            let billable = match row.billable {
                Some(true) => "yes",
                Some(false) => "no",
                None => "not said",
            };
            table.row([
                row.day.to_string(),
                text(&row.campaign_name),
                text(&row.category),
                text(&row.pricing_type),
                billable.to_owned(),
                count(row.messages),
            ]);
        }
        format!("{}\n\nmessages per day, {zone}", out.table(&table))
    })
}
