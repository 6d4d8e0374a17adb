//! The states of aggregates that are likely to be asked for again soon, so that their history need not be loaded.
//!
//! A cached state is a prefix of the aggregate's history: another process may have appended since. That is harmless as
//! long as two rules hold. Events that were decided on it are appended at its next sequence, so they conflict if it was
//! stale; and an answer without events is believed only if no later event could change it. What takes
//! part in a round that does not end well is not put back, and its history is loaded the next time.

use std::collections::HashMap;

use uuid::Uuid;

/// A state with the sequence of the last event in it.
#[derive(Clone)]
pub(super) struct Known<A> {
    pub(super) state: A,
    pub(super) last_sequence: i64,
}

/// Two generations: what is used moves to the young one, and when that is full the old one is dropped. So a state stays
/// for at least half of the cache's size of other aggregates, at the cost of a hash map.
pub(super) struct StateCache<A> {
    young: HashMap<Uuid, Known<A>>,
    old: HashMap<Uuid, Known<A>>,
    states_max: usize,
}

impl<A> StateCache<A> {
    /// With `states_max` 0 nothing is kept.
    pub(super) fn new(states_max: usize) -> Self {
        Self { young: HashMap::new(), old: HashMap::new(), states_max }
    }

    /// Without a cache every command loads its aggregate.
    pub(super) fn is_used(&self) -> bool {
        self.states_max > 0
    }

    /// Takes a state out; whoever has decided on it puts the outcome back.
    pub(super) fn take(&mut self, id: Uuid) -> Option<Known<A>> {
        self.young.remove(&id).or_else(|| self.old.remove(&id))
    }

    pub(super) fn put(&mut self, id: Uuid, known: Known<A>) {
        if self.states_max == 0 {
            return;
        }
        if self.young.len() >= self.states_max.div_ceil(2) {
            self.old = std::mem::take(&mut self.young);
        }
        self.old.remove(&id);
        self.young.insert(id, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn it_holds_no_more_than_its_size_and_the_most_recent() {
        let mut cache = StateCache::new(10);
        for number in 0..1000 {
            cache.put(id(number), Known { state: number, last_sequence: 1 });
            assert!(cache.young.len() + cache.old.len() <= 10);
        }
        for number in 995..1000 {
            assert_eq!(cache.take(id(number)).map(|known| known.state), Some(number));
            assert!(cache.take(id(number)).is_none(), "it was taken");
        }
        assert!(cache.take(id(0)).is_none());
    }

    #[test]
    fn an_older_state_never_comes_back() {
        let mut cache = StateCache::new(4);
        cache.put(id(1), Known { state: "old", last_sequence: 1 });
        cache.put(id(2), Known { state: "other", last_sequence: 1 });
        cache.put(id(3), Known { state: "other", last_sequence: 1 });
        cache.put(id(1), Known { state: "new", last_sequence: 2 });
        assert_eq!(cache.take(id(1)).map(|known| known.state), Some("new"));
        assert!(cache.take(id(1)).is_none());
        cache.put(id(2), Known { state: "newer", last_sequence: 2 });
        assert_eq!(cache.take(id(2)).map(|known| known.last_sequence), Some(2));
    }

    #[test]
    fn without_a_size_it_keeps_nothing() {
        let mut cache = StateCache::new(0);
        cache.put(id(1), Known { state: (), last_sequence: 1 });
        assert!(cache.take(id(1)).is_none());
    }
}
