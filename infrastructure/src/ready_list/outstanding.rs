//! What is in the dispatch queue, as far as the feeder knows: published, and not yet heard of in the log.
//!
//! It lives in memory. A feeder that starts anew publishes from the top of the list again; the copies are worthless once
//! their attempt has begun, and claiming finds out.

use std::collections::HashMap;
use std::time::Duration;

use domain::ids::{MessageId, SenderId};
use domain::message::Lane;
use tokio::time::Instant;

use crate::dispatch_queue::Parcel;

pub(super) type QueueKey = (SenderId, Lane);

/// Each time a message is published again it is waited for twice as long, up to this many doublings: a number that may
/// not send for a while must not fill its queue with copies.
const DOUBLINGS_MAX: u32 = 5;

struct Published {
    queue: QueueKey,
    attempt: u32,
    at: Instant,
    /// How often it was published again.
    again: u32,
}

#[derive(Default)]
pub(super) struct Outstanding {
    by_message: HashMap<MessageId, Published>,
    by_queue: HashMap<QueueKey, usize>,
}

impl Outstanding {
    /// Messages in a queue.
    pub(super) fn count(&self, queue: QueueKey) -> usize {
        self.by_queue.get(&queue).copied().unwrap_or_default()
    }

    pub(super) fn contains(&self, message: MessageId, attempt: u32) -> bool {
        self.by_message.get(&message).is_some_and(|published| published.attempt == attempt)
    }

    pub(super) fn published(&mut self, parcel: &Parcel, now: Instant) {
        let queue = (parcel.sender_id, parcel.lane);
        for item in &parcel.items {
            let again = match self.remove(item.message_id) {
                Some(before) if before.attempt == item.attempt => before.again + 1,
                _ => 0,
            };
            self.by_message.insert(item.message_id, Published { queue, attempt: item.attempt, at: now, again });
            *self.by_queue.entry(queue).or_default() += 1;
        }
    }

    /// This attempt has begun, or the message is no longer to be sent.
    pub(super) fn heard_of(&mut self, message: MessageId, attempt: u32) {
        if self.by_message.get(&message).is_some_and(|published| published.attempt <= attempt) {
            self.remove(message);
        }
    }

    /// Published so long ago that the queue may have lost it.
    pub(super) fn overdue(&self, now: Instant, after: Duration, limit: usize) -> Vec<(MessageId, QueueKey)> {
        let waits = |published: &Published| after.saturating_mul(1 << published.again.min(DOUBLINGS_MAX));
        self.by_message
            .iter()
            .filter(|(_, published)| now.duration_since(published.at) >= waits(published))
            .map(|(message, published)| (*message, published.queue))
            .take(limit)
            .collect()
    }

    fn remove(&mut self, message: MessageId) -> Option<Published> {
        let published = self.by_message.remove(&message)?;
        if let Some(count) = self.by_queue.get_mut(&published.queue) {
            *count -= 1;
        }
        Some(published)
    }
}

#[cfg(test)]
mod tests {
    use domain::ids::{ContactId, RunId, TenantId};
    use uuid::Uuid;

    use super::*;
    use crate::dispatch_queue::DispatchItem;

    const AFTER: Duration = Duration::from_secs(10);

    fn parcel(numbers: &[u128], attempt: u32) -> Parcel {
        let item = |number: &u128| DispatchItem {
            message_id: MessageId(Uuid::from_u128(*number)),
            attempt,
            tenant_id: TenantId(Uuid::nil()),
            run_id: RunId(Uuid::nil()),
            contact_id: ContactId(Uuid::nil()),
        };
        Parcel { sender_id: SenderId(Uuid::nil()), lane: Lane::Utility, items: numbers.iter().map(item).collect() }
    }

    fn overdue(outstanding: &Outstanding, now: Instant) -> usize {
        outstanding.overdue(now, AFTER, 100).len()
    }

    #[test]
    fn each_message_counts_once_in_its_queue() {
        let (mut outstanding, now) = (Outstanding::default(), Instant::now());
        let queue = (SenderId(Uuid::nil()), Lane::Utility);
        outstanding.published(&parcel(&[1, 2, 3], 1), now);
        outstanding.published(&parcel(&[3], 1), now);
        outstanding.published(&parcel(&[2], 2), now);
        assert_eq!(outstanding.count(queue), 3);
        assert!(outstanding.contains(MessageId(Uuid::from_u128(2)), 2));
        assert!(!outstanding.contains(MessageId(Uuid::from_u128(2)), 1));
        for number in [1, 2, 3, 3, 4] {
            outstanding.heard_of(MessageId(Uuid::from_u128(number)), 2);
        }
        assert_eq!(outstanding.count(queue), 0);
    }

    #[test]
    fn what_was_published_again_is_waited_for_longer() {
        let (mut outstanding, start) = (Outstanding::default(), Instant::now());
        outstanding.published(&parcel(&[1], 1), start);
        assert_eq!(overdue(&outstanding, start + AFTER / 2), 0);
        let mut now = start + AFTER;
        for doubling in 1..=8_u32 {
            assert_eq!(overdue(&outstanding, now), 1, "publication {doubling}");
            outstanding.published(&parcel(&[1], 1), now);
            let wait = AFTER * (1 << doubling.min(DOUBLINGS_MAX));
            assert_eq!(overdue(&outstanding, now + wait - Duration::from_secs(1)), 0);
            now += wait;
        }
        outstanding.published(&parcel(&[1], 2), now);
        assert_eq!(overdue(&outstanding, now + AFTER), 1, "another attempt starts anew");
    }
}
