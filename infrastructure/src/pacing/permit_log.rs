//! The calls that still count against the permit of one number, and when the next one may leave.
//!
//! Pure: it holds no clock, and the caller says when things happen. What must stay true: while the caller lets calls
//! leave no earlier than [`PermitLog::next_at`], no window of one second and the margin, wherever it begins, holds more
//! departures than the highest permit that held in it, inbound messages included.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::PacingConfig;
use super::lateness::Lateness;
use super::spacing::Spacing;

/// Unevenness dies out by this much a second.
const AIR: Duration = Duration::from_millis(3);
/// What was missed for longer than this is not caught up with.
const CREDIT_MAX: Duration = Duration::from_millis(250);
/// While calls catch up they are this many times closer to each other. Slower would be gentler, but every call that is
/// late makes room late again one window later, and a slow catching up makes more of them late.
const CATCH_UP: u32 = 3;
/// So many calls may leave at once while they catch up: a timer wakes up a millisecond late, a busy machine later.
const BURST: u32 = 8;
/// Inbound messages hold back at most this much of what is to come.
const CEDED_MAX: Duration = Duration::from_secs(1);

/// One call that has left; the receipt of its slot.
#[derive(Debug)]
#[must_use = "a call that is not made gives its slot back"]
pub struct Departure {
    id: u64,
    at: Instant,
    clears_at: Instant,
}

impl Departure {
    /// When it left.
    pub fn at(&self) -> Instant {
        self.at
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub struct PermitLog {
    config: PacingConfig,
    permit: usize,
    /// When each call that counts stops counting, with a number of its own.
    clears: BTreeSet<(Instant, u64)>,
    next_id: u64,
    mean: Spacing,
    peak: Spacing,
    lateness: Lateness,
}

impl PermitLog {
    /// No call leaves before `from`. Nothing is known of calls before this, so whoever takes a number over begins
    /// [`PacingConfig::window`] later.
    pub fn new(config: PacingConfig, permit_per_s: u32, from: Instant) -> Self {
        let permit_per_s = permit_per_s.max(1);
        let (mean, peak) = intervals(&config, permit_per_s);
        Self {
            config,
            permit: count(permit_per_s),
            clears: BTreeSet::new(),
            next_id: 0,
            mean: Spacing::new(mean, CREDIT_MAX, from),
            peak: Spacing::new(peak, peak * (BURST - 1), from),
            lateness: Lateness::new(config.margin, permit_per_s, from),
        }
    }

    /// When the next call may leave: `now`, or later.
    pub fn next_at(&self, now: Instant) -> Instant {
        now.max(self.mean.next_at()).max(self.peak.next_at()).max(self.room_at(now))
    }

    /// A call leaves, at a time that is not before [`Self::next_at`].
    pub fn depart(&mut self, at: Instant) -> Departure {
        self.forget(at);
        self.mean.take(at);
        self.peak.take(at);
        let clears_at = at + self.config.window();
        Departure { id: self.remember(clears_at), at, clears_at }
    }

    /// The call left only now: it was on its way to the wire since it was let go.
    pub fn left(&mut self, departure: &mut Departure, at: Instant) {
        if at > departure.at {
            departure.at = at;
            self.count_until(departure, at + self.config.window());
        }
    }

    /// The call was answered, and is known no better from now on.
    pub fn answered(&mut self, mut departure: Departure, at: Instant) {
        let latency = at.saturating_duration_since(departure.at);
        if let Some(late) = self.lateness.of_answer(latency, at) {
            let clears_at = departure.at + Duration::from_secs(1) + late;
            self.count_until(&mut departure, clears_at);
        }
    }

    /// The call was not made after all: its slot is free again.
    pub fn give_back(&mut self, Departure { id, clears_at, .. }: Departure) {
        if self.clears.remove(&(clears_at, id)) {
            self.mean.give_back();
            self.peak.give_back();
        }
    }

    /// `count` messages reached the number from outside; the provider counts them against the same permit. They are
    /// learned of late: whoever counts them from the moment of learning holds back, for those that he has not heard of
    /// yet, what came in the last second.
    pub fn inbound(&mut self, count: u32, at: Instant) {
        self.forget(at);
        self.mean.cede(count, at, CEDED_MAX);
        // More than twice the permit would hold back nothing more.
        for _ in 0..count {
            if self.clears.len() >= self.permit * 2 {
                return;
            }
            self.remember(at + self.config.window());
        }
    }

    /// Takes effect from the next call on. A lower permit counts the calls of the last second too.
    pub fn set_permit(&mut self, permit_per_s: u32, now: Instant) {
        let permit_per_s = permit_per_s.max(1);
        if self.permit != count(permit_per_s) {
            self.permit = count(permit_per_s);
            let (mean, peak) = intervals(&self.config, permit_per_s);
            self.mean.set_interval(mean, now);
            self.peak = Spacing::new(peak, peak * (BURST - 1), now);
        }
    }

    /// No call before `until`, if that is later than what holds already.
    pub fn hold_until(&mut self, until: Instant) {
        self.mean.hold(until);
    }

    /// About how many calls may leave from `now` until `until`.
    pub fn free_before(&self, now: Instant, until: Instant) -> usize {
        let counting = self.clears.range((until, u64::MAX)..).count();
        let spaced = self.mean.due_until(now, until).min(self.peak.due_until(now, until));
        spaced.min(self.permit.saturating_sub(counting))
    }

    /// When fewer calls count than the permit allows.
    fn room_at(&self, now: Instant) -> Instant {
        match self.clears.len().checked_sub(self.permit) {
            None => now,
            Some(too_many) => self.clears.iter().nth(too_many).map_or(now, |(clears_at, _)| *clears_at),
        }
    }

    fn remember(&mut self, clears_at: Instant) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.clears.insert((clears_at, id));
        id
    }

    fn forget(&mut self, now: Instant) {
        while self.clears.first().is_some_and(|(clears_at, _)| *clears_at <= now) {
            self.clears.pop_first();
        }
    }

    /// Never shorter than it was.
    fn count_until(&mut self, departure: &mut Departure, clears_at: Instant) {
        let counts = clears_at > departure.clears_at && self.clears.remove(&(departure.clears_at, departure.id));
        if counts {
            departure.clears_at = clears_at;
            self.clears.insert((clears_at, departure.id));
        }
    }
}

/// The usual time between two calls, and the shortest.
fn intervals(config: &PacingConfig, permit_per_s: u32) -> (Duration, Duration) {
    let mean = (config.window() + AIR) / permit_per_s;
    (mean, mean / CATCH_UP)
}

fn count(permit_per_s: u32) -> usize {
    usize::try_from(permit_per_s).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "permit_log_tests.rs"]
mod tests;
