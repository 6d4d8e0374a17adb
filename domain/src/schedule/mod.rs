//! When a campaign runs: occurrences in local time of the tenant's zone, and the instants they stand for.
//!
//! An occurrence is named by its nominal local time, since that is what a person asked for and what the id of its run
//! is derived from; the instant follows from the zone's rules. A local time that the clocks skip runs at the time to
//! which they are put forward; one that comes twice runs once, the first time. Every occurrence is computed from the
//! start by its number, so it never depends on the one before it: the 31st falls on 28 February and then on 31 March.
//!
//! The zone database is always the bundled one, so that two machines never disagree about an occurrence.

mod local_time;
#[cfg(test)]
mod tests;
mod zone;

use chrono::{DateTime, Utc};
use jiff::civil;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use local_time::{DateRole, LocalTime, LocalTimeError};
pub use zone::UnknownZone;

/// How many occurrences one call looks ahead: 27 years of days.
pub const OCCURRENCES_MAX: usize = 10_000;

/// The first year in which a schedule may start. Ids carry the time since 1970.
const START_YEAR_MIN: i16 = 1970;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recurrence {
    Once,
    Daily,
    Weekly,
    Monthly,
}

impl Recurrence {
    pub fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScheduleError {
    #[error(transparent)]
    UnknownZone(#[from] UnknownZone),
    /// The end lies before the start, so that not even the first occurrence would count.
    #[error("the end lies before the start")]
    EndBeforeStart,
    /// The start lies before 1970, or so late that it has no instant.
    #[error("the start must lie between the years 1970 and 9999")]
    StartOutOfRange,
}

/// A rule for occurrences. Made by `try_new`, also when it is read from an event: its zone exists and its start has an
/// instant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "UncheckedSchedule")]
pub struct Schedule {
    pub recurrence: Recurrence,
    pub start: civil::DateTime,
    /// The last local moment that still counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end: Option<civil::DateTime>,
    /// The zone's IANA name.
    pub zone: String,
}

#[derive(Deserialize)]
struct UncheckedSchedule {
    recurrence: Recurrence,
    start: civil::DateTime,
    #[serde(default)]
    end: Option<civil::DateTime>,
    zone: String,
}

impl TryFrom<UncheckedSchedule> for Schedule {
    type Error = ScheduleError;

    fn try_from(unchecked: UncheckedSchedule) -> Result<Self, ScheduleError> {
        Self::try_new(unchecked.recurrence, unchecked.start, unchecked.end, unchecked.zone)
    }
}

/// One time at which a campaign runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// The local time as the schedule names it, even when the clocks skip it.
    pub local: civil::DateTime,
    /// The instant at which it runs.
    pub at: DateTime<Utc>,
}

impl Schedule {
    pub fn try_new(
        recurrence: Recurrence,
        start: civil::DateTime,
        end: Option<civil::DateTime>,
        zone: impl AsRef<str>,
    ) -> Result<Self, ScheduleError> {
        let zone = zone::find(zone.as_ref())?;
        if start.year() < START_YEAR_MIN || instant(&zone.rules, start).is_none() {
            return Err(ScheduleError::StartOutOfRange);
        }
        if end.is_some_and(|end| end < start) {
            return Err(ScheduleError::EndBeforeStart);
        }
        Ok(Self { recurrence, start, end, zone: zone.name })
    }

    /// The occurrences strictly after this instant, in order, up to the end; at most `OCCURRENCES_MAX`.
    pub fn occurrences_after(&self, after: DateTime<Utc>) -> impl Iterator<Item = Occurrence> + use<> {
        let schedule = self.clone();
        let zone = self.rules();
        (self.number_before(&zone, after)..)
            .map_while(move |number| {
                let local = schedule.nominal(number)?;
                if schedule.end.is_some_and(|end| local > end) {
                    return None;
                }
                Some(Occurrence { local, at: instant(&zone, local)? })
            })
            .skip_while(move |occurrence| occurrence.at <= after)
            .take(OCCURRENCES_MAX)
    }

    /// The occurrence at the start.
    pub fn first(&self) -> Occurrence {
        let at =
            instant(&self.rules(), self.start).expect("the start's instant was checked when the schedule was made");
        Occurrence { local: self.start, at }
    }

    /// The last instant that still counts. `None`: the schedule has no end, or one beyond the year 9999.
    pub fn end_at(&self) -> Option<DateTime<Utc>> {
        instant(&self.rules(), self.end?)
    }

    fn rules(&self) -> TimeZone {
        zone::find(&self.zone).expect("the zone was checked when the schedule was made").rules
    }

    /// The local time of the occurrence with this number; the start has 0.
    fn nominal(&self, number: i64) -> Option<civil::DateTime> {
        let span = match self.recurrence {
            Recurrence::Once => return (number == 0).then_some(self.start),
            Recurrence::Daily => Span::new().try_days(number),
            Recurrence::Weekly => Span::new().try_weeks(number),
            Recurrence::Monthly => Span::new().try_months(number),
        };
        self.start.checked_add(span.ok()?).ok()
    }

    /// A number close to `after` whose occurrence and all earlier ones lie before it (or 0), so that an old start
    /// costs nothing. Two periods of margin cover time of day, clock changes and zones that once skipped a whole day.
    fn number_before(&self, zone: &TimeZone, after: DateTime<Utc>) -> i64 {
        let now = zone.to_datetime(timestamp(after)).date();
        let start = self.start.date();
        let days = now.duration_since(start).as_hours() / 24;
        let periods = match self.recurrence {
            Recurrence::Once => 0,
            Recurrence::Daily => days,
            Recurrence::Weekly => days / 7,
            Recurrence::Monthly => {
                (i64::from(now.year()) - i64::from(start.year())) * 12 + i64::from(now.month())
                    - i64::from(start.month())
            }
        };
        (periods - 2).max(0)
    }
}

/// The instant of a local time; `None` beyond the year 9999. Whole microseconds, as the database keeps them.
fn instant(zone: &TimeZone, local: civil::DateTime) -> Option<DateTime<Utc>> {
    let timestamp = zone.to_ambiguous_timestamp(local).compatible().ok()?;
    DateTime::from_timestamp_micros(timestamp.as_microsecond())
}

/// The nearest timestamp that the zone database can handle.
fn timestamp(instant: DateTime<Utc>) -> Timestamp {
    let bound = if instant < DateTime::UNIX_EPOCH { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(instant.timestamp_micros()).unwrap_or(bound)
}
