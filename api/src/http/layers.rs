//! What holds for every request: a panic is answered, time is limited, nothing is cached, and one line is logged.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::FutureExt as _;
use tokio::time::{Instant, timeout};

use super::problem::{Problem, ProblemKind};

/// The outermost layer. The path is logged as its pattern: ids in it say nothing to an operator who reads many lines.
pub(super) async fn observe(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = route.as_deref().unwrap_or("none");
    let answered = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut response = answered.unwrap_or_else(|_| {
        // The panic itself, with its place, is logged by the panic hook.
        tracing::error!(http.method = %method, http.route = route, "a request panicked");
        Problem::internal().into_response()
    });
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    tracing::debug!(
        http.method = %method,
        http.route = route,
        http.status = response.status().as_u16(),
        duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "answered a request"
    );
    response
}

/// Gives a request up after a while. A command that was given by then may still take effect.
pub(super) async fn limit_time(State(time_max): State<Duration>, request: Request, next: Next) -> Response {
    match timeout(time_max, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let detail = format!(
                "The request was given up after {} s. It may have taken effect all the same: look before you give it \
                 again.",
                time_max.as_secs()
            );
            Problem::new(ProblemKind::TimedOut, detail).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::http::header::RETRY_AFTER;
    use axum::http::{HeaderMap, StatusCode};
    use axum::middleware::{from_fn, from_fn_with_state};
    use axum::routing::get;
    use hyper::service::Service as _;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    async fn ask(router: Router) -> (StatusCode, HeaderMap, String) {
        let request = Request::get("/").body(Body::empty()).unwrap();
        let (parts, body) = TowerToHyperService::new(router).call(request).await.unwrap().into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, String::from_utf8(bytes.into()).unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_answered_and_not_told() {
        async fn panics() -> &'static str {
            panic!("a handler panics")
        }
        let router = Router::new().route("/", get(panics)).layer(from_fn(observe));
        let (status, headers, body) = ask(router).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(headers[CACHE_CONTROL], "no-store");
        assert!(body.contains("/problems/internal") && !body.contains("a handler panics"), "{body}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_takes_too_long_is_given_up() {
        let router = Router::new()
            .route("/", get(std::future::pending::<&'static str>))
            .layer(from_fn_with_state(Duration::from_secs(30), limit_time))
            .layer(from_fn(observe));
        let (status, headers, body) = ask(router).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(headers.contains_key(RETRY_AFTER) && body.contains("/problems/timed-out"), "{body}");
    }
}
