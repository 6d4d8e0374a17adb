//! Reads the templates of accounts from Meta.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use domain::ids::{TemplateId, TenantId};
use domain::template::{ParameterFormat, Template as Content};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::changes::{KnownBy, NewChange, What, record_in_tx, set_status_in_tx};
use super::schedule::{self, Due};
use super::{canonical_category, contains_nul, is_template_name};
use crate::clock::Clock;
use crate::senders::{self, Sender};
use crate::whatsapp::catalog::{Account, CatalogClient, CatalogError, ListedTemplate};
use crate::whatsapp::client::DEFAULT_BASE_URL;

const DELETED: &str = "DELETED";

#[derive(Debug, Clone)]
pub struct SyncConfig {
    /// Time between two readings of an account.
    pub interval: Duration,
    /// Least time between two readings of an account, however much news there is.
    pub gap: Duration,
    /// Time after which an account is read again that could not be read, or about which too much was asked.
    pub retry: Duration,
    /// How often due accounts are looked for.
    pub poll: Duration,
    /// May a sender have another address than Meta's own?
    pub base_url_allowed: bool,
}

/// A cheap handle.
#[derive(Debug, Clone)]
pub struct TemplateSync {
    pub pool: PgPool,
    pub clock: Clock,
    pub client: CatalogClient,
    pub config: SyncConfig,
}

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error(
        "the number of this account has an address of its own, which is not allowed here; allow it with --allow-provider-base-url"
    )]
    BaseUrlRefused,
    /// A token without the right to see templates is answered so, and nothing tells it from an account without any.
    #[error(
        "the account's list is empty, though it had templates before; nothing was changed. Does the token still have the right whatsapp_business_management?"
    )]
    EmptyList,
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("the templates cannot be read or written")]
    Database(#[from] sqlx::Error),
}

impl SyncError {
    /// Will it pass by itself?
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Catalog(CatalogError::NoAnswer(_) | CatalogError::RateLimited { .. }) | Self::Database(_) => true,
            Self::Catalog(_) | Self::BaseUrlRefused | Self::EmptyList => false,
        }
    }
}

/// What reading an account did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccountReport {
    /// Templates that the account has.
    pub found: usize,
    pub added: usize,
    pub changed: usize,
    /// Templates that the account no longer has.
    pub deleted: usize,
    /// Templates whose name and language the tenant has from another account already; they are left alone.
    pub elsewhere: usize,
    /// Entries that could not be understood; while there are any, none counts as deleted.
    pub unreadable: usize,
}

