//! A faithful stand-in for the WhatsApp Cloud API over real HTTP: what the engine talks to while it has no WhatsApp
//! credentials, and what the tests talk to.
//!
//! Two promises make it useful as a witness. Every accepted call is in the ledger before it is answered, so the
//! ledger can prove that nothing was sent twice; and every status that an accepted call leads to is posted at least
//! once, however often either side is killed, because what is owed follows from the two append-only files alone.

mod acceptance;
mod behavior;
mod calls;
mod codes;
mod components;
mod control;
mod controls;
mod course;
mod draws;
mod faults;
mod graph_error;
mod inbound;
mod ledger;
mod limits;
mod management;
mod scenarios;
mod schedule;
mod server;
mod settings;
mod status_body;
mod template_status;
mod templates;
#[cfg(test)]
mod tests;
mod tier;
mod webhooks;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use infrastructure::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::behavior::{Outcomes, Status};
use self::calls::Shared;
use self::controls::Controls;
pub use self::faults::{Effect, Fault, When};
use self::graph_error::GraphError;
use self::ledger::Ledger;
use self::limits::Limits;
pub use self::scenarios::{SCENARIOS, Scenario};
use self::schedule::Schedule;
use self::server::Api;
pub use self::settings::{
    AccessSettings, AnswerSettings, Contacts, LatencySettings, LimitSettings, MarketingSettings, NumberSettings,
    OverTier, PostSettings, RecipientId, Settings, SettingsError, StatusSettings, TierSettings,
};
pub use self::template_status::WebhookComes;
use self::templates::Catalogue;
pub use self::templates::Template;
use self::tier::Tier;
use self::webhooks::Webhooks;

/// Webhook bodies besides those of statuses that wait to be posted.
const BODIES_MAX: usize = 1_000;
/// What `Sandbox::stopped` grants to calls that are still being answered.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How one sandbox behaves.
pub struct SandboxConfig {
    /// Where the stand-in for the Graph API listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where statuses are posted.
    pub webhook_url: String,
    /// The key of the webhooks' signature.
    pub app_secret: String,
    /// One JSON line per accepted call; `<ledger>.posted` beside it has one line per acknowledged status.
    pub ledger: PathBuf,
    /// The bearer token that calls must carry. `None`: any bearer token is accepted.
    pub access_token: Option<String>,
    /// The WhatsApp Business Account that webhooks name.
    pub waba_id: String,
    /// What becomes of accepted messages.
    pub outcomes: Outcomes,
    /// The most webhook bodies that travel at once.
    pub webhook_posts_max: usize,
    /// What can also be changed while it runs.
    pub settings: Settings,
}

impl SandboxConfig {
    pub fn new(listen: SocketAddr, webhook_url: String, app_secret: String, ledger: PathBuf) -> Self {
        Self {
            listen,
            webhook_url,
            app_secret,
            ledger,
            access_token: None,
            waba_id: "100000000000001".to_owned(),
            outcomes: Outcomes::ByNumber,
            webhook_posts_max: 128,
            settings: Settings::default(),
        }
    }
}

/// Would WhatsApp take this body of a send, and does it fit its template? If not, the code and the details of the refusal.
pub fn check_send(body: &[u8], template: &Template) -> Result<(), String> {
    let refused = |error: GraphError| error.to_string();
    let send = wire::Send::parse(body).map_err(refused)?;
    let catalogue = Catalogue::new(std::slice::from_ref(template));
    catalogue.admit(&send.template, &send.language, None, &send.components).map(drop).map_err(refused)
}

/// A running sandbox. Dropping it does not stop it; its cancellation token does.
pub struct Sandbox {
    /// The address that it really listens on.
    pub address: SocketAddr,
    tasks: TaskTracker,
}

impl Sandbox {
    /// Waits until the sandbox has stopped after its token was cancelled. Calls that are being answered then get
    /// five seconds to end.
    pub async fn stopped(self) {
        self.tasks.wait().await;
    }
}

/// Binds, recovers what the ledger owes, and serves in background tasks until `shutdown`.
///
/// Fails if the address is taken, the webhook's address is none, or the ledger is unreadable or held by another
/// sandbox.
pub async fn start(config: SandboxConfig, clock: Clock, shutdown: CancellationToken) -> anyhow::Result<Sandbox> {
    let (ledger_path, outcomes) = (config.ledger.clone(), config.outcomes);
    let (ledger, owed) = tokio::task::spawn_blocking(move || Ledger::open(&ledger_path, outcomes))
        .await
        .context("the recovery of the sandbox's ledger broke off")?
        .with_context(|| format!("cannot use the sandbox's ledger {}", config.ledger.display()))?;
    if !owed.is_empty() {
        tracing::info!(messages = owed.len(), "the sandbox goes on posting the webhooks it owes");
    }
    config.settings.check().context("the sandbox's settings cannot hold")?;
    let ledger = Arc::new(ledger);
    let controls = Arc::new(Controls::new(config.settings.clone()));
    let schedule = Arc::new(Schedule::new(Arc::clone(&controls), Instant::now()));
    schedule.recovered(owed);

    let (bodies, bodies_to_post) = mpsc::channel(BODIES_MAX);
    let queues = (Arc::clone(&ledger), Arc::clone(&schedule), bodies_to_post);
    let webhooks = Webhooks::new(&config, Arc::clone(&controls), queues, clock.clone())?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("cannot read the address that the sandbox listens on")?;
    let tasks = TaskTracker::new();
    let api = Api(Arc::new(Shared {
        controls,
        access_token: config.access_token,
        outcomes: config.outcomes,
        waba_id: config.waba_id,
        ledger,
        limits: Limits::default(),
        tier: Tier::default(),
        schedule,
        anchor: (clock.now(), std::time::Instant::now()),
        clock,
        bodies,
        poster: webhooks.poster(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
        marketing_since: Mutex::default(),
    }));
    tasks.spawn(webhooks.run(shutdown.clone()));
    tasks.spawn(server::serve(listener, api, tasks.clone(), shutdown));
    tasks.close();
    Ok(Sandbox { address, tasks })
}
