use chrono::{DateTime, Utc};

use super::aggregate::{Facts, Message, Origin};
use super::commands::{MessageCommand, Resolution};
use super::error::MessageError;
use super::events::{Acceptance, FailureClass, MessageEvent, MessageStatus, Milestone, OnUnknown, Transition};
use crate::aggregate::CommandEnvelope;

type Decision = Result<Vec<MessageEvent>, MessageError>;

const NOTHING: Decision = Ok(Vec::new());

pub(super) fn decide(state: &Message, envelope: &CommandEnvelope<MessageCommand>) -> Decision {
    let Some(origin) = &state.origin else {
        return create(envelope);
    };
    if origin.tenant_id != envelope.tenant_id {
        return Err(MessageError::NotFound);
    }
    let message = Known { state, origin };
    match &envelope.command {
        // A message of this id exists: the same contact of the same run.
        MessageCommand::QueueMessage { .. } | MessageCommand::Skip { .. } => NOTHING,
        MessageCommand::BeginDispatch { attempt, deadline, journal_id } => {
            message.may_begin(*attempt, envelope.at)?;
            Ok(vec![MessageEvent::DispatchStarted {
                transition: message.to(MessageStatus::Dispatching),
                attempt: *attempt,
                deadline: *deadline,
                journal_id: *journal_id,
            }])
        }
        MessageCommand::ReleaseDispatch { attempt, reason } => {
            if !message.is_open(*attempt) {
                return NOTHING;
            }
            let transition = message.to(MessageStatus::Pending);
            Ok(vec![MessageEvent::DispatchReleased { transition, attempt: *attempt, reason: *reason }])
        }
        // A repeated word about an earlier attempt must not be taken for the outcome of a later one.
        MessageCommand::MarkSent { attempt: None, .. } if message.was_sent_before() => NOTHING,
        MessageCommand::MarkSent { attempt: Some(attempt), .. } if state.is_over(*attempt) => NOTHING,
        // The call of which it speaks has failed since, and waits to be made again.
        MessageCommand::MarkSent { attempt: None, .. } if message.waits_for_another_attempt() => NOTHING,
        MessageCommand::MarkSent { acceptance, at, .. } => message.sent(*acceptance, *at),
        // After a second call in doubt it may be about the first.
        MessageCommand::ConfirmLatestAttempt { .. } if state.resent || message.waits_for_another_attempt() => NOTHING,
        MessageCommand::ConfirmLatestAttempt { at } => message.sent(Acceptance::Accepted, *at),
        MessageCommand::MarkDelivered { at, pricing } => message.fact(
            |facts| facts.delivered,
            |facts| facts.delivered = true,
            |transition| MessageEvent::Delivered { transition, at: *at, pricing: pricing.clone() },
        ),
        MessageCommand::MarkRead { at, pricing } => message.fact(
            |facts| facts.read,
            |facts| facts.read = true,
            |transition| MessageEvent::Read { transition, at: *at, pricing: pricing.clone() },
        ),
        MessageCommand::MarkFailed { attempt: Some(attempt), .. } if state.is_over(*attempt) => NOTHING,
        MessageCommand::MarkFailed { code, class, at, .. } => message.failed(*code, *class, *at),
        MessageCommand::RetryFailed { attempt, code, at, until, retries_max } => {
            let failure = Failure { attempt: *attempt, code: *code, at: *at };
            message.retry_failed(&failure, *until, *retries_max)
        }
        MessageCommand::Defer { attempt, until, code } => message.defer(*attempt, *until, *code),
        MessageCommand::MarkOutcomeUnknown { attempt } => {
            if !message.is_open(*attempt) {
                return NOTHING;
            }
            let transition = message.attempted(MessageStatus::Unknown);
            Ok(vec![MessageEvent::OutcomeUnknown { transition, attempt: *attempt }])
        }
        MessageCommand::Settle { resolution } => message.settle(*resolution, envelope.at),
        MessageCommand::Expire => {
            message.end(MessageStatus::Expired, |transition| MessageEvent::Expired { transition })
        }
        MessageCommand::Cancel => {
            message.end(MessageStatus::Cancelled, |transition| MessageEvent::Cancelled { transition })
        }
    }
}

