//! `ektola dev`: everything on one machine, in one folder. A private Postgres (and RabbitMQ on request), the engine with
//! all roles, and the sandbox as a process of its own.
//!
//! The sandbox outlives a kill of the engine, as WhatsApp would, and goes on posting what it owes; so does Postgres. A
//! start on the same folder finds both and goes on with them.

use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use infrastructure::clock::Clock;
use infrastructure::private_servers::packages;
use infrastructure::private_servers::{PostgresOptions, PrivatePostgres, PrivateRabbitmq};
use infrastructure::senders::{self, NewSender, Secret};
use infrastructure::tenants::{self, Tenant};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use sqlx::PgPool;
use tokio::net::TcpListener;

use super::context::Context;
use super::engine_record::EngineRecord;
use super::error::Failure;
use super::sandbox::scenario_name;
use super::sandbox_process::SandboxProcess;
use crate::app::{App, AppOptions, QueueChoice, Role};
use crate::config::SandboxConfig;
use crate::shutdown;

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where HTTP is served; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Where the dispatch queue is kept.
    #[arg(long, value_enum, default_value_t = Queue::Postgres)]
    queue: Queue,
    /// Starts the engine's clock at this time (RFC 3339), so that recurrence can be tried.
    #[arg(long, value_name = "TIME")]
    clock: Option<DateTime<Utc>>,
    /// Has the sandbox behave as a scenario says; `ektola sandbox --list` explains them.
    #[arg(long, value_name = "NAME", value_parser = scenario_name())]
    scenario: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Queue {
    Postgres,
    Rabbitmq,
}

pub const DATABASE: &str = "ektola";
const TENANT: &str = "demo";
const ZONE: &str = "Asia/Kolkata";
const READY_DEADLINE: Duration = Duration::from_secs(30);
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(2);

/// The servers that this process started or took over, stopped in the opposite order.
#[derive(Default)]
struct Servers {
    postgres: Option<PrivatePostgres>,
    rabbitmq: Option<PrivateRabbitmq>,
    sandbox: Option<SandboxProcess>,
}

/// How often the private RabbitMQ is looked at.
const LOOK_AT_RABBITMQ: Duration = Duration::from_secs(2);

impl Servers {
    /// Starts the private RabbitMQ again, on the same ports, whenever it has died. Never ends.
    async fn keep_rabbitmq(&mut self, data: &Path) {
        loop {
            tokio::time::sleep(LOOK_AT_RABBITMQ).await;
            let Some(rabbitmq) = &self.rabbitmq else { continue };
            if kill(Pid::from_raw(rabbitmq.pid()), None).is_ok() && !is_zombie(rabbitmq.pid()) {
                continue;
            }
            tracing::warn!("the private RabbitMQ has died; it is started again, and its messages are fed again");
            match PrivateRabbitmq::start(data).await {
                Ok(rabbitmq) => self.rabbitmq = Some(rabbitmq),
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the private RabbitMQ does not start again"
                    );
                }
            }
        }
    }

    async fn stop(self) {
        if let Some(sandbox) = self.sandbox {
            sandbox.stop().await;
        }
        if let Some(rabbitmq) = self.rabbitmq
            && let Err(error) = rabbitmq.stop().await
        {
            tracing::warn!(error = &*error.to_string(), "the private RabbitMQ did not stop");
        }
        if let Some(postgres) = self.postgres
            && let Err(error) = postgres.stop().await
        {
            tracing::warn!(error = &*error.to_string(), "the private Postgres did not stop");
        }
    }
}

pub async fn run(args: DevArgs, context: &Context) -> anyhow::Result<()> {
    let config = Arc::new(context.load_config()?);
    let data = &context.data;
    std::fs::create_dir_all(data).with_context(|| format!("the data folder {} cannot be made", data.display()))?;
    refuse_second_engine(data).await?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!("cannot listen on {}; if another engine runs there, give this one another --listen", args.listen)
    })?;
    let clock = args.clock.map_or_else(Clock::system, Clock::starting_at);
    let mut servers = Servers::default();
    let mut interrupted = pin!(shutdown::requested());
    // Ctrl-C counts from here on. A server that is being started must be known before it can be stopped, so the start
    // is brought to its end first.
    let (started, go_on) = {
        let mut starting = pin!(start(&args, context, config, clock, listener, &mut servers));
        tokio::select! {
            started = &mut starting => (started, true),
            () = &mut interrupted => (starting.await, false),
        }
    };
    let app = match started {
        Ok(app) => app,
        Err(error) => {
            servers.stop().await;
            return Err(error);
        }
    };
    if go_on {
        tokio::select! {
            () = &mut interrupted => {}
            () = servers.keep_rabbitmq(data) => {}
        }
    }
    app.stop().await;
    EngineRecord::remove(data);
    servers.stop().await;
    Ok(())
}

