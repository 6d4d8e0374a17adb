//! The log over HTTP: pages, waiting for what comes, and a stream. A position is where to go on, everywhere.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::ACCEPT;
use axum::http::{HeaderMap, Uri};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use futures::stream;
use projections::audit::log::{self, EventFilter, EventPage, LoggedEvent};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::auth::Caller;
use super::fields::Faults;
use super::pages::Parameters;
use super::path::parse_id;
use super::problem::Answer;
use super::state::ApiState;

const LAST_EVENT_ID: &str = "last-event-id";
const EVENT_STREAM: &str = "text/event-stream";
const WAIT_MAX_S: u64 = 25;
/// Rows of the log that one request looks at, so that a small tenant of a long log is answered in time.
const SCAN_MAX: i64 = 20_000;
const STREAM_PAGE: i64 = 500;
const HEARTBEAT: Duration = Duration::from_secs(15);

/// An event as it is stored.
#[derive(Serialize, ToSchema)]
#[schema(as = LoggedEvent)]
pub(super) struct EventDocument {
    position: i64,
    /// `Campaign`, `CampaignRun`, `Message` or `Consent`, whose id is the contact's.
    aggregate_type: String,
    aggregate_id: String,
    /// Counts from 1 within the aggregate.
    sequence: i64,
    /// `docs/events.md` describes each.
    event: String,
    version: String,
    /// The engine's time.
    time: DateTime<Utc>,
    /// `token:ID`, `operator` or `engine:PART`.
    actor: Option<String>,
    /// The position of the event that it is a reaction to.
    cause: Option<i64>,
    /// The run that it belongs to, or else the aggregate.
    correlation: String,
    /// The event's own fields.
    data: Value,
}

/// A page of the log.
#[derive(Serialize, ToSchema)]
pub(super) struct EventPageDocument {
    items: Vec<EventDocument>,
    /// The `after` of the next page; it moves on even where nothing was found.
    next_after: i64,
}

impl From<LoggedEvent> for EventDocument {
    fn from(event: LoggedEvent) -> Self {
        Self {
            position: event.position,
            time: event.at(),
            actor: event.actor().map(str::to_owned),
            cause: event.cause(),
            correlation: event.correlation(),
            data: event.payload[event.event_type.as_str()].clone(),
            aggregate_type: event.aggregate_type,
            aggregate_id: event.aggregate_id,
            sequence: event.sequence,
            event: event.event_type,
            version: event.event_version,
        }
    }
}

struct Asked {
    after: Position,
    limit: i64,
    wait: Duration,
    filter: EventFilter,
}

/// Lists the tenant's events in the order of the log, waits for new ones, or streams them.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    operation_id = "list_events",
    params(
        ("after" = Option<i64>, Query, description = "The position behind which to begin; 0 by default"),
        ("limit" = Option<u32>, Query),
        ("type" = Option<String>, Query, description = "Names of events, separated by commas"),
        ("aggregate" = Option<String>, Query, description = "TYPE or TYPE/ID, such as Message/0199…"),
        ("run" = Option<Uuid>, Query, description = "The run, its messages and what triggered it"),
        ("wait" = Option<u64>, Query, description = "Seconds to wait for an event if there is none, up to 25"),
        ("Last-Event-ID" = Option<i64>, Header, description = "The same as after, for streams that are taken up again"),
    ),
    responses((
        status = 200,
        body = EventPageDocument,
        description = "With `Accept: text/event-stream`: server-sent events whose id is the position"
    ))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    headers: HeaderMap,
    uri: Uri,
) -> Answer<Response> {
    let asked = read(&state, &caller, &headers, &uri)?;
    let wants_stream = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|accept| accept.to_str().ok())
        .any(|accept| accept.contains(EVENT_STREAM));
    if wants_stream {
        return Ok(streamed(state, asked));
    }
    let page = waited(&state, &asked).await?;
    let items = page.events.into_iter().map(EventDocument::from).collect();
    Ok(Json(EventPageDocument { items, next_after: page.next_after }).into_response())
}

