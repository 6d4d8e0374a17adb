//! Reading one's own write: `min_position`, as a parameter or a header, makes a query wait until the read models show
//! what the log held at that position.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use domain::aggregate::Position;
use tokio::time::{Instant, sleep};

use super::problem::{Problem, ProblemKind};
use super::state::ApiState;

pub(super) const PARAMETER: &str = "min_position";
pub(super) const HEADER: &str = "min-position";
const POLL: Duration = Duration::from_millis(50);

/// For every query under `/v1`. The parameter is taken away, so that no handler needs to know it.
pub(super) async fn wait(State(state): State<ApiState>, mut request: Request, next: Next) -> Response {
    if request.method() != Method::GET || !request.uri().path().starts_with("/v1/") {
        return next.run(request).await;
    }
    let asked = match take(&mut request) {
        Ok(asked) => asked,
        Err(problem) => return problem.into_response(),
    };
    if let Some(position) = asked
        && let Err(problem) = reach(&state, position).await
    {
        return problem.into_response();
    }
    next.run(request).await
}

fn take(request: &mut Request) -> Result<Option<Position>, Problem> {
    let mut found: Vec<String> = Vec::new();
    if let Some(query) = request.uri().query() {
        let (own, others): (Vec<&str>, Vec<&str>) = query.split('&').partition(|pair| {
            *pair == PARAMETER || pair.strip_prefix(PARAMETER).is_some_and(|rest| rest.starts_with('='))
        });
        if !own.is_empty() {
            found.extend(own.iter().map(|pair| pair.split_once('=').map_or("", |(_, value)| value).to_owned()));
            let path = request.uri().path();
            let rest = others.join("&");
            let without = if rest.is_empty() { path.to_owned() } else { format!("{path}?{rest}") };
            if let Ok(uri) = without.parse::<Uri>() {
                *request.uri_mut() = uri;
            }
        }
    }
    let header = request.headers().get_all(HEADER).iter().map(|value| value.to_str().unwrap_or_default().to_owned());
    found.extend(header);
    match found.as_slice() {
        [] => Ok(None),
        [one] => one
            .trim()
            .parse()
            .ok()
            .filter(|position| *position >= 0)
            .map(Some)
            .ok_or_else(|| Problem::field(PARAMETER, "must be a position of the log: a whole number")),
        _ => Err(Problem::field(PARAMETER, "is given twice")),
    }
}

async fn reach(state: &ApiState, position: Position) -> Result<(), Problem> {
    let wait_max = state.config.http.min_position_wait();
    let deadline = Instant::now() + wait_max;
    if state.progress.wait_for(position, wait_max).await {
        return Ok(());
    }
    // The read models may be kept by another process; their checkpoints tell.
    loop {
        let slowest = sqlx::query_scalar!(
            r#"SELECT coalesce(min(s.position), 0) AS "slowest!"
               FROM projection_builds b JOIN subscriptions s ON s.name = b.subscription WHERE b.state = 'live'"#
        )
        .fetch_one(&state.pool)
        .await?;
        if slowest >= position {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Problem::new(
                ProblemKind::Unavailable,
                format!(
                    "The read models are at position {slowest} and have not reached {position} within {} s. Try again.",
                    wait_max.as_secs()
                ),
            ));
        }
        sleep(POLL).await;
    }
}
