//! `GET /_control` shows how the sandbox behaves, `PATCH /_control` changes it while it runs. `POST /_verify` asks the
//! receiver of webhooks to verify itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::bytes::Bytes;

use super::server::Api;
use super::settings::Settings;
use super::wire::fbtrace_id;

pub(super) async fn show(State(api): State<Api>) -> Json<Settings> {
    Json(api.0.controls.present().settings.clone())
}

/// The body of `POST /_verify`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyRequest {
    verify_token: String,
}

pub(super) async fn verify(State(Api(api)): State<Api>, body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<VerifyRequest>(&body) else {
        return refused("the body must be an object with verify_token alone");
    };
    let challenge = fbtrace_id(&api.random_bytes(&api.controls.present(), api.clock.now()));
    match api.poster.verify(&request.verify_token, &challenge).await {
        Ok((http_status, verified)) => Json(json!({"http_status": http_status, "verified": verified})).into_response(),
        Err(error) => refused(&format!("the receiver cannot be reached: {}", error.without_url())),
    }
}

fn refused(reason: &str) -> Response {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": reason }))).into_response()
}

/// Answers all settings as they hold afterwards, or 400 with the reason why nothing was changed.
pub(super) async fn change(State(api): State<Api>, body: Bytes) -> Response {
    let patch: Value = match serde_json::from_slice(&body) {
        Ok(patch) => patch,
        Err(error) => return refused(&format!("the body is not JSON: {error}")),
    };
    match api.0.controls.patch(&patch) {
        Ok(settings) => Json(settings).into_response(),
        Err(error) => refused(&error.to_string()),
    }
}
