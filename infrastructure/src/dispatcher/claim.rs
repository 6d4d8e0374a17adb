//! Claims: the right to call, and what this process is doing with the rights it holds.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use domain::aggregate::{CommandEnvelope, Position};
use domain::ids::MessageId;
use domain::message::{Message, MessageCommand, MessageEvent};
use uuid::Uuid;

use crate::dispatch_queue::DispatchItem;
use crate::event_store::{Actor, Addressed, CommandError, Committed, MessageStore};

/// The attempts that this process has begun or is about to begin. The sweeper leaves them alone.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<HashSet<(MessageId, u32)>>>);

impl InFlight {
    pub(super) fn enter(&self, item: &DispatchItem) -> InFlightGuard {
        let key = (item.message_id, item.attempt);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
        InFlightGuard { all: self.clone(), key }
    }

    pub(super) fn contains(&self, message: MessageId, attempt: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(message, attempt))
    }
}

/// Leaves when the outcome is in the log, or when nobody works on it any more.
pub(super) struct InFlightGuard {
    all: InFlight,
    key: (MessageId, u32),
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The right to call WhatsApp once for one attempt: the position of the `DispatchStarted` that this very commit
/// appended. It can be had from [`claim`] only.
pub(super) struct Claim {
    pub(super) item: DispatchItem,
    pub(super) receipt: Position,
    pub(super) deadline: DateTime<Utc>,
    /// The same deadline for a process whose wall clock is set back.
    pub(super) deadline_monotonic: tokio::time::Instant,
    pub(super) _in_flight: InFlightGuard,
}

pub(super) enum ClaimOutcome {
    Claimed(Claim),
    /// The attempt has begun already or may not begin: the delivery is worthless.
    Worthless,
    /// Nothing is known of the claim, so there is no right to call. The delivery may come again.
    NotNow,
}

pub(super) struct Terms {
    pub(super) at: DateTime<Utc>,
    pub(super) ttl: std::time::Duration,
    pub(super) journal_id: Uuid,
}

/// Claims a batch in one go. Only a commit that answered, with a `DispatchStarted` of this attempt among the events
/// that it appended, gives a claim: an answer that was lost gives none.
pub(super) async fn claim(
    messages: &MessageStore,
    in_flight: &InFlight,
    items: Vec<DispatchItem>,
    terms: &Terms,
) -> Vec<ClaimOutcome> {
    let deadline = terms.at + chrono::TimeDelta::from_std(terms.ttl).unwrap_or(chrono::TimeDelta::MAX);
    let deadline_monotonic = tokio::time::Instant::now() + terms.ttl;
    let guards: Vec<InFlightGuard> = items.iter().map(|item| in_flight.enter(item)).collect();
    let commands = items
        .iter()
        .map(|item| {
            let (attempt, journal_id) = (item.attempt, terms.journal_id);
            let begin = MessageCommand::BeginDispatch { attempt, deadline, journal_id };
            let envelope = CommandEnvelope::new(item.tenant_id, terms.at, begin);
            Addressed::new(item.message_id, envelope, Actor::Engine("dispatcher"))
        })
        .collect();
    let answers = messages.execute_many(commands).await;
    items
        .into_iter()
        .zip(guards)
        .zip(answers)
        .map(|((item, guard), answer)| match answer {
            Ok(committed) => match receipt(&committed, item.attempt) {
                Some(receipt) => {
                    ClaimOutcome::Claimed(Claim { item, receipt, deadline, deadline_monotonic, _in_flight: guard })
                }
                None => ClaimOutcome::Worthless,
            },
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(message.id = %item.message_id, attempt = item.attempt, %refusal, "no claim");
                ClaimOutcome::Worthless
            }
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "a claim has no receipt; nothing is sent for it"
                );
                ClaimOutcome::NotNow
            }
        })
        .collect()
}

fn receipt(committed: &Committed<Message>, wanted: u32) -> Option<Position> {
    committed.events.iter().find_map(|(position, event)| match event {
        MessageEvent::DispatchStarted { attempt, .. } if *attempt == wanted => Some(*position),
        _ => None,
    })
}
