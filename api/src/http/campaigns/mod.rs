//! Campaigns: created, shown, and commanded.

mod commands;
mod create;
mod document;
mod parameters;
mod setup;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use domain::campaign::{Campaign, CampaignError, CampaignStatus};
use domain::ids::{CampaignId, RunId};
use infrastructure::event_store::{CommandError, Committed};
use projections::audit::AuditKind;
use projections::{campaigns, runs};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

pub(super) use self::commands::{
    __path_activate, __path_cancel, __path_pause, __path_resume, __path_trigger, activate, cancel, pause, resume,
    trigger,
};
pub(super) use self::create::{__path_create, create};
use self::document::{CampaignAnswer, CampaignDocument};
use super::auth::Caller;
use super::pages::{Page, PageRequest};
use super::path::IdPath;
use super::problem::{Answer, Problem, ProblemKind, of_store};
use super::runs::RunDocument;
use super::state::ApiState;
use super::{as_of, etag};

/// Lists the campaigns, oldest first.
#[utoipa::path(
    get,
    path = "/v1/campaigns",
    tag = "campaigns",
    operation_id = "list_campaigns",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = Page<CampaignDocument>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<CampaignDocument>>> {
    let page = PageRequest::only(&uri, &state.config.http)?;
    let cursor = page.cursor.map(CampaignId);
    let found = campaigns::read::list(&state.pool, caller.tenant.id, cursor, page.wanted(), state.clock.now()).await?;
    Ok(Json(Page::of(found, page.limit, |row| row.id.to_string(), CampaignDocument::from)))
}

/// Shows a campaign with its next occurrences.
#[utoipa::path(
    get,
    path = "/v1/campaigns/{id}",
    tag = "campaigns",
    operation_id = "get_campaign",
    params(
        ("id" = Uuid, Path),
        ("as_of" = Option<String>, Query, description = "A time or a position: the state that the log gives as of then"),
        ("If-None-Match" = Option<String>, Header, description = "304 if the campaign still has this ETag"),
    ),
    responses(
        (status = 200, body = CampaignDocument, headers(("ETag" = String, description = "For If-Match"))),
        (status = 304, description = "It has not changed"),
    )
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    headers: HeaderMap,
    uri: Uri,
) -> Answer<Response> {
    if let Some(position) = as_of::asked(&state, &caller, &uri).await? {
        return as_of::answer(&state, &caller, AuditKind::Campaign, id, position).await;
    }
    let found = find(&state, &caller, id).await?.ok_or_else(|| Problem::not_found("campaign"))?;
    Ok(etag::tagged(&headers, found.position, Json(found)))
}

/// All runs of a campaign added up.
#[derive(Serialize, ToSchema)]
#[schema(as = CampaignTotals)]
pub(super) struct CampaignTotalsDocument {
    /// The messages of all runs: the sum of `counts`.
    audience: i64,
    /// Each message under its present status; a status that none has is not listed.
    counts: BTreeMap<String, i64>,
    /// How many messages ever came this far: `attempted`, `sent`, `delivered`, `read`.
    funnel: BTreeMap<String, i64>,
}

/// Adds up all runs of a campaign.
#[utoipa::path(
    get,
    path = "/v1/campaigns/{id}/totals",
    tag = "campaigns",
    operation_id = "campaign_totals",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = CampaignTotalsDocument))
)]
pub(super) async fn totals(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
) -> Answer<Json<CampaignTotalsDocument>> {
    if find(&state, &caller, id).await?.is_none() {
        return Err(Problem::not_found("campaign"));
    }
    let campaign = CampaignId(id);
    let found = campaigns::read::totals(&state.pool, &[campaign]).await?.remove(&campaign).unwrap_or_default();
    Ok(Json(CampaignTotalsDocument { audience: found.audience, counts: found.counts, funnel: found.funnel }))
}

/// Lists the runs of a campaign.
#[utoipa::path(
    get,
    path = "/v1/campaigns/{id}/runs",
    tag = "campaigns",
    operation_id = "list_runs_of_campaign",
    params(("id" = Uuid, Path), ("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = Page<RunDocument>))
)]
pub(super) async fn list_runs(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    uri: Uri,
) -> Answer<Json<Page<RunDocument>>> {
    let page = PageRequest::only(&uri, &state.config.http)?;
    if find(&state, &caller, id).await?.is_none() {
        return Err(Problem::not_found("campaign"));
    }
    let (tenant, campaign, cursor) = (caller.tenant.id, CampaignId(id), page.cursor.map(RunId));
    let found = runs::read::list_of_campaign(&state.pool, tenant, campaign, cursor, page.wanted()).await?;
    Ok(Json(Page::of(found, page.limit, |row| row.id.to_string(), RunDocument::from)))
}

async fn find(state: &ApiState, caller: &Caller, id: Uuid) -> Result<Option<CampaignDocument>, sqlx::Error> {
    let found = campaigns::read::find(&state.pool, caller.tenant.id, CampaignId(id), state.clock.now()).await?;
    Ok(found.map(CampaignDocument::from))
}

/// The campaign after a command, at the position that the command reached.
async fn answer(
    state: &ApiState,
    caller: &Caller,
    id: Uuid,
    committed: &Committed<Campaign>,
) -> Answer<CampaignAnswer> {
    let position = state.reached(id, committed).await?;
    let status = committed.state.status().map_or("", |status| status.name());
    Ok(match find(state, caller, id).await? {
        Some(shown) if shown.position >= position => CampaignAnswer::Shown(Box::new(shown)),
        // The read model is behind: what the command knows is newer.
        Some(mut shown) => {
            shown.status = status;
            shown.position = position;
            CampaignAnswer::Shown(Box::new(shown))
        }
        None => {
            let name = committed.state.definition().map_or_else(String::new, |definition| definition.name.clone());
            CampaignAnswer::Known { id, name, status, position }
        }
    })
}

/// What the campaign or the event store answered to a command that is called `verb`.
fn refused(verb: &str, error: &CommandError<CampaignError>) -> Problem {
    match error {
        CommandError::Refused(CampaignError::NotFound) => Problem::not_found("campaign"),
        CommandError::Refused(CampaignError::NotAllowed { status }) => {
            let way_out = match status {
                CampaignStatus::Draft => " Activate it first.",
                CampaignStatus::Paused => " Resume it.",
                CampaignStatus::Active | CampaignStatus::Completed | CampaignStatus::Cancelled => "",
            };
            Problem::conflict(format!("A campaign that is {} cannot be {verb}.{way_out}", status.name()))
        }
        CommandError::Refused(error @ CampaignError::RevisionMoved { .. }) => Problem::conflict(error.to_string()),
        CommandError::Moved { now } => Problem::new(
            ProblemKind::PreconditionFailed,
            format!("The campaign is at {} now. Read it again, then decide again.", etag::shown(*now)),
        ),
        error => of_store(error),
    }
}