async fn start(
    args: &DevArgs,
    context: &Context,
    config: Arc<crate::config::Config>,
    clock: Clock,
    listener: TcpListener,
    servers: &mut Servers,
) -> anyhow::Result<App> {
    let data = &context.data;
    let database_url = match std::env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()) {
        Some(url) => {
            context.out.line("Postgres: the database of DATABASE_URL");
            url
        }
        None => {
            packages::ensure_postgres_installed(&mut |line| context.out.line(line)).await?;
            let postgres = PrivatePostgres::start(data, DATABASE, PostgresOptions::default()).await?;
            context.out.line(&format!("Postgres: private, in {}", data.join("postgres").display()));
            if let Some(note) = postgres.location_note() {
                context.out.line(&format!("          {note}"));
            }
            let url = postgres.url();
            servers.postgres = Some(postgres);
            url
        }
    };
    let queue = match (args.queue, std::env::var("AMQP_URL").ok().filter(|url| !url.is_empty())) {
        (Queue::Postgres, _) => QueueChoice::Postgres,
        (Queue::Rabbitmq, Some(url)) => QueueChoice::Rabbitmq { url },
        (Queue::Rabbitmq, None) => {
            packages::ensure_rabbitmq_installed(&mut |line| context.out.line(line)).await?;
            let rabbitmq = PrivateRabbitmq::start(data).await?;
            context.out.line(&format!("RabbitMQ: private, in {}", data.join("rabbitmq").display()));
            let url = rabbitmq.amqp_url();
            servers.rabbitmq = Some(rabbitmq);
            QueueChoice::Rabbitmq { url }
        }
    };
    let app = App::start(AppOptions {
        database_url,
        queue,
        clock: clock.clone(),
        config: config.clone(),
        data: data.clone(),
        base_url_allowed: true,
        roles: Role::all(),
        listener: Some(listener),
    })
    .await?;
    let address = app.address.context("the engine has no address")?;
    let tenant = tenants::ensure_tenant(&app.pool, TENANT, ZONE, clock.now()).await?;
    let token = token_of(data, &app.pool, &tenant, &clock).await?;
    add_sender_from_environment(&app.pool, &clock, Some(&tenant)).await?;
    servers.sandbox = start_sandbox(args, context, &config.sandbox, &app, &tenant, &clock).await?;
    let private_broker = servers.rabbitmq.as_ref().map(PrivateRabbitmq::amqp_url);
    EngineRecord::write(data, address, private_broker.as_deref())?;
    wait_until_ready(address).await?;
    context.out.line(&format!("Token:    in {} (tenant {TENANT}, zone {ZONE})", data.join("token").display()));
    context.out.line(&format!(
        "Try:      curl -H \"Authorization: Bearer $(cat {})\" http://{address}/v1/campaigns",
        data.join("token").display()
    ));
    context.out.line(&format!("ready http://{address}"));
    drop(token);
    Ok(app)
}

/// A second engine on one folder would disturb the first before it failed.
async fn refuse_second_engine(data: &Path) -> anyhow::Result<()> {
    let Some(engine) = EngineRecord::read(data).filter(EngineRecord::is_alive) else { return Ok(()) };
    // The process id alone may be somebody else's by now.
    let client = reqwest::Client::builder().timeout(LIVENESS_TIMEOUT).no_proxy().build()?;
    if client.get(format!("http://{}/livez", engine.address)).send().await.is_err() {
        return Ok(());
    }
    Err(Failure::new(format!("an engine runs on {} already, at http://{}", data.display(), engine.address))
        .next(format!("stop it with Ctrl-C or kill -TERM {}, or give this one another --data DIR", engine.pid))
        .into())
}

/// A process that has ended and that nobody has waited for still has its id.
fn is_zombie(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|state| state.starts_with('Z')))
}

/// The token stays the same for a folder.
async fn token_of(data: &Path, pool: &PgPool, tenant: &Tenant, clock: &Clock) -> anyhow::Result<Secret> {
    let path = data.join("token");
    let token = match std::fs::read_to_string(&path) {
        Ok(token) if !token.trim().is_empty() => token.trim().to_owned(),
        Ok(_) => bail!("{} is empty; delete it to get a new token", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let token = tenants::generate_token();
            let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            std::io::Write::write_all(&mut file, token.as_bytes())?;
            token
        }
        Err(error) => return Err(error).with_context(|| format!("{} cannot be read", path.display())),
    };
    tenants::insert_token(pool, tenant.id, &token, clock.now())
        .await
        .with_context(|| format!("the token in {} cannot be used; delete the file to get a new one", path.display()))?;
    Ok(Secret::new(token))
}

