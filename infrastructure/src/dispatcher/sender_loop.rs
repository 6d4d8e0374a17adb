//! The loop of one sender: lease, slots, claims, last look, calls.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::campaign_run::RunDefinition;
use domain::ids::{ContactId, RunId};
use domain::message::ReleaseReason;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::call::CallContext;
use super::claim::{Claim, ClaimOutcome, Terms, claim};
use super::last_look::{Subject, last_look};
use super::pacer::Pacer;
use super::supervisor::Dispatcher;
use crate::dispatch_queue::{Delivery, DispatchConsumer, QueueError};
use crate::lease;
use crate::senders::{self, Sender};
use crate::whatsapp::client::DEFAULT_BASE_URL;
use crate::whatsapp::{PreparedCall, SendRequest};

/// Half a second of permit is claimed and not yet called, at most: a change of rate takes effect within a second.
const CLAIM_AHEAD: Duration = Duration::from_millis(500);
/// How long the queue is waited for before the lease and the rate are looked at again.
const QUEUE_WAIT: Duration = Duration::from_millis(250);
/// A change of rate or of secrets takes effect within this.
const SENDER_REFRESH: Duration = Duration::from_millis(250);
/// A new holder of the lease does not know the last calls of the holder before: it waits a full window.
const HANDOVER_WAIT: Duration = Duration::from_secs(1);
/// Definitions of runs kept in memory.
const RUNS_CACHED_MAX: usize = 200;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct SenderLoop {
    dispatcher: Dispatcher,
    sender: Sender,
    holder: Uuid,
    calls: TaskTracker,
    permits: Arc<Semaphore>,
    /// Nothing of this sender is called before this: WhatsApp asked for a pause.
    held_until: Arc<Mutex<Option<Instant>>>,
    runs: HashMap<RunId, Arc<RunDefinition>>,
    /// Runs of which this process has made a call.
    sending: HashSet<RunId>,
}

