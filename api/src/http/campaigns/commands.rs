use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use domain::campaign::{Campaign, CampaignCommand, CampaignStatus, Trigger};
use domain::campaign_run::{CampaignRunCommand, RunStatus};
use domain::ids::{CampaignId, RunId};
use infrastructure::event_store::{CommandError, Committed};
use projections::runs;
use serde::Serialize;
use tokio::time::{Instant, sleep};
use utoipa::ToSchema;
use uuid::Uuid;

use super::document::CampaignAnswer;
use super::{answer, refused, setup};
use crate::http::auth::Caller;
use crate::http::body::NoFields;
use crate::http::etag;
use crate::http::path::IdPath;
use crate::http::problem::{Answer, Problem, of_store};
use crate::http::senders;
use crate::http::state::{ApiState, last_position};

const IDEMPOTENCY_KEY: &str = "idempotency-key";
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 255;
/// How long a trigger waits for its run to start, so that whoever asks for the run next finds it.
const RUN_DEADLINE: Duration = Duration::from_secs(2);
const RUN_POLL: Duration = Duration::from_millis(20);

/// Activates a draft: from now on its occurrences are run.
#[utoipa::path(
    post,
    path = "/v1/campaigns/{id}/activate",
    tag = "campaigns",
    operation_id = "activate_campaign",
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses((status = 200, body = CampaignAnswer))
)]
pub(in crate::http) async fn activate(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    headers: HeaderMap,
    _: NoFields,
) -> Answer<Json<CampaignAnswer>> {
    let campaign = load(&state, &caller, id).await?;
    if let (Some(CampaignStatus::Draft), Some(definition)) = (campaign.status(), campaign.definition()) {
        setup::check(&state, &caller, definition).await?;
    }
    change(&state, &caller, id, &headers, CampaignCommand::Activate, "activated").await
}

/// Pauses a campaign and its runs.
#[utoipa::path(
    post,
    path = "/v1/campaigns/{id}/pause",
    tag = "campaigns",
    operation_id = "pause_campaign",
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses((status = 200, body = CampaignAnswer))
)]
pub(in crate::http) async fn pause(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    headers: HeaderMap,
    _: NoFields,
) -> Answer<Json<CampaignAnswer>> {
    change(&state, &caller, id, &headers, CampaignCommand::Pause, "paused").await
}

/// Lets a paused campaign and its runs go on, and runs that the engine stopped because WhatsApp refused the number or
/// the template.
#[utoipa::path(
    post,
    path = "/v1/campaigns/{id}/resume",
    tag = "campaigns",
    operation_id = "resume_campaign",
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses((status = 200, body = CampaignAnswer))
)]
pub(in crate::http) async fn resume(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    headers: HeaderMap,
    _: NoFields,
) -> Answer<Json<CampaignAnswer>> {
    let committed = give(&state, &caller, id, &headers, CampaignCommand::Resume, "resumed").await?;
    lift_stalls(&state, &caller, id).await?;
    answer(&state, &caller, id, &committed).await.map(Json)
}

/// A stall is the run's own, not the campaign's, so resuming an active campaign lifts it as well.
async fn lift_stalls(state: &ApiState, caller: &Caller, id: Uuid) -> Answer<()> {
    for run in runs::read::list_open(&state.pool, Some(caller.tenant.id)).await? {
        if run.campaign_id != Some(CampaignId(id)) || run.status != RunStatus::Stalled {
            continue;
        }
        match state.give(&state.runs, caller, run.id, CampaignRunCommand::Resume).await {
            Ok(committed) => {
                state.reached(run.id.0, &committed).await?;
            }
            // It ended in between.
            Err(CommandError::Refused(_)) => {}
            Err(error) => return Err(of_store(&error)),
        }
    }
    Ok(())
}

/// Ends a campaign and its runs; what was not sent is not sent any more.
#[utoipa::path(
    post,
    path = "/v1/campaigns/{id}/cancel",
    tag = "campaigns",
    operation_id = "cancel_campaign",
    params(("id" = Uuid, Path), ("If-Match" = Option<String>, Header, description = "The ETag that was read")),
    responses((status = 200, body = CampaignAnswer))
)]
pub(in crate::http) async fn cancel(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    headers: HeaderMap,
    _: NoFields,
) -> Answer<Json<CampaignAnswer>> {
    change(&state, &caller, id, &headers, CampaignCommand::Cancel, "cancelled").await
}

/// A run that was asked for.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct TriggerAnswer {
    run_id: Uuid,
    position: i64,
}

