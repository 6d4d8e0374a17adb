//! What changed about a template, and when it was true. News may come late, twice and in any order; the newest wins.

use chrono::{DateTime, Utc};
use domain::ids::TemplateId;
use sqlx::{PgConnection, PgPool};

/// Meta lifts as many pauses by itself.
pub(super) const PAUSES_LIFTED_MAX: i32 = 2;
/// Changes of one template that are shown.
const SHOWN_MAX: i64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Status,
    Category,
    /// The category will change.
    CategoryAnnounced,
    QualityScore,
    Components,
}

impl What {
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Category => "category",
            Self::CategoryAnnounced => "category_announced",
            Self::QualityScore => "quality_score",
            Self::Components => "components",
        }
    }
}

/// From where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownBy {
    Sync,
    Webhook,
}

impl KnownBy {
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Webhook => "webhook",
        }
    }
}

/// One change of one template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateChange {
    pub at: DateTime<Utc>,
    /// `status`, `category`, `category_announced`, `quality_score` or `components`.
    pub what: String,
    pub from: Option<String>,
    /// `None` for components, which are too long to show.
    pub to: Option<String>,
    /// `sync` or `webhook`.
    pub source: String,
    /// Meta's word for why.
    pub detail: Option<String>,
}

/// The newest changes of a template, newest first.
pub async fn list_changes(pool: &PgPool, template: TemplateId) -> Result<Vec<TemplateChange>, sqlx::Error> {
    sqlx::query_as!(
        TemplateChange,
        r#"SELECT at, what, from_value AS "from", to_value AS "to", source, detail
           FROM template_changes WHERE template_id = $1 ORDER BY at DESC, id DESC LIMIT $2"#,
        template.0,
        SHOWN_MAX,
    )
    .fetch_all(pool)
    .await
}

pub(super) struct NewChange<'a> {
    pub(super) template: TemplateId,
    pub(super) at: DateTime<Utc>,
    pub(super) what: What,
    pub(super) from: Option<&'a str>,
    pub(super) to: Option<&'a str>,
    pub(super) known_by: KnownBy,
    pub(super) detail: Option<&'a str>,
}

pub(super) async fn record_in_tx(connection: &mut PgConnection, change: NewChange<'_>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO template_changes (template_id, at, what, from_value, to_value, source, detail)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
        change.template.0,
        change.at,
        change.what.name(),
        change.from,
        change.to,
        change.known_by.name(),
        change.detail,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes a status that was true at `at` the template's, unless a newer one is known. `true` if it changed.
pub(super) async fn set_status_in_tx(
    connection: &mut PgConnection,
    template: TemplateId,
    status: &str,
    at: DateTime<Utc>,
    known_by: KnownBy,
    detail: Option<&str>,
) -> Result<bool, sqlx::Error> {
    // A template that was disabled is never sent again without a person: it counts as paused too often.
    let before = sqlx::query_scalar!(
        r#"UPDATE templates t
           SET status = $2, status_at = $3,
               pauses = CASE WHEN $2 = 'DISABLED' THEN greatest(t.pauses, $4 + 1)
                             WHEN $2 = 'PAUSED' AND before.status <> 'PAUSED' THEN t.pauses + 1
                             ELSE t.pauses END
           FROM (SELECT id, status FROM templates WHERE id = $1 FOR UPDATE) before
           WHERE t.id = before.id AND (t.status_at IS NULL OR t.status_at <= $3)
           RETURNING before.status AS "before!""#,
        template.0,
        status,
        at,
        PAUSES_LIFTED_MAX,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(before) = before.filter(|before| before != status) else { return Ok(false) };
    let (from, to, what) = (Some(before.as_str()), Some(status), What::Status);
    record_in_tx(connection, NewChange { template, at, what, from, to, known_by, detail }).await?;
    tracing::info!(template.id = %template, status, before, source = known_by.name(), "the status of a template changed");
    Ok(true)
}

/// Is something newer known of this?
pub(super) async fn is_outdated_in_tx(
    connection: &mut PgConnection,
    template: TemplateId,
    what: What,
    at: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM template_changes WHERE template_id = $1 AND what = $2 AND at > $3) AS "newer!""#,
        template.0,
        what.name(),
        at,
    )
    .fetch_one(connection)
    .await
}
