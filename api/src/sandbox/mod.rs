//! A faithful stand-in for the WhatsApp Cloud API over real HTTP: what the engine talks to while it has no WhatsApp
//! credentials, and what the tests talk to.
//!
//! Two promises make it useful as a witness. Every accepted call is in the ledger before it is answered, so the
//! ledger can prove that nothing was sent twice; and every status that an accepted call leads to is posted at least
//! once, however often either side is killed, because what is owed follows from the two append-only files alone.

mod behavior;
mod inbound;
mod ledger;
mod limits;
mod schedule;
mod server;
mod status_body;
#[cfg(test)]
mod tests;
mod webhooks;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use infrastructure::clock::Clock;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::behavior::Outcomes;
use self::ledger::Ledger;
use self::limits::Limits;
use self::schedule::Schedule;
use self::server::{Api, SendRules};
use self::webhooks::Webhooks;

/// Bodies of inbound messages that wait to be posted.
const INBOUND_MAX: usize = 1_000;
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
    /// Feeds the ids that the sandbox makes up.
    pub seed: u64,
    /// Time between the acceptance of a call and its answer, in milliseconds.
    pub latency_ms: u64,
    /// What becomes of accepted messages.
    pub outcomes: Outcomes,
    /// Time before each status of a message, in milliseconds: from the acceptance to the first one, and from the
    /// acknowledgement of one to the next.
    pub status_gap_ms: u64,
    /// The most statuses in one webhook body, from 1 to 1,000.
    pub webhook_batch_max: usize,
    /// The most webhook bodies that travel at once.
    pub webhook_posts_max: usize,
    /// The most calls and inbound messages of one number in any second; further calls are refused with 130429.
    pub rate_limit: Option<usize>,
    /// The most messages to one recipient within 6 s, after which as many times 6 s must pass; further calls are
    /// refused with 131056. Meta's is 45.
    pub pair_burst: Option<u32>,
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
            seed: 0,
            latency_ms: 0,
            outcomes: Outcomes::ByNumber,
            status_gap_ms: 300,
            webhook_batch_max: 50,
            webhook_posts_max: 128,
            rate_limit: None,
            pair_burst: None,
        }
    }
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
    let ledger = Arc::new(ledger);
    let schedule = Arc::new(Schedule::new(Duration::from_millis(config.status_gap_ms), Instant::now()));
    schedule.recovered(owed);

    let (inbound, inbound_bodies) = mpsc::channel(INBOUND_MAX);
    let webhooks = Webhooks::new(&config, Arc::clone(&ledger), Arc::clone(&schedule), clock.clone(), inbound_bodies)?;
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr().context("cannot read the address that the sandbox listens on")?;
    let tasks = TaskTracker::new();
    let rules = SendRules {
        access_token: config.access_token,
        seed: config.seed,
        latency: Duration::from_millis(config.latency_ms),
        outcomes: config.outcomes,
        waba_id: config.waba_id,
        webhook_batch_max: config.webhook_batch_max,
    };
    let limits = Limits::new(config.rate_limit, config.pair_burst);
    let api = Api::new(rules, ledger, limits, schedule, clock, inbound);
    tasks.spawn(webhooks.run(shutdown.clone()));
    tasks.spawn(server::serve(listener, api, tasks.clone(), shutdown));
    tasks.close();
    Ok(Sandbox { address, tasks })
}
