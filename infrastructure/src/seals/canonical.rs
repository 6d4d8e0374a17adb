//! The bytes of an event that are sealed: RFC 8785 JSON with every column of its row.
//!
//! RFC 8785 writes numbers as IEEE doubles, but the log's JSON columns keep any number of digits. A column that holds a
//! number which a double would not give back digit by digit is therefore written as the text that Postgres shows, under
//! the name `payload_text` or `metadata_text`, so that two rows that differ never have the same bytes.

use chrono::{DateTime, SecondsFormat, Utc};
use domain::aggregate::Position;
use serde_json::Value;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

use super::plain;

/// Every column of `events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedRow {
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub sequence: i64,
    pub event_type: String,
    pub event_version: String,
    /// JSON text, as Postgres shows it.
    pub payload: String,
    /// JSON text, as Postgres shows it.
    pub metadata: String,
    pub position: Position,
    pub tenant_id: Uuid,
    pub recorded_at: DateTime<Utc>,
}

/// Integers of so many digits are exact as doubles.
const EXACT_DIGITS: usize = 15;
/// About the bytes of a row beside its JSON columns.
const BESIDE_JSON: usize = 384;

impl SealedRow {
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.payload.len() + self.metadata.len() + BESIDE_JSON);
        // In the order of the names. Numbers as text: they may grow beyond what a double holds.
        put_text(&mut bytes, "{\"aggregate_id\":", &self.aggregate_id);
        put_text(&mut bytes, ",\"aggregate_type\":", &self.aggregate_type);
        put_text(&mut bytes, ",\"event_type\":", &self.event_type);
        put_text(&mut bytes, ",\"event_version\":", &self.event_version);
        put_json(&mut bytes, "metadata", &self.metadata);
        put_json(&mut bytes, "payload", &self.payload);
        put_text(&mut bytes, ",\"position\":", &self.position.to_string());
        let recorded_at = self.recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true);
        put_text(&mut bytes, ",\"recorded_at\":", &recorded_at);
        put_text(&mut bytes, ",\"sequence\":", &self.sequence.to_string());
        put_text(&mut bytes, ",\"tenant_id\":", &self.tenant_id.to_string());
        bytes.push(b'}');
        bytes
    }
}

fn put_text(bytes: &mut Vec<u8>, name: &str, text: &str) {
    bytes.extend_from_slice(name.as_bytes());
    // Texts have the same form in RFC 8785 as in any JSON that escapes no more than it must.
    serde_json::to_writer(bytes, text).expect("a text can be written to memory");
}

fn put_json(bytes: &mut Vec<u8>, name: &str, json: &str) {
    let start = bytes.len();
    bytes.extend_from_slice(format!(",\"{name}\":").as_bytes());
    if plain::put(bytes, json).is_some() {
        return;
    }
    bytes.truncate(start);
    let (name, value) = match exact(json) {
        Some(value) => (name.to_owned(), value),
        None => (format!("{name}_text"), Value::String(json.to_owned())),
    };
    bytes.extend_from_slice(format!(",\"{name}\":").as_bytes());
    bytes.extend(serde_json_canonicalizer::to_vec(&value).expect("texts and doubles have a canonical form"));
}

/// The document, if its canonical form says the same digits.
fn exact(json: &str) -> Option<Value> {
    if numbers_of(json).all(is_exact) { serde_json::from_str(json).ok() } else { None }
}

/// The number tokens of a JSON text.
fn numbers_of(json: &str) -> impl Iterator<Item = &str> {
    let bytes = json.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => at = end_of_string(bytes, at),
                b'-' | b'0'..=b'9' => {
                    let start = at;
                    while bytes
                        .get(at)
                        .is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))
                    {
                        at += 1;
                    }
                    return json.get(start..at);
                }
                _ => at += 1,
            }
        }
        None
    })
}

