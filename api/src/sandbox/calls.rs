//! Sends: whether a call is accepted, what becomes of its message, and how the call is answered.
//!
//! Once a call's body has been read the call is decided and written down without waiting for anything: a caller that
//! dies meanwhile gets no answer, but its message is on the way, as with the real one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use infrastructure::clock::Clock;
use tokio::sync::{mpsc, watch};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::behavior::Outcomes;
use super::controls::{Controls, InForce};
use super::draws::Draws;
use super::faults::{Call, Effect, Stage};
use super::graph_error::{Advice, GraphError};
use super::ledger::Ledger;
use super::limits::Limits;
use super::schedule::Schedule;
use super::server::{Api, Cut};
use super::settings::BAD_TEXT;
use super::template_status::Pause;
use super::tier::Tier;
use super::webhooks::Poster;
use super::wire::{Send, fbtrace_id, random_bytes};

/// What everything that answers shares.
pub(super) struct Shared {
    pub(super) controls: Arc<Controls>,
    /// The bearer token that calls must carry; `None`: any.
    pub(super) access_token: Option<String>,
    pub(super) outcomes: Outcomes,
    pub(super) waba_id: String,
    pub(super) ledger: Arc<Ledger>,
    pub(super) limits: Limits,
    pub(super) tier: Tier,
    pub(super) schedule: Arc<Schedule>,
    pub(super) clock: Clock,
    /// Takes webhook bodies that are no statuses.
    pub(super) bodies: mpsc::Sender<Bytes>,
    pub(super) poster: Arc<Poster>,
    /// What runs beside the calls.
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    /// When a call to the endpoint for marketing messages first named a template, while templates take time there.
    pub(super) marketing_since: Mutex<HashMap<String, Instant>>,
    /// The engine's time when the sandbox started, and the same moment on a clock that never steps back.
    pub(super) anchor: (DateTime<Utc>, Instant),
}

/// How a call ends.
pub(super) struct Ending {
    pub(super) response: Response,
    pub(super) latency: Duration,
    pub(super) wait: Wait,
}

/// What an answer waits for besides its latency.
pub(super) enum Wait {
    Nothing,
    /// The connection is cut after this time instead.
    Cut(Duration),
    /// So many statuses are to be acknowledged first, or the time to pass.
    Statuses(watch::Receiver<usize>, usize, Duration),
}

impl Ending {
    pub(super) fn of(response: Response, latency: Duration) -> Self {
        Self { response, latency, wait: Wait::Nothing }
    }

    async fn answer(self) -> Response {
        // Even a sleep of no time would wait for the timer's next millisecond.
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        match self.wait {
            Wait::Nothing => self.response,
            Wait::Cut(after) => {
                tokio::time::sleep(after).await;
                Cut::response()
            }
            Wait::Statuses(mut acknowledged, statuses, wait_max) => {
                // Without the wanted statuses the answer comes all the same.
                let _ = tokio::time::timeout(wait_max, acknowledged.wait_for(|acknowledged| *acknowledged >= statuses))
                    .await;
                self.response
            }
        }
    }
}

/// Which of the two endpoints is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Messages,
    MarketingMessages,
}

