//! Sends: whether a call is accepted, what becomes of its message, and how the call is answered.
//!
//! Once a call's body has been read the call is decided and written down without waiting for anything: a caller that
//! dies meanwhile gets no answer, but its message is on the way, as with the real one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse as _, Response};
use chrono::{DateTime, SecondsFormat, Utc};
use infrastructure::clock::Clock;
use tokio::sync::{mpsc, watch};
use tokio_util::bytes::Bytes;

use super::behavior::Outcomes;
use super::course::Course;
use super::draws::Draws;
use super::faults::{Call, Effect, Stage};
use super::graph_error::{Advice, GraphError};
use super::ledger::{Ledger, LedgerLine};
use super::limits::Limits;
use super::schedule::{OwedMessage, Schedule, Way};
use super::server::{Api, Cut};
use super::settings::{Controls, InForce, OverTier};
use super::tier::Tier;
use super::wire::{Accepted, Send, fbtrace_id, other_wa_id, random_bytes, wamid};

/// The code of messages to users who have stopped marketing.
const STOPPED: u32 = 131_050;
/// The code of messages beyond the portfolio's limit.
const OVER_TIER: u32 = 131_048;

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
    /// The engine's time when the sandbox started, and the same moment on a clock that never steps back.
    pub(super) anchor: (DateTime<Utc>, Instant),
}

/// How a call ends.
struct Ending {
    response: Response,
    latency: Duration,
    wait: Wait,
}

/// What an answer waits for besides its latency.
enum Wait {
    Nothing,
    /// The connection is cut after this time instead.
    Cut(Duration),
    /// So many statuses are to be acknowledged first, or the time to pass.
    Statuses(watch::Receiver<usize>, usize, Duration),
}

