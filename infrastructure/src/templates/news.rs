//! Applies what webhooks say about templates. An account may be several tenants' in this installation; each has the
//! template as a row of its own.

use chrono::{DateTime, Utc};
use domain::ids::TemplateId;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::changes::{KnownBy, NewChange, What, is_outdated_in_tx, record_in_tx, set_status_in_tx};
use super::{canonical_category, schedule};
use crate::whatsapp::webhook::{TemplateNews, TemplateNewsKind};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Done,
    /// No sender of the account has the secret that signed the webhook.
    Foreign,
}

struct Known {
    id: TemplateId,
    category: String,
    quality_score: Option<String>,
}

/// Applies news that was signed with the secret of these senders. A second time changes nothing.
pub async fn apply(
    pool: &PgPool,
    senders: &[Uuid],
    news: &TemplateNews,
    now: DateTime<Utc>,
) -> Result<Applied, sqlx::Error> {
    let tenants = sqlx::query_scalar!(
        "SELECT DISTINCT tenant_id FROM senders WHERE id = ANY($1) AND waba_id = $2",
        senders,
        news.waba_id,
    )
    .fetch_all(pool)
    .await?;
    if tenants.is_empty() {
        return Ok(Applied::Foreign);
    }
    let at = news.at.unwrap_or(now);
    let mut tx = pool.begin().await?;
    let known = sqlx::query!(
        "SELECT id, category, quality_score FROM templates
         WHERE tenant_id = ANY($1) AND name = $2 AND language = $3 AND (waba_id IS NULL OR waba_id = $4)
         ORDER BY id FOR UPDATE",
        &tenants,
        news.name,
        news.language,
        news.waba_id,
    )
    .fetch_all(&mut *tx)
    .await?;
    let is_known = !known.is_empty();
    for row in known {
        let known = Known { id: TemplateId(row.id), category: row.category, quality_score: row.quality_score };
        apply_to_in_tx(&mut tx, known, &news.kind, at).await?;
    }
    if news.kind == TemplateNewsKind::Changed || !is_known {
        schedule::ask_in_tx(&mut tx, &tenants, &news.waba_id).await?;
    }
    tx.commit().await?;
    Ok(Applied::Done)
}

async fn apply_to_in_tx(
    tx: &mut PgConnection,
    known: Known,
    kind: &TemplateNewsKind,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (template, known_by) = (known.id, KnownBy::Webhook);
    match kind {
        TemplateNewsKind::Status { status, detail } => {
            set_status_in_tx(tx, template, status, at, known_by, detail.as_deref()).await?;
        }
        TemplateNewsKind::Quality { to, .. } => {
            if known.quality_score.as_ref() == Some(to)
                || is_outdated_in_tx(tx, template, What::QualityScore, at).await?
            {
                return Ok(());
            }
            sqlx::query!("UPDATE templates SET quality_score = $2 WHERE id = $1", template.0, to)
                .execute(&mut *tx)
                .await?;
            let (what, from, to) = (What::QualityScore, known.quality_score.as_deref(), Some(to.as_str()));
            record_in_tx(tx, NewChange { template, at, what, from, to, known_by, detail: None }).await?;
        }
        TemplateNewsKind::Category { to, .. } => {
            let Some(to) = canonical_category(to) else { return Ok(()) };
            if known.category == to || is_outdated_in_tx(tx, template, What::Category, at).await? {
                return Ok(());
            }
            sqlx::query!("UPDATE templates SET category = $2 WHERE id = $1", template.0, to).execute(&mut *tx).await?;
            let (what, from) = (What::Category, Some(known.category.as_str()));
            record_in_tx(tx, NewChange { template, at, what, from, to: Some(to), known_by, detail: None }).await?;
            tracing::warn!(template.id = %template, category = to, "the category of a template changed, and with it the price");
        }
        TemplateNewsKind::CategoryAnnounced { from, to, at: from_when } => {
            if known.category == *to {
                return Ok(());
            }
            let detail = from_when.map(|at| format!("from {} on", at.to_rfc3339()));
            let from = from.as_deref().or(Some(known.category.as_str()));
            let (what, to) = (What::CategoryAnnounced, Some(to.as_str()));
            record_in_tx(tx, NewChange { template, at, what, from, to, known_by, detail: detail.as_deref() }).await?;
            tracing::warn!(template.id = %template, category = to, "Meta will change the category of a template");
        }
        TemplateNewsKind::Changed => {}
    }
    Ok(())
}
