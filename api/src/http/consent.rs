//! What a contact allows, and how the tenant records it.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use domain::aggregate::CommandEnvelope;
use domain::consent::{ConsentCommand, ConsentError, ConsentSource};
use domain::ids::ContactId;
use domain::message::Lane;
use infrastructure::consent::{self, ConsentRecord, ConsentStatement, StandingError};
use infrastructure::contacts;
use infrastructure::erasure::ErasureError;
use infrastructure::event_store::{Addressed, CommandError};
use infrastructure::inbound::{self, InboundMessage};
use projections::audit::AuditKind;
use projections::history;
use projections::history::read::HistoryEntry;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::as_of;
use super::auth::Caller;
use super::body::{NoFields, OptionalObject};
use super::contacts::ContactDocument;
use super::fields::{Faults, Fields};
use super::path::IdPath;
use super::problem::{Answer, Problem, chain, of_store};
use super::state::{ApiState, last_position};

const WORDING_CHARS_MAX: usize = 2000;
/// How long a caller waits for an erasure; it goes on by itself.
const ERASURE_DEADLINE: Duration = Duration::from_secs(10);

/// A contact with what it allows and what it said.
#[derive(Serialize, ToSchema)]
#[schema(as = ContactWithConsent)]
pub(super) struct ContactWithConsentDocument {
    #[serde(flatten)]
    contact: ContactDocument,
    consent: ConsentDocument,
    /// What the contact wrote and tapped, the oldest first; the newest 100.
    inbound: Vec<InboundDocument>,
}

/// The same after a command.
#[derive(Serialize, ToSchema)]
pub(super) struct ConsentAnswer {
    #[serde(flatten)]
    contact: ContactWithConsentDocument,
    /// The place in the log that the command reached.
    position: i64,
}

/// What a contact allows.
#[derive(Serialize, ToSchema)]
#[schema(as = Consent)]
pub(super) struct ConsentDocument {
    /// Did the contact agree to messages, by a recorded word or by an upload?
    opted_in: bool,
    /// Does the contact want no messages at all?
    opted_out: bool,
    /// Does the contact want no offers?
    marketing_stopped: bool,
    /// Why no reminder may be sent, if none may: `opted_out` or `erased`.
    utility_refused: Option<&'static str>,
    /// Why no offer may be sent, if none may: `opted_out`, `marketing_stopped` or `erased`.
    marketing_refused: Option<&'static str>,
    /// What the uploads say of the contact's agreement; null where no upload has named it.
    uploaded_opt_in: Option<bool>,
    uploaded_at: Option<DateTime<Utc>>,
    /// When a message could not be delivered; campaigns leave the contact out for a while.
    undeliverable_at: Option<DateTime<Utc>>,
    /// When WhatsApp withheld an offer; campaigns with offers leave the contact out for a while.
    cooling_at: Option<DateTime<Utc>>,
    history: Vec<ConsentStatementDocument>,
}

/// One word about consent.
#[derive(Serialize, ToSchema)]
#[schema(as = ConsentStatement)]
pub(super) struct ConsentStatementDocument {
    position: i64,
    /// When it was said.
    at: DateTime<Utc>,
    /// `OptedIn`, `OptedOut`, `MarketingStopped`, `MarketingResumed` or `ContactErased`.
    event: String,
    /// `upload`, `keyword`, `user_preferences`, `provider_refusal`, `api` or `operator`.
    source: Option<&'static str>,
    /// What the contact was shown.
    wording: Option<String>,
}

/// Something that a contact wrote or tapped.
#[derive(Serialize, ToSchema)]
#[schema(as = InboundMessage)]
pub(super) struct InboundDocument {
    at: DateTime<Utc>,
    /// WhatsApp's name of the kind: `text`, `button`, `interactive`, `image` and so on.
    kind: String,
    /// What was written, or the title of what was tapped.
    text: Option<String>,
    /// The payload or id of what was tapped.
    payload: Option<String>,
    /// The message that it answers, if that is one of ours.
    message_id: Option<Uuid>,
}

