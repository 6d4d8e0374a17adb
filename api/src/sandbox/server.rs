//! The sandbox's HTTP side: which path leads where, and the connections.
//!
//! Connections may be half closed: a caller that sent its call and died before it was read has called. A handler can
//! cut its connection in place of an answer.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::STOP_TIMEOUT;
use super::calls::{self, Shared};
use super::control;
use super::graph_error::GraphError;
use super::inbound::{InboundAnswer, InboundRequest};
use super::ledger::LedgerCounts;
use super::limits::LimitCounts;
use super::management;
use super::wire::wamid;

const BODY_BYTES_MAX: usize = 1024 * 1024;
const CONNECTIONS_MAX: usize = 4096;

#[derive(Clone)]
pub(super) struct Api(pub(super) Arc<Shared>);

/// In the extensions of a response: the connection is cut instead of being answered.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the connection is cut on purpose")]
pub(super) struct Cut;

impl Cut {
    pub(super) fn response() -> Response {
        let mut response = Response::default();
        response.extensions_mut().insert(Self);
        response
    }
}

impl Api {
    fn router(self) -> Router {
        Router::new()
            .route("/_ledger", get(show_ledger))
            .route("/_forget", post(forget))
            .route("/_inbound", post(receive))
            .route("/_control", get(control::show).patch(control::change))
            .route("/_verify", post(control::verify))
            .route("/_healthz", get(|| async { "ok" }))
            .route("/{version}/{id}/messages", post(calls::send))
            .route("/{version}/{id}/marketing_messages", post(calls::send_marketing))
            .route("/{version}/{id}/message_templates", get(management::list_templates))
            .route("/{version}/{id}/unpause", post(management::unpause))
            .route("/{version}/{id}", get(management::show))
            .fallback(unknown_path)
            .method_not_allowed_fallback(unsupported)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self)
    }
}

/// Accepts connections until `shutdown`, then lets the open calls end.
pub(super) async fn serve(mut listener: TcpListener, api: Api, tasks: TaskTracker, shutdown: CancellationToken) {
    let router = api.router();
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let next = async {
            let permit = Arc::clone(&connections).acquire_owned().await.expect("the semaphore is never closed");
            // Axum's listener waits and tries again when accepting fails for want of file descriptors.
            let (stream, _): (_, SocketAddr) = axum::serve::Listener::accept(&mut listener).await;
            (permit, stream)
        };
        let (permit, stream) = tokio::select! {
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        let (router, shutdown) = (router.clone(), shutdown.clone());
        tasks.spawn(async move {
            serve_connection(stream, router, shutdown).await;
            drop(permit);
        });
    }
}

async fn serve_connection(stream: TcpStream, router: Router, shutdown: CancellationToken) {
    // Answers are small: waiting to fill a packet would only delay them. Without the option they still arrive.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    // An error of the service ends the connection without a byte.
    let service = service_fn(|request| {
        let answer = router.call(request);
        async move {
            let Ok(answer) = answer.await;
            answer.extensions().get::<Cut>().copied().map_or(Ok(answer), Err)
        }
    });
    // Without a timer there is no time-out for request heads, which would also close connections that callers keep.
    let connection = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // How a connection ends is the caller's affair: it may hang up at any time.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = tokio::time::timeout(STOP_TIMEOUT, connection).await;
}

/// What `GET /_ledger` answers.
#[derive(Serialize)]
struct Counts {
    #[serde(flatten)]
    ledger: LedgerCounts,
    #[serde(flatten)]
    limits: LimitCounts,
    /// How many calls each fault met since it was set, in the order of the settings.
    faults_met: Vec<u64>,
}

async fn show_ledger(State(Api(api)): State<Api>) -> Json<Counts> {
    let faults_met = api.controls.present().faults.met();
    Json(Counts { ledger: api.ledger.counts(), limits: api.limits.counts(), faults_met })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Forget {
    /// The number, in any form.
    to: String,
}

#[derive(Serialize)]
struct Forgotten {
    calls: usize,
}

/// Takes a recipient out of the files, for one who was erased.
async fn forget(State(Api(api)): State<Api>, Json(Forget { to }): Json<Forget>) -> Response {
    let forgetting = tokio::task::spawn_blocking(move || api.ledger.forget(&to)).await;
    match forgetting {
        Ok(Ok(calls)) => Json(Forgotten { calls }).into_response(),
        Ok(Err(_)) | Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Makes something come from the other side.
async fn receive(State(Api(api)): State<Api>, body: Bytes) -> Response {
    let request = match InboundRequest::parse(&body) {
        Ok(request) => request,
        Err(error) => return api.refuse(error),
    };
    let (now, in_force) = (api.clock.now(), api.controls.present());
    let mut messages = Vec::new();
    let bodies = match request {
        InboundRequest::Messages(request) => {
            let wa_id = request.wa_id();
            messages.extend((0..request.count).map(|_| wamid(&wa_id, &api.random_bytes(&in_force, now))));
            api.limits.inbound(&request.phone_number_id, request.count, Instant::now());
            request.bodies(&api.waba_id, now.timestamp(), &messages, in_force.settings.statuses.batch_max)
        }
        InboundRequest::Preference(preference) => {
            api.controls.prefers(&preference.wa_id(), preference.stops());
            vec![preference.body(&api.waba_id, now.timestamp())]
        }
        InboundRequest::Raw(raw) => vec![raw.body(&api.waba_id, now.timestamp())],
    };
    for body in bodies {
        if api.bodies.send(body).await.is_err() {
            return api.refuse(GraphError::unwritten());
        }
    }
    Json(InboundAnswer { messages }).into_response()
}

async fn unknown_path(State(api): State<Api>) -> Response {
    api.0.refuse(GraphError::unknown_path())
}

async fn unsupported(State(api): State<Api>) -> Response {
    api.0.refuse(GraphError::unknown_object())
}
