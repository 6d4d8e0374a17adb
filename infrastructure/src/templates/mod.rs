//! Templates: what Meta has approved, as read from there or as recorded by the tenant. Nothing here creates anything at
//! Meta.
//!
//! What Meta says comes in two ways, which meet in `changes`: the list of an account (`sync`, when `schedule` says) and
//! webhooks (`news`). `runs` lets the open runs of a template follow its status.

mod changes;
pub mod news;
mod runs;
mod schedule;
mod sync;

pub use changes::{KnownBy, TemplateChange, What, list_changes};
pub use runs::{TemplateRunsEffect, TemplateWatch};
pub use sync::{AccountReport, SyncConfig, SyncError, TemplateSync};

use chrono::{DateTime, Utc};
use domain::ids::{TemplateId, TenantId};
use domain::template::{Template as Content, TemplateError};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

const NAME_CHARS_MAX: usize = 512;
const CATEGORIES: [&str; 3] = ["UTILITY", "MARKETING", "AUTHENTICATION"];

#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub id: TemplateId,
    pub tenant_id: TenantId,
    pub name: String,
    pub language: String,
    /// `UTILITY`, `MARKETING` or `AUTHENTICATION`.
    pub category: String,
    /// In Meta's words; only `APPROVED` can be sent. One that was recorded by hand counts as approved until Meta says
    /// otherwise.
    pub status: String,
    /// In Meta's shape.
    pub components: Value,
    /// The names of the variables that it needs, in the order in which the template shows them.
    pub variables: Vec<String>,
    /// `POSITIONAL` or `NAMED`.
    pub parameter_format: String,
    /// `GREEN`, `YELLOW`, `RED` or `UNKNOWN`, if Meta has said so.
    pub quality_score: Option<String>,
    /// The account that has it; `None` for one that was recorded by hand and never seen there.
    pub waba_id: Option<String>,
    /// Its id at Meta, which changes when it is made again.
    pub provider_id: Option<String>,
    /// When it was last read from Meta.
    pub synced_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

impl Template {
    pub fn is_approved(&self) -> bool {
        self.status == APPROVED
    }
}

/// The one status in which a template can be sent.
pub const APPROVED: &str = "APPROVED";

#[derive(Debug, Clone)]
pub struct NewTemplate {
    pub name: String,
    pub language: String,
    pub category: String,
    pub components: Value,
}

#[derive(Debug, thiserror::Error)]
pub enum TemplateRecordError {
    /// Meta knows no such names.
    #[error("must have 1 to {NAME_CHARS_MAX} lower-case letters a to z, digits or underscores")]
    BadName,
    /// Not the form of Meta's language codes.
    #[error("must be a language code such as en, en_US or hi")]
    BadLanguage,
    /// Not one of Meta's categories.
    #[error("must be UTILITY, MARKETING or AUTHENTICATION")]
    UnknownCategory,
    /// The components are not a template, or their variables cannot be told.
    #[error(transparent)]
    BadComponents(TemplateError),
    /// The character U+0000 cannot be stored, and WhatsApp would not show it.
    #[error("must not contain the character U+0000")]
    NulCharacter,
    /// The tenant has a template of this name in this language.
    #[error("a template named {name} in {language} exists already")]
    Taken { name: String, language: String },
    #[error("the templates cannot be read or written")]
    Database(#[from] sqlx::Error),
}

impl TemplateRecordError {
    /// The input that is at fault; empty if none is.
    pub fn field(&self) -> &'static str {
        match self {
            Self::BadName | Self::Taken { .. } => "name",
            Self::BadLanguage => "language",
            Self::UnknownCategory => "category",
            Self::BadComponents(_) | Self::NulCharacter => "components",
            Self::Database(_) => "",
        }
    }
}

struct TemplateRow {
    id: Uuid,
    tenant_id: Uuid,
    name: String,
    language: String,
    category: String,
    status: String,
    components: Value,
    variables: Vec<String>,
    parameter_format: String,
    quality_score: Option<String>,
    waba_id: Option<String>,
    provider_id: Option<String>,
    synced_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<TemplateRow> for Template {
    fn from(row: TemplateRow) -> Self {
        Self {
            id: TemplateId(row.id),
            tenant_id: TenantId(row.tenant_id),
            name: row.name,
            language: row.language,
            category: row.category,
            status: row.status,
            components: row.components,
            variables: row.variables,
            parameter_format: row.parameter_format,
            quality_score: row.quality_score,
            waba_id: row.waba_id,
            provider_id: row.provider_id,
            synced_at: row.synced_at,
            created_at: row.created_at,
        }
    }
}

/// Records a template that exists at Meta. Until it is read from there it counts as approved.
pub async fn record_template(
    pool: &PgPool,
    tenant: TenantId,
    new: NewTemplate,
    now: DateTime<Utc>,
) -> Result<Template, TemplateRecordError> {
    if !is_template_name(&new.name) {
        return Err(TemplateRecordError::BadName);
    }
    if !is_language(&new.language) {
        return Err(TemplateRecordError::BadLanguage);
    }
    let category = canonical_category(&new.category).ok_or(TemplateRecordError::UnknownCategory)?;
    if contains_nul(&new.components) {
        return Err(TemplateRecordError::NulCharacter);
    }
    let content = Content::parse(&new.components).map_err(TemplateRecordError::BadComponents)?;
    sqlx::query_as!(
        TemplateRow,
        "INSERT INTO templates (id, tenant_id, name, language, category, status, components, variables,
                                parameter_format, created_at)
         VALUES ($1, $2, $3, $4, $5, 'APPROVED', $6, $7, $8, $9)
         ON CONFLICT (tenant_id, name, language) DO NOTHING
         RETURNING id, tenant_id, name, language, category, status, components, variables, parameter_format,
                   quality_score, waba_id, provider_id, synced_at, created_at",
        Uuid::new_v4(),
        tenant.0,
        new.name,
        new.language,
        category,
        new.components,
        &content.variables(),
        content.parameter_format().name(),
        now,
    )
    .fetch_optional(pool)
    .await?
    .map(Template::from)
    .ok_or(TemplateRecordError::Taken { name: new.name, language: new.language })
}

