//! `ETag`, `If-Match` and `If-None-Match`: the position of the last event that changed a thing, in quotes.

use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::aggregate::Position;

use super::problem::{Answer, Problem};

pub(super) fn shown(position: Position) -> String {
    format!("\"{position}\"")
}

/// The answer with its tag; 304 if the caller has it already.
pub(super) fn tagged(headers: &HeaderMap, position: Position, body: impl IntoResponse) -> Response {
    let tag = shown(position);
    let has_it = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|value| value.trim().trim_start_matches("W/"))
        .any(|value| value == "*" || value == tag);
    let mut response = if has_it { StatusCode::NOT_MODIFIED.into_response() } else { body.into_response() };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    response
}

/// The position that the thing must still be at; `None`: whatever it is.
pub(super) fn matched(headers: &HeaderMap) -> Answer<Option<Position>> {
    let malformed = || Problem::field("If-Match", "must be one ETag as it was given out, such as \"123\", or *");
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(malformed());
    }
    let text = value.to_str().map_err(|_| malformed())?.trim();
    if text == "*" {
        return Ok(None);
    }
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).ok_or_else(malformed)?;
    inner.parse().map(Some).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    fn of(header: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(header, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_tag_is_matched_as_it_was_given_out() {
        assert_eq!(matched(&HeaderMap::new()).unwrap(), None);
        assert_eq!(matched(&of(IF_MATCH, "*")).unwrap(), None);
        assert_eq!(matched(&of(IF_MATCH, "\"42\"")).unwrap(), Some(42));
        for wrong in ["42", "W/\"42\"", "\"42\", \"43\"", "\"x\"", ""] {
            assert_eq!(matched(&of(IF_MATCH, wrong)).unwrap_err().faults[0].field, "If-Match", "{wrong}");
        }
    }

    #[test]
    fn who_has_it_already_gets_nothing_twice() {
        for (value, status) in [("\"42\"", 304), ("\"41\", W/\"42\"", 304), ("*", 304), ("\"41\"", 200), ("42", 200)] {
            let response = tagged(&of(IF_NONE_MATCH, value), 42, "body");
            assert_eq!(
                (response.status().as_u16(), response.headers()[ETAG].as_bytes()),
                (status, b"\"42\"".as_slice()),
                "{value}"
            );
        }
    }
}
