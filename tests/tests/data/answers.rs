use domain::message::{Acceptance, FailureClass};
use infrastructure::whatsapp::{PauseScope, RetryLadder, RetryScope, SendOutcome, UnknownReason, answer_of};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};

use crate::shapes::ANSWERS;
use crate::{cases, compare, object};

/// With the waits that hold without configuration.
#[test]
fn each_answer_comes_to_its_outcome() {
    compare(cases("answers", "outcome", ANSWERS).into_iter().map(|case| {
        let (http_status, headers, body) = http(&case.payload);
        let found = rendered(&answer_of(&RetryLadder::default(), http_status, &headers, body));
        (case, found)
    }));
}

/// Status line, headers, an empty line, the body.
fn http(answer: &[u8]) -> (u16, HeaderMap, &[u8]) {
    let end = answer.windows(2).position(|pair| pair == b"\n\n").expect("an empty line after the headers");
    let head = std::str::from_utf8(&answer[..end]).expect("headers are text");
    let (status_line, lines) = head.split_once('\n').unwrap_or((head, ""));
    let http_status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").expect("a header");
        let name = HeaderName::try_from(name).expect("a header's name");
        (name, HeaderValue::from_str(value).expect("a header's value"))
    };
    (http_status, lines.lines().map(header).collect(), &answer[end + 2..])
}

fn rendered(outcome: &SendOutcome) -> Value {
    match outcome {
        SendOutcome::Accepted { wamid, acceptance } => {
            json!({"outcome": "accepted", "wamid": wamid, "acceptance": match acceptance {
                Acceptance::Accepted => "accepted",
                Acceptance::Held => "held",
                Acceptance::Paused => "paused",
            }})
        }
        SendOutcome::Refused { code, class, pause } => object([
            ("outcome", "refused".into()),
            ("code", (*code).into()),
            ("class", class_name(*class).into()),
            ("pause", pause.map(pause_name).into()),
        ]),
        SendOutcome::Deferred { code, after, scope, pause } => object([
            ("outcome", "deferred".into()),
            ("code", (*code).into()),
            ("after_s", after.as_secs().into()),
            ("scope", scope_name(*scope).into()),
            ("pause", pause.map(pause_name).into()),
        ]),
        SendOutcome::NotConnected => json!({"outcome": "not_connected"}),
        SendOutcome::Unknown { why, pause } => {
            let (code, http_status) = match why {
                UnknownReason::AmbiguousCode { code } => (Some(*code), None),
                UnknownReason::UnclearStatus { http_status } => (None, Some(*http_status)),
                UnknownReason::TimedOut
                | UnknownReason::ConnectionLost
                | UnknownReason::AnswerTooLarge
                | UnknownReason::NoMessageId => (None, None),
            };
            object([
                ("outcome", "unknown".into()),
                ("why", why.name().into()),
                ("code", code.into()),
                ("http_status", http_status.into()),
                ("pause", pause.map(pause_name).into()),
            ])
        }
    }
}

fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Permanent => "permanent",
        FailureClass::Undeliverable => "undeliverable",
        FailureClass::Stopped => "stopped",
        FailureClass::Cooling => "cooling",
        FailureClass::Configuration => "configuration",
        FailureClass::RetriesExhausted => "retries_exhausted",
    }
}

fn scope_name(scope: RetryScope) -> &'static str {
    match scope {
        RetryScope::Contact => "contact",
        RetryScope::Template => "template",
        RetryScope::Sender => "sender",
        RetryScope::Account => "account",
    }
}

fn pause_name(scope: PauseScope) -> &'static str {
    match scope {
        PauseScope::Template => "template",
        PauseScope::Sender => "sender",
        PauseScope::Account => "account",
        PauseScope::Portfolio => "portfolio",
    }
}