/// A page of templates by name and language, after the template `cursor`, which is the last one of the page before.
pub async fn list_templates(
    pool: &PgPool,
    tenant: TenantId,
    cursor: Option<TemplateId>,
    limit: u32,
) -> Result<Vec<Template>, sqlx::Error> {
    let rows = sqlx::query_as!(
        TemplateRow,
        "SELECT id, tenant_id, name, language, category, status, components, variables, parameter_format,
                quality_score, waba_id, provider_id, synced_at, created_at
         FROM templates
         WHERE tenant_id = $1
           AND ($2::uuid IS NULL
                OR (name, language) > (SELECT c.name, c.language FROM templates c WHERE c.id = $2 AND c.tenant_id = $1))
         ORDER BY name, language LIMIT $3",
        tenant.0,
        cursor.map(Uuid::from),
        i64::from(limit),
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(Template::from).collect())
}

/// A template of this tenant; another tenant's is not found.
pub async fn find_template(pool: &PgPool, tenant: TenantId, id: TemplateId) -> Result<Option<Template>, sqlx::Error> {
    let row = sqlx::query_as!(
        TemplateRow,
        "SELECT id, tenant_id, name, language, category, status, components, variables, parameter_format,
                quality_score, waba_id, provider_id, synced_at, created_at
         FROM templates WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        id.0,
    );
    Ok(row.fetch_optional(pool).await?.map(Template::from))
}

/// The template of this name in each of its languages.
pub async fn find_by_name(pool: &PgPool, tenant: TenantId, name: &str) -> Result<Vec<Template>, sqlx::Error> {
    // What cannot be a name is not asked for: Postgres refuses some characters even in a question.
    if !is_template_name(name) {
        return Ok(Vec::new());
    }
    let rows = sqlx::query_as!(
        TemplateRow,
        "SELECT id, tenant_id, name, language, category, status, components, variables, parameter_format,
                quality_score, waba_id, provider_id, synced_at, created_at
         FROM templates WHERE tenant_id = $1 AND name = $2 ORDER BY language",
        tenant.0,
        name,
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(Template::from).collect())
}

/// The first names in alphabetical order, for messages that say what exists.
pub async fn template_names(pool: &PgPool, tenant: TenantId, limit: u32) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT DISTINCT name FROM templates WHERE tenant_id = $1 ORDER BY name LIMIT $2",
        tenant.0,
        i64::from(limit),
    )
    .fetch_all(pool)
    .await
}

fn is_template_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Two or three lower-case letters, and possibly a country of two upper-case letters.
fn is_language(language: &str) -> bool {
    let (code, country) = language.split_once('_').map_or((language, None), |(code, country)| (code, Some(country)));
    (2..=3).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_lowercase())
        && country.is_none_or(|country| country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_uppercase()))
}

fn canonical_category(category: &str) -> Option<&'static str> {
    CATEGORIES.into_iter().find(|known| known.eq_ignore_ascii_case(category))
}

/// The depth of a parsed JSON text is bounded, so this ends.
fn contains_nul(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(contains_nul),
        Value::Object(entries) => entries.iter().any(|(key, entry)| key.contains('\0') || contains_nul(entry)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_metas_names() {
        assert!(is_template_name("festive_offer_2026") && is_template_name(&"a".repeat(NAME_CHARS_MAX)));
        for name in ["", "Offer", "offer-1", "offer 1", "öffer", "a\0", &"a".repeat(NAME_CHARS_MAX + 1)] {
            assert!(!is_template_name(name), "{name:?}");
        }
    }

    #[test]
    fn languages_have_metas_form() {
        assert!(["en", "en_US", "hi", "fil", "pt_BR", "prs_AF"].into_iter().all(is_language));
        for language in ["", "e", "EN", "en-US", "en_us", "en_", "en_USA", "en_US_", "english", "_US"] {
            assert!(!is_language(language), "{language}");
        }
    }

    #[test]
    fn categories_are_taken_in_any_case() {
        assert_eq!(canonical_category("utility"), Some("UTILITY"));
        assert_eq!(canonical_category("Marketing"), Some("MARKETING"));
        assert_eq!(canonical_category("AUTHENTICATION"), Some("AUTHENTICATION"));
        assert_eq!(canonical_category("TRANSACTIONAL"), None);
    }

    #[test]
    fn a_nul_is_found_wherever_it_hides() {
        assert!(!contains_nul(&json!([{"type": "BODY", "text": "Dear {{1}}", "n": 1, "b": true, "z": null}])));
        assert!(contains_nul(&json!([{"text": "a\u{0}b"}])));
        assert!(contains_nul(&json!([{"a\u{0}": 1}])));
    }
}
