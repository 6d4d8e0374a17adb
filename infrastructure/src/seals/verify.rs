//! Checks the whole log against its seals, and names the first row or seal that is not what was signed.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use super::canonical::{SealedRow, read_rows};
use super::header::{HeaderDocument, Malformed, Seal, SealHeader, read_seals};
use super::key::PublicKey;
use super::sealer::{HINT_HASH, leaves_of};
use super::tree::{Hash, from_hex, hex, root};

/// Seals of one page.
const PAGE: i64 = 64;
/// Segments that are read and hashed at once.
const AT_ONCE: usize = 3;
/// Rows that a segment is allowed to have more than it says, before the first that is too many is named.
const EXCESS: i64 = 1;
const HEAD_FORMAT: &str = "ektola-seal-head-1";

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("the log or its seals could not be read")]
    Database(#[from] sqlx::Error),
    #[error("the rows of the log could not be hashed")]
    Hashing(#[from] tokio::task::JoinError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The row has other contents than when it was sealed, or came from another place.
    RowChanged,
    /// A row that was sealed is gone.
    RowRemoved,
    /// There is a row that was not there when its segment was sealed.
    RowInserted,
    /// The seal's fields do not fit its signature, its segment or the seal before it.
    SealChanged,
    SealMissing,
    /// A key that is not trusted has signed.
    UnknownKey,
    /// The kept head is not among the seals: the log, or its seals, were cut short.
    CutShort,
    /// The seal with the number of the kept head is another one.
    Rewritten,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub kind: DifferenceKind,
    /// The row's, where one is concerned.
    pub position: Option<Position>,
    /// The number of the seal.
    pub seal: Option<i64>,
}

/// What came after the last seal.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Unsealed {
    pub events: i64,
    pub first_position: Option<Position>,
    pub last_position: Option<Position>,
    /// Of the first, in seconds.
    pub oldest_age_s: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct VerifyReport {
    pub seals: i64,
    /// Rows that were hashed and found as they were sealed.
    pub events: i64,
    /// Everything at or below it is sealed.
    pub up_to_position: Position,
    /// The keys that have signed.
    pub keys: BTreeSet<String>,
    /// The first one.
    pub difference: Option<Difference>,
    pub unsealed: Unsealed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// In positions.
    pub done: Position,
    pub of: Position,
    pub events: i64,
}

/// A signed header to be kept where whoever may change the database cannot reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    pub format: String,
    pub header: HeaderDocument,
    /// Of the header's canonical form.
    pub signature: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    #[error("it is not a head of seals, or one of a format that this release does not know")]
    Format,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("its signature does not fit")]
    Signature,
}

impl Head {
    pub fn of(seal: &Seal) -> Self {
        Self { format: HEAD_FORMAT.to_owned(), header: seal.header.document(), signature: hex(&seal.signature) }
    }

    /// The header, if the signature fits.
    pub fn check(&self) -> Result<SealHeader, HeadError> {
        if self.format != HEAD_FORMAT {
            return Err(HeadError::Format);
        }
        let header = SealHeader::try_from(&self.header)?;
        let signature = from_hex::<64>(&self.signature)
            .ok_or(Malformed { field: "signature", expected: "128 hexadecimal digits" })?;
        if header.key.verifies(&header.canonical(), &signature) { Ok(header) } else { Err(HeadError::Signature) }
    }
}

/// `trusted`: the keys that may have signed; if it is empty, every key is taken and named in the report. `head`: one that
/// was kept.
pub async fn verify(
    pool: &PgPool,
    trusted: &[PublicKey],
    head: Option<&SealHeader>,
    progress: impl Fn(VerifyProgress),
) -> Result<VerifyReport, VerifyError> {
    let of = sqlx::query_scalar!(r#"SELECT coalesce(max(up_to_position), 0) AS "of!" FROM log_seals"#)
        .fetch_one(pool)
        .await?;
    let mut course = Course { trusted, previous: None, events: 0, keys: BTreeSet::new(), kept: None, head };
    let mut difference = stray_rows(pool).await?;
    while difference.is_none() {
        let number = course.previous.as_ref().map_or(0, |header| header.number);
        let page = read_seals(pool, number, PAGE).await?;
        if page.is_empty() {
            break;
        }
        difference =
            course.check_page(pool, page, |done, events| progress(VerifyProgress { done, of, events })).await?;
    }
    let difference = difference.or_else(|| course.compare_with_head());
    let up_to_position = course.previous.as_ref().map_or(0, |header| header.up_to);
    Ok(VerifyReport {
        seals: course.previous.as_ref().map_or(0, |header| header.number),
        events: course.events,
        up_to_position,
        keys: course.keys,
        difference,
        unsealed: unsealed(pool, up_to_position).await?,
    })
}

/// Positions begin at 1.
async fn stray_rows(pool: &PgPool) -> Result<Option<Difference>, sqlx::Error> {
    let stray = sqlx::query_scalar!("SELECT min(position) FROM events WHERE position < 1").fetch_one(pool).await?;
    Ok(stray.map(|position| Difference { kind: DifferenceKind::RowInserted, position: Some(position), seal: None }))
}

struct Course<'a> {
    trusted: &'a [PublicKey],
    /// The last header that was found to be right.
    previous: Option<SealHeader>,
    events: i64,
    keys: BTreeSet<String>,
    /// The seal with the number of the kept head.
    kept: Option<Hash>,
    head: Option<&'a SealHeader>,
}

