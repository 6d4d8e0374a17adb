//! What is signed of a segment, and the seal around it.

use chrono::{DateTime, SecondsFormat, Utc};
use domain::aggregate::Position;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgExecutor;

use super::key::{PublicKey, SealKey};
use super::tree::{Hash, from_hex, hex};

/// A field of an outside document does not have the form that it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is not what it should be: {expected}")]
pub struct Malformed {
    pub field: &'static str,
    pub expected: &'static str,
}

/// Of one segment. Its canonical form (RFC 8785) is what is signed and hashed; numbers are texts in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealHeader {
    pub number: i64,
    /// It covers the positions behind this one,
    pub after: Position,
    /// up to and including this one.
    pub up_to: Position,
    pub events: i64,
    pub root: Hash,
    /// The hash of the header before it.
    pub previous: Hash,
    pub sealed_at: DateTime<Utc>,
    pub key: PublicKey,
}

/// As it stands in documents: texts, so that every JSON library reads and writes it the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderDocument {
    pub number: String,
    pub after_position: String,
    pub up_to_position: String,
    pub events: String,
    pub root: String,
    pub previous: String,
    pub sealed_at: String,
    pub public_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    pub header: SealHeader,
    pub signature: Vec<u8>,
    /// See migration 0015.
    pub hints: Vec<u8>,
}

impl SealHeader {
    pub fn document(&self) -> HeaderDocument {
        HeaderDocument {
            number: self.number.to_string(),
            after_position: self.after.to_string(),
            up_to_position: self.up_to.to_string(),
            events: self.events.to_string(),
            root: hex(&self.root),
            previous: hex(&self.previous),
            sealed_at: self.sealed_at.to_rfc3339_opts(SecondsFormat::Micros, true),
            public_key: self.key.to_string(),
        }
    }

    pub fn canonical(&self) -> Vec<u8> {
        serde_json_canonicalizer::to_vec(&self.document()).expect("texts have a canonical form")
    }

    /// What the next header holds as `previous`.
    pub fn hash(&self) -> Hash {
        Sha256::new().chain_update([2]).chain_update(self.canonical()).finalize().into()
    }

    pub(super) fn sign(self, key: &SealKey, hints: Vec<u8>) -> Seal {
        Seal { signature: key.sign(&self.canonical()), header: self, hints }
    }
}

impl Seal {
    pub fn is_signed(&self) -> bool {
        self.header.key.verifies(&self.header.canonical(), &self.signature)
    }
}

impl TryFrom<&HeaderDocument> for SealHeader {
    type Error = Malformed;

    fn try_from(document: &HeaderDocument) -> Result<Self, Malformed> {
        let number = |field, text: &str| text.parse().map_err(|_| Malformed { field, expected: "a number as text" });
        let hash = |field, text: &str| from_hex(text).ok_or(Malformed { field, expected: "64 hexadecimal digits" });
        let header = Self {
            number: number("number", &document.number)?,
            after: number("after_position", &document.after_position)?,
            up_to: number("up_to_position", &document.up_to_position)?,
            events: number("events", &document.events)?,
            root: hash("root", &document.root)?,
            previous: hash("previous", &document.previous)?,
            sealed_at: document
                .sealed_at
                .parse()
                .map_err(|_| Malformed { field: "sealed_at", expected: "a time as in RFC 3339" })?,
            key: PublicKey(hash("public_key", &document.public_key)?),
        };
        Ok(header)
    }
}

struct Record {
    number: i64,
    after: Position,
    up_to: Position,
    events: i64,
    root: Vec<u8>,
    previous: Vec<u8>,
    sealed_at: DateTime<Utc>,
    public_key: Vec<u8>,
    signature: Vec<u8>,
    hints: Vec<u8>,
}

impl From<Record> for Seal {
    fn from(record: Record) -> Self {
        // Bytes of another length were written by somebody else; they fail every check as zeros do.
        let hash = |bytes: Vec<u8>| Hash::try_from(bytes).unwrap_or_default();
        Self {
            header: SealHeader {
                number: record.number,
                after: record.after,
                up_to: record.up_to,
                events: record.events,
                root: hash(record.root),
                previous: hash(record.previous),
                sealed_at: record.sealed_at,
                key: PublicKey(hash(record.public_key)),
            },
            signature: record.signature,
            hints: record.hints,
        }
    }
}

/// The seals behind a number, in order.
pub async fn read_seals(executor: impl PgExecutor<'_>, after: i64, limit: i64) -> Result<Vec<Seal>, sqlx::Error> {
    let records = sqlx::query_as!(
        Record,
        "SELECT number, after_position AS after, up_to_position AS up_to, events, root, previous, sealed_at, public_key,
                signature, hints
         FROM log_seals WHERE number > $1 ORDER BY number LIMIT $2",
        after,
        limit,
    )
    .fetch_all(executor)
    .await?;
    Ok(records.into_iter().map(Seal::from).collect())
}

/// The last one.
pub async fn last_seal(executor: impl PgExecutor<'_>) -> Result<Option<Seal>, sqlx::Error> {
    let record = sqlx::query_as!(
        Record,
        "SELECT number, after_position AS after, up_to_position AS up_to, events, root, previous, sealed_at, public_key,
                signature, hints
         FROM log_seals ORDER BY number DESC LIMIT 1",
    )
    .fetch_optional(executor)
    .await?;
    Ok(record.map(Seal::from))
}

pub(super) async fn insert_seal(executor: impl PgExecutor<'_>, seal: &Seal) -> Result<bool, sqlx::Error> {
    let header = &seal.header;
    let inserted = sqlx::query!(
        "INSERT INTO log_seals (number, after_position, up_to_position, events, root, previous, sealed_at, public_key,
                                signature, hints)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (number) DO NOTHING",
        header.number,
        header.after,
        header.up_to,
        header.events,
        &header.root[..],
        &header.previous[..],
        header.sealed_at,
        &header.key.0[..],
        seal.signature,
        seal.hints,
    )
    .execute(executor)
    .await?;
    Ok(inserted.rows_affected() == 1)
}
