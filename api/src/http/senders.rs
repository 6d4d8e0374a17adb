use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use chrono::{DateTime, Utc};
use domain::ids::SenderId;
use infrastructure::senders::{self, Sender};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Caller;
use super::pages::{Page, PageRequest};
use super::problem::{Answer, Problem};
use super::state::ApiState;

/// Senders that are named to somebody who named an unknown one.
const NAMED_MAX: usize = 10;

/// A WhatsApp number that sends. Its secrets are never given out.
#[derive(Serialize, ToSchema)]
pub(super) struct SenderDocument {
    id: Uuid,
    /// The id that WhatsApp gives the number; not the number.
    phone_number_id: String,
    /// The WhatsApp Business Account that owns the number.
    waba_id: String,
    /// Messages per second that WhatsApp permits this number.
    rate_per_s: u32,
    /// Does it send to the sandbox instead of WhatsApp?
    sandbox: bool,
    /// Does it serve campaigns that name no sender?
    default: bool,
    created_at: DateTime<Utc>,
}

/// Lists the senders, oldest first.
#[utoipa::path(
    get,
    path = "/v1/senders",
    tag = "senders",
    operation_id = "list_senders",
    params(("cursor" = Option<String>, Query), ("limit" = Option<u32>, Query)),
    responses((status = 200, body = Page<SenderDocument>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    uri: Uri,
) -> Answer<Json<Page<SenderDocument>>> {
    let page = PageRequest::only(&uri, &state.config.http)?;
    let mut found = senders::list_senders(&state.pool, Some(caller.tenant.id)).await?;
    let default = senders::default_sender(&state.pool, caller.tenant.id).await?.map(|sender| sender.id);
    if let Some(cursor) = page.cursor {
        let seen = found.iter().position(|sender| sender.id.0 == cursor).map_or(found.len(), |place| place + 1);
        found.drain(..seen);
    }
    Ok(Json(Page::of(
        found,
        page.limit,
        |sender| sender.id.to_string(),
        |sender| SenderDocument {
            id: sender.id.0,
            phone_number_id: sender.phone_number_id,
            waba_id: sender.waba_id,
            rate_per_s: sender.rate_per_s,
            sandbox: sender.sandbox,
            default: Some(sender.id) == default,
            created_at: sender.created_at,
        },
    )))
}

/// The sender that serves now: the one named, or else the tenant's default.
pub(super) async fn serving(state: &ApiState, caller: &Caller, named: Option<SenderId>) -> Answer<Sender> {
    let found = match named {
        Some(id) => senders::find_sender(&state.pool, caller.tenant.id, id).await?,
        None => senders::default_sender(&state.pool, caller.tenant.id).await?,
    };
    found.ok_or_else(|| Problem::conflict("There is no sender to send from. Add one with ektola sender add."))
}

/// Why an id names no sender, with those that exist.
pub(super) async fn unknown(state: &ApiState, caller: &Caller) -> Answer<String> {
    let found = senders::list_senders(&state.pool, Some(caller.tenant.id)).await?;
    let named: Vec<String> =
        found.iter().take(NAMED_MAX).map(|sender| format!("{} ({})", sender.id, sender.phone_number_id)).collect();
    Ok(if named.is_empty() {
        "is not the id of a sender; there is none yet, add one with ektola sender add".to_owned()
    } else {
        format!("is not the id of a sender; there are {}", named.join(", "))
    })
}
