//! Keeps the read models up to date: one task per projection, which feeds every generation of it that is to be fed.
//!
//! Generations come and go while the engine runs, when one is rebuilt, switched or given up, so the task looks at them
//! again every second. A generation that was folded by another version of the projection is fed all the same: its
//! tables take the new rows, and what older rows lack comes with the rebuild that is asked for in the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::Position;
use futures::future::select_all;
use infrastructure::event_feed::{EventFeed, follow};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::feeding::{Feeding, Standing, Target};
use crate::generation::{self, Generation, GenerationState};
use crate::progress::Progress;
use crate::projection::Projection;
use crate::registry;

/// How often the generations are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts following for each projection; it ends when `shutdown` is cancelled.
///
/// `gather` is how long a projection waits for more while events come fast.
pub fn start_all(
    pool: &PgPool,
    feed: &EventFeed,
    gather: Duration,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) -> Progress {
    Progress::new(registry::all().into_iter().map(|projection| {
        let name = projection.name();
        // Nothing counts as reached before a follower has read its checkpoint.
        let (publish, reached) = watch::channel(0);
        let projector = Projector {
            pool: pool.clone(),
            feed: feed.clone(),
            gather,
            projection,
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
            followers: BTreeMap::new(),
        };
        tasks.spawn(projector.run(publish));
        (name, reached)
    }))
}

struct Projector {
    pool: PgPool,
    feed: EventFeed,
    gather: Duration,
    projection: Arc<dyn Projection>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    followers: BTreeMap<i32, Follower>,
}

struct Follower {
    state: GenerationState,
    reached: watch::Receiver<Position>,
    stop: CancellationToken,
    standing: Arc<Standing>,
}

impl Projector {
    async fn run(mut self, publish: watch::Sender<Position>) {
        let mut warned = false;
        while !self.shutdown.is_cancelled() {
            match self.look().await {
                Ok(generations) => self.warn_of_other_version(&generations, &mut warned),
                // The followers go on, and complain of a database that does not answer.
                Err(error) => tracing::debug!(%error, "the generations of a projection could not be read"),
            }
            self.publish_until_next_look(&publish).await;
        }
    }

    /// Starts what is to be followed and is not yet, and ends what is gone.
    async fn look(&mut self) -> Result<Vec<Generation>, sqlx::Error> {
        if self.followers.is_empty() {
            generation::register_all(&self.pool).await?;
        }
        let generations = generation::list(&self.pool, Some(self.projection.name())).await?;
        let followed = |number: &i32| {
            generations.iter().find(|generation| generation.number == *number && generation.state.is_followed())
        };
        self.followers.retain(|number, follower| match followed(number) {
            Some(generation) => {
                follower.state = generation.state;
                follower.standing.set(generation.state == GenerationState::Live);
                true
            }
            None => {
                follower.stop.cancel();
                false
            }
        });
        for generation in generations.iter().filter(|generation| generation.state.is_followed()) {
            if !self.followers.contains_key(&generation.number) {
                let follower = self.follow(generation);
                self.followers.insert(generation.number, follower);
            }
        }
        Ok(generations)
    }

    fn follow(&self, generation: &Generation) -> Follower {
        let (publish, reached) = watch::channel(0);
        let stop = self.shutdown.child_token();
        let target = Target {
            projection: self.projection.clone(),
            generation: generation.number,
            subscription: generation.subscription.clone(),
        };
        let standing = Arc::new(Standing::default());
        standing.set(generation.state == GenerationState::Live);
        let feeding = Arc::new(Feeding { target, gather: self.gather, standing: standing.clone() });
        self.tasks.spawn(follow(self.pool.clone(), self.feed.clone(), feeding, publish, stop.clone()));
        Follower { state: generation.state, reached, stop, standing }
    }

    /// Publishes what readers see. One that is ready may become live at any moment, so it counts as well; and what was
    /// live must not speak for what is: a follower that learns of a switch makes the projector look again first.
    async fn publish_until_next_look(&self, publish: &watch::Sender<Position>) {
        let seen = |follower: &&Follower| matches!(follower.state, GenerationState::Live | GenerationState::Ready);
        let mut reached: Vec<_> =
            self.followers.values().filter(seen).map(|follower| follower.reached.clone()).collect();
        let standings: Vec<&Standing> = self.followers.values().map(|follower| &*follower.standing).collect();
        let next_look = tokio::time::sleep(LOOK_EVERY);
        tokio::pin!(next_look);
        loop {
            let slowest = reached.iter_mut().map(|reached| *reached.borrow_and_update()).min();
            // After the positions were read: it is set before any of them moves.
            if standings.iter().any(|standing| standing.is_stale()) {
                return;
            }
            if let Some(slowest) = slowest {
                publish.send_if_modified(|published| std::mem::replace(published, slowest) != slowest);
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = &mut next_look => return,
                _ = select_all(standings.iter().map(|standing| Box::pin(standing.becomes_stale()))), if !standings.is_empty() => {
                    return;
                }
                () = any_changed(&mut reached) => {}
            }
        }
    }

    fn warn_of_other_version(&self, generations: &[Generation], warned: &mut bool) {
        let live = generations.iter().find(|generation| generation.state == GenerationState::Live);
        let Some(live) = live else { return };
        let version = i32::try_from(self.projection.version()).unwrap_or(i32::MAX);
        if live.version != version && !std::mem::replace(warned, true) {
            tracing::warn!(
                projection = self.projection.name(),
                version = live.version,
                wanted = version,
                "a read model was folded by another version; ektola projections rebuild brings it up to date"
            );
        }
    }
}

/// Never, if there is nobody. A follower that has ended changes no more.
async fn any_changed(reached: &mut [watch::Receiver<Position>]) {
    if reached.is_empty() {
        return std::future::pending().await;
    }
    let changes = reached.iter_mut().map(|reached| {
        Box::pin(async {
            if reached.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
    });
    select_all(changes).await;
}
