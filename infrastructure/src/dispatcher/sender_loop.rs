//! The loop of one sender: lease, claims, last look. What is ready leaves by [`super::departing`].

use std::collections::HashSet;
use std::time::Duration;

use domain::ids::RunId;
use domain::message::{Lane, ReleaseReason};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::call::CallContext;
use super::claim::{Claim, ClaimOutcome, Terms, claim};
use super::departing::{Flights, ReadyCall, depart};
use super::outage::Outage;
use super::readying::{Readied, RunDefinitions, ready};
use super::strikes;
use super::supervisor::Dispatcher;
use crate::dispatch_queue::{Delivery, DispatchConsumer, DispatchItem, Parcel, QueueError, Tag};
use crate::lease;
use crate::pacing::{Departures, PairKey, PairLimiter, inbound};
use crate::senders::{self, Sender};

/// Half a second of permit is claimed and not yet called, at most: a change of rate takes effect within a second.
const CLAIM_AHEAD: Duration = Duration::from_millis(500);
/// While calls wait, so much more is claimed at once: a few large claims cost less than many small ones.
const CLAIM_STEP: Duration = Duration::from_millis(100);
/// How long the queue is waited for before the lease and the rate are looked at again.
const QUEUE_WAIT: Duration = Duration::from_millis(250);
/// A change of rate or of secrets takes effect within this.
const SENDER_REFRESH: Duration = Duration::from_millis(250);
/// How often it is looked whether there is room for another claim.
const ROOM_POLL: Duration = Duration::from_millis(10);
/// Runs of which is remembered that their sending was logged.
const RUNS_LOGGED_MAX: usize = 1000;
const RETRY_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct SenderLoop {
    dispatcher: Dispatcher,
    sender: Sender,
    holder: Uuid,
    calls: TaskTracker,
    flights: Flights,
    outage: Outage,
    pairs: PairLimiter,
    runs: RunDefinitions,
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
        let flights = Flights::new(dispatcher.config.concurrency.clone());
        let pairs = PairLimiter::new(dispatcher.config.pairs);
        let outage = Outage::new(dispatcher.config.outage_after);
        let (runs, sending) = (RunDefinitions::default(), HashSet::new());
        Self { dispatcher, sender, holder, calls, flights, outage, pairs, runs, sending }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let lease = format!("sender:{}", self.sender.id);
        let mut failing = false;
        while !shutdown.is_cancelled() {
            let began = Instant::now();
            if let Err(error) = self.hold_and_send(&lease, &shutdown).await {
                // Once, and again only when sending had gone on in between.
                if !failing || began.elapsed() > self.dispatcher.config.pacing.window() * 2 {
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
        let asked = Instant::now();
        if !lease::hold(&self.dispatcher.pool, lease, self.holder, self.dispatcher.config.lease_ttl).await? {
            return Ok(());
        }
        let (lease_until, held_until) = watch::channel(asked + self.dispatcher.config.lease_ttl);
        let mut consumer = self.dispatcher.queue.consumer(self.sender.id).await?;
        let pacing = self.dispatcher.config.pacing;
        // A new holder of the lease does not know the last calls of the holder before: it waits a full window.
        let departures = Departures::new(pacing, self.sender.rate_per_s, Instant::now() + pacing.window());
        let context = CallContext {
            dispatcher: self.dispatcher.clone(),
            sender_id: self.sender.id,
            departures: departures.clone(),
            held_until,
            waba_id: self.sender.waba_id.as_str().into(),
            outage: self.outage.clone(),
            shutdown: shutdown.clone(),
        };
        let departing =
            tokio::spawn(depart(departures.clone(), self.flights.clone(), context.clone(), self.calls.clone()));
        let mut turn = Turn { lane: self, departures: departures.clone(), context: context.clone(), lease_until };
        let ended = turn.claim_on(lease, &mut *consumer, shutdown).await;
        // Nobody calls without the lease: what waits goes back.
        for ReadyCall { claim, .. } in departures.close() {
            let context = context.clone();
            self.calls.spawn(async move { context.release(&claim, ReleaseReason::Shutdown).await });
        }
        // It ends with its departures.
        drop(departing.await);
        ended
    }
}

/// One stretch of holding the lease.
struct Turn<'a> {
    lane: &'a mut SenderLoop,
    departures: Departures<ReadyCall>,
    context: CallContext,
    /// Nobody calls after this; moved on whenever the lease is renewed.
    lease_until: watch::Sender<Instant>,
}

impl Turn<'_> {
    async fn claim_on(
        &mut self,
        lease: &str,
        consumer: &mut dyn DispatchConsumer,
        shutdown: &CancellationToken,
    ) -> Result<(), LoopError> {
        let mut refreshed = Instant::now();
        let mut received = inbound::received(&self.lane.dispatcher.pool, self.lane.sender.id).await?;
        while !shutdown.is_cancelled() {
            if !self.renew(lease).await? {
                tracing::warn!(sender.id = %self.lane.sender.id, "another process sends for this sender now");
                return Ok(());
            }
            if refreshed.elapsed() >= SENDER_REFRESH {
                refreshed = Instant::now();
                if !self.refresh().await? {
                    return Ok(());
                }
                let (pool, sender) = (&self.lane.dispatcher.pool, self.lane.sender.id);
                let received_now = inbound::received(pool, sender).await?;
                self.departures.inbound(u32::try_from(received_now - received).unwrap_or_default());
                received = received_now;
            }
            let Some(room) = self.room() else {
                tokio::time::sleep(ROOM_POLL).await;
                continue;
            };
            let deliveries = consumer.next(room, QUEUE_WAIT).await?;
            if !deliveries.is_empty() {
                self.dispatch(consumer, deliveries).await?;
            }
        }
        Ok(())
    }

    /// `false` when somebody else holds the lease.
    async fn renew(&mut self, lease: &str) -> Result<bool, sqlx::Error> {
        let ttl = self.lane.dispatcher.config.lease_ttl;
        let asked = Instant::now();
        if *self.lease_until.borrow() > asked + ttl * 2 / 3 {
            return Ok(true);
        }
        let held = lease::hold(&self.lane.dispatcher.pool, lease, self.lane.holder, ttl).await?;
        if held {
            self.lease_until.send_replace(asked + ttl);
        }
        Ok(held)
    }

    /// Reads the rate and the secrets anew; `false` if the sender is gone.
    async fn refresh(&mut self) -> Result<bool, sqlx::Error> {
        let Some(sender) = senders::sender(&self.lane.dispatcher.pool, self.lane.sender.id).await? else {
            return Ok(false);
        };
        self.lane.sender = sender;
        self.departures.set_rate(self.lane.sender.rate_per_s);
        if let Some(until) = self.lane.dispatcher.account_holds.until(&self.lane.sender.waba_id) {
            self.departures.hold_until(until);
        }
        Ok(true)
    }

    /// How many messages may be claimed now; `None` if it is not worth it yet.
    fn room(&self) -> Option<usize> {
        let room = self.departures.room(Instant::now() + CLAIM_AHEAD).min(self.lane.dispatcher.config.claim_batch_max);
        let rate = usize::try_from(self.departures.rate()).unwrap_or(usize::MAX);
        let step = rate * usize::try_from(CLAIM_STEP.as_millis()).unwrap_or_default() / 1000;
        // Whoever waits for nothing claims at once.
        let enough =
            if self.departures.waiting() == 0 { 1 } else { step.clamp(1, self.lane.dispatcher.config.claim_batch_max) };
        (room >= enough).then_some(room)
    }

    async fn dispatch(
        &mut self,
        consumer: &mut dyn DispatchConsumer,
        deliveries: Vec<Delivery>,
    ) -> Result<(), LoopError> {
        let (again, first): (Vec<Delivery>, Vec<Delivery>) =
            deliveries.into_iter().partition(|delivery| delivery.redelivered);
        self.claim(consumer, first).await?;
        for delivery in again {
            self.claim_again(consumer, delivery).await?;
        }
        Ok(())
    }

    /// A parcel that was lost with its process, or with the connection: see [`strikes`].
    async fn claim_again(&mut self, consumer: &mut dyn DispatchConsumer, delivery: Delivery) -> Result<(), LoopError> {
        let pool = self.lane.dispatcher.pool.clone();
        let items = delivery.parcel.items.clone();
        let struck = strikes::of(&pool, &items).await?;
        if struck.values().all(|strikes| *strikes < strikes::SUSPECT) {
            strikes::strike(&pool, &items).await?;
            self.claim(consumer, vec![delivery]).await?;
            return Ok(strikes::forgive(&pool, &items).await?);
        }
        let strikes_max = i32::try_from(self.lane.dispatcher.config.strikes_max).unwrap_or(i32::MAX);
        let Delivery { parcel, tag, .. } = delivery;
        for item in items {
            let alone = [item];
            if struck.get(&alone[0].message_id).is_some_and(|strikes| *strikes >= strikes_max) {
                let reason = format!("lost with its process in {strikes_max} deliveries");
                strikes::park(&pool, &alone[0], &reason, self.lane.dispatcher.clock.now()).await?;
                continue;
            }
            strikes::strike(&pool, &alone).await?;
            let parcel = Parcel { items: alone.to_vec(), ..parcel.clone() };
            self.claim_parcels(vec![parcel]).await?;
            strikes::forgive(&pool, &alone).await?;
        }
        Ok(consumer.ack(&[tag]).await?)
    }

    async fn claim(&mut self, consumer: &mut dyn DispatchConsumer, deliveries: Vec<Delivery>) -> Result<(), LoopError> {
        if deliveries.is_empty() {
            return Ok(());
        }
        let (tags, parcels): (Vec<Tag>, Vec<Parcel>) =
            deliveries.into_iter().map(|delivery| (delivery.tag, delivery.parcel)).unzip();
        let all_known = self.claim_parcels(parcels).await?;
        // The claims stand in the log, so a redelivery may never call: acknowledging now only frees the queue. Of what is
        // not known the feeder publishes another copy.
        consumer.ack(&tags).await?;
        if !all_known {
            // The store is in trouble.
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Ok(())
    }

    /// Claims what is in the parcels and hands it on; `false` if of some nothing is known.
    async fn claim_parcels(&mut self, parcels: Vec<Parcel>) -> Result<bool, LoopError> {
        let mut wanted: Vec<(Lane, DispatchItem)> = Vec::new();
        for Parcel { lane, items, .. } in parcels {
            wanted.extend(items.into_iter().map(|item| (lane, item)));
        }
        self.postpone_crowded(&mut wanted).await?;
        let dispatcher = &self.lane.dispatcher;
        let terms =
            Terms { at: dispatcher.clock.now(), ttl: dispatcher.config.claim_ttl, journal_id: dispatcher.journal.id() };
        let pairs: Vec<PairKey> =
            wanted.iter().map(|(_, item)| self.lane.pairs.key(&item.contact_id.to_string())).collect();
        let outcomes = claim(&dispatcher.messages, &dispatcher.in_flight, wanted, &terms).await;
        let (mut claims, mut all_known, mut broken) = (Vec::new(), true, Vec::new());
        for (pair, outcome) in pairs.into_iter().zip(outcomes) {
            if !matches!(outcome, ClaimOutcome::Claimed(_)) {
                self.lane.pairs.undo(pair);
            }
            match outcome {
                ClaimOutcome::Claimed(claim) => claims.push(claim),
                ClaimOutcome::Worthless => {}
                ClaimOutcome::Broken(item, reason) => broken.push((item, reason)),
                ClaimOutcome::NotNow => all_known = false,
            }
        }
        let now = dispatcher.clock.now();
        for (item, reason) in broken {
            strikes::park(&self.lane.dispatcher.pool, &item, &reason, now).await?;
        }
        if !claims.is_empty() {
            self.hand_on(claims).await;
        }
        Ok(all_known)
    }

    /// Takes out whoever has had too many messages a moment ago: they fall due later, and nothing is claimed for them.
    async fn postpone_crowded(&mut self, wanted: &mut Vec<(Lane, DispatchItem)>) -> Result<(), sqlx::Error> {
        let now = Instant::now();
        let mut crowded = Vec::new();
        wanted.retain(|(_, item)| {
            let key = self.lane.pairs.key(&item.contact_id.to_string());
            match self.lane.pairs.check(key, now) {
                Ok(()) => true,
                Err(wait) => {
                    crowded.push((item.clone(), wait));
                    false
                }
            }
        });
        if crowded.is_empty() {
            return Ok(());
        }
        crate::ready_list::postpone(&self.lane.dispatcher.pool, &crowded, self.lane.dispatcher.clock.now()).await
    }

    /// The last look, then to the departures.
    async fn hand_on(&mut self, claims: Vec<Claim>) {
        // New secrets count from the next call on: a run that is resumed with a new token must not meet the old one.
        let readied = match self.refresh().await {
            Ok(_) => {
                let SenderLoop { dispatcher, sender, runs, .. } = &mut *self.lane;
                ready(dispatcher, sender, runs, &claims).await
            }
            Err(error) => Err(error),
        };
        let readied = readied.unwrap_or_else(|error| {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "claims are given back: their messages cannot be read");
            claims.iter().map(|_| Readied::Blocked(ReleaseReason::NeverCalled)).collect()
        });
        let mut leaving = Vec::with_capacity(claims.len());
        for (claim, readied) in claims.into_iter().zip(readied) {
            let context = self.context.clone();
            match readied {
                Readied::Call(call) => {
                    self.log_sending(claim.item.run_id);
                    leaving.push(ReadyCall { claim, call: *call });
                }
                Readied::Blocked(reason) => {
                    self.lane.pairs.undo(self.lane.pairs.key(&claim.item.contact_id.to_string()));
                    self.lane.calls.spawn(async move { context.release(&claim, reason).await });
                }
                Readied::Unsendable => {
                    self.lane.calls.spawn(async move { context.fail_unsendable(&claim).await });
                }
            }
        }
        // Nobody else closes them.
        drop(self.departures.push(leaving));
    }

    fn log_sending(&mut self, run_id: RunId) {
        if self.lane.sending.len() >= RUNS_LOGGED_MAX {
            self.lane.sending.clear();
        }
        if self.lane.sending.insert(run_id) {
            tracing::info!(run.id = %run_id, rate_per_s = self.lane.sender.rate_per_s, "sending");
        }
    }
}