impl From<InboundMessage> for InboundDocument {
    fn from(inbound: InboundMessage) -> Self {
        let InboundMessage { at, kind, text, payload, message_id } = inbound;
        Self { at, kind, text, payload, message_id }
    }
}

impl From<ConsentStatement> for ConsentStatementDocument {
    fn from(statement: ConsentStatement) -> Self {
        let ConsentStatement { position, at, event, source, wording } = statement;
        Self { position, at, event, source: source.map(ConsentSource::name), wording }
    }
}

impl From<ConsentRecord> for ConsentDocument {
    fn from(record: ConsentRecord) -> Self {
        let refused = |lane| record.consent.refusal(lane).map(|reason| reason.name());
        Self {
            opted_in: !record.consent.opted_out()
                && (record.consent.opted_in() || record.uploaded_opt_in == Some(true)),
            opted_out: record.consent.opted_out(),
            marketing_stopped: record.consent.marketing_stopped(),
            utility_refused: refused(Lane::Utility),
            marketing_refused: refused(Lane::Marketing),
            uploaded_opt_in: record.uploaded_opt_in,
            uploaded_at: record.uploaded_at,
            undeliverable_at: record.undeliverable_at,
            cooling_at: record.cooling_at,
            history: record.statements.into_iter().map(ConsentStatementDocument::from).collect(),
        }
    }
}

/// Shows a contact with its consent and what it said.
#[utoipa::path(
    get,
    path = "/v1/contacts/{id}",
    tag = "contacts",
    operation_id = "get_contact",
    params(
        ("id" = Uuid, Path),
        ("as_of" = Option<String>, Query, description = "A time or a position: the state that the log gives as of then"),
    ),
    responses((status = 200, body = ContactWithConsentDocument))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    uri: Uri,
) -> Answer<Response> {
    if let Some(position) = as_of::asked(&state, &caller, &uri).await? {
        return as_of::answer(&state, &caller, AuditKind::Contact, id, position).await;
    }
    let found = find(&state, &caller, ContactId(id)).await?;
    Ok(Json(found).into_response())
}

/// Records that a contact wants no messages at all. What is queued for it is cancelled.
#[utoipa::path(
    post,
    path = "/v1/contacts/{id}/opt-out",
    tag = "contacts",
    operation_id = "opt_out_contact",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ConsentAnswer))
)]
pub(super) async fn opt_out(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    _: NoFields,
) -> Answer<Json<ConsentAnswer>> {
    give(&state, &caller, id, |source, said_at| ConsentCommand::OptOut { source, said_at }).await
}

/// Records that a contact wants no offers; reminders still come. Offers that are queued for it are cancelled.
#[utoipa::path(
    post,
    path = "/v1/contacts/{id}/stop-marketing",
    tag = "contacts",
    operation_id = "stop_marketing_to_contact",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ConsentAnswer))
)]
pub(super) async fn stop_marketing(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    _: NoFields,
) -> Answer<Json<ConsentAnswer>> {
    give(&state, &caller, id, |source, said_at| ConsentCommand::StopMarketing { source, said_at }).await
}

/// Records that a contact wants offers again. An opt-out is lifted by the contact alone: then this answers 409.
#[utoipa::path(
    post,
    path = "/v1/contacts/{id}/resume-marketing",
    tag = "contacts",
    operation_id = "resume_marketing_to_contact",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ConsentAnswer))
)]
pub(super) async fn resume_marketing(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    _: NoFields,
) -> Answer<Json<ConsentAnswer>> {
    give(&state, &caller, id, |source, said_at| ConsentCommand::ResumeMarketing { source, said_at }).await
}

/// What an opt-in may say.
#[derive(ToSchema)]
#[schema(as = OptIn)]
#[expect(dead_code, reason = "the shape for the description; the fields are read one by one")]
pub(super) struct OptInRequest {
    /// What the contact was shown when it agreed, without names and numbers: it becomes part of the log. At most 2000
    /// characters.
    wording: Option<String>,
}