fn read(state: &ApiState, caller: &Caller, headers: &HeaderMap, uri: &Uri) -> Answer<Asked> {
    let mut faults = Faults::default();
    let known = ["after", "limit", "type", "aggregate", "run", "wait"];
    let mut parameters = Parameters::of(uri, &known, &mut faults);
    let mut number = |name: &str, text: Option<String>, max: i64| {
        let value = text.map(|text| text.trim().parse::<i64>().ok().filter(|number| (0..=max).contains(number)));
        if value == Some(None) {
            faults.push(name, format!("must be a whole number from 0 to {max}"));
        }
        value.flatten()
    };
    let last_seen = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?").to_owned());
    let last_seen = number("Last-Event-ID", last_seen, i64::MAX);
    let after = number("after", parameters.take("after"), i64::MAX);
    let wait = number("wait", parameters.take("wait"), i64::try_from(WAIT_MAX_S).unwrap_or(i64::MAX));
    let limit_max = i64::from(state.config.http.list_limit_max);
    let limit = number("limit", parameters.take("limit"), limit_max);
    if limit == Some(0) {
        faults.push("limit", format!("must be a whole number from 1 to {limit_max}"));
    }
    let filter = filter(&mut parameters, caller, &mut faults);
    faults.check()?;
    Ok(Asked {
        after: last_seen.or(after).unwrap_or(0),
        limit: limit.unwrap_or_else(|| i64::from(state.config.http.list_limit_default)),
        wait: Duration::from_secs(wait.unwrap_or(0).unsigned_abs()),
        filter,
    })
}

fn filter(parameters: &mut Parameters, caller: &Caller, faults: &mut Faults) -> EventFilter {
    let mut filter = EventFilter { tenant: Some(caller.tenant.id), ..EventFilter::default() };
    if let Some(names) = parameters.take("type")
        && let Err(reason) = filter.only_types(names.split(','))
    {
        faults.push("type", reason);
    }
    if let Some(aggregate) = parameters.take("aggregate")
        && let Err(reason) = filter.only_aggregate(&aggregate)
    {
        faults.push("aggregate", reason);
    }
    filter.run = parameters.take("run").and_then(|text| {
        let run = parse_id(&text);
        if run.is_none() {
            faults.push("run", "is not an id");
        }
        run
    });
    filter
}

/// The next page; if there is nothing yet, what comes within the time that the caller has.
async fn waited(state: &ApiState, asked: &Asked) -> Answer<EventPage> {
    let deadline = Instant::now() + asked.wait;
    let mut after = asked.after;
    loop {
        let mark = state.feed.mark();
        if mark > after {
            let page = log::page(&state.pool, &asked.filter, after, mark, asked.limit, SCAN_MAX).await?;
            if !page.events.is_empty() || asked.wait.is_zero() {
                return Ok(page);
            }
            after = page.next_after;
        }
        let nothing = EventPage { events: Vec::new(), next_after: after };
        if Instant::now() >= deadline {
            return Ok(nothing);
        }
        tokio::select! {
            moved = timeout_at(deadline, state.feed.moved(after)) => {
                if moved.is_err() {
                    return Ok(nothing);
                }
            }
            () = state.stop.cancelled() => return Ok(nothing),
        }
    }
}

/// Ends when the engine stops or the log cannot be read; whoever listens comes again with the last id.
fn streamed(state: ApiState, asked: Asked) -> Response {
    let events = stream::unfold((state, asked, Vec::new()), |(state, mut asked, mut ready)| async move {
        loop {
            if let Some(event) = ready.pop() {
                return Some((event, (state, asked, ready)));
            }
            let mark = tokio::select! {
                mark = state.feed.moved(asked.after) => mark,
                () = state.stop.cancelled() => return None,
            };
            let page = match log::page(&state.pool, &asked.filter, asked.after, mark, STREAM_PAGE, SCAN_MAX).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(%error, "a stream of events ended");
                    return None;
                }
            };
            asked.after = page.next_after;
            // Taken from the end.
            ready = page.events.into_iter().rev().map(sse_event).collect();
        }
    });
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("still here");
    Sse::new(events).keep_alive(heartbeat).into_response()
}

fn sse_event(event: LoggedEvent) -> Result<SseEvent, axum::Error> {
    let (id, name) = (event.position.to_string(), event.event_type.clone());
    SseEvent::default().id(id).event(name).json_data(EventDocument::from(event))
}