impl TemplateSync {
    /// Reads accounts when they are due, until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            if let Err(error) = self.turn().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the list of templates is tried again");
            }
            tokio::select! {
                () = tokio::time::sleep(self.config.poll) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn turn(&self) -> Result<(), sqlx::Error> {
        while let Some(due) = schedule::take(&self.pool, self.config.gap).await? {
            let sender = self.sender_of(due.tenant, &due.waba_id).await?;
            let Some(sender) = sender else { return schedule::end(&self.pool, &due, None, self.config.interval).await };
            let outcome = self.read(&sender).await;
            self.note(&due, &outcome).await?;
        }
        Ok(())
    }

    async fn note(&self, due: &Due, outcome: &Result<AccountReport, SyncError>) -> Result<(), sqlx::Error> {
        match outcome {
            Ok(report) => {
                if report.added + report.changed + report.deleted > 0 {
                    let AccountReport { found, added, changed, deleted, .. } = report;
                    tracing::info!(waba.id = due.waba_id, found, added, changed, deleted, "templates read");
                }
                schedule::end(&self.pool, due, None, self.config.interval).await
            }
            Err(error) => {
                let reason = error.to_string();
                // Said once, not every time.
                if due.error.as_ref() != Some(&reason) {
                    tracing::warn!(waba.id = due.waba_id, reason, "the templates of an account cannot be read");
                }
                schedule::end(&self.pool, due, Some(&reason), self.config.retry).await
            }
        }
    }

    /// Reads all accounts of a tenant now, the sandbox's too.
    pub async fn sync_tenant(
        &self,
        tenant: TenantId,
    ) -> Result<Vec<(String, Result<AccountReport, SyncError>)>, sqlx::Error> {
        let mut senders = senders::list_senders(&self.pool, Some(tenant)).await?;
        // The newest number of an account has the newest token.
        senders.reverse();
        let mut reports: Vec<(String, Result<AccountReport, SyncError>)> = Vec::new();
        for sender in senders {
            if reports.iter().all(|(waba_id, _)| *waba_id != sender.waba_id) {
                let report = self.read(&sender).await;
                reports.push((sender.waba_id, report));
            }
        }
        Ok(reports)
    }

    async fn sender_of(&self, tenant: TenantId, waba_id: &str) -> Result<Option<Sender>, sqlx::Error> {
        let senders = senders::list_senders(&self.pool, Some(tenant)).await?;
        Ok(senders.into_iter().rev().find(|sender| sender.waba_id == waba_id && !sender.sandbox))
    }

    async fn read(&self, sender: &Sender) -> Result<AccountReport, SyncError> {
        if sender.base_url.is_some() && !self.config.base_url_allowed {
            return Err(SyncError::BaseUrlRefused);
        }
        // News that comes while the list is read is newer than the list; its time is in whole seconds.
        let at = self.clock.now().trunc_subsecs(0) - TimeDelta::seconds(1);
        let account = Account {
            base_url: sender.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL),
            waba_id: &sender.waba_id,
            access_token: sender.access_token.expose(),
            api_version: sender.api_version.as_deref(),
        };
        let catalog = self.client.fetch(&account).await?;
        if catalog.templates.is_empty() && catalog.unreadable == 0 && self.has_templates(sender).await? {
            return Err(SyncError::EmptyList);
        }
        let mut tx = self.pool.begin().await?;
        let mut store = Store::load(&mut tx, sender, at).await?;
        store.report.unreadable = catalog.unreadable;
        for listed in &catalog.templates {
            store.take_in_tx(&mut tx, listed).await?;
        }
        store.finish_in_tx(&mut tx).await?;
        tx.commit().await?;
        Ok(store.report)
    }
}

impl TemplateSync {
    /// Was any of the account's templates on an earlier list?
    async fn has_templates(&self, sender: &Sender) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM templates WHERE tenant_id = $1 AND waba_id = $2 AND status <> 'DELETED') AS "known!""#,
            sender.tenant_id.0,
            sender.waba_id,
        )
        .fetch_one(&self.pool)
        .await
    }
}

struct Known {
    id: Uuid,
    category: String,
    status: String,
    components: Value,
    quality_score: Option<String>,
    waba_id: Option<String>,
    seen: bool,
}

/// The templates of a tenant while an account's are written into them.
struct Store<'a> {
    sender: &'a Sender,
    at: DateTime<Utc>,
    known: HashMap<(String, String), Known>,
    report: AccountReport,
}

impl<'a> Store<'a> {
    async fn load(tx: &mut PgConnection, sender: &'a Sender, at: DateTime<Utc>) -> Result<Self, sqlx::Error> {
        let rows = sqlx::query!(
            "SELECT id, name, language, category, status, components, quality_score, waba_id
             FROM templates WHERE tenant_id = $1 ORDER BY id FOR UPDATE",
            sender.tenant_id.0,
        )
        .fetch_all(tx)
        .await?;
        let known = |row| {
            let (id, category, status, components, quality_score, waba_id) = row;
            Known { id, category, status, components, quality_score, waba_id, seen: false }
        };
        let known = rows
            .into_iter()
            .map(|row| {
                let key = (row.name, row.language);
                (key, known((row.id, row.category, row.status, row.components, row.quality_score, row.waba_id)))
            })
            .collect();
        Ok(Self { sender, at, known, report: AccountReport::default() })
    }