/// Records that a contact agreed to messages. An opt-out is lifted by the contact alone: then this answers 409.
#[utoipa::path(
    post,
    path = "/v1/contacts/{id}/opt-in",
    tag = "contacts",
    operation_id = "opt_in_contact",
    params(("id" = Uuid, Path)),
    request_body = Option<OptInRequest>,
    responses((status = 200, body = ConsentAnswer))
)]
pub(super) async fn opt_in(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    OptionalObject(body): OptionalObject,
) -> Answer<Json<ConsentAnswer>> {
    let mut faults = Faults::default();
    let wording = Fields::of(body, "", &["wording"], &mut faults).text("wording", &mut faults);
    if wording.as_ref().is_some_and(|wording| wording.chars().count() > WORDING_CHARS_MAX) {
        faults.push("wording", format!("may have {WORDING_CHARS_MAX} characters"));
    }
    if wording.as_deref().is_some_and(names_a_number) {
        faults.push("wording", "must not name a phone number: it becomes part of the log, which is never changed");
    }
    faults.check()?;
    give(&state, &caller, id, |source, said_at| ConsentCommand::OptIn { source, wording, said_at }).await
}

async fn give(
    state: &ApiState,
    caller: &Caller,
    id: Uuid,
    command: impl FnOnce(ConsentSource, DateTime<Utc>) -> ConsentCommand,
) -> Answer<Json<ConsentAnswer>> {
    // Any command may be the first of a contact's consent, so that whose it is has to be asked before.
    let contact = ContactId(id);
    if contacts::find_contact(&state.pool, caller.tenant.id, contact).await?.is_none() {
        return Err(Problem::not_found("contact"));
    }
    let now = state.clock.now();
    let envelope = CommandEnvelope::new(caller.tenant.id, now, command(ConsentSource::Api, now));
    let given = state.consents.execute(Addressed::new(contact, envelope, caller.actor())).await;
    let committed = given.map_err(|error| match error {
        CommandError::Refused(ConsentError::NotFound) => Problem::not_found("contact"),
        CommandError::Refused(ConsentError::OptedOut) => {
            Problem::conflict("The contact opted out of everything. Only the contact itself can lift that.")
        }
        CommandError::Refused(ConsentError::Erased) => Problem::conflict("The contact was erased."),
        error => of_store(&error),
    })?;
    let position = state.reached(id, &committed).await?;
    Ok(Json(ConsentAnswer { contact: find(state, caller, contact).await?, position }))
}

async fn find(state: &ApiState, caller: &Caller, id: ContactId) -> Answer<ContactWithConsentDocument> {
    let tenant = caller.tenant.id;
    let contact = contacts::find_contact(&state.pool, tenant, id).await?;
    let record = consent::record_of(&state.pool, tenant, id).await.map_err(|error| match error {
        StandingError::Database(error) => Problem::from(error),
        error @ StandingError::Unreadable { .. } => {
            tracing::error!(error = chain(&error), "a contact cannot be shown");
            Problem::internal()
        }
    })?;
    let (Some(contact), Some(record)) = (contact, record) else { return Err(Problem::not_found("contact")) };
    let inbound = inbound::of_contact(&state.pool, tenant, id).await?;
    Ok(ContactWithConsentDocument {
        contact: contact.into(),
        consent: record.into(),
        inbound: inbound.into_iter().map(InboundDocument::from).collect(),
    })
}

/// What happened with a contact.
#[derive(Serialize, ToSchema)]
#[schema(as = ContactHistory)]
pub(super) struct HistoryDocument {
    /// The newest first, at most 500 messages and 500 words about consent.
    items: Vec<HistoryEntryDocument>,
}

/// A message to a contact, or a word about its consent.
#[derive(Serialize, ToSchema)]
#[schema(as = ContactHistoryEntry)]
pub(super) struct HistoryEntryDocument {
    position: i64,
    at: DateTime<Utc>,
    /// `message` or `consent`.
    kind: &'static str,
    text: String,
    message_id: Option<Uuid>,
    run_id: Option<Uuid>,
    campaign_name: Option<String>,
    status: Option<String>,
    reason: Option<String>,
}