impl Course<'_> {
    async fn check_page(
        &mut self,
        pool: &PgPool,
        page: Vec<Seal>,
        progress: impl Fn(Position, i64),
    ) -> Result<Option<Difference>, VerifyError> {
        let read = page.iter().map(|seal| segment_of(pool, seal.clone()));
        let mut segments = stream::iter(read.collect::<Vec<_>>()).buffered(AT_ONCE);
        for seal in page {
            let segment = segments.try_next().await?;
            if let Some(difference) = self.check_seal(&seal) {
                return Ok(Some(difference));
            }
            if let Some(difference) = segment.and_then(|segment| segment.difference(&seal)) {
                return Ok(Some(difference));
            }
            self.events += seal.header.events;
            if self.head.is_some_and(|head| head.number == seal.header.number) {
                self.kept = Some(seal.header.hash());
            }
            progress(seal.header.up_to, self.events);
            self.previous = Some(seal.header);
        }
        Ok(None)
    }

    fn check_seal(&mut self, seal: &Seal) -> Option<Difference> {
        let header = &seal.header;
        let (number, after, hash) = match &self.previous {
            Some(previous) => (previous.number + 1, previous.up_to, previous.hash()),
            None => (1, 0, [0; 32]),
        };
        let difference = |kind, seal| Some(Difference { kind, position: None, seal: Some(seal) });
        if header.number != number {
            return difference(DifferenceKind::SealMissing, number);
        }
        self.keys.insert(header.key.to_string());
        if !seal.is_signed() || header.after != after || header.previous != hash {
            return difference(DifferenceKind::SealChanged, number);
        }
        if !self.trusted.is_empty() && !self.trusted.contains(&header.key) {
            return difference(DifferenceKind::UnknownKey, number);
        }
        None
    }

    fn compare_with_head(&self) -> Option<Difference> {
        let head = self.head?;
        let kind = match self.kept {
            Some(kept) if kept == head.hash() => return None,
            Some(_) => DifferenceKind::Rewritten,
            None => DifferenceKind::CutShort,
        };
        Some(Difference { kind, position: None, seal: Some(head.number) })
    }
}

/// The rows of a segment, hashed.
struct Segment {
    positions: Vec<Position>,
    leaves: Vec<Hash>,
    root: Hash,
}

async fn segment_of(pool: &PgPool, seal: Seal) -> Result<Segment, VerifyError> {
    let header = seal.header;
    let rows: Vec<SealedRow> =
        read_rows(pool, header.after, header.up_to, header.events.saturating_add(EXCESS)).await?;
    let hashed = tokio::task::spawn_blocking(move || {
        let leaves = leaves_of(&rows);
        Segment { positions: rows.iter().map(|row| row.position).collect(), root: root(&leaves), leaves }
    });
    Ok(hashed.await?)
}

impl Segment {
    fn difference(&self, seal: &Seal) -> Option<Difference> {
        let header = &seal.header;
        let events = usize::try_from(header.events).unwrap_or(usize::MAX);
        if self.leaves.len() == events && self.root == header.root {
            return None;
        }
        let difference = |kind, position| Some(Difference { kind, position, seal: Some(header.number) });
        let mut hints = seal.hints.chunks_exact(4 + HINT_HASH).map(|hint| {
            let (offset, hash) = hint.split_at(4);
            let offset = offset.try_into().map_or(0, u32::from_be_bytes);
            (header.after + Position::from(offset), hash)
        });
        for (position, leaf) in self.positions.iter().zip(&self.leaves) {
            match hints.next() {
                None => return difference(DifferenceKind::RowInserted, Some(*position)),
                Some((sealed, _)) if sealed > *position => {
                    return difference(DifferenceKind::RowInserted, Some(*position));
                }
                Some((sealed, _)) if sealed < *position => {
                    return difference(DifferenceKind::RowRemoved, Some(sealed));
                }
                Some((_, hash)) if !leaf.starts_with(hash) => {
                    return difference(DifferenceKind::RowChanged, Some(*position));
                }
                Some(_) => {}
            }
        }
        match hints.next() {
            Some((sealed, _)) => difference(DifferenceKind::RowRemoved, Some(sealed)),
            // The rows are what the hints say, and neither is what was signed.
            None => difference(DifferenceKind::SealChanged, None),
        }
    }
}

async fn unsealed(pool: &PgPool, up_to: Position) -> Result<Unsealed, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "events!", min(position) AS first, max(position) AS last, min(recorded_at) AS oldest,
                  clock_timestamp() AS "now!"
           FROM events WHERE position > $1"#,
        up_to,
    )
    .fetch_one(pool)
    .await?;
    let age = |oldest: DateTime<Utc>| (row.now - oldest).as_seconds_f64().max(0.0);
    Ok(Unsealed {
        events: row.events,
        first_position: row.first,
        last_position: row.last,
        oldest_age_s: row.oldest.map_or(0.0, age),
    })
}
