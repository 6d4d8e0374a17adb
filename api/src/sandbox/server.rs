//! The Graph API's side of the sandbox, and its pages for tools.
//!
//! Once a call's body has been read the call is decided and written down without waiting for anything: a caller that
//! dies meanwhile gets no answer, but its message is on the way, as with the real one. For the same reason connections may
//! be half closed: a caller that sent its call and died before it was read has called.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, SecondsFormat, Utc};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use infrastructure::clock::Clock;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::STOP_TIMEOUT;
use super::behavior::Outcomes;
use super::inbound::{InboundAnswer, InboundRequest};
use super::ledger::{Ledger, LedgerCounts, LedgerLine};
use super::limits::{LimitCounts, Limits};
use super::schedule::{OwedMessage, Schedule};
use super::wire::{Accepted, GraphError, NumberFields, Send, fbtrace_id, random_bytes, wamid};

const BODY_BYTES_MAX: usize = 1024 * 1024;
const CONNECTIONS_MAX: usize = 4096;

/// What decides about sends.
pub(super) struct SendRules {
    pub(super) access_token: Option<String>,
    pub(super) seed: u64,
    pub(super) latency: Duration,
    pub(super) outcomes: Outcomes,
    pub(super) waba_id: String,
    pub(super) webhook_batch_max: usize,
}

#[derive(Clone)]
pub(super) struct Api(Arc<Shared>);

struct Shared {
    rules: SendRules,
    ledger: Arc<Ledger>,
    limits: Limits,
    schedule: Arc<Schedule>,
    clock: Clock,
    /// Takes webhook bodies of inbound messages.
    inbound: mpsc::Sender<Bytes>,
    /// The engine's time when the sandbox started, and the same moment on a clock that never steps back.
    anchor: (DateTime<Utc>, Instant),
}

impl Api {
    pub(super) fn new(
        rules: SendRules,
        ledger: Arc<Ledger>,
        limits: Limits,
        schedule: Arc<Schedule>,
        clock: Clock,
        inbound: mpsc::Sender<Bytes>,
    ) -> Self {
        let anchor = (clock.now(), Instant::now());
        Self(Arc::new(Shared { rules, ledger, limits, schedule, clock, inbound, anchor }))
    }