    async fn take_in_tx(&mut self, tx: &mut PgConnection, listed: &ListedTemplate) -> Result<(), sqlx::Error> {
        self.report.found += 1;
        let readable = is_template_name(&listed.name) && !contains_nul(&listed.components);
        let Some(category) = canonical_category(&listed.category).filter(|_| readable) else {
            self.report.unreadable += 1;
            return Ok(());
        };
        let Some(known) = self.known.get_mut(&(listed.name.clone(), listed.language.clone())) else {
            return self.add_in_tx(tx, listed, category).await;
        };
        let is_others = known.waba_id.as_ref().is_some_and(|waba_id| *waba_id != self.sender.waba_id);
        if is_others && known.status != DELETED {
            self.report.elsewhere += 1;
            return Ok(());
        }
        known.seen = true;
        let (template, at) = (TemplateId(known.id), self.at);
        let mut changed = set_status_in_tx(tx, template, &listed.status, at, KnownBy::Sync, None).await?;
        let changes = [
            (What::Category, known.category != category, Some(known.category.as_str()), Some(category)),
            (
                What::QualityScore,
                listed.quality_score.is_some() && known.quality_score != listed.quality_score,
                known.quality_score.as_deref(),
                listed.quality_score.as_deref(),
            ),
            (What::Components, known.components != listed.components, None, None),
        ];
        for (what, _, from, to) in changes.into_iter().filter(|(_, differs, ..)| *differs) {
            changed = true;
            let known_by = KnownBy::Sync;
            record_in_tx(tx, NewChange { template, at, what, from, to, known_by, detail: None }).await?;
        }
        self.report.changed += usize::from(changed);
        let content = Shape::of(&listed.components);
        sqlx::query!(
            "UPDATE templates
             SET category = $2, components = $3, variables = $4, parameter_format = $5,
                 quality_score = coalesce($6, quality_score), waba_id = $7, provider_id = $8, synced_at = $9
             WHERE id = $1",
            template.0,
            category,
            listed.components,
            &content.variables,
            content.format.name(),
            listed.quality_score,
            self.sender.waba_id,
            listed.provider_id,
            at,
        )
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn add_in_tx(
        &mut self,
        tx: &mut PgConnection,
        listed: &ListedTemplate,
        category: &str,
    ) -> Result<(), sqlx::Error> {
        let content = Shape::of(&listed.components);
        let added = sqlx::query!(
            "INSERT INTO templates (id, tenant_id, name, language, category, status, components, variables,
                                    parameter_format, quality_score, waba_id, provider_id, status_at, synced_at,
                                    created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $13)
             ON CONFLICT (tenant_id, name, language) DO NOTHING",
            Uuid::new_v4(),
            self.sender.tenant_id.0,
            listed.name,
            listed.language,
            category,
            listed.status,
            listed.components,
            &content.variables,
            content.format.name(),
            listed.quality_score,
            self.sender.waba_id,
            listed.provider_id,
            self.at,
        )
        .execute(tx)
        .await?;
        self.report.added += usize::try_from(added.rows_affected()).unwrap_or_default();
        Ok(())
    }

    /// What the account no longer lists is gone there; what was recorded by hand was never there.
    async fn finish_in_tx(&mut self, tx: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.report.unreadable > 0 {
            return Ok(());
        }
        for known in self.known.values().filter(|known| !known.seen && known.status != DELETED) {
            if known.waba_id.as_ref() == Some(&self.sender.waba_id) {
                let (template, at) = (TemplateId(known.id), self.at);
                let gone = set_status_in_tx(tx, template, DELETED, at, KnownBy::Sync, None).await?;
                self.report.deleted += usize::from(gone);
            }
        }
        Ok(())
    }
}

/// What our reader of templates finds; a template that it cannot read is listed all the same, and cannot be sent.
struct Shape {
    variables: Vec<String>,
    format: ParameterFormat,
}

impl Shape {
    fn of(components: &Value) -> Self {
        match Content::parse(components) {
            Ok(content) => Self { variables: content.variables(), format: content.parameter_format() },
            Err(_) => Self { variables: Vec::new(), format: ParameterFormat::Positional },
        }
    }
}
