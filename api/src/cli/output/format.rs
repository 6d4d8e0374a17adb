//! Numbers, sizes and times as people read them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;

const BYTE_UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// A whole number with thousands separators.
pub fn count(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the largest unit that leaves at least one of it.
pub fn bytes(size: u64) -> String {
    let mut unit = 0;
    // In tenths of the unit, so that no floating point is needed.
    let mut tenths = u128::from(size) * 10;
    while tenths >= 10 * 1024 && unit + 1 < BYTE_UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    if unit == 0 { format!("{size} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, BYTE_UNITS[unit]) }
}

/// In the two largest units that matter.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// An instant in a zone of the time zone database, named behind it; in UTC if the zone is not known.
pub fn instant(instant: DateTime<Utc>, zone: &str) -> String {
    let Ok(timestamp) = Timestamp::new(instant.timestamp(), 0) else { return instant.to_rfc3339() };
    match TimeZoneDatabase::bundled().get(zone) {
        Ok(found) => format!("{} {zone}", timestamp.to_zoned(found).strftime("%Y-%m-%d %H:%M:%S")),
        Err(_) => format!("{} UTC", timestamp.strftime("%Y-%m-%d %H:%M:%S")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    #[test]
    fn numbers_have_separators() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (12_345, "12,345"),
            (1_234_567, "1,234,567"),
            (-1, "-1"),
            (-123, "-123"),
            (-1000, "-1,000"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
    }

    #[test]
    fn sizes_have_units() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (5 * 1024 * 1024, "5.0 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn durations_have_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (7500, "2 h 5 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn instants_name_their_zone() {
        let noon = Utc.with_ymd_and_hms(2026, 1, 2, 12, 0, 0).unwrap();
        assert_eq!(instant(noon, "Asia/Kolkata"), "2026-01-02 17:30:00 Asia/Kolkata");
        assert_eq!(instant(noon, "UTC"), "2026-01-02 12:00:00 UTC");
        assert_eq!(instant(noon, "Nowhere/Land"), "2026-01-02 12:00:00 UTC");
    }
}
