//! Writing the log to a file, so that an interruption costs nothing and a short file never looks complete.

use std::fs::{File, OpenOptions};
use std::io::{BufRead as _, BufReader, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use domain::aggregate::Position;
use infrastructure::event_feed::{HighWaterMark, position_at};
use projections::audit::log;
use serde::Serialize;
use serde_json::Value;

use super::super::audit::{instant_of, position_of};
use super::super::context::Context;
use super::super::error::{Failure, UsageError};
use super::super::installation::Installation;
use super::super::output::count;
use super::{FilterArgs, PAGE, SCAN_MAX, STALL_WARNING, line_of};

#[derive(Debug, clap::Args)]
pub struct ExportArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Begin behind this position.
    #[arg(long, value_name = "POSITION", default_value_t = 0, conflicts_with = "since")]
    after: Position,
    /// Begin with this time.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// End with this position or time; with the end of the log by default.
    #[arg(long, value_name = "TIME|POSITION")]
    until: Option<String>,
    /// The file to write; stdout by default.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on with the file that an interrupted export has left.
    #[arg(long, requires = "output")]
    resume: bool,
}

#[derive(Serialize)]
struct ExportAnswer {
    file: PathBuf,
    events: i64,
    /// Everything up to here was looked at: where a later export goes on.
    position: Position,
}

pub(super) async fn run(args: &ExportArgs, installation: &Installation, context: &Context) -> anyhow::Result<()> {
    let pool = &installation.pool;
    let filter = args.filter.read(pool).await?;
    let mark = HighWaterMark::new(pool.clone(), STALL_WARNING).advance().await?;
    let until = match &args.until {
        Some(text) => position_of(pool, &instant_of(pool, text).await?).await?.min(mark),
        None => mark,
    };
    let begin = match &args.since {
        Some(text) => match instant_of(pool, text).await? {
            super::super::audit::Instant::Position(position) => position - 1,
            super::super::audit::Instant::Time(time) => {
                // Those of the instant itself belong to it.
                position_at(pool, time - chrono::TimeDelta::microseconds(1)).await?
            }
        },
        None => args.after,
    };
    let Some(path) = &args.output else {
        return to_stdout(pool, &filter, begin, until, context).await;
    };
    let (mut writer, mut after, mut written) = open(path, args.resume, begin)?;
    let progress = context.out.progress("exporting events", until.unsigned_abs());
    while after < until {
        let page = log::page(pool, &filter, after, until, PAGE, SCAN_MAX).await?;
        for event in &page.events {
            writeln!(writer, "{}", line_of(event)?)?;
            written += 1;
        }
        after = page.next_after;
        progress.set_position(after.unsigned_abs());
    }
    writer.flush()?;
    writer.get_ref().sync_all()?;
    progress.finish();
    complete(pool, &filter, begin, until, written).await?;
    let answer = ExportAnswer { file: path.clone(), events: written, position: until };
    context.out.answer(&answer, |_| {
        format!(
            "{} events up to position {} are in {}.",
            count(answer.events),
            count(answer.position),
            answer.file.display()
        )
    })
}

async fn to_stdout(
    pool: &sqlx::PgPool,
    filter: &log::EventFilter,
    begin: Position,
    until: Position,
    context: &Context,
) -> anyhow::Result<()> {
    let (mut after, mut written) = (begin, 0);
    while after < until {
        let page = log::page(pool, filter, after, until, PAGE, SCAN_MAX).await?;
        for event in &page.events {
            context.out.line(&line_of(event)?);
            written += 1;
        }
        after = page.next_after;
    }
    complete(pool, filter, begin, until, written).await
}

/// An export that has left something out must not look complete.
async fn complete(
    pool: &sqlx::PgPool,
    filter: &log::EventFilter,
    begin: Position,
    until: Position,
    written: i64,
) -> anyhow::Result<()> {
    let in_log = log::count(pool, filter, begin, until).await?;
    if in_log == written {
        return Ok(());
    }
    Err(Failure::new(format!("{written} events were written, but the log has {in_log} in this stretch"))
        .next("export again without --resume, into another file")
        .into())
}

/// Answers the file, the position behind which to go on, and the events that are in it already.
fn open(path: &Path, resume: bool, begin: Position) -> anyhow::Result<(BufWriter<File>, Position, i64)> {
    let shown = path.display();
    let unwritable = |error| Failure::new(format!("{shown} cannot be written")).because(error);
    if !resume {
        let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
            let failure = unwritable(error);
            if path.exists() { failure.next("--resume goes on with it; or name another file") } else { failure }
        })?;
        return Ok((BufWriter::new(file), begin, 0));
    }
    let mut file = OpenOptions::new().read(true).write(true).open(path).map_err(unwritable)?;
    let (mut kept, mut last, mut lines) = (0_u64, begin, 0_i64);
    let mut reader = BufReader::new(&mut file);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        // A line without an end is what the interruption has left.
        if read == 0 || line.last() != Some(&b'\n') {
            break;
        }
        let position = serde_json::from_slice::<Value>(&line).ok().and_then(|event| event["position"].as_i64());
        let Some(position) = position.filter(|position| *position > last) else {
            return Err(UsageError::new(format!("{shown} is not an export: its line {} is no event", lines + 1)).into());
        };
        (kept, last, lines) = (kept + u64::try_from(read).unwrap_or(u64::MAX), position, lines + 1);
    }
    file.set_len(kept)?;
    file.seek(SeekFrom::End(0))?;
    Ok((BufWriter::new(file), last, lines))
}
