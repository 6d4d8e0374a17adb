//! `ektola contacts`: a file of contacts straight into the installation, by the same import as over HTTP, and what a person
//! at the tenant records about a contact's consent.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::aggregate::CommandEnvelope;
use domain::consent::{Consent, ConsentCommand, ConsentSource};
use domain::phone::{self, Phone, PhoneError};
use infrastructure::contacts::{self, ImportError, ImportOptions, ImportProgress, ImportReport, ImportStage};
use infrastructure::erasure::{Eraser, SuppressionKey};
use infrastructure::event_store::{Actor, Addressed, BatchConfig, Committed, ConsentStore};
use serde::Serialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::context::Context;
use super::error::Failure;
use super::installation::Installation;
use super::output::{Align, Output, Progress, Table, count};
use super::tenant;

/// Rejected rows in the text; `--json` has more.
const ERRORS_SHOWN_MAX: usize = 20;

#[derive(Debug, clap::Subcommand)]
pub enum ContactsCommand {
    /// Import a CSV file of contacts; a faulty row is rejected alone, a faulty file stores nothing.
    ///
    /// The first row names the columns, one of them `phone`; the column `segments` puts contacts into segments, `opt_in`
    /// says whether they agreed to messages, all others become attributes. Comma, semicolon, tab and pipe are understood, and so are UTF-8, UTF-16 and
    /// Windows-1252.
    Import(ImportArgs),
    /// Record that somebody wants no messages at all; what is queued is cancelled, and no upload lifts it.
    OptOut(ConsentArgs),
    /// Record that somebody agreed to messages.
    OptIn(ConsentArgs),
    /// Record that somebody wants no offers; reminders still come.
    StopMarketing(ConsentArgs),
    /// Record that somebody wants offers again.
    ResumeMarketing(ConsentArgs),
    /// Erase somebody: every personal value goes, and the number is not taken up again.
    Erase(ConsentArgs),
    /// Let the number of somebody who was erased be taken up again, since the person has agreed anew.
    Readmit(ConsentArgs),
}

#[derive(Debug, clap::Args)]
pub struct ConsentArgs {
    /// The number, in any form that an upload takes.
    #[arg(long, value_name = "NUMBER", value_parser = phone_argument)]
    phone: Phone,
    /// The tenant whose contact it is; the only one, or `demo`, by default.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

fn phone_argument(text: &str) -> Result<Phone, PhoneError> {
    phone::normalize(text)
}

#[derive(Serialize)]
struct ConsentAnswer {
    contact_id: String,
    opted_out: bool,
    marketing_stopped: bool,
    /// Was it known before?
    changed: bool,
}

#[derive(Debug, clap::Args)]
pub struct ImportArgs {
    /// The CSV file.
    file: PathBuf,
    /// The tenant that gets the contacts; the only one, or `demo`, by default.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
}

pub async fn run(command: ContactsCommand, context: &Context) -> anyhow::Result<()> {
    let (source, said_at) = (ConsentSource::Operator, context.clock.now());
    match command {
        ContactsCommand::Import(args) => import(&args, context).await,
        ContactsCommand::OptOut(args) => record(&args, context, ConsentCommand::OptOut { source, said_at }).await,
        ContactsCommand::OptIn(args) => {
            record(&args, context, ConsentCommand::OptIn { source, wording: None, said_at }).await
        }
        ContactsCommand::StopMarketing(args) => {
            record(&args, context, ConsentCommand::StopMarketing { source, said_at }).await
        }
        ContactsCommand::ResumeMarketing(args) => {
            record(&args, context, ConsentCommand::ResumeMarketing { source, said_at }).await
        }
        ContactsCommand::Erase(args) => erase(&args, context).await,
        ContactsCommand::Readmit(args) => readmit(&args, context).await,
    }
}

#[derive(Serialize)]
struct ErasureAnswer {
    contact_id: String,
    /// The place in the log at which the contact is erased.
    position: i64,
}

/// With an eraser of its own, beside that of a running engine.
async fn with_eraser<T>(
    installation: &Installation,
    context: &Context,
    work: impl AsyncFnOnce(&Eraser) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (writers, stop) = (TaskTracker::new(), CancellationToken::new());
    let config = context.load_config()?;
    let eraser = Eraser {
        pool: installation.pool.clone(),
        clock: context.clock.clone(),
        consents: ConsentStore::start(&installation.pool, &BatchConfig::default(), &writers, &stop),
        key: SuppressionKey::load_or_create(&config.erasure.key_file(&context.data))?,
        http: Eraser::client()?,
    };
    let done = work(&eraser).await;
    stop.cancel();
    writers.close();
    writers.wait().await;
    done
}

async fn erase(args: &ConsentArgs, context: &Context) -> anyhow::Result<()> {
    let answer = context
        .on_installation(async |installation: &Installation| {
            let tenant = tenant::choose(&installation.pool, args.tenant.as_deref()).await?;
            let known = contacts::find_by_phone(&installation.pool, tenant.id, &args.phone).await?;
            let contact = known.ok_or_else(|| Failure::new("no contact has this number"))?.id;
            with_eraser(installation, context, async |eraser: &Eraser| {
                let erased = eraser.erase(tenant.id, contact, Actor::Operator).await?;
                Ok(ErasureAnswer { contact_id: contact.to_string(), position: erased.position })
            })
            .await
        })
        .await?;
    context.out.answer(&answer, |_| {
        format!("Contact {} is erased, from position {} of the log on.", answer.contact_id, count(answer.position))
    })
}

#[derive(Serialize)]
struct ReadmitAnswer {
    /// Was it suppressed?
    changed: bool,
}

async fn readmit(args: &ConsentArgs, context: &Context) -> anyhow::Result<()> {
    let answer = context
        .on_installation(async |installation: &Installation| {
            let tenant = tenant::choose(&installation.pool, args.tenant.as_deref()).await?;
            with_eraser(installation, context, async |eraser: &Eraser| {
                Ok(ReadmitAnswer { changed: eraser.readmit(tenant.id, &args.phone).await? })
            })
            .await
        })
        .await?;
    context.out.answer(&answer, |_| match answer.changed {
        true => "The number may be uploaded again.".to_owned(),
        false => "The number was not suppressed.".to_owned(),
    })
}

async fn record(args: &ConsentArgs, context: &Context, command: ConsentCommand) -> anyhow::Result<()> {
    let answer = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenant = tenant::choose(pool, args.tenant.as_deref()).await?;
            let now = context.clock.now();
            let contact = match &command {
                // Somebody who is not known yet may be uploaded tomorrow.
                ConsentCommand::OptOut { .. } | ConsentCommand::StopMarketing { .. } => {
                    contacts::ensure_contact(pool, tenant.id, &args.phone, now).await?
                }
                ConsentCommand::OptIn { .. } | ConsentCommand::ResumeMarketing { .. } | ConsentCommand::Erase => {
                    let known = contacts::find_by_phone(pool, tenant.id, &args.phone).await?;
                    let known = known.ok_or_else(|| Failure::new("no contact has this number"))?;
                    known.id
                }
            };
            let envelope = CommandEnvelope::new(tenant.id, now, command);
            let committed = give(pool, Addressed::new(contact, envelope, Actor::Operator)).await?;
            Ok(ConsentAnswer {
                contact_id: contact.to_string(),
                opted_out: committed.state.opted_out(),
                marketing_stopped: committed.state.marketing_stopped(),
                changed: !committed.events.is_empty(),
            })
        })
        .await?;
    context.out.answer(&answer, |_| {
        let state = match (answer.opted_out, answer.marketing_stopped) {
            (true, _) => "gets no messages",
            (false, true) => "gets reminders but no offers",
            (false, false) => "may get reminders and offers",
        };
        format!("Contact {} {state}.", answer.contact_id)
    })
}

