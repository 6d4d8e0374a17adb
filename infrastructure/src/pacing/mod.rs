//! How many calls per second, as the provider counts them.
//!
//! A permit of N means: in no 1,000 ms, wherever they begin, does the provider read more than N calls of a number. Two
//! things stand between that and counting our own calls. A call is read a little after it left, one sooner and another
//! later, so a window of the provider holds calls of a window of ours that is longer by that difference; and the
//! provider says what it counted only by refusing. So [`PermitLog`] remembers each call for one second and a *margin*,
//! and lets the next one go only while fewer than N are remembered. That alone is exact; on top of it calls are spaced
//! evenly, because a burst makes the very differences that the margin has to cover.
//!
//! The spacing is `(1 s + margin + 3 ms) / N`. With the default margin of 12 ms that is 98.5 % of the permit at 1/s as at
//! 1,000/s, and a margin of up to 17 ms keeps 98 %. The 3 ms are the air in which unevenness dies out: after a stall the
//! calls that it held up leave at three times the pace until they have caught up, and the hole before them would come
//! back a second later for ever if the spacing were as tight as the window.
//!
//! Simulated for a minute each from 5/s to 1,000/s, with timers of 1 ms, calls read up to 8 ms apart and the machine
//! stalled once a second for 20 to 100 ms: the worst second never above the permit, the mean from 98.1 to 98.5 % of it.
//! What a stall of the *provider* does shows in its answers, if those take a steady time otherwise; such calls count for
//! longer. Over HTTP to the sandbox in a process of its own, on two cores, a minute each at 80/s and at 1,000/s: the
//! worst second exactly the permit, the mean 98.5 %.
//!
//! A slot is taken when a call leaves and not when it is planned: [`Departures`] holds the calls that are ready and
//! hands out the next one at the moment it may go. What is released meanwhile never had a slot, a late wake-up moves
//! what follows, and a slot whose call is not made after all is given back.
//!
//! The one authority on a number's permit is the process that holds the lease of its sender. A new holder knows nothing
//! of the calls of the one before and begins one window later, see [`PacingConfig::window`].

mod adaptive_rate;
mod concurrency;
mod departures;
pub mod inbound;
mod lateness;
mod pair_limiter;
mod permit_log;
#[cfg(test)]
mod simulation_tests;
mod spacing;

use std::time::Duration;

pub use adaptive_rate::AdaptiveRate;
pub use concurrency::{LatencyEstimate, concurrency};
pub use departures::Departures;
pub use pair_limiter::{PairConfig, PairKey, PairLimiter, RECIPIENTS_MAX};
pub use permit_log::{Departure, PermitLog};

/// How closely a permit is approached, and how a lowered rate rises again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacingConfig {
    /// How much later than another a call may be read that left at the same time. Default 12 ms; more than 17 ms keeps
    /// the mean below 98 % of the permit.
    pub margin: Duration,
    /// A lowered rate rises by one step after each such time without a refusal. Default 5 s.
    pub recovery_interval: Duration,
    /// One step, in percent of the setting. Default 5.
    pub recovery_step_percent: u32,
}

impl Default for PacingConfig {
    fn default() -> Self {
        Self { margin: Duration::from_millis(12), recovery_interval: Duration::from_secs(5), recovery_step_percent: 5 }
    }
}

impl PacingConfig {
    /// How long a call counts. A process that does not know the last calls waits as long before its first one.
    pub fn window(&self) -> Duration {
        Duration::from_secs(1) + self.margin
    }
}
