//! `ektola templates`: what Meta has approved, read from there.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clap::builder::NonEmptyStringValueParser;
use domain::ids::TemplateId;
use infrastructure::templates::{self, AccountReport, SyncError, Template};
use infrastructure::tenants::{self, Tenant};
use serde::Serialize;

use super::context::Context;
use super::error::Failure;
use super::installation::Installation;
use super::output::{Align, Table, count, instant};
use super::tenant;

/// Templates that are read at once for a list.
const PAGE: u32 = 1000;

#[derive(Debug, clap::Subcommand)]
pub enum TemplatesCommand {
    /// Read the templates of all accounts from Meta now; a running engine does so by itself from time to time.
    Sync(SyncArgs),
    /// List all templates with their status at Meta.
    List(ListArgs),
}

#[derive(Debug, clap::Args)]
pub struct SyncArgs {
    /// The tenant whose accounts are read; all tenants by default.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    tenant: Option<String>,
    /// Permits numbers with an address of their own where DATABASE_URL names the installation.
    #[arg(long)]
    allow_provider_base_url: bool,
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// The tenant whose templates are listed; all tenants by default.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    tenant: Option<String>,
}

pub async fn run(command: TemplatesCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        TemplatesCommand::Sync(args) => sync(&args, context).await,
        TemplatesCommand::List(args) => list(&args, context).await,
    }
}

#[derive(Serialize)]
struct AccountAnswer {
    tenant: String,
    waba_id: String,
    found: usize,
    added: usize,
    changed: usize,
    deleted: usize,
    elsewhere: usize,
    unreadable: usize,
    error: Option<String>,
}

impl AccountAnswer {
    fn of(tenant: &str, waba_id: String, report: Result<AccountReport, SyncError>) -> Self {
        let (report, error) = match report {
            Ok(report) => (report, None),
            Err(error) => (AccountReport::default(), Some(error.to_string())),
        };
        let AccountReport { found, added, changed, deleted, elsewhere, unreadable } = report;
        Self { tenant: tenant.to_owned(), waba_id, found, added, changed, deleted, elsewhere, unreadable, error }
    }

    fn line(&self) -> String {
        let account = format!("{} of {}", self.waba_id, self.tenant);
        if let Some(error) = &self.error {
            return format!("{account}: {error}");
        }
        let mut line = format!(
            "{account}: {} templates, {} added, {} changed, {} deleted",
            self.found, self.added, self.changed, self.deleted
        );
        if self.elsewhere > 0 {
            line += &format!(", {} that another account has already", self.elsewhere);
        }
        if self.unreadable > 0 {
            line += &format!(", {} that could not be understood", self.unreadable);
        }
        line
    }
}

async fn sync(args: &SyncArgs, context: &Context) -> anyhow::Result<()> {
    let config = context.load_config()?;
    let answers = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let allowed = installation.is_private || args.allow_provider_base_url;
            let sync = config.template_sync(pool.clone(), context.clock.clone(), allowed)?;
            let mut answers = Vec::new();
            for tenant in chosen(pool, args.tenant.as_deref()).await? {
                for (waba_id, report) in sync.sync_tenant(tenant.id).await? {
                    answers.push(AccountAnswer::of(&tenant.name, waba_id, report));
                }
            }
            Ok(answers)
        })
        .await?;
    if answers.is_empty() {
        return Err(Failure::new("there is no WhatsApp number whose account could be read")
            .next("ektola sender add --help says how to add one")
            .into());
    }
    context.out.answer(&answers, |_| answers.iter().map(AccountAnswer::line).collect::<Vec<_>>().join("\n"))?;
    if answers.iter().any(|answer| answer.error.is_some()) {
        return Err(Failure::new("some accounts could not be read")
            .next("ektola sender list shows their numbers")
            .into());
    }
    Ok(())
}

#[derive(Serialize)]
struct TemplateAnswer {
    id: String,
    tenant: String,
    name: String,
    language: String,
    category: String,
    status: String,
    quality_score: Option<String>,
    variables: Vec<String>,
    waba_id: Option<String>,
    synced_at: Option<DateTime<Utc>>,
}

impl TemplateAnswer {
    fn of(tenant: &str, template: Template) -> Self {
        Self {
            id: template.id.to_string(),
            tenant: tenant.to_owned(),
            name: template.name,
            language: template.language,
            category: template.category,
            status: template.status,
            quality_score: template.quality_score,
            variables: template.variables,
            waba_id: template.waba_id,
            synced_at: template.synced_at,
        }
    }
}

async fn list(args: &ListArgs, context: &Context) -> anyhow::Result<()> {
    let (tenants, answers) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenants = chosen(pool, args.tenant.as_deref()).await?;
            let mut answers = Vec::new();
            for tenant in &tenants {
                let mut cursor: Option<TemplateId> = None;
                loop {
                    let page = templates::list_templates(pool, tenant.id, cursor, PAGE).await?;
                    let Some(last) = page.last().map(|template| template.id) else { break };
                    cursor = Some(last);
                    answers.extend(page.into_iter().map(|template| TemplateAnswer::of(&tenant.name, template)));
                }
            }
            Ok((tenants, answers))
        })
        .await?;
    let zones: BTreeMap<&str, &str> =
        tenants.iter().map(|tenant| (tenant.name.as_str(), tenant.zone.as_str())).collect();
    context.out.answer(&answers, |out| {
        if answers.is_empty() {
            return "There is no template yet.\nnext: ektola templates sync".to_owned();
        }
        let mut table = Table::new([
            ("name", Align::Left),
            ("language", Align::Left),
            ("category", Align::Left),
            ("status", Align::Left),
            ("quality", Align::Left),
            ("variables", Align::Right),
            ("tenant", Align::Left),
            ("read from Meta", Align::Left),
        ]);
        for answer in &answers {
            let zone = zones.get(answer.tenant.as_str()).copied().unwrap_or("UTC");
            table.row([
                answer.name.clone(),
                answer.language.clone(),
                answer.category.clone(),
                answer.status.clone(),
                answer.quality_score.clone().unwrap_or_default(),
                count(u32::try_from(answer.variables.len()).unwrap_or(u32::MAX)),
                answer.tenant.clone(),
                answer.synced_at.map_or_else(|| "never".to_owned(), |at| instant(at, zone)),
            ]);
        }
        out.table(&table)
    })
}

async fn chosen(pool: &sqlx::PgPool, name: Option<&str>) -> anyhow::Result<Vec<Tenant>> {
    match name {
        Some(name) => Ok(vec![tenant::choose(pool, Some(name)).await?]),
        None => Ok(tenants::list_tenants(pool).await?),
    }
}