#[derive(Debug, thiserror::Error)]
enum LoopError {
    #[error("the database did not answer")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl SenderLoop {
    pub(super) fn new(dispatcher: Dispatcher, sender: Sender, holder: Uuid, calls: TaskTracker) -> Self {
        let permits = Arc::new(Semaphore::new(dispatcher.config.concurrency_max));
        let held_until = Arc::new(Mutex::new(None));
        Self { dispatcher, sender, holder, calls, permits, held_until, runs: HashMap::new(), sending: HashSet::new() }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let lease = format!("sender:{}", self.sender.id);
        let mut failing = false;
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            if let Err(error) = self.hold_and_send(&lease, &shutdown).await {
                // Once, and again only when sending had gone on in between.
                if !failing || began.elapsed() > HANDOVER_WAIT * 2 {
                    let sender_id = self.sender.id;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(sender.id = %sender_id, error, "sending is interrupted; trying again");
                }
                failing = true;
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY_PAUSE) => {}
                () = shutdown.cancelled() => {}
            }
        }
        if let Err(error) = lease::release(&self.dispatcher.pool, &lease, self.holder).await {
            tracing::debug!(%error, "the lease of a sender ends by itself");
        }
    }

    /// Sends as long as the lease is held. Ends without an error when somebody else holds it.
    async fn hold_and_send(&mut self, lease: &str, shutdown: &CancellationToken) -> Result<(), LoopError> {
        let ttl = self.dispatcher.config.lease_ttl;
        if !lease::hold(&self.dispatcher.pool, lease, self.holder, ttl).await? {
            return Ok(());
        }
        let mut renewed = Instant::now();
        let mut refreshed = Instant::now();
        let mut consumer = self.dispatcher.queue.consumer(self.sender.id).await?;
        let mut pacer = Pacer::new(self.rate(), Instant::now() + HANDOVER_WAIT);
        tokio::time::sleep(HANDOVER_WAIT).await;
        while !shutdown.is_cancelled() {
            if renewed.elapsed() >= ttl / 3 {
                let now = Instant::now();
                if !lease::hold(&self.dispatcher.pool, lease, self.holder, ttl).await? {
                    tracing::warn!(sender.id = %self.sender.id, "another process sends for this sender now");
                    return Ok(());
                }
                renewed = now;
            }
            if refreshed.elapsed() >= SENDER_REFRESH {
                refreshed = Instant::now();
                let Some(sender) = senders::sender(&self.dispatcher.pool, self.sender.id).await? else {
                    return Ok(());
                };
                self.sender = sender;
                pacer.set_rate(self.rate(), Instant::now());
            }
            let room = self.room(&pacer);
            if room == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
            let batch = consumer.next(room, QUEUE_WAIT).await?;
            if !batch.is_empty() {
                self.dispatch(&mut *consumer, batch, &mut pacer, shutdown).await?;
            }
        }
        Ok(())
    }

    fn rate(&self) -> usize {
        usize::try_from(self.sender.rate_per_s).unwrap_or(usize::MAX)
    }

    /// How many messages may be claimed now.
    fn room(&self, pacer: &Pacer) -> usize {
        let now = Instant::now();
        let held = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some_and(|until| now < until) {
            return 0;
        }
        pacer
            .free_before(now, now + CLAIM_AHEAD)
            .min(self.dispatcher.config.claim_batch_max)
            .min(self.permits.available_permits())
    }

    async fn dispatch(
        &mut self,
        consumer: &mut dyn DispatchConsumer,
        batch: Vec<Delivery>,
        pacer: &mut Pacer,
        shutdown: &CancellationToken,
    ) -> Result<(), LoopError> {
        // Before the claims: a call that had to wait for a permit after its slot would leave together with others. This
        // loop is the only one that takes permits, and it asked for no more than there were.
        let wanted = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let Ok(permits) = self.permits.clone().try_acquire_many_owned(wanted) else {
            return consumer
                .give_back(&batch.iter().map(|delivery| delivery.tag).collect::<Vec<_>>())
                .await
                .map_err(LoopError::from);
        };
        let terms = Terms {
            at: self.dispatcher.clock.now(),
            ttl: self.dispatcher.config.claim_ttl,
            journal_id: self.dispatcher.journal.id(),
        };
        let (tags, items): (Vec<u64>, Vec<_>) = batch.into_iter().map(|delivery| (delivery.tag, delivery.item)).unzip();
        let outcomes = claim(&self.dispatcher.messages, &self.dispatcher.in_flight, items, &terms).await;
        let (mut won, mut worthless, mut unsettled, mut claims) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (tag, outcome) in tags.into_iter().zip(outcomes) {
            match outcome {
                ClaimOutcome::Claimed(claim) => {
                    won.push(tag);
                    claims.push(claim);
                }
                ClaimOutcome::Worthless => worthless.push(tag),
                ClaimOutcome::NotNow => unsettled.push(tag),
            }
        }
        // The claims stand in the log, so a redelivery may never call: acknowledging now only frees the queue. A
        // failure here loses nothing, and what was claimed is called all the same.
        let acknowledged = async {
            consumer.ack(&won).await?;
            consumer.discard(&worthless).await?;
            consumer.give_back(&unsettled).await
        }
        .await;
        self.call_all(claims, permits, pacer, shutdown).await;
        acknowledged.map_err(LoopError::from)
    }

    async fn call_all(
        &mut self,
        claims: Vec<Claim>,
        mut permits: OwnedSemaphorePermit,
        pacer: &mut Pacer,
        shutdown: &CancellationToken,
    ) {
        let context =
            CallContext::new(self.dispatcher.clone(), self.sender.id, self.held_until.clone(), shutdown.clone());
        let readied = match self.ready(&claims).await {
            Ok(readied) => readied,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "claims are given back: their messages cannot be read"
                );
                claims.iter().map(|_| Readied::Blocked(ReleaseReason::NeverCalled)).collect()
            }
        };
        pacer.set_rate(self.rate(), Instant::now());
        for (claim, readied) in claims.into_iter().zip(readied) {
            match readied {
                Readied::Call(call) => {
                    if self.sending.insert(claim.item.run_id) {
                        tracing::info!(run.id = %claim.item.run_id, rate_per_s = self.sender.rate_per_s, "sending");
                    }
                    let slot = pacer.reserve(Instant::now());
                    let (context, permit) = (context.clone(), permits.split(1));
                    self.calls.spawn(async move {
                        context.perform(claim, *call, slot).await;
                        drop(permit);
                    });
                }
                Readied::Blocked(reason) => {
                    let context = context.clone();
                    self.calls.spawn(async move { context.release(&claim, reason).await });
                }
                Readied::Unsendable => {
                    let context = context.clone();
                    self.calls.spawn(async move { context.fail_unsendable(&claim).await });
                }
            }
        }
    }

    /// Builds the calls, after the last look at what forbids them.
    async fn ready(&mut self, claims: &[Claim]) -> Result<Vec<Readied>, LoopError> {
        // New secrets count from the next call on: a run that is resumed with a new token must not meet the old one.
        if let Some(sender) = senders::sender(&self.dispatcher.pool, self.sender.id).await? {
            self.sender = sender;
        }
        let ids: Vec<Uuid> = claims.iter().map(|claim| claim.item.message_id.0).collect();
        let recipients: HashMap<Uuid, Recipient> = sqlx::query!(
            "SELECT message_id, contact_id, phone, variables FROM message_recipients WHERE message_id = ANY($1)",
            &ids,
        )
        .fetch_all(&self.dispatcher.pool)
        .await?
        .into_iter()
        .map(|row| {
            let contact_id = ContactId(row.contact_id);
            (row.message_id, Recipient { contact_id, phone: row.phone, variables: row.variables })
        })
        .collect();
        let mut runs = Vec::with_capacity(claims.len());
        for claim in claims {
            runs.push(self.run_definition(claim.item.run_id).await?);
        }
        let subjects: Vec<Subject> = claims
            .iter()
            .zip(&runs)
            .map(|(claim, run)| Subject {
                run_id: claim.item.run_id.0,
                campaign_id: run.as_ref().and_then(|run| run.campaign_id).map(Uuid::from),
                contact_id: recipients.get(&claim.item.message_id.0).map_or(Uuid::nil(), |r| r.contact_id.0),
                lane: claim.item.lane,
            })
            .collect();
        let forbidden = last_look(&self.dispatcher.pool, &subjects).await?;
        Ok(claims
            .iter()
            .zip(runs)
            .zip(forbidden)
            .map(|((claim, run), forbidden)| match (forbidden, run, recipients.get(&claim.item.message_id.0)) {
                (Some(reason), _, _) => Readied::Blocked(reason),
                (None, Some(run), Some(recipient)) => self.prepare(claim, &run, recipient),
                // The run or the recipient is gone: the contact was erased.
                (None, _, _) => Readied::Unsendable,
            })
            .collect())
    }

    fn prepare(&self, claim: &Claim, run: &RunDefinition, recipient: &Recipient) -> Readied {
        let Ok(values) = serde_json::from_value(recipient.variables.clone()) else { return Readied::Unsendable };
        let Ok(components) = domain::template::request_components(&run.template.components, &values) else {
            return Readied::Unsendable;
        };
        let request = SendRequest {
            base_url: self.sender.base_url.as_deref().unwrap_or(DEFAULT_BASE_URL),
            phone_number_id: &self.sender.phone_number_id,
            access_token: self.sender.access_token.expose(),
            to: &recipient.phone,
            template_name: &run.template.name,
            language: &run.template.language,
            components,
            callback: claim.item.message_id,
        };
        match self.dispatcher.client.prepare(&request) {
            Ok(call) => Readied::Call(Box::new(call)),
            Err(error) => {
                tracing::warn!(message.id = %claim.item.message_id, %error, "a message cannot be sent as it is");
                Readied::Unsendable
            }
        }
    }

    async fn run_definition(&mut self, id: RunId) -> Result<Option<Arc<RunDefinition>>, LoopError> {
        if let Some(known) = self.runs.get(&id) {
            return Ok(Some(known.clone()));
        }
        let run = self.dispatcher.runs.load(id).await.map_err(|error| {
            LoopError::Database(sqlx::Error::Protocol(format!("run {id} could not be loaded: {error}")))
        })?;
        let Some(definition) = run.definition().cloned().map(Arc::new) else { return Ok(None) };
        if self.runs.len() >= RUNS_CACHED_MAX {
            self.runs.clear();
            self.sending.clear();
        }
        self.runs.insert(id, definition.clone());
        Ok(Some(definition))
    }
}

struct Recipient {
    contact_id: ContactId,
    /// E.164 with the leading +.
    phone: String,
    variables: serde_json::Value,
}

enum Readied {
    Call(Box<PreparedCall>),
    Blocked(ReleaseReason),
    /// It can never be sent as it is.
    Unsendable,
}