pub(super) async fn send(
    State(Api(api)): State<Api>,
    Path((version, phone_number_id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    api.answer(Endpoint::Messages, &version, &phone_number_id, &headers, body).await
}

pub(super) async fn send_marketing(
    State(Api(api)): State<Api>,
    Path((version, phone_number_id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    api.answer(Endpoint::MarketingMessages, &version, &phone_number_id, &headers, body).await
}

impl Shared {
    async fn answer(
        self: Arc<Self>,
        endpoint: Endpoint,
        version: &str,
        phone_number_id: &str,
        headers: &HeaderMap,
        body: Result<Bytes, BytesRejection>,
    ) -> Response {
        let read_at = Instant::now();
        let in_force = self.controls.present();
        if let Err(error) = self.check_call(&in_force, version, phone_number_id, headers) {
            return self.refuse(error);
        }
        let body = match body {
            Ok(body) => body,
            Err(BytesRejection::FailedToBufferBody(rejection))
                if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE =>
            {
                return self.refuse(GraphError::too_large());
            }
            Err(_) => return self.refuse(GraphError::invalid("The request body could not be read.")),
        };
        self.decide(&in_force, endpoint, phone_number_id, &body, read_at).answer().await
    }

    /// Whether the path is one, the token good, and the number there.
    pub(super) fn check_call(
        &self,
        in_force: &InForce,
        version: &str,
        phone_number_id: &str,
        headers: &HeaderMap,
    ) -> Result<(), GraphError> {
        self.check_token(in_force, version, headers)?;
        let access = &in_force.settings.access;
        // The number's id goes into the ledger and from there into webhooks: nothing but digits may get in.
        let written_as_id = !phone_number_id.is_empty() && phone_number_id.bytes().all(|byte| byte.is_ascii_digit());
        let known = access.numbers.as_ref().is_none_or(|numbers| numbers.iter().any(|id| id == phone_number_id));
        if written_as_id && known {
            return Ok(());
        }
        Err(match access.unknown_number_code {
            100 => GraphError::unknown_object(),
            code => GraphError::of_code(code, None),
        })
    }

    pub(super) fn check_token(&self, in_force: &InForce, version: &str, headers: &HeaderMap) -> Result<(), GraphError> {
        if !is_version(version) {
            return Err(GraphError::unknown_path());
        }
        let token = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer_token);
        let known = match (&self.access_token, token) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(expected), Some(token)) => expected == token,
        };
        if known && !in_force.settings.access.token_revoked { Ok(()) } else { Err(GraphError::token()) }
    }

    /// Accepts or refuses a call. It never waits, so nothing can stop it halfway.
    fn decide(
        self: &Arc<Self>,
        in_force: &InForce,
        endpoint: Endpoint,
        phone_number_id: &str,
        body: &[u8],
        read_at: Instant,
    ) -> Ending {
        let send = match Send::parse(body) {
            Ok(send) => send,
            Err(error) => {
                let error = self.with_drawn_code(in_force, error);
                return Ending::of(self.refuse(error), in_force.latency(Draws::default()));
            }
        };
        let draws = self.controls.draws(in_force, &send.wa_id);
        let latency = in_force.latency(draws);
        let call = Call { recipient: &send.wa_id, template: &send.template, draws, at: read_at };
        if let Some(effect) = in_force.faults.first(Stage::Refusal, call)
            && let Some(ending) = self.turn_away(effect, in_force, &send, latency)
        {
            return ending;
        }
        match self.admit(in_force, endpoint, phone_number_id, &send, read_at) {
            Ok(admitted) => self.accept(in_force, phone_number_id, &send, call, &admitted, latency),
            Err(error) => Ending::of(self.refuse(error), latency),
        }
    }

    /// A refused text may come with any of several codes.
    fn with_drawn_code(&self, in_force: &InForce, error: GraphError) -> GraphError {
        let codes = &in_force.settings.answers.bad_text_codes;
        if error.code != BAD_TEXT || codes.as_slice() == [BAD_TEXT] {
            return error;
        }
        let count = u64::try_from(codes.len()).unwrap_or(1).max(1);
        let drawn = Draws::new(in_force.settings.seed, "text", self.ledger.next_ordinal()).number(0) % count;
        let code = usize::try_from(drawn).ok().and_then(|place| codes.get(place)).copied().unwrap_or(BAD_TEXT);
        error.with_code(code)
    }

    /// Ends a call that a fault keeps from being accepted.
    fn turn_away(
        self: &Arc<Self>,
        effect: &Effect,
        in_force: &InForce,
        send: &Send<'_>,
        latency: Duration,
    ) -> Option<Ending> {
        let response = match effect {
            Effect::LoseCall { hang_ms } => {
                let wait = Wait::Cut(Duration::from_millis(*hang_ms));
                return Some(Ending { response: Cut::response(), latency, wait });
            }
            Effect::ServerError { http_status, code, .. } => self.server_error(*http_status, *code),
            Effect::Refuse { code, http_status, retry_after_s, regain_minutes } => {
                let advice = Advice { retry_after_s: *retry_after_s, regain_minutes: *regain_minutes };
                self.refuse(GraphError::of_code(*code, None).with_status(*http_status).advising(advice))
            }
            Effect::PauseTemplate { disable, webhook, gap_ms, unpause_after_ms } => {
                let pause = Pause {
                    webhook: *webhook,
                    gap: Duration::from_millis(*gap_ms),
                    unpause_after: unpause_after_ms.map(Duration::from_millis),
                };
                let (status, code) = if *disable { ("DISABLED", 132_016) } else { ("PAUSED", 132_015) };
                if !self.pause_template(pause, in_force.change_of(send, status)) {
                    return None;
                }
                self.refuse(GraphError::of_code(code, None))
            }
            // Nothing else refuses a call.
            _ => return None,
        };
        Some(Ending::of(response, latency))
    }

    /// With an error of the code, or with a page as a proxy on the way writes it.
    pub(super) fn server_error(&self, http_status: u16, code: Option<u32>) -> Response {
        match code {
            Some(code) => self.refuse(GraphError::of_code(code, None).with_status(Some(http_status))),
            None => {
                let status = StatusCode::from_u16(http_status).unwrap_or(StatusCode::BAD_GATEWAY);
                let page = "<!DOCTYPE html><html><head><title>Error</title></head><body><h1>Sorry, something went \
                            wrong.</h1></body></html>";
                (status, Html(page)).into_response()
            }
        }
    }

    pub(super) fn refuse(&self, error: GraphError) -> Response {
        let in_force = self.controls.present();
        error.into_response(&fbtrace_id(&self.random_bytes(&in_force, self.clock.now())))
    }

    pub(super) fn random_bytes(&self, in_force: &InForce, now: DateTime<Utc>) -> [u8; 32] {
        random_bytes(in_force.settings.seed, self.ledger.next_ordinal(), now.timestamp_micros())
    }

    /// Milliseconds since 1970 to the microsecond.
    pub(super) fn milliseconds_at(&self, moment: Instant) -> f64 {
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
