//! From the HTTP answer of a call to its outcome.

use std::time::Duration;

use domain::message::{Acceptance, FailureClass};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde_json::Value;

use super::reactions::{Channel, PauseScope, Reaction, RetryScope, reaction, refused_unprocessed};
use super::retry_ladder::{RetryLadder, Rung};
use super::{WAMID_BYTES_MAX, without_nul};

/// What became of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// WhatsApp answered 2xx with a message id. The id embeds the phone number: it is personal data.
    Accepted { wamid: String, acceptance: Acceptance },
    /// WhatsApp did not accept it and will not. `code` is WhatsApp's, or the HTTP status where the answer carries none.
    Refused { code: i32, class: FailureClass, pause: Option<PauseScope> },
    /// WhatsApp did not accept it now. It may be called again after the wait, which `scope` keeps as well.
    Deferred { code: i32, after: Duration, scope: RetryScope, pause: Option<PauseScope> },
    /// DNS, connect or TLS failed: no byte of the request left.
    NotConnected,
    /// The message may or may not have been accepted; it must not be called again.
    Unknown { why: UnknownReason, pause: Option<PauseScope> },
}

impl UnknownReason {
    /// WhatsApp's code, or the HTTP status where the answer carried none; 0 where there was no answer.
    pub fn code(&self) -> i32 {
        match self {
            Self::AmbiguousCode { code } => *code,
            Self::UnclearStatus { http_status } => i32::from(*http_status),
            Self::TimedOut | Self::ConnectionLost | Self::AnswerTooLarge | Self::NoMessageId => 0,
        }
    }
}

/// Why nobody knows whether a message was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownReason {
    /// No complete answer came in time.
    TimedOut,
    /// The connection broke after the request had begun.
    ConnectionLost,
    /// The answer was longer than the client reads.
    AnswerTooLarge,
    /// 2xx without a message id that can be kept.
    NoMessageId,
    /// A code that WhatsApp also gives for messages that it has accepted.
    AmbiguousCode { code: i32 },
    /// An answer that says nothing about acceptance: 5xx, a redirect, a page of some proxy.
    UnclearStatus { http_status: u16 },
}

impl UnknownReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::ConnectionLost => "connection_lost",
            Self::AnswerTooLarge => "answer_too_large",
            Self::NoMessageId => "no_message_id",
            Self::AmbiguousCode { .. } => "ambiguous_code",
            Self::UnclearStatus { .. } => "unclear_status",
        }
    }

    pub(super) fn into_outcome(self) -> SendOutcome {
        SendOutcome::Unknown { why: self, pause: None }
    }
}

/// The outcome that an answer states.
pub fn answer_of(ladder: &RetryLadder, http_status: u16, headers: &HeaderMap, body: &[u8]) -> SendOutcome {
    outcome(ladder, http_status, advised_wait(headers), body)
}

/// `advised` is the wait that the headers ask for.
fn outcome(ladder: &RetryLadder, http_status: u16, advised: Option<Duration>, body: &[u8]) -> SendOutcome {
    // An unreadable body says as much as none.
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match http_status {
        200..=299 => accepted(&body),
        400..=599 => match error_code(&body) {
            Some(code) => refused(ladder, http_status, code, advised),
            None => without_envelope(ladder, http_status, advised),
        },
        _ => UnknownReason::UnclearStatus { http_status }.into_outcome(),
    }
}

fn accepted(body: &Value) -> SendOutcome {
    let message = &body["messages"][0];
    let wamid = without_nul(message["id"].as_str().unwrap_or_default());
    if wamid.is_empty() || wamid.len() > WAMID_BYTES_MAX {
        return UnknownReason::NoMessageId.into_outcome();
    }
    let acceptance = match message["message_status"].as_str() {
        Some("held_for_quality_assessment") => Acceptance::Held,
        Some("paused") => Acceptance::Paused,
        // The field is optional, and a value that we do not know came with an id all the same.
        _ => Acceptance::Accepted,
    };
    SendOutcome::Accepted { wamid, acceptance }
}

fn error_code(body: &Value) -> Option<i32> {
    let code = &body["error"]["code"];
    // Resellers print it as text.
    let code = code.as_i64().or_else(|| code.as_str()?.trim().parse().ok())?;
    i32::try_from(code).ok()
}

