//! `ektola serve`: the engine on a database, and a broker, that somebody else runs.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use infrastructure::clock::Clock;
use tokio::net::TcpListener;

use super::context::{Context, DATABASE_VARIABLE};
use super::error::UsageError;
use crate::app::{App, AppOptions, QueueChoice, Role};
use crate::shutdown;

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// What this process does; all of it by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    roles: Vec<Role>,
    /// Where HTTP is served (roles api and webhooks).
    #[arg(long, default_value = "127.0.0.1:8000", env = "EKTOLA_LISTEN")]
    listen: SocketAddr,
    /// The Postgres database, whose owner the login role must be; with a password rather by the environment, since
    /// arguments show in process lists.
    #[arg(long, env = DATABASE_VARIABLE, hide_env_values = true)]
    database_url: Option<String>,
    /// The RabbitMQ broker; without it the dispatch queue is kept in Postgres.
    #[arg(long, env = "AMQP_URL", hide_env_values = true)]
    amqp_url: Option<String>,
    /// Sends for numbers whose address is not WhatsApp's own: for stand-ins.
    #[arg(long)]
    allow_provider_base_url: bool,
}

pub async fn run(args: ServeArgs, context: &Context) -> anyhow::Result<()> {
    let database_url = args.database_url.filter(|url| !url.is_empty()).ok_or_else(database_is_missing)?;
    let config = Arc::new(context.load_config()?);
    let roles: BTreeSet<Role> = if args.roles.is_empty() { Role::all() } else { args.roles.into_iter().collect() };
    let listener = if roles.contains(&Role::Api) || roles.contains(&Role::Webhooks) {
        Some(TcpListener::bind(args.listen).await.with_context(|| format!("cannot listen on {}", args.listen))?)
    } else {
        None
    };
    std::fs::create_dir_all(&context.data)
        .with_context(|| format!("the data folder {} cannot be made", context.data.display()))?;
    let app = App::start(AppOptions {
        database_url,
        queue: args
            .amqp_url
            .filter(|url| !url.is_empty())
            .map_or(QueueChoice::Postgres, |url| QueueChoice::Rabbitmq { url }),
        clock: Clock::system(),
        config,
        data: context.data.clone(),
        base_url_allowed: args.allow_provider_base_url,
        roles,
        listener,
    })
    .await?;
    super::dev::add_sender_from_environment(&app.pool, &Clock::system(), None).await?;
    match app.address {
        Some(address) => context.out.line(&format!("ready http://{address}")),
        None => context.out.line("ready"),
    }
    shutdown::requested().await;
    app.stop().await;
    Ok(())
}

fn database_is_missing() -> UsageError {
    UsageError::new(format!("no database is named: {DATABASE_VARIABLE} is not set"))
        .next(format!("set {DATABASE_VARIABLE}=postgres://USER:PASSWORD@HOST/NAME, or try everything with: ektola dev"))
}
