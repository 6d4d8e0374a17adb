//! The life of messages as commands and as events, by the rules of the domain itself.

use anyhow::{Context as _, Result};
use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::{CommandEnvelope, Decider as _};
use domain::ids::{ContactId, MessageId, RunId, SenderId, TenantId};
use domain::message::{Acceptance, Lane, Message, MessageCommand, MessageEvent, OnUnknown, Pricing};
use infrastructure::clock::Clock;
use infrastructure::event_store::Actor;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Queue,
    Begin,
    Sent,
    Delivered,
    Read,
}

/// Each of them appends one event.
pub(crate) const STEPS: [Step; 5] = [Step::Queue, Step::Begin, Step::Sent, Step::Delivered, Step::Read];

/// The messages of one run, by number.
#[derive(Debug, Clone)]
pub(crate) struct Messages {
    pub(crate) tenant_id: TenantId,
    pub(crate) sender_id: SenderId,
    pub(crate) run_id: RunId,
    nominal_at: DateTime<Utc>,
    journal_id: Uuid,
    clock: Clock,
}

impl Messages {
    pub(crate) fn new(tenant_id: TenantId, sender_id: SenderId) -> Self {
        let clock = Clock::system();
        Self {
            tenant_id,
            sender_id,
            run_id: RunId(Uuid::new_v4()),
            nominal_at: clock.now(),
            journal_id: Uuid::new_v4(),
            clock,
        }
    }

    /// Of nobody in particular.
    pub(crate) fn of_strangers() -> Self {
        Self::new(TenantId(Uuid::new_v4()), SenderId(Uuid::new_v4()))
    }

    pub(crate) fn contact(number: u32) -> ContactId {
        ContactId(Uuid::from_u64_pair(0x0bec_0000_0000_4000, 0x8000_0000_0000_0000 | u64::from(number)))
    }

    pub(crate) fn message(&self, number: u32) -> MessageId {
        MessageId::of(self.run_id, Self::contact(number), self.nominal_at)
    }

    pub(crate) fn actor() -> Actor {
        Actor::Engine("bench")
    }

    pub(crate) fn envelope(&self, number: u32, step: Step) -> CommandEnvelope<MessageCommand> {
        let at = self.clock.now();
        let pricing = || {
            Some(Pricing {
                billable: Some(true),
                category: Some("utility".to_owned()),
                pricing_type: Some("regular".to_owned()),
            })
        };
        let command = match step {
            Step::Queue => MessageCommand::QueueMessage {
                run_id: self.run_id,
                contact_id: Self::contact(number),
                sender_id: self.sender_id,
                lane: Lane::Utility,
                on_unknown: OnUnknown::Hold,
            },
            Step::Begin => MessageCommand::BeginDispatch {
                attempt: 1,
                deadline: at + TimeDelta::seconds(30),
                journal_id: self.journal_id,
            },
            Step::Sent => MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at },
            Step::Delivered => MessageCommand::MarkDelivered { at, pricing: pricing() },
            Step::Read => MessageCommand::MarkRead { at, pricing: None },
        };
        CommandEnvelope::new(self.tenant_id, at, command)
    }

    /// The event of each of these first steps of a message's life.
    pub(crate) fn events(&self, number: u32, steps: &[Step]) -> Result<Vec<MessageEvent>> {
        let mut state = Message::default();
        let mut events = Vec::with_capacity(steps.len());
        for step in steps {
            let decided = state.decide(&self.envelope(number, *step))?;
            let event = decided.into_iter().next().context("each step appends one event")?;
            state.evolve(&event);
            events.push(event);
        }
        Ok(events)
    }
}