/// Starts a run now. With the same `Idempotency-Key` there is at most one run, and every request answers its id.
#[utoipa::path(
    post,
    path = "/v1/campaigns/{id}/trigger",
    tag = "campaigns",
    operation_id = "trigger_campaign",
    params(
        ("id" = Uuid, Path),
        ("Idempotency-Key" = Option<String>, Header, description = "Up to 255 characters"),
        ("If-Match" = Option<String>, Header, description = "The ETag that was read"),
    ),
    responses((status = 202, body = TriggerAnswer))
)]
pub(in crate::http) async fn trigger(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    headers: HeaderMap,
    _: NoFields,
) -> Answer<Response> {
    let key = idempotency_key(&headers)?.unwrap_or_else(|| Uuid::new_v4().to_string());
    let campaign = load(&state, &caller, id).await?;
    if campaign.status() == Some(CampaignStatus::Active) {
        senders::serving(&state, &caller, campaign.definition().and_then(|definition| definition.sender_id)).await?;
    }
    let run_id = RunId::of_trigger(CampaignId(id), &key);
    let command = CampaignCommand::TriggerRun { run_id, trigger: Trigger::Manual, nominal_at: state.clock.now() };
    let committed = give(&state, &caller, id, &headers, command, "triggered").await?;
    let position = state.reached(id, &committed).await?;
    wait_for_run(&state, run_id).await?;
    let location = format!("/v1/runs/{run_id}");
    let answer = TriggerAnswer { run_id: run_id.0, position };
    Ok((StatusCode::ACCEPTED, [(LOCATION, location)], Json(answer)).into_response())
}

/// The key as it was sent; `None` if there is no such header.
fn idempotency_key(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=IDEMPOTENCY_KEY_CHARS_MAX).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => {
            let reason = format!("must have 1 to {IDEMPOTENCY_KEY_CHARS_MAX} visible ASCII characters");
            Err(Problem::field("Idempotency-Key", reason))
        }
    }
}

/// The campaign of this tenant; another tenant's is not found.
async fn load(state: &ApiState, caller: &Caller, id: Uuid) -> Answer<Campaign> {
    let campaign = state.campaigns.load(id).await.map_err(|error| of_store(&error))?;
    if campaign.tenant_id() == Some(caller.tenant.id) { Ok(campaign) } else { Err(Problem::not_found("campaign")) }
}

async fn change(
    state: &ApiState,
    caller: &Caller,
    id: Uuid,
    headers: &HeaderMap,
    command: CampaignCommand,
    verb: &str,
) -> Answer<Json<CampaignAnswer>> {
    let committed = give(state, caller, id, headers, command, verb).await?;
    answer(state, caller, id, &committed).await.map(Json)
}

async fn give(
    state: &ApiState,
    caller: &Caller,
    id: Uuid,
    headers: &HeaderMap,
    command: CampaignCommand,
    verb: &str,
) -> Answer<Committed<Campaign>> {
    let given = match etag::matched(headers)? {
        Some(seen) => state.give_at(&state.campaigns, caller, id, command, seen).await,
        None => state.give(&state.campaigns, caller, id, command).await,
    };
    given.map_err(|error| refused(verb, &error))
}

/// A saga starts the run; if it is slow the trigger is answered all the same.
async fn wait_for_run(state: &ApiState, run_id: RunId) -> Answer<()> {
    let deadline = Instant::now() + RUN_DEADLINE;
    while Instant::now() < deadline {
        if let Some(position) = last_position(&state.pool, "CampaignRun", run_id.0).await? {
            state.wait_for(position).await;
            return Ok(());
        }
        sleep(RUN_POLL).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn key(value: &[u8]) -> Answer<Option<String>> {
        let mut headers = HeaderMap::new();
        headers.insert("Idempotency-Key", HeaderValue::from_bytes(value).unwrap());
        idempotency_key(&headers)
    }

    #[test]
    fn a_key_is_taken_as_it_was_sent() {
        assert_eq!(key(b"order-7").unwrap().as_deref(), Some("order-7"));
        assert_eq!(key(&[b'x'; 255]).unwrap().map(|key| key.len()), Some(255));
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn a_key_that_could_not_be_told_from_another_is_refused() {
        for value in [b"".as_slice(), &[b'x'; 256], "schlüssel".as_bytes()] {
            assert_eq!(key(value).unwrap_err().faults[0].field, "Idempotency-Key");
        }
    }
}
