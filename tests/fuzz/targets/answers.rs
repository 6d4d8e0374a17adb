use infrastructure::whatsapp::reactions::refused_unprocessed;
use infrastructure::whatsapp::{RetryLadder, SendOutcome, UnknownReason, WAMID_BYTES_MAX, answer_of};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{promise, without_nul};
use crate::seeds;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    seeds::files("answers", ".outcome.json")
}

pub(super) fn check(answer: &[u8]) -> Result<String, String> {
    let ladder = RetryLadder::default();
    let (http_status, headers, body) = http(answer);
    let outcome = answer_of(&ladder, http_status, &headers, body);
    promise(outcome == answer_of(&ladder, http_status, &headers, body), "the same answer has two outcomes")?;
    let is_success = (200..300).contains(&http_status);
    match outcome {
        SendOutcome::Accepted { wamid, acceptance } => {
            without_nul(&wamid, "a message id")?;
            promise(is_success, "accepted without success")?;
            promise((1..=WAMID_BYTES_MAX).contains(&wamid.len()), "a message id is empty or too long to be kept")?;
            Ok(format!("accepted {acceptance:?}"))
        }
        SendOutcome::Refused { code, class, pause } => {
            promise((400..500).contains(&http_status), "refused for good although it may have been accepted")?;
            Ok(format!("refused {code} {class:?} {pause:?}"))
        }
        SendOutcome::Deferred { code, after, scope, pause } => {
            promise((400..600).contains(&http_status), "called again although it may have been accepted")?;
            promise(http_status < 500 || refused_unprocessed(code), "called again although it may have been accepted")?;
            promise(!after.is_zero() && after <= ladder.wait_max, "a wait out of bounds")?;
            Ok(format!("deferred {code} {scope:?} {pause:?}"))
        }
        SendOutcome::NotConnected => Err("not connected although there is an answer".to_owned()),
        SendOutcome::Unknown { why, pause } => {
            promise(
                is_success == (why == UnknownReason::NoMessageId),
                "success without an id, or the other way round",
            )?;
            Ok(format!("unknown {why:?} {pause:?}"))
        }
    }
}

/// Status line, headers, an empty line, the body; what is none of it is left out.
fn http(answer: &[u8]) -> (u16, HeaderMap, &[u8]) {
    let end = answer.windows(2).position(|pair| pair == b"\n\n").unwrap_or(answer.len());
    let head = String::from_utf8_lossy(&answer[..end]);
    let mut lines = head.lines();
    let status_line = lines.next().unwrap_or_default();
    let http_status = status_line.split(' ').find_map(|word| word.parse().ok()).unwrap_or(200);
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((HeaderName::try_from(name).ok()?, HeaderValue::from_str(value).ok()?))
    };
    (http_status, lines.filter_map(header).collect(), answer.get(end + 2..).unwrap_or_default())
}
