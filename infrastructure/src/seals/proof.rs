//! Inclusion proofs: that the events of one message are in the sealed log, to be checked without the database.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;

use super::canonical::{read_rows, rows_of};
use super::header::{HeaderDocument, Malformed, Seal, SealHeader, read_seals};
use super::key::PublicKey;
use super::sealer::leaves_of;
use super::tree::{Hash, Side, climb, from_hex, hex, leaf, path};
use super::verify::VerifyError;

const FORMAT: &str = "ektola-inclusion-proof-1";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    pub format: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub events: Vec<ProvenEvent>,
    /// Positions of events that are in no segment yet, and so without a proof.
    pub not_yet_sealed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenEvent {
    /// The canonical bytes of the row, as text.
    pub event: String,
    /// From the leaf to the root.
    pub path: Vec<PathStep>,
    pub header: HeaderDocument,
    pub signature: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PathStep {
    /// On which side the other hash stands: `left` or `right`.
    pub side: String,
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    #[error("it is not an inclusion proof, or one of a format that this release does not know")]
    Format,
    #[error("it proves nothing: it holds no event")]
    Empty,
    #[error("event {number}: {source}")]
    Malformed {
        number: usize,
        #[source]
        source: Malformed,
    },
    #[error("event {number} is not of {aggregate}")]
    Stranger { number: usize, aggregate: String },
    #[error("event {number} does not lead to the root of its segment")]
    Root { number: usize },
    #[error("the signature of the segment of event {number} does not fit")]
    Signature { number: usize },
    #[error("event {number} was sealed with the key {key}, which is not the given one")]
    Key { number: usize, key: String },
}

/// What a proof proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub events: usize,
    /// The key that vouches for all of it.
    pub public_key: String,
    pub not_yet_sealed: usize,
}

/// `None` if the log holds nothing of the aggregate.
pub async fn prove(pool: &PgPool, aggregate_type: &str, aggregate_id: &str) -> Result<Option<Proof>, VerifyError> {
    let mut connection = pool.acquire().await?;
    let rows = rows_of(&mut connection, aggregate_type, aggregate_id).await?;
    drop(connection);
    if rows.is_empty() {
        return Ok(None);
    }
    let mut proof = Proof {
        format: FORMAT.to_owned(),
        aggregate_type: aggregate_type.to_owned(),
        aggregate_id: aggregate_id.to_owned(),
        events: Vec::new(),
        not_yet_sealed: Vec::new(),
    };
    for row in rows {
        let Some(seal) = seal_of(pool, row.position).await? else {
            proof.not_yet_sealed.push(row.position.to_string());
            continue;
        };
        let header = &seal.header;
        let segment = read_rows(pool, header.after, header.up_to, header.events).await?;
        let leaves = leaves_of(&segment);
        let index = segment.partition_point(|other| other.position < row.position);
        let steps = path(&leaves, index).into_iter().map(|(side, hash)| PathStep {
            side: match side {
                Side::Left => "left".to_owned(),
                Side::Right => "right".to_owned(),
            },
            hash: hex(&hash),
        });
        proof.events.push(ProvenEvent {
            event: String::from_utf8_lossy(&row.canonical()).into_owned(),
            path: steps.collect(),
            header: header.document(),
            signature: hex(&seal.signature),
        });
    }
    Ok(Some(proof))
}

async fn seal_of(pool: &PgPool, position: i64) -> Result<Option<Seal>, sqlx::Error> {
    let number = sqlx::query_scalar!(
        "SELECT min(number) FROM log_seals WHERE after_position < $1 AND up_to_position >= $1",
        position
    )
    .fetch_one(pool)
    .await?;
    let Some(number) = number else { return Ok(None) };
    Ok(read_seals(pool, number - 1, 1).await?.pop())
}

/// Checks a proof with nothing but itself and, if it is given, the key that must have signed.
pub fn check(proof: &Proof, trusted: Option<&PublicKey>) -> Result<Checked, ProofError> {
    if proof.format != FORMAT {
        return Err(ProofError::Format);
    }
    let mut vouching = None;
    for (number, event) in (1..).zip(&proof.events) {
        let key = check_event(proof, event, number)?;
        let expected = trusted.copied().or(vouching).unwrap_or(key);
        if key != expected {
            return Err(ProofError::Key { number, key: key.to_string() });
        }
        vouching = Some(key);
    }
    let key = vouching.ok_or(ProofError::Empty)?;
    Ok(Checked {
        aggregate_type: proof.aggregate_type.clone(),
        aggregate_id: proof.aggregate_id.clone(),
        events: proof.events.len(),
        public_key: key.to_string(),
        not_yet_sealed: proof.not_yet_sealed.len(),
    })
}

fn check_event(proof: &Proof, event: &ProvenEvent, number: usize) -> Result<PublicKey, ProofError> {
    let malformed = |source| ProofError::Malformed { number, source };
    let document: Value = serde_json::from_str(&event.event)
        .map_err(|_| malformed(Malformed { field: "event", expected: "the canonical JSON of a row" }))?;
    if document["aggregate_type"] != proof.aggregate_type || document["aggregate_id"] != proof.aggregate_id {
        let aggregate = format!("{} {}", proof.aggregate_type, proof.aggregate_id);
        return Err(ProofError::Stranger { number, aggregate });
    }
    let header = SealHeader::try_from(&event.header).map_err(malformed)?;
    let steps = event.path.iter().map(step).collect::<Result<Vec<_>, _>>().map_err(malformed)?;
    if climb(leaf(event.event.as_bytes()), &steps) != header.root {
        return Err(ProofError::Root { number });
    }
    let signature = from_hex::<64>(&event.signature)
        .ok_or_else(|| malformed(Malformed { field: "signature", expected: "128 hexadecimal digits" }))?;
    if !header.key.verifies(&header.canonical(), &signature) {
        return Err(ProofError::Signature { number });
    }
    Ok(header.key)
}

fn step(step: &PathStep) -> Result<(Side, Hash), Malformed> {
    let side = match step.side.as_str() {
        "left" => Side::Left,
        "right" => Side::Right,
        _ => return Err(Malformed { field: "side", expected: "left or right" }),
    };
    let hash = from_hex(&step.hash).ok_or(Malformed { field: "hash", expected: "64 hexadecimal digits" })?;
    Ok((side, hash))
}
