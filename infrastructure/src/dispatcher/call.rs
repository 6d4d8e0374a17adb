//! One call: wait for its slot, mark it, make it, and bring its outcome into the log.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use domain::aggregate::CommandEnvelope;
use domain::campaign_run::{CampaignRunCommand, StallReason};
use domain::ids::{RunId, SenderId};
use domain::message::{FailureClass, MessageCommand, ReleaseReason};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::departing::{Flight, ReadyCall};
use super::outage::Outage;
use super::supervisor::Dispatcher;
use crate::event_store::{Actor, Addressed, Attachment, CommandError};
use crate::pacing::{Departure, Departures};
use crate::sagas::log_run_event;
use crate::trouble::stall_reason;
use crate::whatsapp::{RetryScope, SendOutcome};

/// How long an outcome is tried to be stored before it is left to the sweeper and the webhooks.
const RECORD_ATTEMPTS_MAX: u32 = 12;
const RECORD_PAUSE_MAX: Duration = Duration::from_secs(5);
/// The failure code of a message that this engine could not put into a request; WhatsApp has no code 0 for messages.
const UNSENDABLE_CODE: i32 = 0;
/// WhatsApp's code for too many calls of one number in a second.
const THROUGHPUT_EXCEEDED: i32 = 130429;

#[derive(Clone)]
pub(super) struct CallContext {
    pub(super) dispatcher: Dispatcher,
    pub(super) sender_id: SenderId,
    pub(super) departures: Departures<ReadyCall>,
    /// How long this process holds the sender's lease for certain.
    pub(super) held_until: watch::Receiver<Instant>,
    /// The account that owns the number.
    pub(super) waba_id: Arc<str>,
    /// What is known of an outage of WhatsApp.
    pub(super) outage: Outage,
    pub(super) shutdown: CancellationToken,
}

impl CallContext {
    /// Calls WhatsApp, once, if the claim still gives the right to. The order matters: the mark lies in the journal
    /// before the first byte leaves, and is cleared only when the outcome is in the log.
    pub(super) async fn perform(&self, ready: ReadyCall, mut departure: Departure, flight: Flight) {
        let ReadyCall { claim, call } = ready;
        let mark = match self.dispatcher.journal.mark(claim.item.message_id, claim.item.attempt) {
            Ok(mark) => mark,
            Err(error) => {
                self.departures.give_back(departure);
                // A call may have been made under a mark that stands already: the sweeper settles it.
                if error.kind() != std::io::ErrorKind::AlreadyExists {
                    tracing::error!(%error, "the call journal cannot be written; nothing is sent without it");
                    self.release(&claim, ReleaseReason::NeverCalled).await;
                }
                return;
            }
        };
        // The very last thing, for a process may be frozen anywhere before this.
        if let Some(reason) = self.too_late(&claim) {
            mark.clear();
            self.departures.give_back(departure);
            return self.release(&claim, reason).await;
        }
        self.departures.left(&mut departure);
        let began = Instant::now();
        let outcome = self.dispatcher.client.call(call).await;
        flight.took(began.elapsed());
        drop(flight);
        tracing::debug!(message.id = %claim.item.message_id, receipt = claim.receipt, "called");
        let stall = self.heed(&outcome, &claim, departure);
        let (command, attachment) = self.command(&claim, outcome);
        if self.record(&claim, command, attachment).await {
            mark.clear();
        }
        if let Some(reason) = stall {
            self.stall_run(&claim, reason).await;
        }
    }

    /// Why the call may not be made any more, if so. Both clocks: a wall clock that is set back, or a process that was
    /// frozen, must not make a late call.
    fn too_late(&self, claim: &Claim) -> Option<ReleaseReason> {
        if self.shutdown.is_cancelled() {
            return Some(ReleaseReason::Shutdown);
        }
        // Another process may send for this number by now, and count its calls from there.
        if Instant::now() >= *self.held_until.borrow() {
            return Some(ReleaseReason::NeverCalled);
        }
        let passed = self.dispatcher.clock.now() >= claim.deadline || Instant::now() >= claim.deadline_monotonic;
        passed.then_some(ReleaseReason::DeadlinePassed)
    }

    /// Gives a claim back without a call.
    pub(super) async fn release(&self, claim: &Claim, reason: ReleaseReason) {
        let attempt = claim.item.attempt;
        let released = self.record(claim, MessageCommand::ReleaseDispatch { attempt, reason }, None).await;
        if released && reason == ReleaseReason::ContactOptedOut {
            // Nothing would change by another attempt.
            self.record(claim, MessageCommand::Cancel, None).await;
        }
    }

    pub(super) async fn fail_unsendable(&self, claim: &Claim) {
        let at = self.dispatcher.clock.now();
        let class = FailureClass::Configuration;
        self.record(
            claim,
            MessageCommand::MarkFailed { attempt: Some(claim.item.attempt), code: UNSENDABLE_CODE, class, at },
            None,
        )
        .await;
    }