async fn give(pool: &PgPool, command: Addressed<ConsentCommand>) -> anyhow::Result<Committed<Consent>> {
    let (writers, stop) = (TaskTracker::new(), CancellationToken::new());
    let consents = ConsentStore::start(pool, &BatchConfig::default(), &writers, &stop);
    let given = consents.execute(command).await;
    stop.cancel();
    writers.close();
    writers.wait().await;
    Ok(given?)
}

async fn import(args: &ImportArgs, context: &Context) -> anyhow::Result<()> {
    let size = size_of(&args.file)?;
    let config = context.load_config()?;
    let options = ImportOptions {
        max_bytes: u64::try_from(config.http.upload_max_bytes).unwrap_or(u64::MAX),
        ..ImportOptions::default()
    };
    let report = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenant = tenant::choose(pool, args.tenant.as_deref()).await?;
            let suppressed = with_eraser(installation, context, async |eraser: &Eraser| {
                eraser.check_key().await?;
                Ok(eraser.suppressed(tenant.id).await?)
            })
            .await?;
            let options = ImportOptions { suppressed, ..options };
            let shown = Shown::new(context.out.progress_in_bytes(title(ImportStage::Checking), size));
            let show = |progress| shown.show(progress);
            let report = contacts::import(pool, tenant.id, &args.file, context.clock.now(), &options, show)
                .await
                .map_err(|error| refused(&args.file, error))?;
            shown.progress.finish();
            Ok(report)
        })
        .await?;
    context.out.answer(&report, |out| text_of(&report, *out))
}

/// Said before any server is started for nothing.
fn size_of(file: &Path) -> Result<u64, Failure> {
    let unreadable = |error| Failure::new(format!("{} cannot be read", file.display())).because(error);
    let metadata = std::fs::File::open(file).and_then(|file| file.metadata()).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(Failure::new(format!("{} is a folder, not a CSV file", file.display())));
    }
    Ok(metadata.len())
}

fn refused(file: &Path, error: ImportError) -> anyhow::Error {
    let message = format!("{} is not imported, nothing is stored", file.display());
    match error {
        ImportError::File(_) | ImportError::TooLarge { .. } => Failure::new(message).because(error).into(),
        ImportError::Io(source) => Failure::new(message).because(source).into(),
        ImportError::Database(_) => Failure::new(message).because(error).next("import the file once more").into(),
    }
}

