use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use chrono::{DateTime, Utc};
use domain::ids::{MessageId, RunId};
use domain::message::Resolution;
use infrastructure::unknown::{self, SettleError, UnknownOutcome};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Caller;
use super::body::JsonObject;
use super::fields::{Faults, Fields};
use super::pages::{Page, PageRequest, Parameters, time_cursor};
use super::path::{IdPath, parse_id};
use super::problem::{Answer, Problem, of_store};
use super::state::{ApiState, last_position};

/// What a person may say of a doubt.
const OUTCOMES: [(&str, Resolution); 3] =
    [("sent", Resolution::Sent), ("not_sent", Resolution::NotSent), ("resend", Resolution::Resend)];

/// A call that WhatsApp may or may not have accepted.
#[derive(Serialize, ToSchema)]
#[schema(as = UnknownOutcome)]
pub(super) struct UnknownDocument {
    message_id: Uuid,
    run_id: Uuid,
    /// Null for a test message.
    campaign_id: Option<Uuid>,
    /// Null where the contact was erased.
    contact_id: Option<Uuid>,
    /// `unknown` while a word from WhatsApp is waited for, then `unconfirmed`.
    status: &'static str,
    /// The attempt whose outcome is not known, counted from 1.
    attempt: i32,
    unknown_since: DateTime<Utc>,
    /// Null while a word from WhatsApp is waited for.
    unconfirmed_at: Option<DateTime<Utc>>,
}

impl From<UnknownOutcome> for UnknownDocument {
    fn from(outcome: UnknownOutcome) -> Self {
        Self {
            message_id: outcome.message_id.0,
            run_id: outcome.run_id.0,
            campaign_id: outcome.campaign_id,
            contact_id: outcome.contact_id.map(|contact| contact.0),
            status: outcome.status().name(),
            attempt: outcome.attempt,
            unknown_since: outcome.unknown_since,
            unconfirmed_at: outcome.unconfirmed_at,
        }
    }
}

/// What a person knows of a message whose outcome is in doubt.
#[derive(ToSchema)]
#[schema(as = Settlement)]
#[expect(dead_code, reason = "it documents the body, which is read field by field so that all faults are told at once")]
pub(super) struct SettlementDocument {
    /// `sent`: it was accepted. `not_sent`: it was not, and is not tried again. `resend`: it is tried again, which may
    /// reach the contact twice; only where the campaign's `on_unknown` is `resend`.
    outcome: String,
}

/// A doubt that is settled.
#[derive(Serialize, ToSchema)]
#[schema(as = Settled)]
pub(super) struct SettledAnswer {
    message_id: Uuid,
    /// The message's status now.
    status: &'static str,
    position: i64,
}

/// Lists the calls whose outcome nobody knows, the oldest first.
#[utoipa::path(
    get,
    path = "/v1/unknown",
    tag = "messages",
    operation_id = "list_unknown",
    params(
        ("run_id" = Option<Uuid>, Query, description = "Only messages of this run"),
        ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query),
    ),
    responses((status = 200, body = Page<UnknownDocument>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<UnknownDocument>>> {
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(&uri, &["run_id", "cursor", "limit"], &mut faults);
    let run = parameters.take("run_id").and_then(|text| {
        let run = parse_id(&text).map(RunId);
        if run.is_none() {
            faults.push("run_id", "must be the id of a run");
        }
        run
    });
    let page = PageRequest::by_time(&mut parameters, &state.config.http, &mut faults);
    faults.check()?;
    let tenant = Some(caller.tenant.id);
    let found = unknown::list(&state.pool, tenant, run, page.cursor, i64::from(page.wanted())).await?;
    let cursor = |last: &UnknownOutcome| time_cursor(last.unknown_since, last.message_id.0);
    Ok(Json(Page::of(found, page.limit, cursor, UnknownDocument::from)))
}

/// Settles a message whose outcome is in doubt. Settling what is settled changes nothing.
#[utoipa::path(
    post,
    path = "/v1/messages/{id}/settle",
    tag = "messages",
    operation_id = "settle_message",
    params(("id" = Uuid, Path)),
    request_body = SettlementDocument,
    responses((status = 200, body = SettledAnswer))
)]
pub(super) async fn settle(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    JsonObject(body): JsonObject,
) -> Answer<Json<SettledAnswer>> {
    let mut faults = Faults::default();
    let resolution = Fields::of(body, "", &["outcome"], &mut faults).required_choice("outcome", &OUTCOMES, &mut faults);
    let Some(resolution) = resolution.filter(|_| faults.is_empty()) else { return Err(faults.into_problem()) };
    let (tenant, actor, now) = (caller.tenant.id, caller.actor(), state.clock.now());
    let settled = unknown::settle(&state.pool, &state.messages, tenant, MessageId(id), resolution, actor, now).await;
    let settled = settled.map_err(|error| refused(error, resolution))?;
    let position = match settled.position {
        Some(position) => position,
        None => last_position(&state.pool, "Message", id).await?.unwrap_or_default(),
    };
    state.wait_for(position).await;
    Ok(Json(SettledAnswer { message_id: id, status: settled.status.name(), position }))
}

fn refused(error: SettleError, resolution: Resolution) -> Problem {
    match error {
        SettleError::NotFound => Problem::not_found("message"),
        SettleError::RunEnded => Problem::conflict(format!("{error}.")),
        SettleError::Database(error) => error.into(),
        SettleError::NotAllowed { .. } if resolution == Resolution::Resend => Problem::conflict(format!(
            "{error}: a second call may reach the contact twice, so it is made only for a message in doubt of a \
             campaign with on_unknown set to resend."
        )),
        SettleError::NotAllowed { .. } => {
            Problem::conflict(format!("{error}: no call was made for it, so nothing is in doubt."))
        }
        SettleError::Store(error) => of_store(&error),
    }
}
