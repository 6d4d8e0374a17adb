//! Refusals, in the form of RFC 9457. Whatever is refused, and by whatever part of the server, goes out in this form,
//! with a type from a closed list that clients may rely on.

use std::fmt;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use infrastructure::event_store::CommandError;
use infrastructure::webhook_inbox::InboxError;
use serde::Serialize;
use utoipa::ToSchema;

const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// What a handler answers.
pub(super) type Answer<T> = Result<T, Problem>;

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProblemKind {
    /// The body is not JSON.
    NotJson,
    /// The body could not be read to its end, or has not the form that its content type promises.
    BadBody,
    Unauthorized,
    Forbidden,
    /// The path names nothing, or something of another tenant.
    NotFound,
    MethodNotAllowed,
    /// The present state does not allow it.
    Conflict,
    /// What `If-Match` names is not what is there any more.
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    /// The only fault is a field or parameter of an unknown name.
    UnknownField,
    /// Fields or parameters have to be put right.
    InvalidFields,
    TooManyRequests,
    /// A defect of the engine.
    Internal,
    /// The database did not answer, or the engine is stopping.
    Unavailable,
    /// The request took longer than it may.
    TimedOut,
}

impl ProblemKind {
    pub const ALL: [Self; 16] = [
        Self::NotJson,
        Self::BadBody,
        Self::Unauthorized,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::UnknownField,
        Self::InvalidFields,
        Self::TooManyRequests,
        Self::Internal,
        Self::Unavailable,
        Self::TimedOut,
    ];

    /// The last part of the type's URI.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotJson => "not-json",
            Self::BadBody => "bad-body",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::MethodNotAllowed => "method-not-allowed",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition-failed",
            Self::TooLarge => "too-large",
            Self::UnsupportedMediaType => "unsupported-media-type",
            Self::UnknownField => "unknown-field",
            Self::InvalidFields => "invalid-fields",
            Self::TooManyRequests => "too-many-requests",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed-out",
        }
    }

    pub fn type_uri(self) -> String {
        format!("/problems/{}", self.name())
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::NotJson => "The body is not JSON",
            Self::BadBody => "The body cannot be read",
            Self::Unauthorized => "The credential is missing or not valid",
            Self::Forbidden => "This is not allowed",
            Self::NotFound => "There is no such thing",
            Self::MethodNotAllowed => "The path does not take this method",
            Self::Conflict => "The present state does not allow this",
            Self::PreconditionFailed => "It has changed since it was read",
            Self::TooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The content type is not one that is read here",
            Self::UnknownField => "A field is not known",
            Self::InvalidFields => "Fields have to be put right",
            Self::TooManyRequests => "Too many requests at once",
            Self::Internal => "The engine has a defect",
            Self::Unavailable => "The engine cannot answer now",
            Self::TimedOut => "The request took too long",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::NotJson | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownField | Self::InvalidFields => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable | Self::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn retry_after(self) -> Option<HeaderValue> {
        match self {
            Self::TooManyRequests => Some(HeaderValue::from_static("5")),
            Self::Unavailable | Self::TimedOut => Some(HeaderValue::from_static("1")),
            _ => None,
        }
    }
}

/// One field or parameter that has to be put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldFault {
    /// The path of the field, with dots; empty for the body as a whole.
    pub field: String,
    pub reason: String,
}

impl FieldFault {
    pub fn new(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { field: field.into(), reason: reason.to_string() }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: ProblemKind,
    pub detail: String,
    pub faults: Vec<FieldFault>,
}

/// A refusal as it is written (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument {
    /// One of a closed list of URI references such as `/problems/invalid-fields`.
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    errors: Vec<FieldFault>,
}

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), faults: Vec::new() }
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(ProblemKind::NotFound, format!("There is no {what} with this id."))
    }

    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(ProblemKind::Conflict, detail)
    }

    /// Fields that have to be put right; the detail repeats them for people who see only that.
    pub fn fields(faults: Vec<FieldFault>) -> Self {
        Self::of_faults(ProblemKind::InvalidFields, faults)
    }

    pub fn unknown_fields(faults: Vec<FieldFault>) -> Self {
        Self::of_faults(ProblemKind::UnknownField, faults)
    }

    pub fn field(field: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::fields(vec![FieldFault::new(field, reason)])
    }

    pub fn internal() -> Self {
        Self::new(ProblemKind::Internal, "Something that should not happen did; the engine's log says what.")
    }

    pub fn unavailable() -> Self {
        Self::new(ProblemKind::Unavailable, "The database does not answer. Try again.")
    }

    fn of_faults(kind: ProblemKind, faults: Vec<FieldFault>) -> Self {
        let sentences: Vec<String> = faults
            .iter()
            .map(|fault| match fault.field.as_str() {
                "" => fault.reason.clone(),
                field => format!("{field}: {}", fault.reason),
            })
            .collect();
        Self { kind, detail: sentences.join("; "), faults }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.kind.status();
        let mut headers = HeaderMap::new();
        if let Some(seconds) = self.kind.retry_after() {
            headers.insert(RETRY_AFTER, seconds);
        }
        if self.kind == ProblemKind::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let document = ProblemDocument {
            r#type: self.kind.type_uri(),
            title: self.kind.title(),
            status: status.as_u16(),
            detail: self.detail,
            errors: self.faults,
        };
        let mut response = (status, headers, Json(document)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
        response
    }
}

