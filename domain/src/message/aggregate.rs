use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::commands::MessageCommand;
use super::decide::decide;
use super::error::MessageError;
use super::events::{MessageEvent, MessageStatus, Milestone, OnUnknown};
use crate::aggregate::{CommandEnvelope, Decider, cqrs_aggregate};
use crate::ids::{RunId, TenantId};

/// The state that decisions need; everything else about a message is in its events.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `None` until the message was queued or skipped.
    pub(super) origin: Option<Origin>,
    /// The latest attempt that began; 0 before the first.
    pub attempt: u32,
    /// The claim that is open now.
    pub(super) claim_open: bool,
    /// How often WhatsApp has refused it for now.
    pub(super) refusals: u32,
    /// How often it was deferred because a status reported it as failed after it had been accepted.
    pub(super) retried_failures: u32,
    /// The latest attempt that was deferred; 0 if none was.
    pub(super) deferred: u32,
    /// Was another attempt made while the outcome of an earlier one was unknown? Then a status that does not say which
    /// attempt it is about may be about that one.
    pub(super) resent: bool,
    /// A deferred message is not due before this.
    pub(super) not_before: Option<DateTime<Utc>>,
    pub(super) facts: Facts,
    pub(super) reached: BTreeSet<Milestone>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Origin {
    pub(super) tenant_id: TenantId,
    pub(super) run_id: RunId,
    pub(super) on_unknown: OnUnknown,
    pub(super) status: MessageStatus,
}

/// What WhatsApp has said about the present attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    pub(super) sent: bool,
    pub(super) delivered: bool,
    pub(super) read: bool,
    pub(super) failed: bool,
}

impl Message {
    /// How often WhatsApp has refused it for now. Attempts that ended without a call are not among them.
    pub fn refusals(&self) -> u32 {
        self.refusals
    }

    /// Has another attempt followed, or may one follow? Then a word about this one comes too late to count.
    pub(super) fn is_over(&self, attempt: u32) -> bool {
        attempt < self.attempt || attempt <= self.deferred
    }

    /// The attempt that a word about the message is about which does not say so; `None` if it may be about another.
    pub fn certain_attempt(&self) -> Option<u32> {
        (self.attempt > 0 && !self.resent).then_some(self.attempt)
    }

    /// Has it been claimed, and may more still be heard of it soon?
    pub fn is_under_way(&self) -> bool {
        self.status().is_some_and(|status| match status {
            MessageStatus::Dispatching
            | MessageStatus::Sent
            | MessageStatus::Delivered
            | MessageStatus::Unknown
            | MessageStatus::Unconfirmed => true,
            // A message may wait for its turn for hours, and what has ended is rarely heard of again.
            MessageStatus::Pending
            | MessageStatus::Read
            | MessageStatus::Failed
            | MessageStatus::Skipped
            | MessageStatus::Expired
            | MessageStatus::Cancelled => false,
        })
    }

    /// Is the answer to this command the same after whatever else may happen to the message? Then a state that may not
    /// be the latest is good enough to give it.
    pub fn is_final_for(&self, envelope: &CommandEnvelope<MessageCommand>) -> bool {
        let Some(origin) = &self.origin else { return false };
        if origin.tenant_id != envelope.tenant_id {
            return true;
        }
        match &envelope.command {
            MessageCommand::QueueMessage { .. } | MessageCommand::Skip { .. } => true,
            MessageCommand::MarkSent { attempt: None, .. } => self.reached.contains(&Milestone::Sent),
            MessageCommand::MarkSent { attempt: Some(attempt), .. } => self.is_over(*attempt),
            MessageCommand::BeginDispatch { .. }
            | MessageCommand::ReleaseDispatch { .. }
            | MessageCommand::MarkDelivered { .. }
            | MessageCommand::MarkRead { .. }
            | MessageCommand::ConfirmLatestAttempt { .. }
            | MessageCommand::MarkFailed { .. }
            | MessageCommand::RetryFailed { .. }
            | MessageCommand::Defer { .. }
            | MessageCommand::MarkOutcomeUnknown { .. }
            | MessageCommand::Settle { .. }
            | MessageCommand::Expire
            | MessageCommand::Cancel => false,
        }
    }

    /// `None` for a message that does not exist.
    pub fn status(&self) -> Option<MessageStatus> {
        self.origin.as_ref().map(|origin| origin.status)
    }
}

cqrs_aggregate!(Message, "Message", MessageCommand, MessageEvent, MessageError);

impl Decider for Message {
    fn decide(&self, envelope: &CommandEnvelope<MessageCommand>) -> Result<Vec<MessageEvent>, MessageError> {
        decide(self, envelope)
    }

    fn evolve(&mut self, event: &MessageEvent) {
        let transition = event.transition();
        match event {
            MessageEvent::Queued { tenant_id, on_unknown, .. } => {
                self.origin = Some(Origin {
                    tenant_id: *tenant_id,
                    run_id: transition.run_id,
                    on_unknown: *on_unknown,
                    status: transition.to,
                });
            }
            MessageEvent::Skipped { tenant_id, .. } => {
                self.origin = Some(Origin {
                    tenant_id: *tenant_id,
                    run_id: transition.run_id,
                    on_unknown: OnUnknown::Hold,
                    status: transition.to,
                });
            }
            MessageEvent::DispatchStarted { attempt, .. } => {
                self.attempt = *attempt;
                self.claim_open = true;
                self.not_before = None;
            }
            MessageEvent::DispatchReleased { .. } | MessageEvent::Expired { .. } | MessageEvent::Cancelled { .. } => {
                self.claim_open = false;
            }
            MessageEvent::Sent { .. } => {
                self.claim_open = false;
                self.facts.sent = true;
            }
            MessageEvent::Delivered { .. } => {
                self.claim_open = false;
                self.facts.sent = true;
                self.facts.delivered = true;
            }
            MessageEvent::Read { .. } => {
                self.claim_open = false;
                self.facts.sent = true;
                self.facts.delivered = true;
                self.facts.read = true;
            }
            MessageEvent::Failed { .. } => {
                self.claim_open = false;
                self.facts.failed = true;
            }
            MessageEvent::Deferred { attempt, until, after_acceptance, .. } => {
                self.claim_open = false;
                self.deferred = *attempt;
                self.refusals += 1;
                self.retried_failures += u32::from(*after_acceptance);
                self.not_before = Some(*until);
                self.ready_for_another_attempt();
            }
            MessageEvent::OutcomeUnknown { .. } | MessageEvent::Unconfirmed { .. } => self.claim_open = false,
            MessageEvent::Settled { .. } => {
                self.claim_open = false;
                match transition.to {
                    MessageStatus::Sent => self.facts.sent = true,
                    MessageStatus::Failed => self.facts.failed = true,
                    _ => {
                        self.resent = true;
                        self.ready_for_another_attempt();
                    }
                }
            }
        }
        // Milestones are remembered apart from the facts: they are reached once, whatever is retried afterwards.
        self.reached.extend(transition.reached.iter().copied());
        if let Some(origin) = &mut self.origin {
            origin.status = transition.to;
        }
    }
}

impl Message {
    /// An attempt that is known to have failed says nothing about the next one.
    fn ready_for_another_attempt(&mut self) {
        self.facts = Facts::default();
    }
}
