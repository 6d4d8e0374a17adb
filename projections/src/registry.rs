//! All projections, and how they follow the log.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::event::RecordedEvent;
use infrastructure::event_feed::{EventFeed, TableEffect, follow};
use sqlx::{PgConnection, PgPool};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::campaigns::Campaigns;
use crate::messages::Messages;
use crate::progress::Progress;
use crate::projection::Projection;
use crate::runs::Runs;

/// Every projection there is.
pub fn all() -> Vec<Arc<dyn Projection>> {
    vec![Arc::new(Campaigns), Arc::new(Runs), Arc::new(Messages)]
}

/// A projection by its name.
pub fn find(name: &str) -> Option<Arc<dyn Projection>> {
    all().into_iter().find(|projection| projection.name() == name)
}

/// Starts a follower for each projection; they end when `shutdown` is cancelled.
///
/// `gather` is how long a projection waits for more while events come fast.
pub fn start_all(
    pool: &PgPool,
    feed: &EventFeed,
    gather: Duration,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Progress {
    Progress::new(all().into_iter().map(|projection| {
        let name = projection.name();
        // Nothing counts as reached before the follower has read its checkpoint.
        let (publish, reached) = watch::channel(0);
        let effect = Arc::new(Effect { projection, gather });
        tasks.spawn(follow(pool.clone(), feed.clone(), effect, publish, shutdown.clone()));
        (name, reached)
    }))
}

/// A projection as a subscription of the feed.
struct Effect {
    projection: Arc<dyn Projection>,
    gather: Duration,
}

#[async_trait]
impl TableEffect for Effect {
    fn name(&self) -> &'static str {
        self.projection.subscription()
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        self.projection.concerns(event)
    }

    fn gather(&self) -> Duration {
        self.gather
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        self.projection.apply(connection, events).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_subscriptions_are_named_by_them() {
        let projections = all();
        let names: BTreeSet<_> = projections.iter().map(|projection| projection.name()).collect();
        assert_eq!(names.len(), projections.len());
        for projection in projections {
            assert_eq!(projection.subscription(), format!("projection:{}", projection.name()));
            assert_eq!(find(projection.name()).map(|found| found.name()), Some(projection.name()));
        }
        assert!(find("no such projection").is_none());
    }
}
