//! `ektola explain`: why a contact got a message of a campaign, or did not.

use domain::ids::{CampaignId, RunId};
use projections::explain::{ContactRef, ExplainError, Missing, explain};
use uuid::Uuid;

use super::context::Context;
use super::error::{Failure, UsageError};
use super::installation::Installation;
use super::output::{Align, Table, count, instant};
use super::tenant;
use crate::http::explain::contact_of;

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The contact's id or number.
    #[arg(long, value_name = "ID|NUMBER", value_parser = contact_argument)]
    contact: Contact,
    /// The campaign.
    #[arg(long, value_name = "ID")]
    campaign: Uuid,
    /// One of its runs; the latest by default.
    #[arg(long, value_name = "ID")]
    run: Option<Uuid>,
    /// The tenant; the only one, or `demo`, by default.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

/// Without the number in its debug text.
#[derive(Clone)]
struct Contact(ContactRef);

impl std::fmt::Debug for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Contact")
    }
}

fn contact_argument(text: &str) -> Result<Contact, String> {
    contact_of(text).map(Contact)
}

pub async fn run(args: &ExplainArgs, context: &Context) -> anyhow::Result<()> {
    let (found, zone) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenant = tenant::choose(pool, args.tenant.as_deref()).await?;
            let found = explain(
                pool,
                &tenant,
                &args.contact.0,
                CampaignId(args.campaign),
                args.run.map(RunId),
                context.clock.now(),
            )
            .await
            .map_err(refused)?;
            Ok((found, tenant.zone))
        })
        .await?;
    context.out.answer(&found, |out| {
        let mut table = Table::new([
            ("position", Align::Right),
            ("time", Align::Left),
            ("event", Align::Left),
            ("what", Align::Left),
        ]);
        for link in &found.chain {
            table.row([count(link.position), instant(link.time, &zone), link.event.clone(), link.text.clone()]);
        }
        let reason = found.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        let head = format!("{}: {}{reason}\n{}", found.campaign_name, found.outcome, found.sentence);
        if found.chain.is_empty() { head } else { format!("{head}\n\n{}", out.table(&table)) }
    })
}

fn refused(error: ExplainError) -> anyhow::Error {
    match error {
        ExplainError::Missing(Missing::Contact) => {
            Failure::new("the tenant has no such contact").next("an erased contact is found by its id alone").into()
        }
        ExplainError::Missing(what) => Failure::new(format!("the tenant has no such {}", what.name())).into(),
        ExplainError::OtherCampaign => UsageError::new("the run is one of another campaign").into(),
        error => error.into(),
    }
}