    fn command(&self, claim: &Claim, outcome: SendOutcome) -> (MessageCommand, Option<Attachment>) {
        let attempt = claim.item.attempt;
        let at = self.dispatcher.clock.now();
        match outcome {
            SendOutcome::Accepted { wamid, acceptance } => {
                let known_by =
                    Attachment::ProviderMessage { sender_id: self.sender_id.0, wamid, attempt: Some(attempt), at };
                (MessageCommand::MarkSent { attempt: Some(attempt), acceptance, at }, Some(known_by))
            }
            SendOutcome::Refused { code, class, .. } => {
                (MessageCommand::MarkFailed { attempt: Some(attempt), code, class, at }, None)
            }
            SendOutcome::Deferred { code, pause: None, .. }
                if claim.refusals + 1 >= self.dispatcher.config.attempts_max =>
            {
                let class = FailureClass::RetriesExhausted;
                (MessageCommand::MarkFailed { attempt: Some(attempt), code, class, at }, None)
            }
            SendOutcome::Deferred { code, after, scope, pause } => {
                // What waits for a person does not wait longer for having been tried more often.
                let refusals = if pause.is_some() { 0 } else { claim.refusals };
                let wait = self.dispatcher.client.retries().grown(after, scope, refusals);
                let wait = TimeDelta::from_std(wait).unwrap_or(TimeDelta::days(1));
                (MessageCommand::Defer { attempt, until: at + wait, code }, None)
            }
            SendOutcome::NotConnected => {
                (MessageCommand::ReleaseDispatch { attempt, reason: ReleaseReason::NotConnected }, None)
            }
            SendOutcome::Unknown { why, .. } => {
                tracing::warn!(message.id = %claim.item.message_id, why = why.name(), "the outcome of a call is unknown");
                (MessageCommand::MarkOutcomeUnknown { attempt }, None)
            }
        }
    }

    /// What an outcome means for more than its own message.
    fn heed(&self, outcome: &SendOutcome, claim: &Claim, departure: Departure) -> Option<StallReason> {
        if matches!(outcome, SendOutcome::Deferred { code: THROUGHPUT_EXCEEDED, .. })
            && self.departures.refused(&departure)
        {
            tracing::warn!(sender.id = %self.sender_id, rate_per_s = self.departures.rate(), "WhatsApp asks for a lower rate");
        }
        match outcome {
            SendOutcome::Accepted { .. } | SendOutcome::Refused { .. } | SendOutcome::Deferred { .. } => {
                self.departures.answered(departure);
                self.outage.answered();
            }
            // What was not answered says nothing about when it was read.
            SendOutcome::NotConnected | SendOutcome::Unknown { .. } => drop(departure),
        }
        let misfit = self.dispatcher.misfits.observe(claim.item.run_id, outcome);
        let (code, pause, wait) = match outcome {
            SendOutcome::Accepted { .. } => return None,
            SendOutcome::Refused { code, pause, .. } => (*code, *pause, None),
            SendOutcome::Deferred { code, after, scope, pause } => {
                let whole_sender = matches!(scope, RetryScope::Sender | RetryScope::Account);
                let grown = || self.dispatcher.client.retries().grown(*after, *scope, claim.refusals);
                (*code, *pause, whole_sender.then(grown))
            }
            SendOutcome::NotConnected => (0, None, Some(Duration::from_secs(1))),
            SendOutcome::Unknown { why, pause } => {
                (why.code(), *pause, self.outage.lost(self.dispatcher.client.retries(), Instant::now()))
            }
        };
        if let Some(wait) = wait {
            tracing::debug!(sender.id = %self.sender_id, code, wait_ms = wait.as_millis(), "sending of this number pauses");
            let until = Instant::now() + wait;
            self.departures.hold_until(until);
            if matches!(outcome, SendOutcome::Deferred { scope: RetryScope::Account, .. }) {
                self.dispatcher.account_holds.hold_until(&self.waba_id, until);
            }
        }
        pause.map(|scope| stall_reason(scope, code)).or(misfit)
    }

    async fn stall_run(&self, claim: &Claim, reason: StallReason) {
        let run_id: RunId = claim.item.run_id;
        let stall = CampaignRunCommand::Stall { reason };
        let envelope = CommandEnvelope::new(claim.item.tenant_id, self.dispatcher.clock.now(), stall);
        let command = Addressed::new(run_id, envelope, Actor::Engine("dispatcher"));
        match self.dispatcher.runs.execute(command).await {
            Ok(stalled) => stalled.events.iter().for_each(|(_, event)| log_run_event(run_id, event)),
            Err(CommandError::Refused(_)) => {}
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the run could not be stalled"),
        }
    }

    /// Brings a command into the log; `true` when it is there, or when the message says that it is not needed. Given
    /// up only when the database stays away: then the claim is the sweeper's, and the mark tells it what to do.
    async fn record(&self, claim: &Claim, command: MessageCommand, attachment: Option<Attachment>) -> bool {
        let mut pause = Duration::from_millis(50);
        for _ in 0..RECORD_ATTEMPTS_MAX {
            let envelope = CommandEnvelope::new(claim.item.tenant_id, self.dispatcher.clock.now(), command.clone());
            let mut addressed = Addressed::new(claim.item.message_id, envelope, Actor::Engine("dispatcher"));
            addressed.attachment.clone_from(&attachment);
            match self.dispatcher.messages.execute(addressed).await {
                Ok(_) => return true,
                Err(CommandError::Refused(refusal)) => {
                    tracing::debug!(message.id = %claim.item.message_id, %refusal, "an outcome was known already");
                    return true;
                }
                Err(error) if error.is_transient() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RECORD_PAUSE_MAX);
                }
                Err(error) => {
                    tracing::error!(
                        message.id = %claim.item.message_id,
                        error = &error as &dyn std::error::Error,
                        "an outcome cannot be stored"
                    );
                    return false;
                }
            }
        }
        tracing::error!(message.id = %claim.item.message_id, "an outcome could not be stored; webhooks will settle it");
        false
    }
}
