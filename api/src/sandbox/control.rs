//! `GET /_control` shows how the sandbox behaves, `PATCH /_control` changes it while it runs.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde_json::{Value, json};
use tokio_util::bytes::Bytes;

use super::server::Api;
use super::settings::Settings;

pub(super) async fn show(State(api): State<Api>) -> Json<Settings> {
    Json(api.0.controls.present().settings.clone())
}

/// Answers all settings as they hold afterwards, or 400 with the reason why nothing was changed.
pub(super) async fn change(State(api): State<Api>, body: Bytes) -> Response {
    let refused = |reason: String| (StatusCode::BAD_REQUEST, Json(json!({ "error": reason }))).into_response();
    let patch: Value = match serde_json::from_slice(&body) {
        Ok(patch) => patch,
        Err(error) => return refused(format!("the body is not JSON: {error}")),
    };
    match api.0.controls.patch(&patch) {
        Ok(settings) => Json(settings).into_response(),
        Err(error) => refused(error.to_string()),
    }
}