fn refused(ladder: &RetryLadder, http_status: u16, code: i32, advised: Option<Duration>) -> SendOutcome {
    let reaction = reaction(code, Channel::Answer);
    let pause = reaction.pause();
    // A 5xx may come after the message was accepted. Only the rate limits are known to be checked before.
    if http_status >= 500 && !refused_unprocessed(code) {
        return SendOutcome::Unknown { why: UnknownReason::AmbiguousCode { code }, pause };
    }
    match reaction {
        Reaction::Retry { rung, scope } => {
            SendOutcome::Deferred { code, after: ladder.first(rung, scope, advised), scope, pause }
        }
        Reaction::Fail(class) => SendOutcome::Refused { code, class, pause },
        Reaction::Ambiguous => UnknownReason::AmbiguousCode { code }.into_outcome(),
        Reaction::Pause(PauseScope::Template) => {
            SendOutcome::Refused { code, class: FailureClass::Configuration, pause }
        }
        Reaction::Pause(PauseScope::Sender | PauseScope::Account | PauseScope::Portfolio) => {
            SendOutcome::Deferred { code, after: ladder.stalled, scope: RetryScope::Contact, pause }
        }
    }
}

/// An error that is not WhatsApp's own: of a proxy, a firewall, a wrong address. Its HTTP status serves as the code;
/// WhatsApp has no codes from 400 to 499.
fn without_envelope(ladder: &RetryLadder, http_status: u16, advised: Option<Duration>) -> SendOutcome {
    let code = i32::from(http_status);
    match http_status {
        // 408: the request may have been read in part by whoever answers.
        408 | 500.. => UnknownReason::UnclearStatus { http_status }.into_outcome(),
        429 => {
            let scope = RetryScope::Sender;
            SendOutcome::Deferred { code, after: ladder.first(Rung::SenderRate, scope, advised), scope, pause: None }
        }
        _ => SendOutcome::Refused { code, class: FailureClass::Configuration, pause: None },
    }
}

/// The wait that the headers ask for: `Retry-After` in seconds, or `estimated_time_to_regain_access` in minutes.
fn advised_wait(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let retry_after =
        text(RETRY_AFTER.as_str()).and_then(|seconds| seconds.trim().parse().ok()).map(Duration::from_secs);
    let regain = text("x-business-use-case-usage").and_then(longest_regain);
    retry_after.max(regain)
}

