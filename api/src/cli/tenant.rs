//! `ektola tenant`: the businesses that an installation serves.

use infrastructure::tenants::{self, Tenant, TenantError};
use serde::Serialize;
use sqlx::PgPool;

use super::context::Context;
use super::error::{Failure, UsageError};
use super::installation::Installation;
use super::output::{Align, Table, instant};

/// The tenant of `ektola dev`, which is meant if none is named and there are several.
const DEFAULT: &str = "demo";
/// Names in an error message.
const LISTED_MAX: usize = 20;

#[derive(Debug, clap::Subcommand)]
pub enum TenantCommand {
    /// Add a tenant: a business with contacts, campaigns and numbers of its own.
    Create(CreateArgs),
    /// List all tenants with their time zones.
    List,
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Its name, 1 to 100 characters; no two tenants have the same.
    name: String,
    /// Its time zone by IANA name, such as Asia/Kolkata; dates without an offset are local time of this zone.
    #[arg(long, value_name = "ZONE")]
    zone: String,
}

#[derive(Serialize)]
struct TenantAnswer<'a> {
    id: String,
    name: &'a str,
    zone: &'a str,
    created_at: chrono::DateTime<chrono::Utc>,
}

impl<'a> TenantAnswer<'a> {
    fn of(tenant: &'a Tenant) -> Self {
        Self { id: tenant.id.to_string(), name: &tenant.name, zone: &tenant.zone, created_at: tenant.created_at }
    }
}

pub async fn run(command: TenantCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        TenantCommand::Create(args) => create(&args, context).await,
        TenantCommand::List => list(context).await,
    }
}

async fn create(args: &CreateArgs, context: &Context) -> anyhow::Result<()> {
    let tenant = context
        .on_installation(async |installation: &Installation| {
            tenants::create_tenant(&installation.pool, &args.name, &args.zone, context.clock.now())
                .await
                .map_err(refused)
        })
        .await?;
    context.out.answer(&TenantAnswer::of(&tenant), |_| {
        format!(
            "Tenant {} is created, zone {}.\nnext: ektola token create --tenant {}",
            tenant.name,
            tenant.zone,
            quoted(&tenant.name)
        )
    })
}

fn refused(error: TenantError) -> anyhow::Error {
    match error {
        TenantError::BadName => UsageError::new(format!("the tenant's name {error}")).into(),
        TenantError::UnknownZone { .. } => UsageError::new(error.to_string()).into(),
        TenantError::NameTaken { .. } | TenantError::Database(_) => error.into(),
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let tenants = context
        .on_installation(async |installation: &Installation| Ok(tenants::list_tenants(&installation.pool).await?))
        .await?;
    let answer: Vec<_> = tenants.iter().map(TenantAnswer::of).collect();
    context.out.answer(&answer, |out| {
        if tenants.is_empty() {
            return "There is no tenant yet.\nnext: ektola tenant create NAME --zone ZONE".to_owned();
        }
        let mut table =
            Table::new([("name", Align::Left), ("zone", Align::Left), ("created", Align::Left), ("id", Align::Left)]);
        for tenant in &tenants {
            let created = instant(tenant.created_at, &tenant.zone);
            table.row([tenant.name.clone(), tenant.zone.clone(), created, tenant.id.to_string()]);
        }
        out.table(&table)
    })
}

/// The tenant of this name; `None` without a name: all of them are meant.
pub async fn named(pool: &PgPool, name: Option<&str>) -> anyhow::Result<Option<Tenant>> {
    match name {
        Some(name) => choose(pool, Some(name)).await.map(Some),
        None => Ok(None),
    }
}

/// The tenant of this name; without a name the only one, or the one of `ektola dev`.
pub async fn choose(pool: &PgPool, name: Option<&str>) -> anyhow::Result<Tenant> {
    if let Some(name) = name
        && let Some(tenant) = tenants::find_tenant(pool, name).await?
    {
        return Ok(tenant);
    }
    pick(tenants::list_tenants(pool).await?, name)
}

fn pick(mut tenants: Vec<Tenant>, name: Option<&str>) -> anyhow::Result<Tenant> {
    if tenants.is_empty() {
        return Err(Failure::new("there is no tenant yet").next("ektola tenant create NAME --zone ZONE").into());
    }
    let wanted = name.unwrap_or(DEFAULT);
    if let Some(index) = tenants.iter().position(|tenant| tenant.name == wanted) {
        return Ok(tenants.swap_remove(index));
    }
    if name.is_none() && tenants.len() == 1 {
        return Ok(tenants.swap_remove(0));
    }
    let next = format!("--tenant NAME, one of: {}", names(&tenants));
    Err(match name {
        Some(name) => Failure::new(format!("there is no tenant named {name}")).next(next).into(),
        None => UsageError::new("there are several tenants, and none is named").next(next).into(),
    })
}

fn names(tenants: &[Tenant]) -> String {
    let mut names: Vec<String> = tenants.iter().take(LISTED_MAX).map(|tenant| quoted(&tenant.name)).collect();
    if tenants.len() > LISTED_MAX {
        names.push(format!("and {} more (ektola tenant list)", tenants.len() - LISTED_MAX));
    }
    names.join(", ")
}

/// As a shell takes it for one word.
fn quoted(name: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    if name.chars().all(plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use domain::ids::TenantId;

    use super::*;

    fn tenants(names: &[&str]) -> Vec<Tenant> {
        let tenant = |name: &&str| Tenant {
            id: TenantId(uuid::Uuid::nil()),
            name: (*name).to_owned(),
            zone: "UTC".to_owned(),
            created_at: DateTime::<Utc>::UNIX_EPOCH,
        };
        names.iter().map(tenant).collect()
    }

    #[test]
    fn the_tenant_is_the_named_one_the_only_one_or_the_one_of_dev() {
        let name = |picked: anyhow::Result<Tenant>| picked.unwrap().name;
        assert_eq!(name(pick(tenants(&["a", "b"]), Some("b"))), "b");
        assert_eq!(name(pick(tenants(&["a"]), None)), "a");
        assert_eq!(name(pick(tenants(&["a", "demo"]), None)), "demo");
    }

    #[test]
    fn otherwise_the_names_are_listed() {
        for (all, named) in [(vec!["a", "b c"], None), (vec!["a", "b c"], Some("x")), (vec!["a", "b c"], Some("demo"))]
        {
            let error = pick(tenants(&all), named).unwrap_err();
            // Which tenants there are is no matter of usage.
            assert_eq!(error.is::<UsageError>(), named.is_none());
            assert_eq!(super::super::error::next_step(&error), Some("--tenant NAME, one of: a, 'b c'"));
        }
        // A name that was given is never replaced by the only one.
        assert!(pick(tenants(&["a"]), Some("x")).is_err());
        assert!(pick(Vec::new(), None).is_err());
    }

    #[test]
    fn a_name_is_quoted_for_the_shell() {
        assert_eq!(quoted("demo-1"), "demo-1");
        assert_eq!(quoted("Mehta's Gold"), r"'Mehta'\''s Gold'");
    }
}
