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
