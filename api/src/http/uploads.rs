//! The upload of contacts: the file goes to a spool on disk as it arrives, is imported from there, and is deleted
//! whatever happened. Memory stays the same for any file, and no transaction waits for a slow client.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest as _, Multipart, Request, State};
use axum::{Extension, Json};
use futures::{Stream, StreamExt as _};
use infrastructure::contacts::{ImportError, ImportOptions, ImportReport, import};
use serde::Serialize;
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt as _, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::auth::Caller;
use super::body::{drain, media_type, too_large};
use super::fields::Faults;
use super::problem::{Answer, Problem, ProblemKind, chain};
use super::state::ApiState;

/// Uploads that may be received or waiting at once; each has a file in the spool.
const UPLOADS_MAX: usize = 32;
/// Imports that may run at once; each holds a connection to the database.
const IMPORTS_MAX: usize = 4;
const ERRORS_LISTED_MAX: usize = 1000;
const WRITE_BUFFER_BYTES: usize = 1024 * 1024;
const SPOOL_PREFIX: &str = "upload-";

/// How many uploads are taken at once.
#[derive(Clone)]
pub(super) struct UploadSlots {
    uploads: Arc<Semaphore>,
    imports: Arc<Semaphore>,
}

impl UploadSlots {
    pub(super) fn new() -> Self {
        Self { uploads: Arc::new(Semaphore::new(UPLOADS_MAX)), imports: Arc::new(Semaphore::new(IMPORTS_MAX)) }
    }

    fn enter(&self) -> Answer<OwnedSemaphorePermit> {
        Arc::clone(&self.uploads).try_acquire_owned().map_err(|_| {
            let detail = format!("{UPLOADS_MAX} uploads are under way, which is as many as are taken at once.");
            Problem::new(ProblemKind::TooManyRequests, detail)
        })
    }
}

/// What became of each row; `rows` is the sum of the five counts that follow it.
#[derive(Serialize, ToSchema)]
pub(super) struct UploadReport {
    rows: u64,
    created: u64,
    updated: u64,
    unchanged: u64,
    /// Valid rows whose number comes again further down; the last one was taken.
    duplicate: u64,
    rejected: u64,
    /// The first 1,000 rejected rows.
    errors: Vec<UploadRowFault>,
    errors_omitted: u64,
    /// A run that starts after this position sees these contacts.
    position: i64,
}

/// Why one row was rejected.
#[derive(Serialize, ToSchema)]
pub(super) struct UploadRowFault {
    /// The header is row 1.
    row: u64,
    /// As the file has it; null if the row as a whole is at fault.
    column: Option<String>,
    reason: String,
}

impl From<ImportReport> for UploadReport {
    fn from(report: ImportReport) -> Self {
        let errors = report.errors.into_iter();
        Self {
            rows: report.rows,
            created: report.created,
            updated: report.updated,
            unchanged: report.unchanged,
            duplicate: report.duplicate,
            rejected: report.rejected,
            errors: errors.map(|e| UploadRowFault { row: e.row, column: e.column, reason: e.reason }).collect(),
            errors_omitted: report.errors_omitted,
            position: report.position,
        }
    }
}

/// The form of an upload.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it documents the form, which is read as a stream")]
pub(super) struct UploadForm {
    /// A CSV file whose first row names the columns, one of them `phone`.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Takes a CSV file of contacts, as the multipart field `file` or as the body itself. A fault of the file stores
/// nothing; a bad row is rejected alone.
#[utoipa::path(
    post,
    path = "/v1/contacts/upload",
    tag = "contacts",
    operation_id = "upload_contacts",
    request_body(content((UploadForm = "multipart/form-data"), (String = "text/csv"))),
    responses((status = 200, body = UploadReport))
)]
pub(super) async fn upload(
    State(state): State<ApiState>,
    Extension(slots): Extension<UploadSlots>,
    caller: Caller,
    request: Request,
) -> Answer<Json<UploadReport>> {
    let _place = slots.enter()?;
    let bytes_max = state.config.http.upload_max_bytes;
    let mut spool = Spool::create(&state.upload_dir, bytes_max, state.config.http.request_timeout()).await?;
    match media_type(request.headers()).as_deref() {
        Some("multipart/form-data") => {
            let form = Multipart::from_request(request, &()).await.map_err(|_| broken_form())?;
            receive_form(form, &mut spool).await?;
        }
        Some("text/csv") => spool.receive(request.into_body().into_data_stream()).await?,
        _ => {
            let detail = "Send the file as the field file of multipart/form-data, or as the body with text/csv.";
            return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
        }
    }
    let file = spool.finish().await?;
    let _turn = slots.imports.acquire().await.map_err(|_| Problem::unavailable())?;
    let options = ImportOptions {
        max_bytes: u64::try_from(bytes_max).unwrap_or(u64::MAX),
        errors_listed_max: ERRORS_LISTED_MAX,
        suppressed: state.eraser.suppressed(caller.tenant.id).await?,
    };
    let report = import(&state.pool, caller.tenant.id, &file, state.clock.now(), &options, |_| {}).await;
    Ok(Json(report.map_err(|error| refused(error, bytes_max))?.into()))
}

