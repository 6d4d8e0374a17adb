//! Refusals as the Graph API writes them.

use std::borrow::Cow;
use std::fmt;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::json;

use super::codes;

const USAGE: HeaderName = HeaderName::from_static("x-business-use-case-usage");

/// A refusal, before it gets its trace id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GraphError {
    pub(super) status: StatusCode,
    pub(super) code: u32,
    kind: &'static str,
    message: Cow<'static, str>,
    details: Option<Cow<'static, str>>,
    advice: Advice,
}

/// What the answer's headers say about when to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Advice {
    /// `Retry-After`, in seconds.
    pub(super) retry_after_s: Option<u32>,
    /// `estimated_time_to_regain_access` in `X-Business-Use-Case-Usage`, in minutes.
    pub(super) regain_minutes: Option<u32>,
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.details.as_deref().unwrap_or(&self.message))
    }
}

impl GraphError {
    const fn new(status: StatusCode, code: u32, message: &'static str, details: Option<&'static str>) -> Self {
        let details = match details {
            Some(details) => Some(Cow::Borrowed(details)),
            None => None,
        };
        let advice = Advice { retry_after_s: None, regain_minutes: None };
        Self { status, code, kind: "OAuthException", message: Cow::Borrowed(message), details, advice }
    }

    /// The refusal with this code, as the table of codes has it.
    pub(super) fn of_code(code: u32, details: impl Into<Option<Cow<'static, str>>>) -> Self {
        let status = StatusCode::from_u16(codes::http_status(code)).unwrap_or(StatusCode::BAD_REQUEST);
        let message = format!("(#{code}) {}", codes::title(code));
        let details = Some(details.into().unwrap_or(Cow::Borrowed(codes::title(code))));
        Self { message: message.into(), details, ..Self::new(status, code, "", None) }
    }

    pub(super) fn with_status(self, status: Option<u16>) -> Self {
        let status = status.and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or(self.status);
        Self { status, ..self }
    }

    /// The same refusal by another code.
    pub(super) fn with_code(self, code: u32) -> Self {
        Self { details: self.details, ..Self::of_code(code, None) }
    }

    pub(super) fn advising(self, advice: Advice) -> Self {
        Self { advice, ..self }
    }

    pub(super) const fn token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, 190, "Invalid OAuth access token - Cannot parse access token", None)
    }

    pub(super) const fn unknown_path() -> Self {
        Self::new(StatusCode::BAD_REQUEST, 2500, "Unknown path components", None)
    }

    pub(super) fn unknown_object() -> Self {
        let message = "Unsupported request. Object with this ID does not exist, cannot be loaded due to missing \
                       permissions, or does not support this operation";
        Self { kind: "GraphMethodException", ..Self::new(StatusCode::BAD_REQUEST, 100, message, None) }
    }

    pub(super) fn invalid(details: impl Into<Cow<'static, str>>) -> Self {
        let details = Some(details.into());
        Self { details, ..Self::new(StatusCode::BAD_REQUEST, 100, "(#100) Invalid parameter", None) }
    }

    pub(super) fn too_large() -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, ..Self::invalid("The request body is over 1 MiB.") }
    }

    pub(super) fn unwritten() -> Self {
        Self::of_code(131_000, Cow::Borrowed("The sandbox could not write its ledger."))
    }

    pub(super) fn rate_limit() -> Self {
        let details = "Message failed to send because there were too many messages sent from this phone number in a \
                       short period of time.";
        Self::of_code(130_429, Cow::Borrowed(details))
    }

    pub(super) fn pair_limit() -> Self {
        let details = "Message failed to send because there were too many messages sent from this phone number to the \
                       same phone number in a short period of time.";
        Self::of_code(131_056, Cow::Borrowed(details))
    }

    pub(super) fn missing(details: impl Into<Cow<'static, str>>) -> Self {
        Self::of_code(131_008, details.into())
    }

    pub(super) fn value(details: impl Into<Cow<'static, str>>) -> Self {
        Self::of_code(131_009, details.into())
    }

    pub(super) fn message_type() -> Self {
        Self::of_code(131_051, Cow::Borrowed("The sandbox accepts messages of type template only."))
    }

    pub(super) fn variable(details: &'static str) -> Self {
        Self::of_code(132_018, Cow::Borrowed(details))
    }

    /// The envelope that every refusal comes in.
    pub(super) fn into_response(self, fbtrace_id: &str) -> Response {
        #[derive(Serialize)]
        struct Envelope<'a> {
            error: Body<'a>,
        }
        #[derive(Serialize)]
        struct Body<'a> {
            message: &'a str,
            r#type: &'a str,
            code: u32,
            #[serde(skip_serializing_if = "Option::is_none")]
            error_data: Option<Data<'a>>,
            fbtrace_id: &'a str,
        }
        #[derive(Serialize)]
        struct Data<'a> {
            messaging_product: &'a str,
            details: &'a str,
        }
        let error_data = self.details.as_deref().map(|details| Data { messaging_product: "whatsapp", details });
        let error = Body { message: &self.message, r#type: self.kind, code: self.code, error_data, fbtrace_id };
        let mut response = (self.status, Json(Envelope { error })).into_response();
        if let Some(seconds) = self.advice.retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(minutes) = self.advice.regain_minutes {
            let usage = json!({"100000000000001": [{
                "type": "whatsapp", "call_count": 100, "total_cputime": 25, "total_time": 25,
                "estimated_time_to_regain_access": minutes,
            }]});
            let usage = HeaderValue::try_from(usage.to_string()).expect("JSON of ASCII without line ends is a value");
            response.headers_mut().insert(USAGE, usage);
        }
        response
    }
}