/// `WHATSAPP_…` in the environment does the same as `sender add`; empty or missing means none. `true` if it did.
pub async fn add_sender_from_environment(
    pool: &PgPool,
    clock: &Clock,
    tenant: Option<&Tenant>,
) -> anyhow::Result<bool> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let names = ["WHATSAPP_PHONE_NUMBER_ID", "WHATSAPP_ACCESS_TOKEN", "WHATSAPP_APP_SECRET", "WHATSAPP_VERIFY_TOKEN"];
    let values = names.map(variable);
    let [Some(phone_number_id), Some(access_token), Some(app_secret), Some(verify_token)] = values.clone() else {
        let missing: Vec<&str> =
            names.iter().zip(&values).filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
        if missing.len() < names.len() {
            bail!("a WhatsApp number needs all of {}; missing: {}", names.join(", "), missing.join(", "));
        }
        return Ok(false);
    };
    let tenant_id = match tenant {
        Some(tenant) => tenant.id,
        None => match tenants::list_tenants(pool).await?.as_slice() {
            [only] => only.id,
            [] => bail!("there is no tenant yet; next: ektola tenant create NAME --zone ZONE"),
            _ => bail!("there are several tenants; add the number with: ektola sender add --tenant NAME"),
        },
    };
    let new = NewSender {
        tenant_id,
        phone_number_id,
        // Needed for template sync only, which this release does not have.
        waba_id: variable("WHATSAPP_WABA_ID").unwrap_or_else(|| "unknown".to_owned()),
        base_url: None,
        access_token: Secret::new(access_token),
        app_secret: Secret::new(app_secret),
        verify_token: Secret::new(verify_token),
        sandbox: false,
    };
    senders::add_sender(pool, new, clock.now()).await?;
    Ok(true)
}

async fn has_real_sender(pool: &PgPool, tenant: &Tenant) -> anyhow::Result<bool> {
    Ok(senders::list_senders(pool, Some(tenant.id)).await?.iter().any(|sender| !sender.sandbox))
}

/// The sandbox, unless the tenant has had numbers of its own from the first. Beside a number that came later it still
/// sends the runs that began with it, and posts what it owes.
async fn start_sandbox(
    args: &DevArgs,
    context: &Context,
    config: &SandboxConfig,
    app: &App,
    tenant: &Tenant,
    clock: &Clock,
) -> anyhow::Result<Option<SandboxProcess>> {
    let has_real_sender = has_real_sender(&app.pool, tenant).await?;
    if has_real_sender && find_sandbox_sender(&app.pool, tenant).await?.is_none() {
        context.out.line("WhatsApp: numbers of your own; ektola sender list shows them");
        return Ok(None);
    }
    let address = app.address.context("the engine has no address")?;
    let webhook_url = format!("http://{address}/webhooks/whatsapp");
    let sender = sandbox_sender(&app.pool, tenant, clock).await?;
    let secret = sender.app_secret.expose();
    let scenario = args.scenario.as_deref();
    let sandbox = SandboxProcess::start(&context.data, &webhook_url, secret, config, args.clock, scenario).await?;
    set_sandbox_address(&app.pool, tenant, sender, &sandbox, clock).await?;
    let role = if has_real_sender { "numbers of your own; for runs that began with it " } else { "" };
    context.out.line(&format!("WhatsApp: {role}the sandbox, at {}", sandbox.url()));
    Ok(Some(sandbox))
}

async fn find_sandbox_sender(pool: &PgPool, tenant: &Tenant) -> anyhow::Result<Option<senders::Sender>> {
    Ok(senders::list_senders(pool, Some(tenant.id)).await?.into_iter().find(|sender| sender.sandbox))
}

/// The sandbox's number, with secrets made for this installation; they stay the same, since the sandbox signs
/// webhooks that it still owes with them.
async fn sandbox_sender(pool: &PgPool, tenant: &Tenant, clock: &Clock) -> anyhow::Result<senders::Sender> {
    if let Some(sender) = find_sandbox_sender(pool, tenant).await? {
        return Ok(sender);
    }
    let secret = || Secret::new(tenants::generate_token());
    let new = NewSender {
        tenant_id: tenant.id,
        phone_number_id: "100000000000101".to_owned(),
        waba_id: "100000000000001".to_owned(),
        base_url: None,
        access_token: secret(),
        app_secret: secret(),
        verify_token: secret(),
        sandbox: true,
    };
    Ok(senders::add_sender(pool, new, clock.now()).await?)
}

async fn set_sandbox_address(
    pool: &PgPool,
    tenant: &Tenant,
    sender: senders::Sender,
    sandbox: &SandboxProcess,
    clock: &Clock,
) -> anyhow::Result<()> {
    let new = NewSender {
        tenant_id: tenant.id,
        phone_number_id: sender.phone_number_id,
        waba_id: sender.waba_id,
        base_url: Some(sandbox.url()),
        access_token: sender.access_token,
        app_secret: sender.app_secret,
        verify_token: sender.verify_token,
        sandbox: true,
    };
    senders::add_sender(pool, new, clock.now()).await?;
    Ok(())
}

async fn wait_until_ready(address: SocketAddr) -> anyhow::Result<()> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
    let deadline = tokio::time::Instant::now() + READY_DEADLINE;
    loop {
        let answer = client.get(format!("http://{address}/readyz")).send().await;
        let reason = match answer {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() >= deadline {
            bail!("the engine is not ready after {} s: {reason}", READY_DEADLINE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
