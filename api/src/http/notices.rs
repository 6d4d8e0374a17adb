use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use chrono::{DateTime, Utc};
use infrastructure::trouble::{self, Notice};
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::NoFields;
use super::fields::Faults;
use super::pages::{Page, PageRequest, Parameters};
use super::problem::{Answer, Problem};
use super::state::ApiState;

/// Something that stands still until a person acts.
#[derive(Serialize, ToSchema)]
#[schema(as = Notice)]
pub(super) struct NoticeDocument {
    id: String,
    /// `template`, `sender`, `account`, `portfolio` or `campaign`.
    scope: &'static str,
    /// The id of what stands still: the template's, the sender's, the WhatsApp Business Account's, the campaign's.
    scope_id: String,
    /// The template's name or the number's id at WhatsApp, where there is one.
    scope_name: Option<String>,
    /// WhatsApp's error code.
    code: i32,
    /// What the code means.
    meaning: &'static str,
    /// What to do.
    advice: &'static str,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    /// How often it was met.
    refusals: i64,
    /// Null while it is open.
    done_at: Option<DateTime<Utc>>,
}

impl From<Notice> for NoticeDocument {
    fn from(notice: Notice) -> Self {
        Self {
            id: notice.id.to_string(),
            scope: notice.scope.name(),
            code: notice.code,
            meaning: notice.meaning(),
            advice: notice.advice(),
            first_at: notice.first_at,
            last_at: notice.last_at,
            refusals: notice.refusals,
            done_at: notice.done_at,
            scope_id: notice.key,
            scope_name: notice.name,
        }
    }
}

/// Lists what stands still until a person acts, the newest first.
#[utoipa::path(
    get,
    path = "/v1/notices",
    tag = "notices",
    operation_id = "list_notices",
    params(
        ("all" = Option<bool>, Query, description = "Those that are done too"),
        ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query),
    ),
    responses((status = 200, body = Page<NoticeDocument>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<NoticeDocument>>> {
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(&uri, &["all", "cursor", "limit"], &mut faults);
    let with_done = match parameters.take("all").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            faults.push("all", "must be true or false");
            false
        }
    };
    let page = PageRequest::by_number(&mut parameters, &state.config.http, &mut faults);
    faults.check()?;
    let tenant = Some(caller.tenant.id);
    let found = trouble::list(&state.pool, tenant, with_done, page.cursor, i64::from(page.wanted())).await?;
    Ok(Json(Page::of(found, page.limit, |last| last.id.to_string(), NoticeDocument::from)))
}

/// Closes a notice. It does not resume anything; a campaign is resumed by itself.
#[utoipa::path(
    post,
    path = "/v1/notices/{id}/done",
    tag = "notices",
    operation_id = "close_notice",
    params(("id" = String, Path)),
    responses((status = 204, description = "It is closed"))
)]
pub(super) async fn done(
    State(state): State<ApiState>,
    caller: Caller,
    Path(id): Path<String>,
    _: NoFields,
) -> Answer<axum::http::StatusCode> {
    let Ok(id) = id.parse() else { return Err(Problem::not_found("notice")) };
    if trouble::finish(&state.pool, Some(caller.tenant.id), id, state.clock.now()).await? {
        Ok(axum::http::StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found("notice"))
    }
}
