//! Templates: recorded, listed, and tried out on one number.

mod record;
mod sync;
mod test_message;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use chrono::{DateTime, Utc};
use domain::ids::TemplateId;
use domain::template::Template as Content;
use infrastructure::templates::{self, Template, TemplateChange};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

pub(super) use self::record::{__path_record, record};
pub(super) use self::sync::{__path_sync, sync};
pub(super) use self::test_message::{__path_test, test};
use super::auth::Caller;
use super::pages::{Page, PageRequest};
use super::path::IdPath;
use super::problem::{Answer, Problem};
use super::state::ApiState;

/// Templates that are named to somebody who named an unknown one.
const NAMED_MAX: u32 = 10;

/// A template as it was recorded, or as Meta has it.
#[derive(Serialize, ToSchema)]
pub(super) struct TemplateDocument {
    id: Uuid,
    name: String,
    language: String,
    /// `UTILITY`, `MARKETING` or `AUTHENTICATION`.
    category: String,
    /// In Meta's words; only `APPROVED` can be sent. One that was recorded by hand counts as approved until Meta says
    /// otherwise.
    status: String,
    /// `GREEN`, `YELLOW`, `RED` or `UNKNOWN`, if Meta has said so.
    quality_score: Option<String>,
    /// In Meta's shape.
    #[schema(value_type = Vec<Object>)]
    components: Value,
    /// `POSITIONAL` or `NAMED`.
    parameter_format: String,
    /// The names of the variables that need a value, in the order in which the template shows them.
    variables: Vec<String>,
    /// The names of those that may be left out.
    optional_variables: Vec<String>,
    /// Why this release cannot send it, whatever its status.
    unsendable: Option<String>,
    /// The account that has it; null for one that was recorded by hand and never seen there.
    waba_id: Option<String>,
    /// Its id at Meta.
    provider_id: Option<String>,
    /// When it was last read from Meta.
    synced_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<Template> for TemplateDocument {
    fn from(template: Template) -> Self {
        let (optional_variables, unsendable) = match Content::parse(&template.components) {
            Ok(content) => (content.optional_variables(), None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        Self {
            id: template.id.0,
            name: template.name,
            language: template.language,
            category: template.category,
            status: template.status,
            quality_score: template.quality_score,
            components: template.components,
            parameter_format: template.parameter_format,
            variables: template.variables,
            optional_variables,
            unsendable,
            waba_id: template.waba_id,
            provider_id: template.provider_id,
            synced_at: template.synced_at,
            created_at: template.created_at,
        }
    }
}

/// A template with what has changed about it.
#[derive(Serialize, ToSchema)]
pub(super) struct TemplateWithChanges {
    #[serde(flatten)]
    template: TemplateDocument,
    /// The newest first; at most 100.
    changes: Vec<TemplateChangeDocument>,
}

/// A change of a template at Meta.
#[derive(Serialize, ToSchema)]
#[schema(as = TemplateChange)]
pub(super) struct TemplateChangeDocument {
    at: DateTime<Utc>,
    /// `status`, `category`, `category_announced` (it will change), `quality_score` or `components`.
    what: String,
    from: Option<String>,
    to: Option<String>,
    /// `sync` or `webhook`.
    source: String,
    /// Meta's word for why, such as `FIRST_PAUSE`.
    detail: Option<String>,
}

impl From<TemplateChange> for TemplateChangeDocument {
    fn from(change: TemplateChange) -> Self {
        let TemplateChange { at, what, from, to, source, detail } = change;
        Self { at, what, from, to, source, detail }
    }
}

/// Lists the templates by name and language.
#[utoipa::path(
    get,
    path = "/v1/templates",
    tag = "templates",
    operation_id = "list_templates",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = Page<TemplateDocument>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<TemplateDocument>>> {
    let page = PageRequest::only(&uri, &state.config.http)?;
    let cursor = page.cursor.map(TemplateId);
    let found = templates::list_templates(&state.pool, caller.tenant.id, cursor, page.wanted()).await?;
    Ok(Json(Page::of(found, page.limit, |template| template.id.to_string(), TemplateDocument::from)))
}

/// Shows a template with what has changed about it.
#[utoipa::path(
    get,
    path = "/v1/templates/{id}",
    tag = "templates",
    operation_id = "get_template",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = TemplateWithChanges))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
) -> Answer<Json<TemplateWithChanges>> {
    let template = find(&state, &caller, id).await?;
    let changes = templates::list_changes(&state.pool, template.id).await?;
    let changes = changes.into_iter().map(TemplateChangeDocument::from).collect();
    Ok(Json(TemplateWithChanges { template: template.into(), changes }))
}

async fn find(state: &ApiState, caller: &Caller, id: Uuid) -> Answer<Template> {
    let found = templates::find_template(&state.pool, caller.tenant.id, TemplateId(id)).await?;
    found.ok_or_else(|| Problem::not_found("template"))
}

/// Why an id names no template, with those that exist.
pub(super) async fn unknown(state: &ApiState, caller: &Caller) -> Answer<String> {
    let found = templates::list_templates(&state.pool, caller.tenant.id, None, NAMED_MAX).await?;
    let named: Vec<String> = found.iter().map(|t| format!("{} ({} in {})", t.id, t.name, t.language)).collect();
    Ok(if named.is_empty() {
        "is not the id of a template; there is none yet, read them with POST /v1/templates/sync or record one with POST /v1/templates".to_owned()
    } else {
        format!("is not the id of a template; there are {}", named.join(", "))
    })
}

/// A template with these variables in its body, for the tests of whatever reads templates.
#[cfg(test)]
pub(in crate::http) fn sample(variables: &[&str]) -> Template {
    let text: String = variables.iter().map(|name| format!("{{{{{name}}}}} ")).collect();
    Template {
        id: TemplateId(Uuid::nil()),
        tenant_id: domain::ids::TenantId(Uuid::nil()),
        name: "due".to_owned(),
        language: "en".to_owned(),
        category: "UTILITY".to_owned(),
        status: "APPROVED".to_owned(),
        components: serde_json::json!([{"type": "BODY", "text": text + "."}]),
        variables: variables.iter().map(|&name| name.to_owned()).collect(),
        parameter_format: "POSITIONAL".to_owned(),
        quality_score: None,
        waba_id: None,
        provider_id: None,
        synced_at: None,
        created_at: DateTime::UNIX_EPOCH,
    }
}