/// The place behind the string that begins here.
fn end_of_string(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The negative zero is none: a double would lose its sign.
pub(super) fn is_short_integer(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number);
    let leads = digits.bytes().next().is_some_and(|first| first != b'0') || number == "0";
    leads && digits.len() <= EXACT_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_exact(number: &str) -> bool {
    if is_short_integer(number) {
        return true;
    }
    let Ok(double) = number.parse::<f64>() else { return false };
    serde_json_canonicalizer::to_string(&double).is_ok_and(|canonical| canonical == number)
}

/// The rows behind one position, up to and including another, in order.
pub async fn read_rows(
    executor: impl PgExecutor<'_>,
    after: Position,
    up_to: Position,
    limit: i64,
) -> Result<Vec<SealedRow>, sqlx::Error> {
    sqlx::query_as!(
        SealedRow,
        r#"SELECT aggregate_type, aggregate_id, sequence, event_type, event_version, payload::text AS "payload!",
                  metadata::text AS "metadata!", position, tenant_id, recorded_at
           FROM events WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3"#,
        after,
        up_to,
        limit,
    )
    .fetch_all(executor)
    .await
}

/// The rows of one aggregate, in order.
pub(super) async fn rows_of(
    connection: &mut PgConnection,
    aggregate_type: &str,
    aggregate_id: &str,
) -> Result<Vec<SealedRow>, sqlx::Error> {
    sqlx::query_as!(
        SealedRow,
        r#"SELECT aggregate_type, aggregate_id, sequence, event_type, event_version, payload::text AS "payload!",
                  metadata::text AS "metadata!", position, tenant_id, recorded_at
           FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY sequence"#,
        aggregate_type,
        aggregate_id,
    )
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn row(payload: &str) -> SealedRow {
        SealedRow {
            aggregate_type: "Message".to_owned(),
            aggregate_id: "0193".to_owned(),
            sequence: 2,
            event_type: "MessageSent".to_owned(),
            event_version: "1".to_owned(),
            payload: payload.to_owned(),
            metadata: r#"{"tenant_id": "t"}"#.to_owned(),
            position: 7,
            tenant_id: Uuid::nil(),
            recorded_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn every_column_is_there_in_the_order_of_rfc_8785() {
        let bytes = row(r#"{"b": 1, "a": "é", "c": [1.5, null]}"#).canonical();
        let expected = concat!(
            r#"{"aggregate_id":"0193","aggregate_type":"Message","event_type":"MessageSent","event_version":"1","#,
            r#""metadata":{"tenant_id":"t"},"payload":{"a":"é","b":1,"c":[1.5,null]},"position":"7","#,
            r#""recorded_at":"1970-01-01T00:00:00.000000Z","sequence":"2","#,
            r#""tenant_id":"00000000-0000-0000-0000-000000000000"}"#
        );
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn rows_that_differ_in_a_digit_never_have_the_same_bytes() {
        let payloads = [
            r#"{"n": 9007199254740992}"#,
            r#"{"n": 9007199254740993}"#,
            r#"{"n": 1.1}"#,
            r#"{"n": 1.10}"#,
            r#"{"n": 1}"#,
            r#"{"n": 1.0}"#,
            r#"{"n": 0}"#,
            r#"{"n": -0}"#,
            r#"{"n": 0.1}"#,
            r#"{"n": 0.1000000000000000055511151231257827}"#,
            r#"{"n": "1"}"#,
            r#"{"n": "a\"1.10"}"#,
            r#"{"n": 100000000000000000000000000000000000000000000}"#,
            r#"{"n": 100000000000000000000000000000000000000000001}"#,
        ];
        let mut seen = std::collections::BTreeSet::new();
        for payload in payloads {
            assert!(seen.insert(row(payload).canonical()), "{payload}");
        }
        let as_text = row(r#"{"n": 1.10}"#).canonical();
        assert!(String::from_utf8(as_text).unwrap().contains(r#""payload_text":"{\"n\": 1.10}""#));
    }

    /// What the bytes are by definition.
    fn by_definition(row: &SealedRow) -> Vec<u8> {
        let mut document = serde_json::json!({
            "aggregate_type": row.aggregate_type, "aggregate_id": row.aggregate_id,
            "sequence": row.sequence.to_string(), "position": row.position.to_string(),
            "event_type": row.event_type, "event_version": row.event_version, "tenant_id": row.tenant_id.to_string(),
            "recorded_at": row.recorded_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        });
        for (name, json) in [("payload", &row.payload), ("metadata", &row.metadata)] {
            match exact(json) {
                Some(value) => document[name] = value,
                None => document[format!("{name}_text")] = Value::String(json.clone()),
            }
        }
        serde_json_canonicalizer::to_vec(&document).unwrap()
    }

    fn json() -> impl Strategy<Value = Value> {
        let text = prop_oneof!["[a-z_]{0,8}", "[\\PC\n\t\"\\\\]{0,8}", any::<String>()];
        let number = prop_oneof![
            any::<i16>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from)
        ];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            number,
            text.clone().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                vec(inner.clone(), 0..5).prop_map(Value::from),
                btree_map(text.clone(), inner, 0..6).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_bytes_are_what_they_are_by_definition(payload in json(), metadata in json(), id in any::<String>()) {
            let mut row = row(&payload.to_string());
            (row.metadata, row.aggregate_id) = (metadata.to_string(), id);
            prop_assert_eq!(String::from_utf8(row.canonical()).unwrap(), String::from_utf8(by_definition(&row)).unwrap());
        }
    }

    #[test]
    fn numbers_are_found_outside_of_texts_alone() {
        let found: Vec<&str> = numbers_of(r#"{"a1": [1, -2.5e+3, "3 \" 4"], "b": {"c": 5}}"#).collect();
        assert_eq!(found, ["1", "-2.5e+3", "5"]);
    }
}