/// The one place where a failed query of a request is logged. The client learns nothing of it.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        tracing::error!(error = chain(&error), "a request failed in the database");
        Self::unavailable()
    }
}

/// The inbox has logged it, once for all the bodies that failed with it.
impl From<InboxError> for Problem {
    fn from(error: InboxError) -> Self {
        match error {
            InboxError::Full => Self::new(ProblemKind::Unavailable, "More comes than can be stored. Try again."),
            InboxError::Database(_) | InboxError::TimedOut => Self::unavailable(),
            InboxError::ShuttingDown => Self::new(ProblemKind::Unavailable, "The engine is stopping. Try again."),
        }
    }
}

/// For errors of the surroundings; what an aggregate refuses is answered by the caller, who knows what was asked.
pub(super) fn of_store<E: std::error::Error>(error: &CommandError<E>) -> Problem {
    tracing::error!(error = chain(error), "a command failed in the event store");
    if error.is_transient() { Problem::unavailable() } else { Problem::internal() }
}

impl From<PathRejection> for Problem {
    fn from(_: PathRejection) -> Self {
        Self::new(ProblemKind::NotFound, "There is nothing at this path.")
    }
}

/// An error with its causes, each once.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;

    async fn written(problem: Problem) -> (StatusCode, HeaderMap, Value) {
        let (parts, body) = problem.into_response().into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, serde_json::from_slice(&bytes).unwrap())
    }

    #[tokio::test]
    async fn a_fault_of_a_field_is_written_with_its_name_and_reason() {
        let (status, headers, body) = written(Problem::field("limit", "must be 1 to 1000")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(headers[CONTENT_TYPE], "application/problem+json");
        assert_eq!(
            body,
            json!({
                "type": "/problems/invalid-fields",
                "title": "Fields have to be put right",
                "status": 422,
                "detail": "limit: must be 1 to 1000",
                "errors": [{"field": "limit", "reason": "must be 1 to 1000"}],
            })
        );
    }

    #[tokio::test]
    async fn what_passes_by_itself_says_when_to_try_again() {
        for kind in ProblemKind::ALL {
            let (status, headers, body) = written(Problem::new(kind, "")).await;
            assert_eq!(body["status"], status.as_u16());
            assert_eq!(body["errors"], json!([]));
            assert_eq!(headers.contains_key(RETRY_AFTER), matches!(status.as_u16(), 429 | 503), "{kind:?}");
            assert_eq!(headers.contains_key(WWW_AUTHENTICATE), status == StatusCode::UNAUTHORIZED, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_database_error_tells_the_client_nothing() {
        let (status, _, body) = written(sqlx::Error::ColumnNotFound("secret_hash".to_owned()).into()).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(!body.to_string().contains("secret_hash"));
    }

    #[test]
    fn no_two_kinds_share_a_type() {
        let types: BTreeSet<String> = ProblemKind::ALL.into_iter().map(ProblemKind::type_uri).collect();
        assert_eq!(types.len(), ProblemKind::ALL.len());
    }

    #[test]
    fn a_transient_failure_may_be_tried_again_and_another_not() {
        type Error = CommandError<domain::campaign::CampaignError>;
        assert_eq!(of_store(&Error::ShuttingDown).kind, ProblemKind::Unavailable);
        assert_eq!(of_store(&Error::Conflict { attempts: 6 }).kind, ProblemKind::Unavailable);
        assert_eq!(
            of_store(&Error::Poisoned(std::sync::Arc::new(sqlx::Error::RowNotFound))).kind,
            ProblemKind::Internal
        );
    }
}