impl Ending {
    fn of(response: Response, latency: Duration) -> Self {
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

pub(super) async fn send(
    State(Api(api)): State<Api>,
    Path((version, phone_number_id)): Path<(String, String)>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let read_at = Instant::now();
    let in_force = api.controls.present();
    if let Err(error) = api.check_call(&in_force, &version, &phone_number_id, &headers) {
        return api.refuse(error);
    }
    let body = match body {
        Ok(body) => body,
        Err(BytesRejection::FailedToBufferBody(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return api.refuse(GraphError::too_large());
        }
        Err(_) => return api.refuse(GraphError::invalid("The request body could not be read.")),
    };
    api.decide(&in_force, &phone_number_id, &body, read_at).answer().await
}

impl Shared {
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
    fn decide(&self, in_force: &InForce, phone_number_id: &str, body: &[u8], read_at: Instant) -> Ending {
        let send = match Send::parse(body) {
            Ok(send) => send,
            Err(error) => return Ending::of(self.refuse(error), in_force.latency(Draws::default())),
        };
        let draws = self.controls.draws(in_force, &send.wa_id);
        let latency = in_force.latency(draws);
        let call = Call { recipient: &send.wa_id, template: &send.template, draws, at: read_at };
        if let Some(effect) = in_force.faults.first(Stage::Refusal, call) {
            return self.turn_away(effect, latency);
        }
        let (now, limits) = (self.clock.now(), &in_force.settings.limits);
        if let Err(error) = self.limits.admit(limits, phone_number_id, &send.wa_id, read_at) {
            return Ending::of(self.refuse(error), latency);
        }
        let tier = &in_force.settings.tier;
        let in_tier = self.tier.admits(tier.recipients_max, &send.wa_id, now);
        if !in_tier && tier.over == OverTier::Refuse {
            return Ending::of(self.refuse(GraphError::of_code(OVER_TIER, None)), latency);
        }
        let failure = if in_force.stopped(&send.wa_id) { Some(STOPPED) } else { (!in_tier).then_some(OVER_TIER) };
        self.accept(in_force, phone_number_id, &send, call, failure, now, latency)
    }

    /// Ends a call that a fault keeps from being accepted.
    fn turn_away(&self, effect: &Effect, latency: Duration) -> Ending {
        let response = match effect {
            Effect::LoseCall { hang_ms } => {
                let wait = Wait::Cut(Duration::from_millis(*hang_ms));
                return Ending { response: Cut::response(), latency, wait };
            }
            Effect::ServerError { http_status, code, .. } => self.server_error(*http_status, *code),
            Effect::Refuse { code, http_status, retry_after_s, regain_minutes } => {
                let advice = Advice { retry_after_s: *retry_after_s, regain_minutes: *regain_minutes };
                self.refuse(GraphError::of_code(*code, None).with_status(*http_status).advising(advice))
            }
            // Nothing else refuses a call.
            _ => self.refuse(GraphError::unknown_object()),
        };
        Ending::of(response, latency)
    }

    #[expect(clippy::too_many_arguments, reason = "all of it is read once, here")]
    fn accept(
        &self,
        in_force: &InForce,
        phone_number_id: &str,
        send: &Send<'_>,
        call: Call<'_>,
        failure: Option<u32>,
        now: DateTime<Utc>,
        latency: Duration,
    ) -> Ending {
        let id = wamid(&send.wa_id, &self.random_bytes(in_force, now));
        let (mut way, status) = self.way(in_force, call, failure, now);
        let effect = in_force.faults.first(Stage::Answer, call);
        let wait = wait_of(effect, &mut way, self.outcomes, call);
        let line = LedgerLine {
            at: now.to_rfc3339_opts(SecondsFormat::Micros, true),
            read_at_ms: self.milliseconds_at(call.at),
            phone_number_id,
            wamid: &id,
            to: &send.to,
            callback: send.callback.as_deref(),
            template: &send.template,
            course: way.course(),
        };
        if let Err(error) = self.ledger.accept(&line, way.len()) {
            tracing::error!(%error, "cannot write the sandbox's ledger; the call is not accepted");
            return Ending::of(self.refuse(GraphError::unwritten()), latency);
        }
        let wa_id = way.course().and_then(|course| course.wa_id.clone());
        let wa_id = wa_id.as_deref().unwrap_or(&send.wa_id);
        let status = Some(status).filter(|_| in_force.settings.answers.message_status);
        let response = match effect {
            Some(Effect::ServerError { http_status, code, .. }) => self.server_error(*http_status, *code),
            Some(Effect::AnswerWithoutId {}) => Json(Accepted::new(send, wa_id, None, status)).into_response(),
            _ => Json(Accepted::new(send, wa_id, Some(&id), status)).into_response(),
        };
        let owed = OwedMessage::new(&id, phone_number_id, &send.wa_id, send.callback.as_deref(), way, 0);
        owed.into_iter().for_each(|owed| self.schedule.accepted(owed, tokio::time::Instant::now()));
        Ending { response, latency, wait }
    }

    /// What becomes of an accepted message, and the status that its answer names.
    fn way(&self, in_force: &InForce, call: Call<'_>, failure: Option<u32>, now: DateTime<Utc>) -> (Way, &'static str) {
        let (fate, mut status) = (self.outcomes.of(call.recipient), "accepted");
        let mut course = failure.map(Course::failed);
        if in_force.faults.is_empty() {
            return (course.map_or(Way::Usual(fate), |course| Way::Other(Box::new(course))), status);
        }
        if course.is_none()
            && let Some(effect) = in_force.faults.first(Stage::Outcome, call)
        {
            if let Effect::Hold { paused, .. } = effect {
                status = if *paused { "paused" } else { "held_for_quality_assessment" };
            }
            let foreign = || wamid(call.recipient, &self.random_bytes(in_force, now));
            course.insert(Course::of(fate)).take(effect, foreign);
        }
        for effect in in_force.faults.all(Stage::Delivery, call) {
            let course = course.get_or_insert_with(|| Course::of(fate));
            course.deliver(effect, call.draws, || other_wa_id(call.recipient));
        }
        (course.map_or(Way::Usual(fate), |course| Way::Other(Box::new(course))), status)
    }

    /// With an error of the code, or with a page as a proxy on the way writes it.
    fn server_error(&self, http_status: u16, code: Option<u32>) -> Response {
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
    fn milliseconds_at(&self, moment: Instant) -> f64 {
        let (started_at, started) = self.anchor;
        let since_1970 = Duration::from_micros(u64::try_from(started_at.timestamp_micros()).unwrap_or_default());
        let microseconds = (since_1970 + moment.saturating_duration_since(started)).as_secs_f64() * 1e6;
        microseconds.round() / 1e3
    }
}

/// What the answer waits for. Statuses that are waited for tell it through the message's course.
fn wait_of(effect: Option<&Effect>, way: &mut Way, outcomes: Outcomes, call: Call<'_>) -> Wait {
    match effect {
        Some(Effect::LoseAnswer { hang_ms }) => Wait::Cut(Duration::from_millis(*hang_ms)),
        Some(Effect::StatusBeforeAnswer { statuses, wait_ms_max }) => {
            let (sender, receiver) = watch::channel(0);
            let mut course = way.course().cloned().unwrap_or_else(|| Course::of(outcomes.of(call.recipient)));
            course.acknowledged = Some(sender);
            let statuses = (*statuses).min(course.steps.len());
            *way = Way::Other(Box::new(course));
            Wait::Statuses(receiver, statuses, Duration::from_millis(*wait_ms_max))
        }
        _ => Wait::Nothing,
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
