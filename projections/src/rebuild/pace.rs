//! A rebuild gives way to the sending of messages: while the log grows, it works in short turns and rests in between.

use std::time::Duration;

use domain::aggregate::Position;
use tokio::time::Instant;

/// Events per second from which on the engine counts as busy.
const BUSY: f64 = 20.0;
/// A turn is large while nothing else happens: each batch costs a commit, and a message whose events lie in one batch
/// costs one row.
const EVENTS_IDLE: usize = 100_000;
const EVENTS_BUSY: usize = 5_000;
/// The rate is taken over at least this long.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub struct Pace {
    /// Of the time, while the engine is busy: from 1 to 100.
    share_percent: u32,
    busy: bool,
    last: Option<(Instant, Position)>,
    turn: Instant,
}

impl Pace {
    /// `share_percent`: how much of its time the rebuild works while the engine is busy.
    pub fn new(share_percent: u32) -> Self {
        Self { share_percent: share_percent.clamp(1, 100), busy: false, last: None, turn: Instant::now() }
    }

    /// Tells where the log ends now.
    pub(super) fn see(&mut self, mark: Position) {
        let now = Instant::now();
        match self.last {
            Some((then, _)) if now - then < LOOK_EVERY => {}
            Some((then, before)) => {
                #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 52 bits")]
                let events = (mark - before) as f64;
                self.busy = events / (now - then).as_secs_f64() > BUSY;
                self.last = Some((now, mark));
            }
            None => self.last = Some((now, mark)),
        }
    }

    /// Is it time to look at where the log ends?
    pub(super) fn wants_to_see(&self) -> bool {
        self.last.is_none_or(|(then, _)| then.elapsed() >= LOOK_EVERY)
    }

    pub(super) fn gives_way(&self) -> bool {
        self.busy && self.share_percent < 100
    }

    pub(super) fn events_max(&self) -> usize {
        if self.gives_way() { EVENTS_BUSY } else { EVENTS_IDLE }
    }

    /// Rests after a turn, in proportion to how long it took.
    pub(super) async fn rest(&mut self) {
        if self.gives_way() {
            let worked = self.turn.elapsed();
            let rest = worked * (100 - self.share_percent) / self.share_percent;
            tokio::time::sleep(rest.min(REST_MAX)).await;
        }
        self.turn = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_works_a_third_of_the_time_while_the_log_grows_and_all_the_time_otherwise() {
        let mut pace = Pace::new(33);
        pace.see(0);
        assert!(!pace.gives_way());
        for (seconds, mark, busy) in [(1, 2_500, true), (1, 5_000, true), (1, 5_003, false), (1, 5_003, false)] {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            assert!(pace.wants_to_see());
            pace.see(mark);
            assert!(!pace.wants_to_see());
            assert_eq!((pace.gives_way(), pace.events_max()), (busy, if busy { EVENTS_BUSY } else { EVENTS_IDLE }));
            pace.rest().await;
            let before = Instant::now();
            tokio::time::advance(Duration::from_millis(100)).await;
            pace.rest().await;
            let turn = before.elapsed().as_millis();
            // A timer of tokio ends on the next whole millisecond.
            assert!(if busy { (303..=304).contains(&turn) } else { turn == 100 }, "{turn} ms");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_the_whole_share_it_never_rests() {
        let mut pace = Pace::new(1_000);
        pace.see(0);
        tokio::time::advance(Duration::from_secs(1)).await;
        pace.see(10_000);
        assert!(!pace.gives_way());
    }
}
