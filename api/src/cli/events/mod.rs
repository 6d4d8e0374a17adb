//! `ektola events`: the log itself, as lines of JSON. A position is where to go on.

mod export;

use std::time::Duration;

use domain::aggregate::Position;
use infrastructure::event_feed::HighWaterMark;
use projections::audit::log::{self, EventFilter, LoggedEvent};
use sqlx::PgPool;
use uuid::Uuid;

use super::context::Context;
use super::error::Failure;
use super::installation::Installation;
use super::tenant;

const PAGE: i64 = 1_000;
const SCAN_MAX: i64 = 50_000;
const TAILED: i64 = 20;
const POLL: Duration = Duration::from_millis(200);
const STALL_WARNING: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Subcommand)]
pub enum EventsCommand {
    /// Print the last events, and with --follow those that come.
    Tail(TailArgs),
    /// Print one event.
    Show(ShowArgs),
    /// Write events to a file or to stdout, one JSON object per line.
    ///
    /// With --resume an export that was interrupted goes on behind the last whole line of its file.
    Export(export::ExportArgs),
}

#[derive(Debug, clap::Args)]
pub struct FilterArgs {
    /// Only events of these names, separated by commas.
    #[arg(long = "type", value_name = "NAME,...", value_delimiter = ',')]
    types: Vec<String>,
    /// Only those of one kind of aggregate, or of one aggregate: Campaign, CampaignRun, Message or Consent.
    #[arg(long, value_name = "TYPE[/ID]")]
    aggregate: Option<String>,
    /// Only those of one tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only those of one run: its own, its messages' and its trigger.
    #[arg(long, value_name = "RUN")]
    run: Option<Uuid>,
}

#[derive(Debug, clap::Args)]
pub struct TailArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Begin behind this position instead of with the last 20.
    #[arg(long, value_name = "POSITION")]
    after: Option<Position>,
    /// Go on with what comes, until Ctrl-C.
    #[arg(long)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Its place in the log.
    position: Position,
}

pub async fn run(command: EventsCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        EventsCommand::Tail(args) => {
            context.on_installation(async |installation: &Installation| tail(&args, installation, context).await).await
        }
        EventsCommand::Show(args) => {
            context.on_installation(async |installation: &Installation| show(&args, installation, context).await).await
        }
        EventsCommand::Export(args) => {
            context
                .on_installation(async |installation: &Installation| export::run(&args, installation, context).await)
                .await
        }
    }
}

impl FilterArgs {
    async fn read(&self, pool: &PgPool) -> anyhow::Result<EventFilter> {
        let tenant = tenant::named(pool, self.tenant.as_deref()).await?;
        let mut filter =
            EventFilter { tenant: tenant.map(|tenant| tenant.id), run: self.run, ..EventFilter::default() };
        let wrong = |option: &'static str| move |reason| Failure::new(format!("{option}: {reason}"));
        filter.only_types(self.types.iter().map(String::as_str)).map_err(wrong("--type"))?;
        if let Some(aggregate) = &self.aggregate {
            filter.only_aggregate(aggregate).map_err(wrong("--aggregate"))?;
        }
        Ok(filter)
    }
}

fn line_of(event: &LoggedEvent) -> anyhow::Result<String> {
    Ok(serde_json::to_string(event)?)
}

async fn tail(args: &TailArgs, installation: &Installation, context: &Context) -> anyhow::Result<()> {
    let pool = &installation.pool;
    let filter = args.filter.read(pool).await?;
    let mut mark = HighWaterMark::new(pool.clone(), STALL_WARNING);
    let end = mark.advance().await?;
    let mut after = match args.after {
        Some(after) => after,
        None => last_ones(pool, &filter, end).await?,
    };
    let mut until = end;
    loop {
        while after < until {
            let page = log::page(pool, &filter, after, until, PAGE, SCAN_MAX).await?;
            for event in &page.events {
                context.out.line(&line_of(event)?);
            }
            after = page.next_after;
        }
        if !args.follow {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
        until = mark.advance().await?;
    }
}

/// The position behind which the last few events lie, looking back further and further.
async fn last_ones(pool: &PgPool, filter: &EventFilter, end: Position) -> Result<Position, sqlx::Error> {
    let mut span = TAILED;
    loop {
        let after = (end - span).max(0);
        if after == 0 || log::count(pool, filter, after, end).await? >= TAILED {
            return Ok(after);
        }
        span = span.saturating_mul(8);
    }
}

async fn show(args: &ShowArgs, installation: &Installation, context: &Context) -> anyhow::Result<()> {
    let found = log::at(&installation.pool, args.position).await?;
    let found = found.ok_or_else(|| {
        Failure::new(format!("there is no event at position {}", args.position))
            .next("positions that were drawn by a write that failed stay empty")
    })?;
    context.out.document(&found)
}
