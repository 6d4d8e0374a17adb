//! Where WhatsApp reports what became of messages.
//!
//! A body is stored before it is answered and interpreted afterwards: WhatsApp waits only seconds, and what it was
//! told is received it does not send again. Nothing is stored without a valid signature, and nothing is looked into:
//! the signature counts for the bytes as they came.

mod verifiers;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use infrastructure::clock::Clock;
use infrastructure::webhook_inbox::Inbox;

use self::verifiers::Verifiers;
use crate::http::ApiState;
use crate::http::body::{self, BodyError};
use crate::http::problem::{Problem, ProblemKind};

const SIGNATURE: &str = "x-hub-signature-256";

#[derive(Clone)]
pub(crate) struct Receiver {
    inbox: Inbox,
    clock: Clock,
    body_bytes_max: usize,
    verifiers: Verifiers,
}

/// The routes for WhatsApp alone.
pub fn router<S: Clone + Send + Sync + 'static>(state: &ApiState) -> Router<S> {
    let receiver = Receiver {
        inbox: state.inbox.clone(),
        clock: state.clock.clone(),
        body_bytes_max: state.config.http.webhook_body_max_bytes,
        verifiers: Verifiers::new(state.pool.clone(), state.config.webhooks.secret_overlap()),
    };
    Router::new().route("/webhooks/whatsapp", get(confirm).post(receive)).with_state(receiver)
}

/// WhatsApp asks whether this is the right place by a token that it was given, and wants its challenge back.
#[utoipa::path(
    get,
    path = "/webhooks/whatsapp",
    tag = "webhooks",
    operation_id = "confirm_webhook",
    security(()),
    params(("hub.mode" = String, Query), ("hub.verify_token" = String, Query), ("hub.challenge" = String, Query)),
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn confirm(
    State(receiver): State<Receiver>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<String, Problem> {
    let refusal = Problem::new(ProblemKind::Forbidden, "No sender has this verify token.");
    let Ok(Query(parameters)) = query else { return Err(refusal) };
    let parameter = |name| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let (Some("subscribe"), Some(token), Some(challenge)) =
        (parameter("hub.mode"), parameter("hub.verify_token"), parameter("hub.challenge"))
    else {
        return Err(refusal);
    };
    let known = receiver.verifiers.know_token(token).await?;
    if known { Ok(challenge.to_owned()) } else { Err(refusal) }
}

/// Takes a webhook: stores it, answers, and interprets it afterwards.
#[utoipa::path(
    post,
    path = "/webhooks/whatsapp",
    tag = "webhooks",
    operation_id = "receive_webhook",
    security(()),
    params(("X-Hub-Signature-256" = String, Header)),
    request_body(content = Vec<u8>, content_type = "application/json"),
    responses((status = 200, description = "Stored"))
)]
pub(crate) async fn receive(State(receiver): State<Receiver>, headers: HeaderMap, body: Body) -> Response {
    receiver.receive(&headers, body).await.map_or_else(Problem::into_response, |()| StatusCode::OK.into_response())
}

impl Receiver {
    async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<(), Problem> {
        let body = body::read(body, self.body_bytes_max).await.map_err(|error| match error {
            BodyError::TooLarge => body::too_large(self.body_bytes_max),
            BodyError::Broken => Problem::new(ProblemKind::BadBody, "The body could not be read to its end."),
        })?;
        let unsigned = || Problem::new(ProblemKind::Unauthorized, "The signature is missing or not valid.");
        let signature = headers.get(SIGNATURE).and_then(|value| value.to_str().ok()).ok_or_else(unsigned)?;
        let senders = self.verifiers.senders_of(signature, &body).await?.ok_or_else(unsigned)?;
        self.inbox.store(body, senders, self.clock.now()).await?;
        Ok(())
    }
}
