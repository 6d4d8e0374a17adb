//! Stored names, back into the types that they came from.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// A name that this release does not know is an error, never a default.
pub(crate) fn named<T: DeserializeOwned>(name: String) -> Result<T, sqlx::Error> {
    serde_json::from_value(Value::String(name)).map_err(|source| sqlx::Error::Decode(Box::new(source)))
}

/// For counts that people read; the tables cannot hold a number that does not fit.
pub(crate) fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The quarter of an hour in which an instant lies. Every zone's days begin with one.
pub(crate) fn quarter_of(at: chrono::DateTime<chrono::Utc>) -> chrono::DateTime<chrono::Utc> {
    const SECONDS: i64 = 900;
    let seconds = at.timestamp();
    chrono::DateTime::from_timestamp(seconds - seconds.rem_euclid(SECONDS), 0).unwrap_or(at)
}
