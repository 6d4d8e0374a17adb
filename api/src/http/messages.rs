use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use domain::ids::MessageId;
use infrastructure::inbound;
use projections::audit::AuditKind;
use projections::messages::TimelineEntry;
use projections::messages::read::{self, MessageRow};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::as_of;
use super::auth::Caller;
use super::consent::InboundDocument;
use super::path::IdPath;
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
