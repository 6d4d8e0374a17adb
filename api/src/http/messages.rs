use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use domain::ids::{CampaignId, ContactId, MessageId, RunId};
use domain::message::MessageStatus;
use domain::phone;
use infrastructure::inbound;
use projections::audit::AuditKind;
use projections::messages::TimelineEntry;
use projections::messages::read::{self, MessageRow};
use projections::messages::search::{MessageFilter, search};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::as_of;
use super::auth::Caller;
use super::consent::InboundDocument;
use super::fields::Faults;
use super::pages::{Page, PageRequest, Parameters};
use super::path::{IdPath, parse_id};
use super::problem::{Answer, Problem};
use super::state::ApiState;

/// One template to one contact in one run.
#[derive(Serialize, ToSchema)]
#[schema(as = Message)]
pub(super) struct MessageDocument {
    id: Uuid,
    run_id: Uuid,
    contact_id: Uuid,
    /// E.164 with the leading `+`; null where the contact was erased.
    phone: Option<String>,
    template_name: Option<String>,
    language: Option<String>,
    sender_id: Uuid,
    sender_phone_number_id: Option<String>,
    /// `pending`, `dispatching`, `sent`, `delivered`, `read`, `failed`, `skipped`, `unknown`, `unconfirmed`, `expired`
    /// or `cancelled`.
    status: &'static str,
    /// The number of the latest attempt; 0 before the first.
    attempts: i32,
    /// Why it was skipped, failed, deferred, released or is in doubt.
    reason: Option<String>,
    /// WhatsApp's code, where a refusal is the reason.
    error_code: Option<i32>,
    queued_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    delivered_at: Option<DateTime<Utc>>,
    read_at: Option<DateTime<Utc>>,
    /// The place in the log that this shows.
    position: i64,
}

/// A message with everything that happened to it.
#[derive(Serialize, ToSchema)]
#[schema(as = MessageWithTimeline)]
pub(super) struct MessageWithTimelineDocument {
    #[serde(flatten)]
    message: MessageDocument,
    timeline: Vec<TimelineEntryDocument>,
    /// What the contact answered to it, quick replies among them; the oldest first, the newest 100.
    replies: Vec<InboundDocument>,
}

/// One thing that happened to a message.
#[derive(Serialize, ToSchema)]
#[schema(as = TimelineEntry)]
pub(super) struct TimelineEntryDocument {
    position: i64,
    /// The engine's time.
    at: DateTime<Utc>,
    /// The name of the event.
    event: String,
    /// For people: the status and what led to it.
    text: String,
}

impl From<MessageRow> for MessageDocument {
    fn from(row: MessageRow) -> Self {
        Self {
            id: row.id.0,
            run_id: row.run_id.0,
            contact_id: row.contact_id.0,
            phone: row.phone,
            template_name: row.template_name,
            language: row.language,
            sender_id: row.sender_id.0,
            sender_phone_number_id: row.sender_phone_number_id,
            status: row.status.name(),
            attempts: row.attempts,
            reason: row.reason,
            error_code: row.error_code,
            queued_at: row.queued_at,
            sent_at: row.sent_at,
            delivered_at: row.delivered_at,
            read_at: row.read_at,
            position: row.position,
        }
    }
}

impl From<TimelineEntry> for TimelineEntryDocument {
    fn from(entry: TimelineEntry) -> Self {
        Self { position: entry.position, at: entry.at, event: entry.event, text: entry.text }
    }
}

