//! A file of contacts becomes contacts, all of it or nothing.
//!
//! Two passes over the spooled file. The first finds out how to read it and that it can be read to its end, so that a
//! fault of the file is known before the database is asked for anything. The second streams its rows into a temporary
//! table, from which a few statements over all rows bring the contacts up to date. One transaction holds the second
//! pass and the merge; memory is the same for ten rows and for a million.

mod fault;
mod header;
mod reading;
mod records;
mod rows;
mod store;
mod text;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

pub use self::fault::{FileFault, ImportError, RowError};
use self::header::Layout;
use self::reading::{PIECES_WAITING_MAX, Tally};
pub use self::rows::SUPPRESSED;
use crate::erasure::Suppressed;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportOptions {
    /// The largest file that is read, in bytes.
    pub max_bytes: u64,
    /// How many rejected rows the report lists; further ones are only counted.
    pub errors_listed_max: usize,
    /// Numbers that are rejected because their owners were erased.
    pub suppressed: Suppressed,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self { max_bytes: 1024 * 1024 * 1024, errors_listed_max: 1000, suppressed: Suppressed::default() }
    }
}

/// What became of each row: `rows` is the sum of the five counts that follow it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    pub rows: u64,
    pub created: u64,
    pub updated: u64,
    pub unchanged: u64,
    /// Valid rows whose number comes again further down; the last one was taken.
    pub duplicate: u64,
    pub rejected: u64,
    pub errors: Vec<RowError>,
    pub errors_omitted: u64,
    /// A run that starts after this position sees these contacts.
    pub position: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportStage {
    /// The first pass: nothing is stored.
    Checking,
    /// The second pass: rows go into the temporary table.
    Reading,
    /// The contacts are being brought up to date.
    Storing,
}

/// How far the present stage has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    pub stage: ImportStage,
    pub bytes_read: u64,
    pub bytes_total: u64,
    pub rows: u64,
}

/// Imports a CSV file for a tenant. Given up half way (the future dropped), it stores nothing.
pub async fn import(
    pool: &PgPool,
    tenant: TenantId,
    file: &Path,
    now: DateTime<Utc>,
    options: &ImportOptions,
    progress: impl Fn(ImportProgress) + Send + Sync,
) -> Result<ImportReport, ImportError> {
    let bytes_total = tokio::fs::metadata(file).await?.len();
    if bytes_total > options.max_bytes {
        return Err(ImportError::TooLarge { bytes: bytes_total, max_bytes: options.max_bytes });
    }
    let report = |stage, bytes_read, rows| progress(ImportProgress { stage, bytes_read, bytes_total, rows });
    let layout = check(file, &|bytes_read, rows| report(ImportStage::Checking, bytes_read, rows)).await?;

    let mut transaction = pool.begin().await?;
    store::create_staging_in_tx(&mut transaction).await?;
    let tally = stage_in_tx(&mut transaction, file, layout, options, &|bytes_read, rows| {
        report(ImportStage::Reading, bytes_read, rows);
    })
    .await?;
    report(ImportStage::Storing, bytes_total, tally.rows);
    let merged = store::merge_in_tx(&mut transaction, tenant, now).await?;
    transaction.commit().await?;

    Ok(ImportReport {
        rows: tally.rows,
        created: merged.created,
        updated: merged.updated,
        unchanged: merged.unchanged,
        duplicate: merged.duplicate,
        rejected: tally.rejected,
        errors: tally.errors,
        errors_omitted: tally.errors_omitted,
        position: merged.position,
    })
}

/// What a file would bring, row by row; nothing is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileContent {
    pub rows: u64,
    pub rejected: u64,
    pub errors: Vec<RowError>,
    pub errors_omitted: u64,
    /// One line for each row that was not rejected, in the text form of `COPY`: the number of the row, the phone, the
    /// attributes, the segments, whether it agreed.
    pub lines: Vec<u8>,
}

/// Both passes over a file, without a database. Holds all its lines in memory.
pub fn read_file(file: &Path, errors_listed_max: usize) -> Result<FileContent, ImportError> {
    let options = ImportOptions { errors_listed_max, ..ImportOptions::default() };
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    std::thread::scope(|scope| {
        let pass = scope.spawn(move || {
            let layout = reading::check(file, &sender)?;
            reading::read(file, &layout, &options, &sender)
        });
        let mut lines = Vec::new();
        while let Some(piece) = pieces.blocking_recv() {
            lines.extend(piece.lines);
        }
        let tally = pass.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let Tally { rows, rejected, errors, errors_omitted } = tally;
        Ok(FileContent { rows, rejected, errors, errors_omitted, lines })
    })
}

async fn check(file: &Path, progress: &(impl Fn(u64, u64) + Sync)) -> Result<Layout, ImportError> {
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let path = file.to_owned();
    let pass = spawn_blocking(move || reading::check(&path, &sender));
    while let Some(piece) = pieces.recv().await {
        progress(piece.bytes_read, piece.rows);
    }
    finished(pass).await
}

async fn stage_in_tx(
    connection: &mut PgConnection,
    file: &Path,
    layout: Layout,
    options: &ImportOptions,
    progress: &(impl Fn(u64, u64) + Sync),
) -> Result<Tally, ImportError> {
    let mut copy = connection.copy_in_raw(store::COPY).await?;
    let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
    let path = file.to_owned();
    let options = options.clone();
    let pass = spawn_blocking(move || reading::read(&path, &layout, &options, &sender));
    while let Some(piece) = pieces.recv().await {
        if !piece.lines.is_empty() {
            copy.send(piece.lines).await?;
        }
        progress(piece.bytes_read, piece.rows);
    }
    match finished(pass).await {
        Ok(tally) => {
            copy.finish().await?;
            Ok(tally)
        }
        Err(error) => {
            copy.abort("the file could not be read a second time").await?;
            Err(error)
        }
    }
}

async fn finished<T>(pass: JoinHandle<Result<T, ImportError>>) -> Result<T, ImportError> {
    match pass.await {
        Ok(result) => result,
        Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
        Err(failed) => Err(io::Error::other(failed).into()),
    }
}