impl From<HistoryEntry> for HistoryEntryDocument {
    fn from(entry: HistoryEntry) -> Self {
        let HistoryEntry { position, at, kind, text, message_id, run_id, campaign_name, status, reason } = entry;
        Self { position, at, kind, text, message_id, run_id, campaign_name, status, reason }
    }
}

/// Shows what happened with a contact: its messages and its words about consent.
#[utoipa::path(
    get,
    path = "/v1/contacts/{id}/history",
    tag = "contacts",
    operation_id = "contact_history",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = HistoryDocument))
)]
pub(super) async fn history(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
) -> Answer<Json<HistoryDocument>> {
    let found = history::read::of_contact(&state.pool, caller.tenant.id, ContactId(id)).await?;
    // One that was erased has left its ids; of whom nothing is known at all is not found.
    if found.is_empty() {
        find(&state, &caller, ContactId(id)).await?;
    }
    Ok(Json(HistoryDocument { items: found.into_iter().map(HistoryEntryDocument::from).collect() }))
}

/// What erasing a contact led to.
#[derive(Serialize, ToSchema)]
pub(super) struct ErasureAnswer {
    contact_id: Uuid,
    /// `false`: it goes on, and needs no further request.
    complete: bool,
    /// The place in the log at which the contact is erased.
    position: i64,
}

/// Erases a contact: every personal value goes, a keyed hash keeps the number from being taken up again, and the log
/// stays as it is.
#[utoipa::path(
    delete,
    path = "/v1/contacts/{id}",
    tag = "contacts",
    operation_id = "erase_contact",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ErasureAnswer), (status = 202, body = ErasureAnswer))
)]
pub(super) async fn erase(State(state): State<ApiState>, caller: Caller, IdPath(id): IdPath) -> Answer<Response> {
    let contact = ContactId(id);
    let erasing = state.eraser.erase(caller.tenant.id, contact, caller.actor());
    match tokio::time::timeout(ERASURE_DEADLINE, erasing).await {
        Ok(Ok(erased)) => {
            state.wait_for(erased.position).await;
            let answer = ErasureAnswer { contact_id: id, complete: true, position: erased.position };
            Ok(Json(answer).into_response())
        }
        // It is stored, and the engine goes on with it.
        Err(_) | Ok(Err(ErasureError::Sandbox(_))) => {
            let position = last_position(&state.pool, "Consent", id).await?.unwrap_or_default();
            let answer = ErasureAnswer { contact_id: id, complete: false, position };
            Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
        }
        Ok(Err(ErasureError::NotFound)) => Err(Problem::not_found("contact")),
        Ok(Err(ErasureError::Command(error))) => Err(of_store(&error)),
        Ok(Err(ErasureError::Database(error))) => Err(error.into()),
        Ok(Err(error @ ErasureError::OtherKey)) => {
            tracing::error!(error = chain(&error), "a contact cannot be erased");
            Err(Problem::internal())
        }
    }
}

/// A wording becomes part of the log, which is never changed: it must not name the person.
fn names_a_number(wording: &str) -> bool {
    const DIGITS_MAX: usize = 7;
    let mut run = 0;
    for sign in wording.chars() {
        match sign {
            _ if sign.is_numeric() => run += 1,
            ' ' | '-' | '(' | ')' | '+' => {}
            _ => run = 0,
        }
        if run > DIGITS_MAX {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wording_that_names_a_number_is_told_from_others() {
        for wording in ["call 98765 43210", "+91-98765-43210", "(0091) 9876543210", "९८७६५४३२१०"] {
            assert!(names_a_number(wording), "{wording}");
        }
        for wording in ["Offers until 31.12.2026, please", "I agree to 2 messages a month", ""] {
            assert!(!names_a_number(wording), "{wording}");
        }
    }
}