async fn receive_form(mut form: Multipart, spool: &mut Spool) -> Answer<()> {
    let mut received = false;
    while let Some(field) = arrived(spool.silence_max, form.next_field()).await?.map_err(|_| broken_form())? {
        let fault = match field.name() {
            Some("file") if !received => {
                received = true;
                spool.receive(field).await?;
                continue;
            }
            Some("file") => Problem::field("file", "is given twice; upload one file at a time"),
            other => {
                let mut faults = Faults::default();
                faults.unknown("", other.unwrap_or_default(), &["file"]);
                faults.into_problem()
            }
        };
        drain(field).await;
        return Err(fault);
    }
    if received { Ok(()) } else { Err(Problem::field("file", "is missing; send the CSV file as this field")) }
}

/// A client that sends nothing for a while is given up: it would keep its place from others.
async fn arrived<T>(silence_max: Duration, next: impl Future<Output = T>) -> Answer<T> {
    timeout(silence_max, next).await.map_err(|_| {
        Problem::new(ProblemKind::BadBody, format!("Nothing more of the body came for {} s.", silence_max.as_secs()))
    })
}

fn broken_form() -> Problem {
    Problem::new(ProblemKind::BadBody, "The form could not be read to its end as multipart/form-data.")
}

fn refused(error: ImportError, bytes_max: usize) -> Problem {
    match error {
        ImportError::File(fault) => Problem::field("file", fault),
        ImportError::TooLarge { .. } => too_large(bytes_max),
        ImportError::Database(error) => error.into(),
        ImportError::Io(error) => spool_failed(&error),
    }
}

fn spool_failed(error: &io::Error) -> Problem {
    tracing::error!(error = chain(error), "the spool of uploads cannot be used");
    Problem::new(ProblemKind::Unavailable, "The file cannot be taken in now. Try again.")
}

/// A file of the spool while it is written. It is deleted when its path is dropped, also if the client hangs up.
struct Spool {
    file: BufWriter<File>,
    path: TempPath,
    bytes: usize,
    bytes_max: usize,
    silence_max: Duration,
}

impl Spool {
    async fn create(dir: &Path, bytes_max: usize, silence_max: Duration) -> Answer<Self> {
        let dir = dir.to_owned();
        let created = spawn_blocking(move || {
            std::fs::create_dir_all(&dir)?;
            // Readable by its owner alone, like everything that holds phone numbers.
            tempfile::Builder::new().prefix(SPOOL_PREFIX).suffix(".csv").tempfile_in(&dir)
        });
        let created = created.await.map_err(io::Error::other).and_then(|created| created);
        let (file, path) = created.map_err(|error| spool_failed(&error))?.into_parts();
        let file = BufWriter::with_capacity(WRITE_BUFFER_BYTES, File::from_std(file));
        Ok(Self { file, path, bytes: 0, bytes_max, silence_max })
    }

    async fn receive<E>(&mut self, mut pieces: impl Stream<Item = Result<Bytes, E>> + Unpin) -> Answer<()> {
        while let Some(piece) = arrived(self.silence_max, pieces.next()).await? {
            let piece =
                piece.map_err(|_| Problem::new(ProblemKind::BadBody, "The file could not be received to its end."))?;
            self.bytes += piece.len();
            if self.bytes > self.bytes_max {
                drain(pieces).await;
                return Err(too_large(self.bytes_max));
            }
            self.file.write_all(&piece).await.map_err(|error| spool_failed(&error))?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Answer<TempPath> {
        self.file.flush().await.map_err(|error| spool_failed(&error))?;
        Ok(self.path)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn pieces(pieces: &[&'static str]) -> impl Stream<Item = Result<Bytes, io::Error>> + Unpin + use<> {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        stream::iter(pieces)
    }

    const SILENCE_MAX: Duration = Duration::from_secs(30);

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn a_file_is_spooled_whole_and_deleted_when_it_was_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(&dir.path().join("spool"), 12, SILENCE_MAX).await.unwrap();
        spool.receive(pieces(&["phone\n", "981234"])).await.unwrap();
        let path = spool.finish().await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"phone\n981234");
        drop(path);
        assert_eq!(files(&dir.path().join("spool")), 0);
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_or_breaks_off_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path(), 11, SILENCE_MAX).await.unwrap();
        assert_eq!(spool.receive(pieces(&["phone\n", "981234"])).await.unwrap_err().kind, ProblemKind::TooLarge);
        drop(spool);
        let mut spool = Spool::create(dir.path(), 11, SILENCE_MAX).await.unwrap();
        let broken = pieces(&["phone\n"]).chain(stream::iter([Err(io::Error::other("gone"))]));
        assert_eq!(spool.receive(broken).await.unwrap_err().kind, ProblemKind::BadBody);
        drop(spool);
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_falls_silent_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path(), 11, SILENCE_MAX).await.unwrap();
        let silent = pieces(&["phone\n"]).chain(stream::pending());
        assert_eq!(spool.receive(silent).await.unwrap_err().kind, ProblemKind::BadBody);
    }

    #[test]
    fn there_is_a_bound_to_uploads_at_once() {
        let slots = UploadSlots::new();
        let entered: Vec<_> = (0..UPLOADS_MAX).map(|_| slots.enter().unwrap()).collect();
        assert_eq!(slots.enter().unwrap_err().kind, ProblemKind::TooManyRequests);
        drop(entered);
        assert!(slots.enter().is_ok());
    }
}
