use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use domain::ids::{MessageId, RunId};
use projections::audit::AuditKind;
use projections::runs::read::{RunRow, RunTrigger};
use projections::{messages, runs};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::as_of;
use super::auth::Caller;
use super::fields::Faults;
use super::messages::{MessageDocument, read_status};
use super::pages::{Page, PageRequest, Parameters};
use super::path::IdPath;
use super::problem::{Answer, Problem};
use super::state::ApiState;

/// One occurrence of a campaign, or a test message.
#[derive(Serialize, ToSchema)]
#[schema(as = Run)]
pub(super) struct RunDocument {
    id: Uuid,
    /// Null for a test message.
    campaign_id: Option<Uuid>,
    campaign_name: Option<String>,
    /// `running`, `paused`, `stalled`, `completed`, `cancelled` or `expired`.
    status: &'static str,
    /// Why the engine has stopped it; `GET /v1/notices` says what to do.
    stall_reason: Option<String>,
    /// What can be done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    stall_advice: Option<&'static str>,
    /// `schedule`, `manual` or `test`.
    trigger: &'static str,
    /// The time that the schedule names, or that of the request.
    nominal_at: DateTime<Utc>,
    template_name: String,
    language: String,
    /// Null for a test message.
    target_segment: Option<String>,
    sender_id: Uuid,
    sender_phone_number_id: Option<String>,
    /// The messages of the run so far: the sum of `counts`.
    audience: i64,
    /// Each message under its present status; every status is listed.
    counts: BTreeMap<&'static str, i64>,
    funnel: FunnelDocument,
    skipped_by_reason: BTreeMap<String, i64>,
    failed_by_code: BTreeMap<String, i64>,
    started_at: DateTime<Utc>,
    /// Null while the audience is still being resolved.
    audience_resolved_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    /// The place in the log that this shows.
    position: i64,
}

/// How many messages ever came this far; none is larger than the one before.
#[derive(Serialize, ToSchema)]
#[schema(as = Funnel)]
pub(super) struct FunnelDocument {
    attempted: i64,
    sent: i64,
    delivered: i64,
    read: i64,
}

fn stall_advice(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "template_not_approved" => {
            "Meta does not allow the template now; GET /v1/templates/{id} shows its status and why. The run goes on by \
             itself when Meta approves the template again, unless it was disabled or paused a third time: then resume \
             the campaign once it is approved, or cancel it and send another template."
        }
        "template_refused" => {
            "WhatsApp refuses the template. POST /v1/templates/sync reads it again from Meta; put it right there, then \
             resume the campaign."
        }
        "sender_refused" | "account_refused" | "portfolio_refused" => {
            "WhatsApp refuses the number, its account or the whole business; GET /v1/notices says why and what to do. Put it \
             right, then resume the campaign."
        }
        "messages_refused" => {
            "WhatsApp refused message after message for the way in which they are made; GET /v1/notices says why. Put the \
             campaign's parameters or its template right, send a test message, then resume the campaign."
        }
        "template_is_offer" => {
            "Meta has made the template one for offers, which must not reach whoever has stopped them. Cancel the campaign and \
             make one of the type marketing."
        }
        "setup_unfit" => {
            "The template or the number has changed since the campaign was activated: a variable has no source, or the number \
             is of another account. Cancel the campaign and make a new one."
        }
        "setup_missing" => "The template or the sender of the campaign no longer exists. Cancel it and make a new one.",
        _ => return None,
    })
}

impl From<RunRow> for RunDocument {
    fn from(row: RunRow) -> Self {
        let funnel = row.funnel;
        Self {
            id: row.id.0,
            campaign_id: row.campaign_id.map(Uuid::from),
            campaign_name: row.campaign_name,
            status: row.status.name(),
            stall_advice: row.stall_reason.as_deref().and_then(stall_advice),
            stall_reason: row.stall_reason,
            trigger: match row.trigger {
                RunTrigger::Schedule => "schedule",
                RunTrigger::Manual => "manual",
                RunTrigger::Test => "test",
            },
            nominal_at: row.nominal_at,
            template_name: row.template_name,
            language: row.language,
            target_segment: row.target_segment,
            sender_id: row.sender_id.0,
            sender_phone_number_id: row.sender_phone_number_id,
            audience: row.audience,
            counts: row.counts.into_iter().map(|(status, count)| (status.name(), count)).collect(),
            funnel: FunnelDocument {
                attempted: funnel.attempted,
                sent: funnel.sent,
                delivered: funnel.delivered,
                read: funnel.read,
            },
            skipped_by_reason: row.skipped_by_reason,
            failed_by_code: row.failed_by_code,
            started_at: row.started_at,
            audience_resolved_at: row.audience_resolved_at,
            ended_at: row.ended_at,
            position: row.position,
        }
    }
}

/// Shows a run with its counts.
#[utoipa::path(
    get,
    path = "/v1/runs/{id}",
    tag = "runs",
    operation_id = "get_run",
    params(
        ("id" = Uuid, Path),
        ("as_of" = Option<String>, Query, description = "A time or a position: the state that the log gives as of then"),
    ),
    responses((status = 200, body = RunDocument))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    uri: Uri,
) -> Answer<Response> {
    if let Some(position) = as_of::asked(&state, &caller, &uri).await? {
        return as_of::answer(&state, &caller, AuditKind::Run, id, position).await;
    }
    let row = find(&state, &caller, id).await?;
    Ok(Json(RunDocument::from(row)).into_response())
}

/// Lists the messages of a run, all or those of a status.
#[utoipa::path(
    get,
    path = "/v1/runs/{id}/messages",
    tag = "runs",
    operation_id = "list_messages_of_run",
    params(
        ("id" = Uuid, Path),
        ("status" = Option<String>, Query, description = "Only messages that have this status now"),
        ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query),
    ),
    responses((status = 200, body = Page<MessageDocument>))
)]
pub(super) async fn list_messages(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    uri: Uri,
) -> Answer<Json<Page<MessageDocument>>> {
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(&uri, &["status", "cursor", "limit"], &mut faults);
    let page = PageRequest::by_id(&mut parameters, &state.config.http, &mut faults);
    let status = read_status(&mut parameters, &mut faults);
    faults.check()?;
    let run = find(&state, &caller, id).await?;
    let cursor = page.cursor.map(MessageId);
    let found =
        messages::read::list_of_run(&state.pool, caller.tenant.id, run.id, status, cursor, page.wanted()).await?;
    Ok(Json(Page::of(found, page.limit, |row| row.id.to_string(), MessageDocument::from)))
}

async fn find(state: &ApiState, caller: &Caller, id: Uuid) -> Answer<RunRow> {
    let found = runs::read::find(&state.pool, caller.tenant.id, RunId(id)).await?;
    found.ok_or_else(|| Problem::not_found("run"))
}
