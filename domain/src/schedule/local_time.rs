//! Dates as people and programs write them in a request, read as local time of the tenant's zone.
//!
//! The forms are matched by shape before any part is parsed: a general parser also takes forms that nobody promised,
//! and ignores an offset where it expects none, which would move a campaign by hours without a word.

use jiff::Timestamp;
use jiff::civil;
use thiserror::Error;

use super::zone::{self, UnknownZone};

const DATE_SHAPE: &str = "dddd-dd-dd";
const DATE_LEN: usize = DATE_SHAPE.len();

/// Which bound of a schedule a date stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DateRole {
    /// A date alone means the start of that day.
    Start,
    /// A date alone includes that whole day.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LocalTimeError {
    /// The text has none of the forms.
    #[error(
        "must be a date (2026-12-01), a local date and time (2026-12-01T10:00 or 2026-12-01 10:00:00), or a date and \
         time with its offset (2026-12-01T10:00:00+05:30 or 2026-12-01T04:30:00Z)"
    )]
    Unreadable,
    /// The text has a known form, but the calendar or the clock has no such day or time.
    #[error("there is no such day or time: use a day that the month has, hours 00 to 23, minutes and seconds 00 to 59")]
    NoSuchTime,
    #[error(transparent)]
    UnknownZone(#[from] UnknownZone),
}

/// A moment on the clocks of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime(pub civil::DateTime);

impl LocalTime {
    /// Reads a date, a local date-time without an offset, or an RFC 3339 date-time, which is turned into local time of
    /// the zone.
    pub fn parse(text: &str, zone: &str, role: DateRole) -> Result<Self, LocalTimeError> {
        let zone = zone::find(zone)?;
        let text = text.trim();
        let (date, rest) = text.split_at_checked(DATE_LEN).ok_or(LocalTimeError::Unreadable)?;
        if !has_shape(date, DATE_SHAPE) {
            return Err(LocalTimeError::Unreadable);
        }
        if rest.is_empty() {
            let date: civil::Date = date.parse().map_err(|_| LocalTimeError::NoSuchTime)?;
            let time = match role {
                DateRole::Start => civil::Time::midnight(),
                DateRole::End => civil::Time::MAX,
            };
            return Ok(Self(date.to_datetime(time)));
        }
        let clock = rest.strip_prefix(['T', 't', ' ']).ok_or(LocalTimeError::Unreadable)?;
        let (time, offset) = split_offset(clock)?;
        let local = format!("{date}T{time}");
        if offset.is_empty() {
            return local.parse().map(Self).map_err(|_| LocalTimeError::NoSuchTime);
        }
        let instant: Timestamp = format!("{local}{offset}").parse().map_err(|_| LocalTimeError::NoSuchTime)?;
        Ok(Self(zone.rules.to_datetime(instant)))
    }
}

/// The time of day and its offset, which may be empty. An offset needs no seconds in the time, a kindness beyond
/// RFC 3339.
fn split_offset(clock: &str) -> Result<(&str, &str), LocalTimeError> {
    let (time, offset) = clock.split_at(clock.find(['Z', 'z', '+', '-']).unwrap_or(clock.len()));
    let (whole, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let readable_time = (has_shape(whole, "dd:dd:dd") || (has_shape(whole, "dd:dd") && whole.len() == time.len()))
        && (1..=9).contains(&fraction.len())
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let readable_offset = offset.is_empty()
        || offset.eq_ignore_ascii_case("z")
        || has_shape(offset.get(1..).unwrap_or_default(), "dd:dd");
    if readable_time && readable_offset { Ok((time, offset)) } else { Err(LocalTimeError::Unreadable) }
}

/// Whether the text has this shape, in which `d` stands for a digit and everything else for itself.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() == shape.len()
        && text.bytes().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
            b'd' => byte.is_ascii_digit(),
            other => byte == other,
        })
}
