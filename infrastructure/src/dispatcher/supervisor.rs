//! One loop per sender, started when the sender appears and started again when it ends.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use domain::ids::SenderId;
use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::account_holds::AccountHolds;
use super::claim::InFlight;
use super::journal::CallJournal;
use super::misfits::Misfits;
use super::sender_loop::SenderLoop;
use crate::clock::Clock;
use crate::dispatch_queue::DispatchQueue;
use crate::event_store::{CampaignRunStore, MessageStore};
use crate::pacing::{PacingConfig, PairConfig};
use crate::senders;
use crate::whatsapp::WhatsAppClient;

#[derive(Debug, Clone)]
pub struct DispatcherConfig {
    /// Messages claimed in one go.
    pub claim_batch_max: usize,
    /// After this a claim gives no right to call any more.
    pub claim_ttl: Duration,
    /// The fewest and the most calls of one sender that may be under way at once, however long they take.
    pub concurrency: RangeInclusive<usize>,
    /// How long a sender's lease outlives its holder.
    pub lease_ttl: Duration,
    /// May a sender have another address than WhatsApp's own? For stand-ins only.
    pub base_url_allowed: bool,
    /// Attempts of one message, refusals that may be retried included.
    pub attempts_max: u32,
    /// So many calls in a row whose outcome is not known are an outage of WhatsApp.
    pub outage_after: u32,
    /// Deliveries that may be lost with their process before a message is parked.
    pub strikes_max: u32,
    pub pacing: PacingConfig,
    pub pairs: PairConfig,
}

/// Everything that sending needs; shared by all senders of the process.
#[derive(Clone)]
pub struct Dispatcher {
    pub pool: PgPool,
    pub clock: Clock,
    pub queue: Arc<dyn DispatchQueue>,
    pub messages: MessageStore,
    pub runs: CampaignRunStore,
    pub client: WhatsAppClient,
    pub journal: CallJournal,
    pub in_flight: InFlight,
    pub misfits: Misfits,
    pub account_holds: AccountHolds,
    pub config: DispatcherConfig,
}

/// How often new senders are looked for; a change of rate is heeded by the sender's own loop.
const LOOK_FOR_SENDERS: Duration = Duration::from_millis(500);

impl Dispatcher {
    /// Runs until `shutdown`, then until the calls that are under way have their outcome in the log.
    pub async fn run(self, shutdown: CancellationToken) {
        let holder = Uuid::new_v4();
        let calls = TaskTracker::new();
        let mut loops: HashMap<SenderId, JoinHandle<()>> = HashMap::new();
        let mut refused: HashSet<SenderId> = HashSet::new();
        while !shutdown.is_cancelled() {
            loops.retain(|_, running| !running.is_finished());
            match senders::all_active(&self.pool).await {
                Ok(active) => {
                    for sender in active {
                        if sender.base_url.is_some() && !self.config.base_url_allowed {
                            if refused.insert(sender.id) {
                                tracing::error!(
                                    sender.id = %sender.id,
                                    "nothing is sent for a number with an address of its own; allow it with --allow-provider-base-url"
                                );
                            }
                            continue;
                        }
                        loops.entry(sender.id).or_insert_with(|| {
                            let sender_loop = SenderLoop::new(self.clone(), sender, holder, calls.clone());
                            tokio::spawn(sender_loop.run(shutdown.clone()))
                        });
                    }
                }
                Err(error) => tracing::warn!(%error, "the senders could not be read; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_FOR_SENDERS) => {}
                () = shutdown.cancelled() => {}
            }
        }
        for (_, running) in loops {
            // A loop that panicked has left its claims to the sweeper.
            drop(running.await);
        }
        calls.close();
        calls.wait().await;
    }
}