fn create(envelope: &CommandEnvelope<MessageCommand>) -> Decision {
    let first = |run_id, to| Transition { run_id, from: None, to, reached: Vec::new() };
    match &envelope.command {
        MessageCommand::QueueMessage { run_id, contact_id, sender_id, lane, on_unknown } => {
            Ok(vec![MessageEvent::Queued {
                tenant_id: envelope.tenant_id,
                transition: first(*run_id, MessageStatus::Pending),
                contact_id: *contact_id,
                sender_id: *sender_id,
                lane: *lane,
                on_unknown: *on_unknown,
            }])
        }
        MessageCommand::Skip { run_id, contact_id, sender_id, reason } => Ok(vec![MessageEvent::Skipped {
            tenant_id: envelope.tenant_id,
            transition: first(*run_id, MessageStatus::Skipped),
            contact_id: *contact_id,
            sender_id: *sender_id,
            reason: *reason,
        }]),
        _ => Err(MessageError::NotFound),
    }
}

/// What a status says of a message that WhatsApp gave up.
struct Failure {
    attempt: Option<u32>,
    code: i32,
    at: DateTime<Utc>,
}

/// A message that exists and is the tenant's.
struct Known<'a> {
    state: &'a Message,
    origin: &'a Origin,
}

impl Known<'_> {
    fn status(&self) -> MessageStatus {
        self.origin.status
    }

    fn not_allowed(&self) -> MessageError {
        MessageError::NotAllowed { status: self.status() }
    }

    fn is_open(&self, attempt: u32) -> bool {
        self.state.claim_open && self.state.attempt == attempt
    }

    fn waits_for_another_attempt(&self) -> bool {
        self.status() == MessageStatus::Pending && self.state.deferred > 0 && self.state.deferred == self.state.attempt
    }

    fn was_sent_before(&self) -> bool {
        self.state.reached.contains(&Milestone::Sent)
    }

    fn may_begin(&self, attempt: u32, at: DateTime<Utc>) -> Result<(), MessageError> {
        let latest = self.state.attempt;
        if attempt <= latest {
            return Err(MessageError::AttemptBegun { attempt, latest });
        }
        if self.status() != MessageStatus::Pending {
            return Err(self.not_allowed());
        }
        if attempt != latest + 1 {
            return Err(MessageError::AttemptOutOfOrder { attempt, next: latest + 1 });
        }
        if self.state.not_before.is_some_and(|not_before| at < not_before) {
            return Err(MessageError::NotDue);
        }
        Ok(())
    }

    fn to(&self, to: MessageStatus) -> Transition {
        Transition { run_id: self.origin.run_id, from: Some(self.status()), to, reached: Vec::new() }
    }

    /// A transition that shows that a call was made, or may have been.
    fn attempted(&self, to: MessageStatus) -> Transition {
        let mut transition = self.to(to);
        self.reach(&mut transition, Milestone::Attempted);
        transition
    }

    fn reach(&self, transition: &mut Transition, milestone: Milestone) {
        if !self.state.reached.contains(&milestone) {
            transition.reached.push(milestone);
        }
    }

    /// A fact that WhatsApp stated: nothing if it is known, an event if it is not, whatever the order.
    fn fact(
        &self,
        known: impl Fn(&Facts) -> bool,
        learn: impl Fn(&mut Facts),
        event: impl Fn(Transition) -> MessageEvent,
    ) -> Decision {
        if known(&self.state.facts) {
            return NOTHING;
        }
        if self.state.attempt == 0 {
            return Err(MessageError::NeverDispatched);
        }
        let mut facts = self.state.facts.clone();
        learn(&mut facts);
        let mut transition = self.attempted(facts.shown());
        for (milestone, reached) in [
            (Milestone::Sent, facts.sent || facts.delivered || facts.read),
            (Milestone::Delivered, facts.delivered || facts.read),
            (Milestone::Read, facts.read),
        ] {
            if reached {
                self.reach(&mut transition, milestone);
            }
        }
        Ok(vec![event(transition)])
    }

    fn defer(&self, attempt: u32, until: DateTime<Utc>, code: i32) -> Decision {
        let given_back = attempt == self.state.attempt && self.status() == MessageStatus::Pending;
        if self.state.is_over(attempt) || given_back {
            return NOTHING;
        }
        let retryable = matches!(
            self.status(),
            MessageStatus::Dispatching | MessageStatus::Sent | MessageStatus::Unknown | MessageStatus::Unconfirmed
        );
        if attempt != self.state.attempt || !retryable {
            return Err(self.not_allowed());
        }
        let transition = self.attempted(MessageStatus::Pending);
        Ok(vec![MessageEvent::Deferred { transition, attempt, until, code, after_acceptance: false }])
    }

    fn sent(&self, acceptance: Acceptance, at: DateTime<Utc>) -> Decision {
        self.fact(
            |facts| facts.sent,
            |facts| facts.sent = true,
            |transition| MessageEvent::Sent { transition, acceptance, at },
        )
    }

    fn failed(&self, code: i32, class: FailureClass, at: DateTime<Utc>) -> Decision {
        self.fact(
            |facts| facts.failed,
            |facts| facts.failed = true,
            |transition| MessageEvent::Failed { transition, code, class, at },
        )
    }

    /// Another attempt after one that had been accepted reaches a person twice if the word is not about that one. So it
    /// is made only where nothing else can be meant.
    fn retry_failed(&self, failure: &Failure, until: DateTime<Utc>, retries_max: u32) -> Decision {
        let Failure { attempt, code, at } = *failure;
        let latest = self.state.attempt;
        let is_repeated = match attempt {
            Some(attempt) => self.state.is_over(attempt),
            // Nothing is under way that could have failed.
            None => latest > 0 && self.status() == MessageStatus::Pending,
        };
        if is_repeated || self.state.facts.failed {
            return NOTHING;
        }
        if attempt.is_some_and(|attempt| attempt > latest) {
            return Err(self.not_allowed());
        }
        let is_certain = attempt.is_some() || !self.state.resent;
        let is_retryable = matches!(
            self.status(),
            MessageStatus::Dispatching | MessageStatus::Sent | MessageStatus::Unknown | MessageStatus::Unconfirmed
        );
        if !is_certain || !is_retryable || self.state.retried_failures >= retries_max {
            return self.failed(code, FailureClass::RetriesExhausted, at);
        }
        let transition = self.attempted(MessageStatus::Pending);
        Ok(vec![MessageEvent::Deferred { transition, attempt: latest, until, code, after_acceptance: true }])
    }

    fn settle(&self, resolution: Resolution, at: DateTime<Utc>) -> Decision {
        let doubtful = matches!(self.status(), MessageStatus::Unknown | MessageStatus::Unconfirmed);
        if !doubtful {
            // A webhook or another operator was faster, or there was never a doubt.
            return if self.state.reached.contains(&Milestone::Attempted) { NOTHING } else { Err(self.not_allowed()) };
        }
        let attempt = self.state.attempt;
        let settled = |to| Ok(vec![MessageEvent::Settled { transition: self.to(to), attempt, at }]);
        match resolution {
            Resolution::Unconfirmed if self.status() == MessageStatus::Unconfirmed => NOTHING,
            Resolution::Unconfirmed => {
                Ok(vec![MessageEvent::Unconfirmed { transition: self.to(MessageStatus::Unconfirmed) }])
            }
            Resolution::Sent => {
                let mut transition = self.to(MessageStatus::Sent);
                self.reach(&mut transition, Milestone::Sent);
                Ok(vec![MessageEvent::Settled { transition, attempt, at }])
            }
            Resolution::NotSent => settled(MessageStatus::Failed),
            Resolution::Resend if self.origin.on_unknown == OnUnknown::Resend => settled(MessageStatus::Pending),
            Resolution::Resend => Err(self.not_allowed()),
        }
    }

    fn end(&self, end: MessageStatus, event: impl Fn(Transition) -> MessageEvent) -> Decision {
        match self.status() {
            MessageStatus::Pending => Ok(vec![event(self.to(end))]),
            status if status == end => NOTHING,
            _ => Err(self.not_allowed()),
        }
    }
}

impl Facts {
    /// The status that people see: what is known for certain wins over what came last.
    fn shown(&self) -> MessageStatus {
        if self.read {
            MessageStatus::Read
        } else if self.delivered {
            MessageStatus::Delivered
        } else if self.failed {
            MessageStatus::Failed
        } else {
            MessageStatus::Sent
        }
    }
}