fn title(stage: ImportStage) -> &'static str {
    match stage {
        ImportStage::Checking => "checking the file",
        ImportStage::Reading => "reading",
        ImportStage::Storing => "storing",
    }
}

/// The progress of an import, stage by stage.
struct Shown {
    progress: Progress,
    stage: Mutex<ImportStage>,
}

impl Shown {
    fn new(progress: Progress) -> Self {
        Self { progress, stage: Mutex::new(ImportStage::Checking) }
    }

    fn show(&self, now: ImportProgress) {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if *stage != now.stage {
            *stage = now.stage;
            // How long the database takes to bring the contacts up to date cannot be told from bytes.
            let length = if now.stage == ImportStage::Storing { 0 } else { now.bytes_total };
            self.progress.restart(title(now.stage), length);
        }
        if now.stage == ImportStage::Storing {
            self.progress.set_message(&format!("{} rows", count(now.rows)));
        } else {
            self.progress.set_position(now.bytes_read);
            self.progress.set_message(&rate(now.rows, self.progress.elapsed()));
        }
    }
}

fn rate(rows: u64, elapsed: Duration) -> String {
    let per_second = u128::from(rows) * 1000 / elapsed.as_millis().max(1);
    let per_second = u64::try_from(per_second).unwrap_or(u64::MAX);
    // In the first moment any rate would be an accident.
    if elapsed < Duration::from_secs(1) {
        format!("{} rows", count(rows))
    } else {
        format!("{} rows, {} rows/s", count(rows), count(per_second))
    }
}

fn text_of(report: &ImportReport, out: Output) -> String {
    let mut counts = Table::new([("", Align::Left), ("", Align::Right)]);
    for (name, number) in [
        ("rows", report.rows),
        ("created", report.created),
        ("updated", report.updated),
        ("unchanged", report.unchanged),
        ("duplicate", report.duplicate),
        ("rejected", report.rejected),
    ] {
        counts.row([name.to_owned(), count(number)]);
    }
    let mut text = out.table(&counts);
    if report.errors.is_empty() {
        return text;
    }
    let mut errors = Table::new([("row", Align::Right), ("column", Align::Left), ("reason", Align::Left)]);
    for error in report.errors.iter().take(ERRORS_SHOWN_MAX) {
        errors.row([count(error.row), error.column.clone().unwrap_or_default(), error.reason.clone()]);
    }
    text.push_str("\n\n");
    text.push_str(&out.table(&errors));
    let listed = u64::try_from(report.errors.len().min(ERRORS_SHOWN_MAX)).unwrap_or(u64::MAX);
    let more = report.rejected.saturating_sub(listed);
    if more > 0 {
        text.push_str(&format!("\nand {} more; --json lists the first {}", count(more), count(listed_max())));
    }
    text
}

fn listed_max() -> u64 {
    u64::try_from(ImportOptions::default().errors_listed_max).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use infrastructure::contacts::RowError;

    use super::*;

    fn report(rejected: u64, listed: u64) -> ImportReport {
        let error = |row| RowError { row, column: Some("phone".to_owned()), reason: "too short".to_owned() };
        ImportReport {
            rows: 1000 + rejected,
            created: 990,
            updated: 4,
            unchanged: 3,
            duplicate: 3,
            rejected,
            errors: (2..2 + listed).map(error).collect(),
            errors_omitted: rejected - listed,
            position: 7,
        }
    }

    #[test]
    fn the_report_has_all_counts_and_the_first_errors() {
        let out = Output::plain();
        let text = text_of(&report(1200, 1000), out);
        for part in ["rows       2,200", "created      990", "rejected   1,200", "and 1,180 more"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(text.matches("too short").count(), ERRORS_SHOWN_MAX);
        assert!(!text_of(&report(20, 20), out).contains("more"));
        assert!(!text_of(&report(0, 0), out).contains("reason"));
    }

    #[tokio::test]
    async fn each_stage_has_a_progress_of_its_own() {
        let shown = Shown::new(Output::plain().progress_in_bytes("checking the file", 100));
        let at = |stage, bytes_read| ImportProgress { stage, bytes_read, bytes_total: 100, rows: 5 };
        shown.show(at(ImportStage::Checking, 100));
        shown.show(at(ImportStage::Reading, 50));
        assert_eq!(*shown.stage.lock().unwrap(), ImportStage::Reading);
        shown.show(at(ImportStage::Storing, 100));
        assert_eq!(*shown.stage.lock().unwrap(), ImportStage::Storing);
    }

    #[test]
    fn the_rate_counts_from_the_first_second_on() {
        assert_eq!(rate(1500, Duration::from_millis(10)), "1,500 rows");
        assert_eq!(rate(3000, Duration::from_secs(2)), "3,000 rows, 1,500 rows/s");
    }

    #[test]
    fn a_folder_or_nothing_is_no_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(size_of(folder.path()).is_err());
        assert!(size_of(&folder.path().join("no.csv")).is_err());
        std::fs::write(folder.path().join("a.csv"), "phone\n").unwrap();
        assert_eq!(size_of(&folder.path().join("a.csv")).unwrap(), 6);
    }
}
