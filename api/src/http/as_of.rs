//! `?as_of=`: the state of a thing as the log gives it at a time or a position.

use axum::Json;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use infrastructure::event_feed::position_at;
use jiff::civil;
use jiff::tz::TimeZoneDatabase;
use projections::audit::{AuditError, AuditKind, audit};
use uuid::Uuid;

use super::auth::Caller;
use super::fields::Faults;
use super::pages::Parameters;
use super::problem::{Answer, Problem, chain};
use super::state::ApiState;

/// The position that is asked for, if one is; never above the high-water mark.
pub(super) async fn asked(state: &ApiState, caller: &Caller, uri: &Uri) -> Answer<Option<Position>> {
    let mut faults = Faults::default();
    let text = Parameters::of(uri, &["as_of"], &mut faults).take("as_of");
    faults.check()?;
    let Some(text) = text else { return Ok(None) };
    let mark = state.feed.mark();
    if let Ok(position) = text.parse::<Position>() {
        return Ok(Some(position.clamp(0, mark)));
    }
    let time = instant(&text, &caller.tenant.zone).ok_or_else(|| {
        let zone = &caller.tenant.zone;
        Problem::field("as_of", format!("must be a position, a time as in RFC 3339, or a local time of {zone}"))
    })?;
    Ok(Some(position_at(&state.pool, time).await?.min(mark)))
}

/// A time as people write it; without an offset it is local time of the zone.
pub(crate) fn instant(text: &str, zone: &str) -> Option<DateTime<Utc>> {
    // A plus in a query is a space.
    let text = text.trim().replace(' ', "+");
    if let Ok(time) = DateTime::parse_from_rfc3339(&text) {
        return Some(time.to_utc());
    }
    let local = text
        .replace('+', "T")
        .parse::<civil::DateTime>()
        .or_else(|_| text.parse::<civil::Date>().map(|date| date.at(0, 0, 0, 0)))
        .ok()?;
    let zone = TimeZoneDatabase::bundled().get(zone).ok()?;
    let timestamp = local.to_zoned(zone).ok()?.timestamp();
    DateTime::from_timestamp_micros(timestamp.as_microsecond())
}

pub(super) async fn answer(
    state: &ApiState,
    caller: &Caller,
    kind: AuditKind,
    id: Uuid,
    as_of: Position,
) -> Answer<Response> {
    let found = audit(&state.pool, kind, id, as_of, Some(caller.tenant.id.0)).await.map_err(|error| refused(&error))?;
    let what = match kind {
        AuditKind::Campaign => "campaign",
        AuditKind::Run => "run",
        AuditKind::Message => "message",
        AuditKind::Contact => "contact",
    };
    let found = found.ok_or_else(|| Problem::not_found(what))?;
    Ok(Json(found).into_response())
}

fn refused(error: &AuditError) -> Problem {
    tracing::error!(error = chain(error), "the log could not be folded for a request");
    match error {
        AuditError::Database(_) => Problem::unavailable(),
        AuditError::Undecodable { .. } => Problem::internal(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let read = |text| instant(text, "Asia/Kolkata").map(|time| time.to_rfc3339());
        assert_eq!(read("2026-12-01T10:00:00+05:30").as_deref(), Some("2026-12-01T04:30:00+00:00"));
        assert_eq!(read("2026-12-01T10:00:00 05:30").as_deref(), Some("2026-12-01T04:30:00+00:00"));
        assert_eq!(read("2026-12-01T04:30:00Z").as_deref(), Some("2026-12-01T04:30:00+00:00"));
        assert_eq!(read("2026-12-01T10:00").as_deref(), Some("2026-12-01T04:30:00+00:00"));
        assert_eq!(read("2026-12-01 10:00").as_deref(), Some("2026-12-01T04:30:00+00:00"));
        assert_eq!(read("2026-12-01").as_deref(), Some("2026-11-30T18:30:00+00:00"));
        for wrong in ["", "yesterday", "2026-13-01", "10:00"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