    fn router(self) -> Router {
        Router::new()
            .route("/_ledger", get(show_ledger))
            .route("/_inbound", post(receive))
            .route("/_healthz", get(|| async { "ok" }))
            .route("/{version}/{phone_number_id}/messages", post(send))
            .route("/{version}/{phone_number_id}", get(show_number))
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
    let service = TowerToHyperService::new(router);
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
}

async fn show_ledger(State(api): State<Api>) -> Json<Counts> {
    Json(Counts { ledger: api.0.ledger.counts(), limits: api.0.limits.counts() })
}

/// Makes users write to a number.
async fn receive(State(api): State<Api>, body: Bytes) -> Response {
    let Api(api) = api;
    let request = match InboundRequest::parse(&body) {
        Ok(request) => request,
        Err(error) => return api.refuse(error),
    };
    let (now, wa_id) = (api.clock.now(), request.wa_id());
    let messages: Vec<String> = (0..request.count).map(|_| wamid(&wa_id, &api.random_bytes(now))).collect();
    let bodies = request.bodies(&api.rules.waba_id, now.timestamp(), &messages, api.rules.webhook_batch_max);
    api.limits.inbound(&request.phone_number_id, request.count, Instant::now());
    for body in bodies {
        if api.inbound.send(body).await.is_err() {
            return api.refuse(GraphError::internal());
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

async fn show_number(
    State(api): State<Api>,
    Path((version, phone_number_id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    match api.0.check_call(&version, &phone_number_id, &headers) {
        Ok(()) => Json(NumberFields::new(phone_number_id)).into_response(),
        Err(error) => api.0.refuse(error),
    }
}

async fn send(
    State(api): State<Api>,
    Path((version, phone_number_id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let Api(api) = api;
    let read_at = Instant::now();
    if let Err(error) = api.check_call(&version, &phone_number_id, &headers) {
        return api.refuse(error);
    }
    let body = match body {
        Ok(body) => body,
        Err(BytesRejection::FailedToBufferBody(rejection))
            if rejection.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE =>
        {
            return api.refuse(GraphError::too_large());
        }
        Err(_) => return api.refuse(GraphError::invalid("The request body could not be read.")),
    };
    let response = api.decide(&phone_number_id, &body, read_at);
    // Even a sleep of no time would wait for the timer's next millisecond.
    if !api.rules.latency.is_zero() {
        tokio::time::sleep(api.rules.latency).await;
    }
    response
}

impl Shared {
    fn check_call(&self, version: &str, phone_number_id: &str, headers: &HeaderMap) -> Result<(), GraphError> {
        if !is_version(version) {
            return Err(GraphError::unknown_path());
        }
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer_token);
        let known = match (&self.rules.access_token, token) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(expected), Some(token)) => expected == token,
        };
        if !known {
            return Err(GraphError::token());
        }
        // The number's id goes into the ledger and from there into webhooks: nothing but digits may get in.
        if phone_number_id.is_empty() || !phone_number_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(GraphError::unknown_object());
        }
        Ok(())
    }

    /// Accepts or refuses a call. It never waits, so nothing can stop it halfway.
    fn decide(&self, phone_number_id: &str, body: &[u8], read_at: Instant) -> Response {
        let send = match Send::parse(body) {
            Ok(send) => send,
            Err(error) => return self.refuse(error),
        };
        if let Err(error) = self.limits.admit(phone_number_id, &send.wa_id, read_at) {
            return self.refuse(error);
        }
        let now = self.clock.now();
        let wamid = wamid(&send.wa_id, &self.random_bytes(now));
        let fate = self.rules.outcomes.of(&send.wa_id);
        let line = LedgerLine {
            at: now.to_rfc3339_opts(SecondsFormat::Micros, true),
            read_at_ms: self.milliseconds_at(read_at),
            phone_number_id,
            wamid: &wamid,
            to: &send.to,
            callback: send.callback.as_deref(),
            template: &send.template,
        };
        if let Err(error) = self.ledger.accept(&line, fate.statuses().len()) {
            tracing::error!(%error, "cannot write the sandbox's ledger; the call is not accepted");
            return self.refuse(GraphError::internal());
        }
        let owed = OwedMessage::new(&wamid, phone_number_id, &send.wa_id, send.callback.as_deref(), fate, 0);
        owed.into_iter().for_each(|owed| self.schedule.accepted(owed, tokio::time::Instant::now()));
        Json(Accepted::new(&send, &wamid)).into_response()
    }

    fn refuse(&self, error: GraphError) -> Response {
        error.into_response(&fbtrace_id(&self.random_bytes(self.clock.now())))
    }

    fn random_bytes(&self, now: DateTime<Utc>) -> [u8; 32] {
        random_bytes(self.rules.seed, self.ledger.next_ordinal(), now.timestamp_micros())
    }

    /// Milliseconds since 1970 to the microsecond.
    fn milliseconds_at(&self, moment: Instant) -> f64 {
        let (started_at, started) = self.anchor;
        let since_1970 = Duration::from_micros(u64::try_from(started_at.timestamp_micros()).unwrap_or_default());
        let microseconds = (since_1970 + moment.saturating_duration_since(started)).as_secs_f64() * 1e6;
        microseconds.round() / 1e3
    }
}

fn bearer_token(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn is_version(segment: &str) -> bool {
    let number = segment.strip_prefix('v').and_then(|rest| rest.strip_suffix(".0"));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_versions_count() {
        for version in ["v1.0", "v23.0", "v100.0"] {
            assert!(is_version(version), "{version}");
        }
        for other in ["v.0", "23.0", "v23", "v23.1", "vx.0", "v2 3.0", ""] {
            assert!(!is_version(other), "{other}");
        }
    }

    #[test]
    fn a_bearer_token_needs_its_scheme_and_a_value() {
        assert_eq!(bearer_token("Bearer abc"), Some("abc"));
        assert_eq!(bearer_token("bearer abc"), Some("abc"));
        for other in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(bearer_token(other), None, "{other}");
        }
    }
}
