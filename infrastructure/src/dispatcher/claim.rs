//! Claims: the right to call, and what this process is doing with the rights it holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use domain::aggregate::{CommandEnvelope, Position};
use domain::ids::MessageId;
use domain::message::{Lane, Message, MessageCommand, MessageEvent};
use uuid::Uuid;

use crate::dispatch_queue::DispatchItem;
use crate::event_store::{Actor, Addressed, CommandError, Committed, MessageStore};

/// The attempts that this process has begun or is about to begin. The sweeper leaves them alone.
///
/// Counted, because a second delivery of an attempt enters and leaves while the first one's claim still lives.
#[derive(Clone, Default)]
pub struct InFlight(Arc<Mutex<HashMap<(MessageId, u32), usize>>>);

impl InFlight {
    pub(super) fn enter(&self, item: &DispatchItem) -> InFlightGuard {
        let key = (item.message_id, item.attempt);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default() += 1;
        InFlightGuard { all: self.clone(), key }
    }

    pub(super) fn contains(&self, message: MessageId, attempt: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&(message, attempt))
    }
}

/// Leaves when the outcome is in the log, or when nobody works on it any more.
pub(super) struct InFlightGuard {
    all: InFlight,
    key: (MessageId, u32),
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.key);
            }
        }
    }
}

/// The right to call WhatsApp once for one attempt: the position of the `DispatchStarted` that this very commit
/// appended. It can be had from [`claim`] only.
pub(super) struct Claim {
    pub(super) item: DispatchItem,
    pub(super) lane: Lane,
    pub(super) receipt: Position,
    /// How often WhatsApp has refused the message for now; attempts that were never made do not count.
    pub(super) refusals: u32,
    pub(super) deadline: DateTime<Utc>,
    /// The same deadline for a process whose wall clock is set back.
    pub(super) deadline_monotonic: tokio::time::Instant,
    pub(super) _in_flight: InFlightGuard,
}

pub(super) enum ClaimOutcome {
    Claimed(Claim),
    /// The attempt has begun already or may not begin: the delivery is worthless.
    Worthless,
    /// It can never be claimed as it is, for this reason.
    Broken(DispatchItem, String),
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
    items: Vec<(Lane, DispatchItem)>,
    terms: &Terms,
) -> Vec<ClaimOutcome> {
    let deadline = terms.at + chrono::TimeDelta::from_std(terms.ttl).unwrap_or(chrono::TimeDelta::MAX);
    let deadline_monotonic = tokio::time::Instant::now() + terms.ttl;
    let guards: Vec<InFlightGuard> = items.iter().map(|(_, item)| in_flight.enter(item)).collect();
    let commands = items
        .iter()
        .map(|(_, item)| {
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
        .map(|(((lane, item), guard), answer)| match answer {
            Ok(committed) => match receipt(&committed, item.attempt) {
                Some(receipt) => ClaimOutcome::Claimed(Claim {
                    item,
                    lane,
                    receipt,
                    refusals: committed.state.refusals(),
                    deadline,
                    deadline_monotonic,
                    _in_flight: guard,
                }),
                None => ClaimOutcome::Worthless,
            },
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(message.id = %item.message_id, attempt = item.attempt, %refusal, "no claim");
                ClaimOutcome::Worthless
            }
            Err(error) if !error.is_transient() => ClaimOutcome::Broken(item, error.to_string()),
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

#[cfg(test)]
mod tests {
    use domain::ids::{ContactId, RunId, TenantId};

    use super::*;

    #[test]
    fn an_attempt_is_in_flight_until_its_last_delivery_has_left() {
        let item = DispatchItem {
            message_id: MessageId(Uuid::from_u128(1)),
            attempt: 1,
            tenant_id: TenantId(Uuid::nil()),
            run_id: RunId(Uuid::nil()),
            contact_id: ContactId(Uuid::nil()),
        };
        let in_flight = InFlight::default();
        let claimed = in_flight.enter(&item);
        drop(in_flight.enter(&item));
        assert!(in_flight.contains(item.message_id, 1), "a duplicate delivery took the claim's place away");
        drop(claimed);
        assert!(!in_flight.contains(item.message_id, 1));
    }
}
