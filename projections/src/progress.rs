//! How far the projections of this process have come, so that a caller can read its own write.

use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::Position;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A cheap handle.
#[derive(Debug, Clone)]
pub struct Progress {
    projections: Arc<[(&'static str, watch::Receiver<Position>)]>,
}

impl Progress {
    pub(crate) fn new(projections: impl IntoIterator<Item = (&'static str, watch::Receiver<Position>)>) -> Self {
        Self { projections: projections.into_iter().collect() }
    }

    /// Waits until all projections have reached the position; `false` if they have not by the deadline.
    pub async fn wait_for(&self, position: Position, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        for (_, reached) in &*self.projections {
            if !reaches(reached, position, deadline).await {
                return false;
            }
        }
        true
    }

    /// The same for one projection, by its name. One that does not run in this process never gets there.
    pub async fn wait_for_one(&self, name: &str, position: Position, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        match self.projections.iter().find(|(known, _)| *known == name) {
            Some((_, reached)) => reaches(reached, position, deadline).await,
            None => false,
        }
    }

    /// Each projection with the position it has reached.
    pub fn positions(&self) -> Vec<(&'static str, Position)> {
        self.projections.iter().map(|(name, reached)| (*name, *reached.borrow())).collect()
    }

    /// The position that all projections have reached; `None` if none runs here.
    pub fn slowest(&self) -> Option<Position> {
        self.projections.iter().map(|(_, reached)| *reached.borrow()).min()
    }
}

async fn reaches(reached: &watch::Receiver<Position>, position: Position, deadline: Instant) -> bool {
    let mut reached = reached.clone();
    // The inner error: the projection's task has ended, so there is nothing to wait for any more.
    matches!(timeout_at(deadline, reached.wait_for(|reached| *reached >= position)).await, Ok(Ok(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test(start_paused = true)]
    async fn it_waits_for_the_slowest() {
        let (fast, fast_reached) = watch::channel(10);
        let (slow, slow_reached) = watch::channel(3);
        let progress = Progress::new([("fast", fast_reached), ("slow", slow_reached)]);
        assert_eq!(progress.slowest(), Some(3));
        assert!(progress.wait_for(3, SOON).await);
        assert!(!progress.wait_for(4, SOON).await);
        assert!(progress.wait_for_one("fast", 10, SOON).await);
        assert!(!progress.wait_for_one("slow", 10, SOON).await);

        let (waited, ()) = tokio::join!(progress.wait_for(4, Duration::from_secs(60)), async {
            slow.send_replace(4);
        });
        assert!(waited);
        assert_eq!(progress.positions(), [("fast", 10), ("slow", 4)]);
        drop((fast, slow));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_or_never_ran_here_is_not_waited_for() {
        let (ended, reached) = watch::channel(3);
        let progress = Progress::new([("ended", reached)]);
        drop(ended);
        let hour = Duration::from_secs(3600);
        let before = Instant::now();
        assert!(progress.wait_for(3, hour).await);
        assert!(!progress.wait_for(4, hour).await);
        assert!(!progress.wait_for_one("elsewhere", 1, hour).await);
        assert_eq!(before, Instant::now());
    }
}
