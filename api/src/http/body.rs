//! Bodies of requests: read up to a limit, and taken apart as JSON.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use futures::StreamExt as _;
use serde_json::{Map, Value};
use tokio::time::timeout;
use tokio_util::bytes::BytesMut;

use super::fields::{Faults, Fields, kind_of};
use super::problem::{Problem, ProblemKind};
use super::state::ApiState;

/// How much of a body that is too large is still read, and for how long. A client that is answered while it sends
/// may see its connection reset instead of the answer.
const DRAINED_BYTES_MAX: usize = 16 * 1024 * 1024;
const DRAINED_FOR: Duration = Duration::from_secs(2);

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyError {
    TooLarge,
    /// The client stopped, or broke the rules of HTTP.
    Broken,
}

/// Reads a body of at most `bytes_max`. One that comes in a single piece, as short ones do, is not copied.
pub(crate) async fn read(body: Body, bytes_max: usize) -> Result<Bytes, BodyError> {
    let mut pieces = body.into_data_stream();
    let mut read = Bytes::new();
    let mut copied = BytesMut::new();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| BodyError::Broken)?;
        if read.len() + copied.len() + piece.len() > bytes_max {
            drop((read, copied));
            drain(pieces).await;
            return Err(BodyError::TooLarge);
        }
        if read.is_empty() && copied.is_empty() {
            read = piece;
        } else {
            copied.extend_from_slice(&std::mem::take(&mut read));
            copied.extend_from_slice(&piece);
        }
    }
    Ok(if copied.is_empty() { read } else { copied.freeze() })
}

/// Reads and forgets what a client is still sending, within bounds.
pub(super) async fn drain<E>(mut pieces: impl futures::Stream<Item = Result<Bytes, E>> + Unpin) {
    let mut bytes = 0;
    // However it ends, the answer is the same.
    let _ = timeout(DRAINED_FOR, async {
        while let Some(Ok(piece)) = pieces.next().await {
            bytes += piece.len();
            if bytes > DRAINED_BYTES_MAX {
                break;
            }
        }
    })
    .await;
}

pub(crate) fn too_large(bytes_max: usize) -> Problem {
    Problem::new(ProblemKind::TooLarge, format!("The body may have {bytes_max} bytes."))
}

impl BodyError {
    fn into_problem(self, bytes_max: usize) -> Problem {
        match self {
            Self::TooLarge => too_large(bytes_max),
            Self::Broken => Problem::new(ProblemKind::BadBody, "The body could not be read to its end."),
        }
    }
}

/// A body that is a JSON object.
pub(super) struct JsonObject(pub(super) Map<String, Value>);

impl FromRequest<ApiState> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes_max = state.config.http.body_max_bytes;
        if !is_json(&parts.headers) {
            return Err(Problem::new(
                ProblemKind::UnsupportedMediaType,
                "Send JSON with Content-Type: application/json.",
            ));
        }
        let bytes = read(body, bytes_max).await.map_err(|error| error.into_problem(bytes_max))?;
        parse_object(&bytes).map(Self)
    }
}

/// For commands that take no fields: no body, or an empty JSON object.
pub(super) struct NoFields;

impl FromRequest<ApiState> for NoFields {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let bytes_max = state.config.http.body_max_bytes;
        let bytes = read(request.into_body(), bytes_max).await.map_err(|error| error.into_problem(bytes_max))?;
        if !bytes.trim_ascii().is_empty() {
            let mut faults = Faults::default();
            Fields::of(parse_object(&bytes)?, "", &[], &mut faults);
            faults.check()?;
        }
        Ok(Self)
    }
}

/// For commands whose fields may all be left out: no body is an empty JSON object.
pub(super) struct OptionalObject(pub(super) Map<String, Value>);

impl FromRequest<ApiState> for OptionalObject {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        let bytes_max = state.config.http.body_max_bytes;
        let bytes = read(request.into_body(), bytes_max).await.map_err(|error| error.into_problem(bytes_max))?;
        if bytes.trim_ascii().is_empty() { Ok(Self(Map::new())) } else { parse_object(&bytes).map(Self) }
    }
}

fn parse_object(bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => Err(Problem::field("", format!("the body must be a JSON object, not {}", kind_of(&other)))),
        // The reasons of serde_json name a place and what was expected there, never what the body holds.
        Err(error) => Err(Problem::new(ProblemKind::NotJson, format!("The body is not JSON: {error}."))),
    }
}

/// The media type without its parameters, in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn is_json(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|media_type| {
        media_type == "application/json" || (media_type.starts_with("application/") && media_type.ends_with("+json"))
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn a_body_may_have_its_limit_and_not_a_byte_more() {
        assert_eq!(read(Body::from("12345"), 5).await.as_deref(), Ok(b"12345".as_slice()));
        assert_eq!(read(Body::from("123456"), 5).await, Err(BodyError::TooLarge));
        let pieces = stream::iter(["123", "456"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece))));
        assert_eq!(read(Body::from_stream(pieces), 5).await, Err(BodyError::TooLarge));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_taken_for_a_whole_one() {
        let pieces = stream::iter([Ok(Bytes::from("{}")), Err(std::io::Error::other("gone"))]);
        assert_eq!(read(Body::from_stream(pieces), 5).await, Err(BodyError::Broken));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_not_waited_for() {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from("123456"))]);
        let body = Body::from_stream(first.chain(stream::pending()));
        assert_eq!(read(body, 5).await, Err(BodyError::TooLarge));
    }

    #[test]
    fn json_that_is_no_object_is_a_fault_of_the_body_and_the_rest_is_not_json() {
        assert!(parse_object(b"{\"a\": 1}").is_ok());
        assert_eq!(parse_object(b"[1]").unwrap_err().kind, ProblemKind::InvalidFields);
        for bytes in [b"".as_slice(), b"{", b"{\"a\": 1}x", b"\xff", b"name=x"] {
            assert_eq!(parse_object(bytes).unwrap_err().kind, ProblemKind::NotJson);
        }
    }

    #[test]
    fn the_reason_repeats_nothing_of_the_body() {
        let problem = parse_object(b"{\"phone\": \"+919812345621\", secret}").unwrap_err();
        assert!(!problem.detail.contains("98123") && !problem.detail.contains("secret"), "{}", problem.detail);
    }

    #[test]
    fn json_is_known_by_its_media_type() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_json(&headers)
        };
        assert!(of("application/json") && of("Application/JSON; charset=utf-8") && of("application/merge-patch+json"));
        assert!(!of("text/plain") && !of("application/x-www-form-urlencoded") && !is_json(&HeaderMap::new()));
    }
}
