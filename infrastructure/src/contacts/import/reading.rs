//! The two passes over the file. Both are synchronous and hand what they find to the import over a bounded channel, so
//! that a slow database slows the reading down and memory stays the same for any file.

use std::path::Path;

use tokio::sync::mpsc;

use super::ImportOptions;
use super::fault::{ImportError, RowError};
use super::header::{Layout, read_layout};
use super::records::{Record, RecordReader};
use super::rows::RowWriter;
use super::text::Encoding;

/// How much of the staging table's lines goes into one piece.
const PIECE_BYTES: usize = 256 * 1024;
/// How many rows there are at most between two signs of life.
const PIECE_ROWS: u64 = 20_000;
pub(super) const PIECES_WAITING_MAX: usize = 4;

/// What a pass hands over as it goes.
pub(super) struct Piece {
    pub(super) bytes_read: u64,
    pub(super) rows: u64,
    /// Lines for the staging table; the first pass has none.
    pub(super) lines: Vec<u8>,
}

/// What the second pass counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) rejected: u64,
    pub(super) errors: Vec<RowError>,
    pub(super) errors_omitted: u64,
}

/// The first pass: finds out how to read the file, and that it can be read to its end.
pub(super) fn check(path: &Path, pieces: &mpsc::Sender<Piece>) -> Result<Layout, ImportError> {
    let layout = read_layout(path, Encoding::detect(path)?)?;
    let mut records = RecordReader::open(path, layout.encoding, layout.delimiter)?;
    let mut record = Record::default();
    while records.read(&mut record)? {
        if records.row() % PIECE_ROWS == 0 {
            hand_over(pieces, &records, Vec::new())?;
        }
    }
    Ok(layout)
}

/// The second pass: turns every row into a line of the staging table or rejects it.
pub(super) fn read(
    path: &Path,
    layout: &Layout,
    options: &ImportOptions,
    pieces: &mpsc::Sender<Piece>,
) -> Result<Tally, ImportError> {
    let mut records = RecordReader::open(path, layout.encoding, layout.delimiter)?;
    let mut writer = RowWriter::new(layout, &options.suppressed);
    let mut record = Record::default();
    let mut lines = Vec::with_capacity(PIECE_BYTES);
    let mut tally = Tally::default();
    records.read(&mut record)?;
    while records.read(&mut record)? {
        tally.rows += 1;
        if let Err(error) = writer.write(records.row(), &record, &mut lines) {
            tally.rejected += 1;
            if tally.errors.len() < options.errors_listed_max {
                tally.errors.push(error);
            } else {
                tally.errors_omitted += 1;
            }
        }
        if lines.len() >= PIECE_BYTES || tally.rows % PIECE_ROWS == 0 {
            hand_over(pieces, &records, std::mem::replace(&mut lines, Vec::with_capacity(PIECE_BYTES)))?;
        }
    }
    hand_over(pieces, &records, lines)?;
    Ok(tally)
}

/// Fails if nobody waits for the pieces any more: then the import has failed or was given up.
fn hand_over(pieces: &mpsc::Sender<Piece>, records: &RecordReader, lines: Vec<u8>) -> Result<(), ImportError> {
    let piece = Piece { bytes_read: records.bytes_read(), rows: records.row().saturating_sub(1), lines };
    pieces.blocking_send(piece).map_err(|_| std::io::Error::from(std::io::ErrorKind::BrokenPipe).into())
}
