//! How often one recipient may be written to: one message per interval, with a burst that borrows from the future.
//!
//! Meta permits one message per 6 s to a user, and up to 45 in 6 s, after which as many times 6 s have to pass before
//! the next one (a burst of 20: two minutes of silence). So here: a first message opens a burst; while its first
//! interval lasts, up to `burst` messages may go; then nothing until all of them are paid for. That is never more than a
//! plain leaky bucket of the same size would allow, so it holds under either reading of Meta's text. A new holder of a
//! sender's lease knows nothing of the messages of the one before; the default burst is far enough below Meta's for that.
//!
//! Pure: the caller says when things happen. It keeps no number, only a keyed hash of it, and that only until the
//! recipient has paid. A recipient of whom nothing is kept owes nothing.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// The most recipients that are remembered. One number needs 6,000 at 1,000 messages a second; if they are ever used
/// up, further recipients wait.
pub const RECIPIENTS_MAX: usize = 65_536;
/// How many recipients who may have paid are looked at for each message; more than one, so that memory shrinks.
const LOOKED_AT: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PairConfig {
    /// One message to a recipient in this time. Default 6 s.
    pub interval: Duration,
    /// Messages to one recipient within the first interval of a burst. Default 3; Meta's own limit is 45.
    pub burst: u32,
}

impl Default for PairConfig {
    fn default() -> Self {
        Self { interval: Duration::from_secs(6), burst: 3 }
    }
}

/// Stands for one recipient of one limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PairKey(u64);

#[derive(Debug)]
pub struct PairLimiter {
    config: PairConfig,
    hash: RandomState,
    bursts: HashMap<PairKey, Burst>,
    /// Recipients in about the order in which they will have paid; each one that is remembered stands here once.
    by_age: VecDeque<(Instant, PairKey)>,
    recipients_max: usize,
}

#[derive(Debug, Clone, Copy)]
struct Burst {
    began: Instant,
    messages: u32,
}

impl Burst {
    fn paid_at(self, interval: Duration) -> Instant {
        self.began + interval.saturating_mul(self.messages)
    }
}

impl PairLimiter {
    pub fn new(config: PairConfig) -> Self {
        Self {
            config,
            hash: RandomState::new(),
            bursts: HashMap::new(),
            by_age: VecDeque::new(),
            recipients_max: RECIPIENTS_MAX,
        }
    }

    pub fn key(&self, phone: &str) -> PairKey {
        PairKey(self.hash.hash_one(phone))
    }

    /// Counts one message to the recipient, or says how long it has to wait and counts nothing.
    pub fn check(&mut self, key: PairKey, now: Instant) -> Result<(), Duration> {
        self.forget(now);
        let full = self.bursts.len() >= self.recipients_max;
        let config = self.config;
        match self.bursts.entry(key) {
            MapEntry::Vacant(_) if full => return Err(config.interval),
            MapEntry::Vacant(vacant) => {
                let burst = Burst { began: now, messages: 1 };
                vacant.insert(burst);
                self.by_age.push_back((burst.paid_at(config.interval), key));
            }
            MapEntry::Occupied(mut occupied) => {
                let burst = occupied.get_mut();
                let paid_at = burst.paid_at(config.interval);
                if paid_at <= now {
                    *burst = Burst { began: now, messages: 1 };
                } else if burst.messages < config.burst && now < burst.began + config.interval {
                    burst.messages += 1;
                } else {
                    return Err(paid_at - now);
                }
            }
        }
        Ok(())
    }

    /// A message that was counted is not sent after all.
    pub fn undo(&mut self, key: PairKey) {
        if let Some(burst) = self.bursts.get_mut(&key) {
            // With no message left it has paid at the moment of its beginning, and is forgotten in its turn.
            burst.messages = burst.messages.saturating_sub(1);
        }
    }

    /// Recipients that are remembered.
    pub fn len(&self) -> usize {
        self.bursts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bursts.is_empty()
    }

    fn forget(&mut self, now: Instant) {
        for _ in 0..LOOKED_AT {
            let Some(&(due, key)) = self.by_age.front() else { return };
            if due > now {
                return;
            }
            self.by_age.pop_front();
            let Some(burst) = self.bursts.get(&key) else { continue };
            let paid_at = burst.paid_at(self.config.interval);
            if paid_at <= now {
                self.bursts.remove(&key);
            } else {
                self.by_age.push_back((paid_at, key));
            }
        }
    }
}

#[cfg(test)]
#[path = "pair_limiter_tests.rs"]
mod tests;