/// The header holds lists of uses by account; each use may name its own time.
fn longest_regain(header: &str) -> Option<Duration> {
    let usage: Value = serde_json::from_str(header).ok()?;
    let minutes = usage
        .as_object()?
        .values()
        .filter_map(Value::as_array)
        .flatten()
        .filter_map(|usage| usage["estimated_time_to_regain_access"].as_u64())
        .max()?;
    Some(Duration::from_secs(minutes.saturating_mul(60)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(http_status: u16, body: &str) -> SendOutcome {
        outcome(&RetryLadder::default(), http_status, None, body.as_bytes())
    }

    fn error(code: i32) -> String {
        format!(r#"{{"error":{{"message":"(#{code})","type":"OAuthException","code":{code},"fbtrace_id":"A"}}}}"#)
    }

    fn unknown(why: UnknownReason) -> SendOutcome {
        SendOutcome::Unknown { why, pause: None }
    }

    #[test]
    fn any_2xx_with_an_id_is_accepted() {
        for (message, acceptance) in [
            (r#"{"id":"wamid.1"}"#, Acceptance::Accepted),
            (r#"{"id":"wamid.1","message_status":"accepted"}"#, Acceptance::Accepted),
            (r#"{"id":"wamid.1","message_status":"held_for_quality_assessment"}"#, Acceptance::Held),
            (r#"{"id":"wamid.1","message_status":"paused"}"#, Acceptance::Paused),
            (r#"{"id":"wamid.\u00001","message_status":"something new"}"#, Acceptance::Accepted),
        ] {
            let body = format!(r#"{{"messaging_product":"whatsapp","contacts":[],"messages":[{message}]}}"#);
            for http_status in [200, 201, 202] {
                let expected = SendOutcome::Accepted { wamid: "wamid.1".to_owned(), acceptance };
                assert_eq!(answer(http_status, &body), expected);
            }
        }
    }

    #[test]
    fn a_2xx_without_a_usable_id_is_unknown() {
        let endless = format!(r#"{{"messages":[{{"id":"{}"}}]}}"#, "w".repeat(WAMID_BYTES_MAX + 1));
        let bodies =
            ["", "{}", "<html>", r#"{"messages":[]}"#, r#"{"messages":[{"id":""}]}"#, r#"{"messages":[{"id":7}]}"#];
        for body in bodies.into_iter().chain([endless.as_str(), &error(131026)]) {
            assert_eq!(answer(200, body), unknown(UnknownReason::NoMessageId), "{body}");
        }
    }

    #[test]
    fn a_4xx_of_whatsapp_follows_the_table() {
        let refused = |code, class, pause| SendOutcome::Refused { code, class, pause };
        assert_eq!(answer(400, &error(131026)), refused(131026, FailureClass::Undeliverable, None));
        assert_eq!(
            answer(400, &error(132015)),
            refused(132015, FailureClass::Configuration, Some(PauseScope::Template))
        );
        assert_eq!(answer(400, &error(987_654)), refused(987_654, FailureClass::Configuration, None));
        assert_eq!(answer(400, &error(131000)), unknown(UnknownReason::AmbiguousCode { code: 131000 }));
        assert_eq!(
            answer(401, &error(190)),
            SendOutcome::Deferred {
                code: 190,
                after: RetryLadder::default().stalled,
                scope: RetryScope::Contact,
                pause: Some(PauseScope::Account)
            }
        );
        assert_eq!(
            answer(400, r#"{"error":{"code":"131056"}}"#),
            SendOutcome::Deferred {
                code: 131056,
                after: Duration::from_secs(1),
                scope: RetryScope::Contact,
                pause: None
            }
        );
    }

    #[test]
    fn a_5xx_is_unknown_unless_it_was_refused_unprocessed() {
        for code in [1, 2, 100, 131000, 131026, 131057] {
            assert_eq!(answer(500, &error(code)), unknown(UnknownReason::AmbiguousCode { code }), "{code}");
        }
        let paused = |why, pause| SendOutcome::Unknown { why, pause: Some(pause) };
        assert_eq!(answer(500, &error(3)), paused(UnknownReason::AmbiguousCode { code: 3 }, PauseScope::Account));
        assert!(matches!(answer(503, &error(130429)), SendOutcome::Deferred { code: 130429, .. }));
    }

    #[test]
    fn errors_that_are_not_whatsapps_use_the_http_status() {
        for body in ["", "<html>nope</html>", "{}", r#"{"error":"no"}"#, r#"{"error":{"code":99999999999}}"#] {
            for http_status in [400, 403, 404, 451] {
                let class = FailureClass::Configuration;
                let expected = SendOutcome::Refused { code: i32::from(http_status), class, pause: None };
                assert_eq!(answer(http_status, body), expected);
            }
            assert!(matches!(answer(429, body), SendOutcome::Deferred { code: 429, scope: RetryScope::Sender, .. }));
            for http_status in [302, 307, 408, 500, 502, 503, 504] {
                assert_eq!(answer(http_status, body), unknown(UnknownReason::UnclearStatus { http_status }));
            }
        }
    }

    #[test]
    fn the_headers_advice_lengthens_the_wait_of_a_sender_within_bounds() {
        let ladder = RetryLadder::default();
        let wait = |code, advised| {
            let advised = Some(Duration::from_secs(advised));
            match outcome(&ladder, 429, advised, error(code).as_bytes()) {
                SendOutcome::Deferred { after, .. } => after.as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(wait(130429, 30), 30);
        assert_eq!(wait(80007, 30), 60);
        assert_eq!(wait(80007, 999_999), ladder.wait_max.as_secs());
        assert_eq!(wait(131056, 30), 1);
    }

    #[test]
    fn the_advice_is_read_from_either_header() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let parsed = pairs.iter().map(|(name, value)| {
                (reqwest::header::HeaderName::from_static(name), reqwest::header::HeaderValue::from_static(value))
            });
            advised_wait(&parsed.collect())
        };
        let usage = r#"{"1":[{"type":"whatsapp","estimated_time_to_regain_access":2},{"call_count":9}],"2":[{"estimated_time_to_regain_access":5}]}"#;
        assert_eq!(headers(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(headers(&[("x-business-use-case-usage", usage)]), Some(Duration::from_secs(300)));
        assert_eq!(
            headers(&[("retry-after", "7"), ("x-business-use-case-usage", usage)]),
            Some(Duration::from_secs(300))
        );
        assert_eq!(headers(&[("retry-after", "Wed, 21 Oct 2026 07:28:00 GMT")]), None);
        assert_eq!(headers(&[("x-business-use-case-usage", "[]")]), None);
    }
}