/// Shows a message with its timeline.
#[utoipa::path(
    get,
    path = "/v1/messages/{id}",
    tag = "messages",
    operation_id = "get_message",
    params(
        ("id" = Uuid, Path),
        ("as_of" = Option<String>, Query, description = "A time or a position: the state that the log gives as of then"),
    ),
    responses((status = 200, body = MessageWithTimelineDocument))
)]
pub(super) async fn get(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    uri: Uri,
) -> Answer<Response> {
    if let Some(position) = as_of::asked(&state, &caller, &uri).await? {
        return as_of::answer(&state, &caller, AuditKind::Message, id, position).await;
    }
    let found = read::find(&state.pool, caller.tenant.id, MessageId(id)).await?;
    let found = found.ok_or_else(|| Problem::not_found("message"))?;
    let replies = inbound::of_message(&state.pool, caller.tenant.id, MessageId(id)).await?;
    let document = MessageWithTimelineDocument {
        message: found.message.into(),
        timeline: found.timeline.into_iter().map(TimelineEntryDocument::from).collect(),
        replies: replies.into_iter().map(InboundDocument::from).collect(),
    };
    Ok(Json(document).into_response())
}

/// Looks for messages, those of the newest run first.
#[utoipa::path(
    get,
    path = "/v1/messages",
    tag = "messages",
    operation_id = "search_messages",
    params(
        ("phone" = Option<String>, Query, description = "The contact's number, with or without +"),
        ("contact" = Option<Uuid>, Query),
        ("campaign" = Option<Uuid>, Query),
        ("run" = Option<Uuid>, Query),
        ("status" = Option<String>, Query),
        ("reason" = Option<String>, Query),
        ("error_code" = Option<i32>, Query, description = "WhatsApp's code of the present refusal"),
        ("from" = Option<String>, Query, description = "Queued at or after this time"),
        ("to" = Option<String>, Query, description = "Queued before this time"),
        ("cursor" = Option<String>, Query),
        ("limit" = Option<u32>, Query),
    ),
    responses((status = 200, body = Page<MessageDocument>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<MessageDocument>>> {
    let known =
        ["phone", "contact", "campaign", "run", "status", "reason", "error_code", "from", "to", "cursor", "limit"];
    let mut faults = Faults::default();
    let mut parameters = Parameters::of(&uri, &known, &mut faults);
    let page = PageRequest::by_id(&mut parameters, &state.config.http, &mut faults);
    let filter = filter(&mut parameters, &caller.tenant.zone, &mut faults);
    faults.check()?;
    let cursor = page.cursor.map(MessageId);
    let found = search(&state.pool, caller.tenant.id, &filter, cursor, page.wanted()).await?;
    Ok(Json(Page::of(found, page.limit, |row| row.id.to_string(), MessageDocument::from)))
}

fn filter(parameters: &mut Parameters, zone: &str, faults: &mut Faults) -> MessageFilter {
    let mut read = |name: &str, faults: &mut Faults| {
        let text = parameters.take(name)?;
        let id = parse_id(&text);
        if id.is_none() {
            faults.push(name, "is not an id");
        }
        id
    };
    let (contact, campaign, run) = (read("contact", faults), read("campaign", faults), read("run", faults));
    let phone = parameters.take("phone").and_then(|text| match phone::normalize(&text) {
        Ok(phone) => Some(phone),
        Err(error) => {
            faults.push("phone", error);
            None
        }
    });
    let error_code = parameters.take("error_code").and_then(|text| {
        let code = text.parse().ok();
        if code.is_none() {
            faults.push("error_code", "must be a whole number");
        }
        code
    });
    let mut time = |name: &str| {
        let text = parameters.take(name)?;
        let time = as_of::instant(&text, zone);
        if time.is_none() {
            faults.push(name, format!("must be a time as in RFC 3339, or a local time of {zone}"));
        }
        time
    };
    let (from, until) = (time("from"), time("to"));
    MessageFilter {
        phone,
        contact: contact.map(ContactId),
        campaign: campaign.map(CampaignId),
        run: run.map(RunId),
        status: read_status(parameters, faults),
        reason: parameters.take("reason"),
        error_code,
        from,
        until,
    }
}

pub(super) fn read_status(parameters: &mut Parameters, faults: &mut Faults) -> Option<MessageStatus> {
    let text = parameters.take("status")?;
    let status = MessageStatus::parse(&text);
    if status.is_none() {
        let names = MessageStatus::ALL.map(MessageStatus::name);
        faults.push("status", format!("must be one of {}", names.join(", ")));
    }
    status
}
