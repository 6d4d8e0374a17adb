//! The command line. Each subcommand is a module with its arguments and its `run`; printing is in `output`, finding the
//! installation in `installation`.

pub mod audit;
pub mod config;
pub mod contacts;
pub mod context;
pub mod dead_letters;
pub mod demo;
pub mod dev;
pub mod doctor;
pub mod engine_record;
pub mod error;
pub mod events;
pub mod explain;
pub mod installation;
pub mod logging;
pub mod migrate;
pub mod notices;
pub mod openapi;
pub mod output;
pub mod projections;
pub mod sandbox;
pub mod sandbox_process;
pub mod schema;
pub mod sender;
pub mod serve;
pub mod status;
pub mod templates;
pub mod tenant;
#[cfg(test)]
mod tests;
pub mod token;
pub mod totals;
pub mod unknown;

use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use self::context::Context;
use self::logging::Kind;
use self::output::Output;
use crate::config::Config;

/// How long work that cannot be interrupted may hold up the end of the process.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// In the help, what every subcommand has comes after what is its own.
const LAST: usize = 900;

/// WhatsApp campaigns: contacts, templates, schedules, and proof of what happened to whom.
///
/// A subcommand works on the installation in the data folder (--data), or on the database that DATABASE_URL names, also
/// beside a running engine. Exit codes: 0 done, 1 failed, 2 wrong usage.
#[derive(Debug, Parser)]
#[command(name = "ektola", version, arg_required_else_help = true, propagate_version = true)]
pub struct Cli {
    /// The data folder of the installation.
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "./ektola-data",
        env = "EKTOLA_DATA",
        hide_env_values = true,
        display_order = LAST
    )]
    data: PathBuf,
    /// Answer with one JSON document on stdout.
    #[arg(long, global = true, display_order = LAST)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: a private Postgres, the engine, and a sandbox instead of WhatsApp.
    Dev(dev::DevArgs),
    /// Run the engine on the database that DATABASE_URL names.
    Serve(serve::ServeArgs),
    /// Run the demonstration that `make demo` runs: 1,000 contacts from a file to read messages.
    Demo(demo::DemoArgs),
    /// Bring the database up to date with this release.
    Migrate,
    /// Add and list tenants, the businesses that this installation serves.
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Make and revoke the tokens with which programs speak for a tenant.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Add, change and list the WhatsApp numbers from which messages are sent.
    #[command(subcommand)]
    Sender(sender::SenderCommand),
    /// Read templates from Meta, and list them.
    #[command(subcommand)]
    Templates(templates::TemplatesCommand),
    /// Import contacts from a file.
    #[command(subcommand)]
    Contacts(contacts::ContactsCommand),
    /// Say why a contact got a message of a campaign, or did not.
    Explain(explain::ExplainArgs),
    /// Replay the log of one thing as of any instant, and check that nobody has changed the log.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Read the log itself: the last events, one of them, or an export.
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Show how far the read models are, and fold one anew from the log.
    #[command(subcommand)]
    Projections(projections::ProjectionsCommand),
    /// Show what could not be applied or sent, give it back, or discard it.
    #[command(subcommand)]
    DeadLetters(dead_letters::DeadLettersCommand),
    /// Show calls of which nobody knows whether WhatsApp accepted them, and settle them.
    #[command(subcommand)]
    Unknown(unknown::UnknownCommand),
    /// Show what stands still until somebody acts, and what to do about it.
    #[command(subcommand)]
    Notices(notices::NoticesCommand),
    /// Show what happened per day, of a tenant or of one number.
    Totals(totals::TotalsArgs),
    /// Show messages per day and campaign by what WhatsApp says of their price.
    Billing(totals::BillingArgs),
    /// Show campaigns, runs, open messages and queues at a glance.
    Status(status::StatusArgs),
    /// Check everything that the engine needs, and say what to do about what is missing.
    Doctor,
    /// Show the configuration that holds and where each value comes from.
    Config,
    /// Print the description of the HTTP interface (OpenAPI, JSON).
    Openapi,
    /// Run a stand-in for WhatsApp that keeps a ledger of every accepted call.
    Sandbox(sandbox::SandboxArgs),
}

impl Command {
    fn kind(&self) -> Kind {
        match self {
            Self::Dev(_) | Self::Serve(_) | Self::Sandbox(_) => Kind::Server,
            Self::Demo(_)
            | Self::Migrate
            | Self::Tenant(_)
            | Self::Token(_)
            | Self::Sender(_)
            | Self::Templates(_)
            | Self::Contacts(_)
            | Self::Explain(_)
            | Self::Audit(_)
            | Self::Events(_)
            | Self::Projections(_)
            | Self::DeadLetters(_)
            | Self::Unknown(_)
            | Self::Notices(_)
            | Self::Totals(_)
            | Self::Billing(_)
            | Self::Status(_)
            | Self::Doctor
            | Self::Config
            | Self::Openapi => Kind::Command,
        }
    }

    /// May it run on a configuration that has errors? Doctor reports them, and the others need none.
    fn tolerates_bad_config(&self) -> bool {
        matches!(self, Self::Doctor | Self::Openapi)
    }
}

/// Runs the subcommand that the process' arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help is an "error" too, of exit code 0; clap knows the right stream for each.
        Err(error) => {
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            Output::new(false).note(&error::describe(&error));
            error::exit_code(&error)
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let mut runtime = match cli.command {
        // Its work is short and comes piecemeal: handing it from thread to thread costs more than doing it.
        Command::Sandbox(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime
        .worker_threads(std::thread::available_parallelism().map_or(1, NonZero::get))
        .enable_all()
        .build()
        .context("the process cannot start its threads")?;
    let result = runtime.block_on(dispatch(cli));
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    result
}

async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    let context = Context::new(cli.data, cli.json);
    let config = match context.load_config() {
        Err(_) if cli.command.tolerates_bad_config() => Config::default(),
        loaded => loaded?,
    };
    logging::start(&config, cli.command.kind())?;
    match cli.command {
        Command::Dev(args) => dev::run(args, &context).await,
        Command::Serve(args) => serve::run(args, &context).await,
        Command::Demo(args) => demo::run(args, &context).await,
        Command::Migrate => migrate::run(&context).await,
        Command::Tenant(command) => tenant::run(command, &context).await,
        Command::Token(command) => token::run(command, &context).await,
        Command::Sender(command) => sender::run(command, &context).await,
        Command::Templates(command) => templates::run(command, &context).await,
        Command::Contacts(command) => contacts::run(command, &context).await,
        Command::Explain(args) => explain::run(&args, &context).await,
        Command::Audit(command) => audit::run(command, &context).await,
        Command::Events(command) => events::run(command, &context).await,
        Command::Projections(command) => projections::run(command, &context).await,
        Command::DeadLetters(command) => dead_letters::run(command, &context).await,
        Command::Unknown(command) => unknown::run(command, &context).await,
        Command::Notices(command) => notices::run(command, &context).await,
        Command::Totals(args) => totals::totals(&args, &context).await,
        Command::Billing(args) => totals::billing(&args, &context).await,
        Command::Status(args) => status::run(&args, &context).await,
        Command::Doctor => doctor::run(&context).await,
        Command::Config => config::run(&context),
        Command::Openapi => openapi::run(&context),
        Command::Sandbox(args) => sandbox::run(args, &context).await,
    }
}
