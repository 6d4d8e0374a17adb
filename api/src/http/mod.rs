//! The HTTP interface: one file or folder per resource, and what they share.
//!
//! A handler reads the request, gives a command or asks a read model, and answers. Every refusal, whoever makes it,
//! goes out as a problem (see [`problem`]).

pub(crate) mod as_of;
mod auth;
pub(crate) mod body;
mod campaigns;
mod consent;
mod contacts;
mod etag;
mod events;
pub(crate) mod explain;
mod fields;
mod health;
mod layers;
mod messages;
mod min_position;
mod notices;
mod openapi;
mod pages;
mod path;
pub mod problem;
mod runs;
mod senders;
mod state;
mod templates;
pub(crate) mod totals;
mod unknown;
mod uploads;

use axum::extract::{DefaultBodyLimit, Path};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use axum::{Extension, Router};

pub use self::openapi::openapi;
use self::problem::{Answer, Problem, ProblemKind};
pub use self::state::ApiState;
use self::uploads::UploadSlots;
use crate::webhooks;

/// Everything that is served: the resources under `/v1`, the webhooks, and the pages for operators.
pub fn router(state: ApiState) -> Router {
    let time_max = state.config.http.request_timeout();
    let uploads = Router::new()
        .route("/v1/contacts/upload", post(uploads::upload))
        // Uploads take as long as they take, and count their bytes themselves.
        .layer(DefaultBodyLimit::disable())
        .layer(Extension(UploadSlots::new()));
    let webhooks = webhooks::router(&state);
    Router::new()
        .merge(resources())
        .merge(webhooks)
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/problems/{kind}", get(explain))
        .layer(from_fn_with_state(state.clone(), min_position::wait))
        .layer(from_fn_with_state(time_max, layers::limit_time))
        .merge(uploads)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(layers::observe))
        .with_state(state)
}

fn resources() -> Router<ApiState> {
    Router::new()
        .route("/v1/openapi.json", get(openapi::document))
        .route("/v1/contacts", get(contacts::list))
        .route("/v1/contacts/{id}", get(consent::get).delete(consent::erase))
        .route("/v1/contacts/{id}/history", get(consent::history))
        .route("/v1/contacts/{id}/opt-in", post(consent::opt_in))
        .route("/v1/contacts/{id}/opt-out", post(consent::opt_out))
        .route("/v1/contacts/{id}/stop-marketing", post(consent::stop_marketing))
        .route("/v1/contacts/{id}/resume-marketing", post(consent::resume_marketing))
        .route("/v1/segments", get(contacts::segments))
        .route("/v1/templates", get(templates::list).post(templates::record))
        .route("/v1/templates/sync", post(templates::sync))
        .route("/v1/templates/{id}", get(templates::get))
        .route("/v1/templates/{id}/test", post(templates::test))
        .route("/v1/campaigns", get(campaigns::list).post(campaigns::create))
        .route("/v1/campaigns/{id}", get(campaigns::get))
        .route("/v1/campaigns/{id}/totals", get(campaigns::totals))
        .route("/v1/campaigns/{id}/runs", get(campaigns::list_runs))
        .route("/v1/campaigns/{id}/activate", post(campaigns::activate))
        .route("/v1/campaigns/{id}/pause", post(campaigns::pause))
        .route("/v1/campaigns/{id}/resume", post(campaigns::resume))
        .route("/v1/campaigns/{id}/cancel", post(campaigns::cancel))
        .route("/v1/campaigns/{id}/trigger", post(campaigns::trigger))
        .route("/v1/runs/{id}", get(runs::get))
        .route("/v1/runs/{id}/messages", get(runs::list_messages))
        .route("/v1/messages", get(messages::list))
        .route("/v1/messages/{id}", get(messages::get))
        .route("/v1/messages/{id}/settle", post(unknown::settle))
        .route("/v1/unknown", get(unknown::list))
        .route("/v1/notices", get(notices::list))
        .route("/v1/notices/{id}/done", post(notices::done))
        .route("/v1/senders", get(senders::list))
        .route("/v1/senders/{id}/usage", get(totals::usage))
        .route("/v1/totals", get(totals::daily))
        .route("/v1/billing", get(totals::billing))
        .route("/v1/explain", get(explain::get))
        .route("/v1/events", get(events::list))
}

async fn unknown_path() -> Problem {
    Problem::new(ProblemKind::NotFound, "There is nothing at this path. GET /v1/openapi.json lists what there is.")
}

async fn wrong_method() -> Problem {
    Problem::new(ProblemKind::MethodNotAllowed, "The header Allow names the methods that this path takes.")
}

/// What the type of a problem leads to.
async fn explain(Path(name): Path<String>) -> Answer<String> {
    let kind = ProblemKind::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.ok_or_else(|| Problem::new(ProblemKind::NotFound, "There is no such type of problem."))?;
    Ok(format!("{} (status {})\n", kind.title(), kind.status().as_u16()))
}
