//! Templates: recorded, listed, and tried out on one number.

mod record;
mod test_message;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use chrono::{DateTime, Utc};
use domain::ids::TemplateId;
use infrastructure::templates::{self, Template};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

pub(super) use self::record::{__path_record, record};
pub(super) use self::test_message::{__path_test, test};
use super::auth::Caller;
use super::pages::{Page, PageRequest};
use super::path::IdPath;
use super::problem::{Answer, Problem};
use super::state::ApiState;

/// Templates that are named to somebody who named an unknown one.
const NAMED_MAX: u32 = 10;

/// A template as it was recorded.
#[derive(Serialize, ToSchema)]
pub(super) struct TemplateDocument {
    id: Uuid,
    name: String,
    language: String,
    /// `UTILITY`, `MARKETING` or `AUTHENTICATION`.
    category: String,
    /// `APPROVED` unless WhatsApp has said otherwise.
    status: String,
    /// In Meta's shape.
    #[schema(value_type = Vec<Object>)]
    components: Value,
    /// The names of the variables in the order in which the template shows them.
    variables: Vec<String>,
    created_at: DateTime<Utc>,
}

impl From<Template> for TemplateDocument {
    fn from(template: Template) -> Self {
        let Template { id, tenant_id: _, name, language, category, status, components, variables, created_at } =
            template;
        Self { id: id.0, name, language, category, status, components, variables, created_at }
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

/// Shows a template.
#[utoipa::path(
    get,
    path = "/v1/templates/{id}",
    tag = "templates",
    operation_id = "get_template",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = TemplateDocument))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
) -> Answer<Json<TemplateDocument>> {
    find(&state, &caller, id).await.map(|template| Json(template.into()))
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
        "is not the id of a template; there is none yet, record one with POST /v1/templates".to_owned()
    } else {
        format!("is not the id of a template; there are {}", named.join(", "))
    })
}
