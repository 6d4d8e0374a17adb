use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use chrono::{DateTime, Utc};
use domain::ids::{CampaignId, ContactId, RunId};
use domain::phone;
use projections::explain::{ContactRef, ExplainError, Explanation, Link, explain};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Caller;
use super::fields::Faults;
use super::pages::Parameters;
use super::path::parse_id;
use super::problem::{Answer, Problem, ProblemKind, chain};
use super::state::ApiState;

/// Why a contact got a message of a campaign, or did not.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(super) struct ExplanationDocument {
    contact_id: Uuid,
    campaign_id: Uuid,
    campaign_name: String,
    /// Null if the campaign has not run.
    run_id: Option<Uuid>,
    /// Null if there is no message.
    message_id: Option<Uuid>,
    /// The status of the message, or `not_run`, `resolving`, `not_in_audience`, `not_reached`.
    outcome: &'static str,
    /// One word for why; null where nothing has to be explained. The list is open.
    reason: Option<String>,
    /// For people, with times in the tenant's zone.
    sentence: String,
    /// What led to it, in the order of the log.
    chain: Vec<LinkDocument>,
}

/// One event that led to the outcome.
#[derive(Serialize, ToSchema)]
#[schema(as = ExplanationLink)]
pub(super) struct LinkDocument {
    position: i64,
    /// The engine's time.
    time: DateTime<Utc>,
    /// The name of the event.
    event: String,
    text: String,
}

impl From<Link> for LinkDocument {
    fn from(link: Link) -> Self {
        let Link { position, time, event, text } = link;
        Self { position, time, event, text }
    }
}

impl From<Explanation> for ExplanationDocument {
    fn from(found: Explanation) -> Self {
        Self {
            contact_id: found.contact_id,
            campaign_id: found.campaign_id,
            campaign_name: found.campaign_name,
            run_id: found.run_id,
            message_id: found.message_id,
            outcome: found.outcome,
            reason: found.reason,
            sentence: found.sentence,
            chain: found.chain.into_iter().map(LinkDocument::from).collect(),
        }
    }
}

/// Says why a contact got a message of a campaign, or did not.
#[utoipa::path(
    get,
    path = "/v1/explain",
    tag = "explain",
    operation_id = "explain",
    params(
        ("contact" = String, Query, description = "The contact's id or number, with or without +"),
        ("campaign" = Uuid, Query),
        ("run" = Option<Uuid>, Query, description = "The latest run of the campaign by default"),
    ),
    responses((status = 200, body = ExplanationDocument))
)]
pub(super) async fn get(State(state): State<ApiState>, caller: Caller, uri: Uri) -> Answer<Json<ExplanationDocument>> {
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(&uri, &["contact", "campaign", "run"], &mut faults);
    let contact = match parameters.take("contact").map(|text| contact_of(&text)) {
        Some(Ok(contact)) => Some(contact),
        Some(Err(reason)) => {
            faults.push("contact", reason);
            None
        }
        None => {
            faults.push("contact", "is missing: the id or the number of a contact");
            None
        }
    };
    let campaign = id_of(&mut parameters, "campaign", &mut faults);
    if campaign.is_none() && faults.is_empty() {
        faults.push("campaign", "is missing: the id of a campaign");
    }
    let run = id_of(&mut parameters, "run", &mut faults);
    faults.check()?;
    let (Some(contact), Some(campaign)) = (contact, campaign) else { return Err(Problem::internal()) };
    let found = explain(&state.pool, &caller.tenant, &contact, CampaignId(campaign), run.map(RunId), state.clock.now())
        .await
        .map_err(refused)?;
    Ok(Json(found.into()))
}

fn id_of(parameters: &mut Parameters, name: &str, faults: &mut Faults) -> Option<Uuid> {
    let text = parameters.take(name)?;
    let id = parse_id(&text);
    if id.is_none() {
        faults.push(name, "is not an id");
    }
    id
}

/// A number may be written without its plus, which in a query is a space.
pub(crate) fn contact_of(text: &str) -> Result<ContactRef, String> {
    if let Some(id) = parse_id(text.trim()) {
        return Ok(ContactRef::Id(ContactId(id)));
    }
    phone::normalize(text).map(ContactRef::Phone).map_err(|error| format!("is neither an id nor a number: {error}"))
}

fn refused(error: ExplainError) -> Problem {
    match error {
        ExplainError::Missing(what) => {
            Problem::new(ProblemKind::NotFound, format!("There is no such {}.", what.name()))
        }
        ExplainError::OtherCampaign => Problem::field("run", "is a run of another campaign"),
        ExplainError::Database(error) => error.into(),
        error @ ExplainError::Undecodable { .. } => {
            tracing::error!(error = chain(&error), "an event could not be explained");
            Problem::internal()
        }
    }
}
