//! `make bench [ONLY=PART]`: measures the shipped binary on private servers.
//!
//! Every part compares with something real of the same run. One table of all figures goes to stdout, and everything to
//! `target/bench/report.json`, nested by the dots of the keys; a part that was not run keeps its place there. Every part
//! ends within ten minutes. Ctrl-C, a failure and the end of whoever started it leave no process and no folder behind.
//!
//! `EKTOLA_BENCH_DIVISOR=20` makes everything 20 times smaller, to try the bench itself; such a report is a file of its
//! own. Keys of the engine's configuration (`EKTOLA_MESSAGES__BATCH_MAX=…`) reach the engine and are in the report.

mod append;
mod audit;
mod ceiling;
mod end_to_end;
mod engine;
mod explain;
mod facts;
mod fan_out;
mod growth;
mod installation;
mod interruption;
mod life;
mod own_store;
mod pacing;
mod past;
mod play;
mod process;
mod progress;
mod rebuild;
mod receiver;
mod report;
mod sandbox;
mod site;
mod stage;
mod statistics;
mod table;
mod usage;
mod webhooks;

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use infrastructure::clock::Clock;

use crate::facts::Facts;
use crate::interruption::Interruptions;
use crate::report::{Figures, Report, Row};
use crate::site::Site;
use crate::usage::Work;

const PART_MAX: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Append,
    EndToEnd,
    Webhooks,
    Pacing,
    FanOut,
    Growth,
    Rebuild,
    Explain,
    Audit,
}

impl Part {
    /// In the order in which they are run.
    const ALL: [Self; 9] = [
        Self::Append,
        Self::EndToEnd,
        Self::Webhooks,
        Self::Pacing,
        Self::FanOut,
        Self::Growth,
        Self::Rebuild,
        Self::Explain,
        Self::Audit,
    ];

    /// The first word of its keys.
    fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::EndToEnd => "end_to_end",
            Self::Webhooks => "webhooks",
            Self::Pacing => "pacing",
            Self::FanOut => "fan_out",
            Self::Growth => "growth",
            Self::Rebuild => "rebuild",
            Self::Explain => "explain",
            Self::Audit => "audit",
        }
    }

    fn needs_rabbitmq(self) -> bool {
        match self {
            Self::Append | Self::Webhooks | Self::Explain | Self::Audit => false,
            Self::EndToEnd | Self::Pacing | Self::FanOut | Self::Growth | Self::Rebuild => true,
        }
    }

    /// What is found before a failure counts all the same.
    async fn measure(self, site: &Site, figures: &mut Figures) -> Result<()> {
        match self {
            Self::Append => append::measure(site, figures).await,
            Self::EndToEnd => end_to_end::measure(site, figures).await,
            Self::Webhooks => webhooks::measure(site, figures).await,
            Self::Pacing => pacing::measure(site, figures).await,
            Self::FanOut => fan_out::measure(site, figures).await,
            Self::Growth => growth::measure(site, figures).await,
            Self::Rebuild => rebuild::measure(site, figures).await,
            Self::Explain => explain::measure(site, figures).await,
            Self::Audit => audit::measure(site, figures).await,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let parts = match chosen(std::env::args().skip(1)) {
        Ok(parts) => parts,
        Err(error) => {
            eprintln!("bench: {error:#}");
            return ExitCode::from(2);
        }
    };
    match run(parts).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The parts that are named, or all of them.
fn chosen(arguments: impl Iterator<Item = String>) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    // Cargo adds an option of its own.
    for name in arguments.filter(|argument| argument != "--bench") {
        let Some(part) = Part::ALL.into_iter().find(|part| part.name() == name) else {
            let known = Part::ALL.map(Part::name).join(", ");
            bail!("there is no part {name:?}; the parts are {known}");
        };
        parts.push(part);
    }
    Ok(if parts.is_empty() { Part::ALL.to_vec() } else { parts })
}

/// `false` if a part failed.
async fn run(parts: Vec<Part>) -> Result<bool> {
    // From here on no signal ends this process: it stops what it has started first.
    let mut interruptions = Interruptions::watch()?;
    let site = Arc::new(Site::open(parts.iter().any(|part| part.needs_rabbitmq())).await?);
    // A task of its own, so that neither a panic nor an interruption passes by the end below.
    let mut work = tokio::spawn(measure_all(Arc::clone(&site), parts));
    let outcome = tokio::select! {
        ended = &mut work => ended.context("the bench broke off").and_then(|outcome| outcome),
        cause = interruptions.next() => {
            work.abort();
            // Its processes are killed as their handles are dropped.
            let _ = (&mut work).await;
            Err(anyhow::anyhow!("{cause}"))
        }
    };
    let site = Arc::into_inner(site).context("a part still uses the servers")?;
    site.progress.show("stopping the servers");
    site.close().await?;
    outcome
}

async fn measure_all(site: Arc<Site>, parts: Vec<Part>) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tests lie in the checkout")?;
    let facts = Facts::gather(&site, root).await?;
    let report = Report::of(root, site.divisor() > 1);
    let mut rows: Vec<Row> = Vec::new();
    let mut failures = Vec::new();
    for part in parts {
        let (mut about, work) = (facts.about(Clock::system().now(), &facts::load()), Work::begin()?);
        let mut figures = Figures::default();
        let measured = tokio::time::timeout(PART_MAX, part.measure(&site, &mut figures)).await;
        let failed = measured.unwrap_or_else(|_| bail!("it did not end within {} s", PART_MAX.as_secs())).err();
        about["work"] = work.end()?;
        report.store(part.name(), &figures, about, failed.as_ref())?;
        rows.extend(figures.rows);
        if let Some(error) = failed {
            site.progress.note(&format!("{} failed: {error:#}", part.name()));
            failures.push((part, error));
        }
    }
    let mut text = format!("\n{}\n{}", facts.text(), table::render(&rows));
    for (part, error) in &failures {
        writeln!(text, "{} FAILED: {error:#}", part.name()).context("text")?;
    }
    writeln!(text, "\nreport: {}", report.path().display()).context("text")?;
    site.progress.print(&text);
    Ok(failures.is_empty())
}
