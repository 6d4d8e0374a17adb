//! Runs one saga: commands first, then state, timers and checkpoint together, by compare-and-set.
//!
//! A crash in between repeats the commands, which are no-ops the second time. If another process has moved the
//! checkpoint, this one throws its own view away and reads on from there. Events that a saga does not care for move
//! the checkpoint in memory only, and in the table once in a while: seeing them again costs nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::TimeDelta;
use domain::aggregate::Position;
use domain::sagas::{Saga, SagaCommand};
use sqlx::{PgConnection, PgPool};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::executor::{ExecuteError, SagaExecutor};
use crate::event_feed::{self, Batch, EventFeed, FAST_BATCH, FeedError};

#[derive(Debug, Clone)]
pub struct SagaConfig {
    /// How often due timers are looked for.
    pub timer_poll: Duration,
    /// How long events are gathered while they come fast.
    pub gather: Duration,
}

/// Timers handled per look.
const TIMERS_PER_POLL_MAX: i64 = 100;
/// A timer whose command has been given rests this long; its event normally moves it before.
const TIMER_REST: TimeDelta = TimeDelta::seconds(1);
/// The checkpoint is stored after so many events without interest, or once the log has been quiet for a while.
const IDLE_CHECKPOINT_EVERY: Position = 5_000;
const QUIET: Duration = Duration::from_secs(1);
/// States kept in memory; beyond that they are read again.
const STATES_CACHED_MAX: usize = 10_000;
/// After a failure of the database.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
enum RunnerError {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error("the saga's state could not be read or stored")]
    State(#[from] sqlx::Error),
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    #[error("the stored state of {key} cannot be read")]
    Unreadable {
        key: Uuid,
        #[source]
        source: serde_json::Error,
    },
}

/// Runs until `shutdown`. Failures are retried for ever, from the last checkpoint.
pub async fn run<S: Saga>(executor: SagaExecutor, feed: EventFeed, config: SagaConfig, shutdown: CancellationToken) {
    let mut runner =
        Runner::<S> { pool: executor.pool.clone(), executor, feed, stored: 0, position: 0, states: HashMap::new() };
    loop {
        let failed = tokio::select! {
            () = shutdown.cancelled() => return,
            result = runner.work(&config) => result.err(),
        };
        if let Some(error) = failed {
            tracing::warn!(saga = S::NAME, error = &error as &dyn std::error::Error, "the saga starts again");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
    }
}

struct Runner<S: Saga> {
    pool: PgPool,
    executor: SagaExecutor,
    feed: EventFeed,
    /// The checkpoint as stored.
    stored: Position,
    /// How far this runner has seen.
    position: Position,
    states: HashMap<Uuid, S::State>,
}

impl<S: Saga> Runner<S> {
    async fn work(&mut self, config: &SagaConfig) -> Result<(), RunnerError> {
        event_feed::register(&self.pool, S::NAME).await?;
        self.stored = event_feed::position_of(&self.pool, S::NAME).await?;
        self.position = self.stored;
        self.states.clear();
        let mut timers = tokio::time::interval(config.timer_poll);
        timers.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let feed = self.feed.clone();
        let mut last_batch = Instant::now();
        // The next batch is asked for after this.
        let mut gathered = last_batch;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(gathered), if gathered > last_batch => gathered = last_batch,
                batch = feed.next(self.position), if gathered <= last_batch => {
                    let batch = batch?;
                    last_batch = Instant::now();
                    gathered = last_batch;
                    if (FAST_BATCH..feed.page_max()).contains(&batch.events.len()) {
                        gathered += config.gather;
                    }
                    if !self.react(&batch).await? {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep_until(last_batch + QUIET), if self.position > self.stored => {
                    if !self.remember(&HashMap::new(), self.position).await? {
                        return Ok(());
                    }
                }
                _ = timers.tick() => self.fire_timers().await?,
            }
        }
    }

    /// `false` if another process has moved the checkpoint.
    async fn react(&mut self, batch: &Batch) -> Result<bool, RunnerError> {
        let keys: HashSet<Uuid> = batch.events.iter().filter_map(|event| S::key(event)).collect();
        if keys.is_empty() {
            self.position = batch.up_to;
            if self.position - self.stored < IDLE_CHECKPOINT_EVERY {
                return Ok(true);
            }
            return self.remember(&HashMap::new(), batch.up_to).await;
        }
        if self.states.len() > STATES_CACHED_MAX {
            self.states.clear();
        }
        let keys: Vec<Uuid> = keys.into_iter().collect();
        self.load(&keys).await?;
        let mut touched: HashMap<Uuid, S::State> =
            keys.iter().map(|key| (*key, self.states.get(key).cloned().unwrap_or_default())).collect();
        let mut commands: Vec<SagaCommand> = Vec::new();
        for event in &batch.events {
            if let Some(state) = S::key(event).and_then(|key| touched.get_mut(&key)) {
                commands.extend(S::react(state, event));
            }
        }
        for command in commands {
            self.executor.execute(S::NAME, command).await?;
        }
        touched.retain(|key, state| self.states.get(key) != Some(state));
        self.remember(&touched, batch.up_to).await
    }

    async fn remember(&mut self, changed: &HashMap<Uuid, S::State>, up_to: Position) -> Result<bool, RunnerError> {
        let mut tx = self.pool.begin().await?;
        if !event_feed::advance_in_tx(&mut tx, S::NAME, self.stored, up_to).await? {
            return Ok(false);
        }
        store_in_tx::<S>(&mut tx, changed).await?;
        tx.commit().await?;
        self.stored = up_to;
        self.position = up_to;
        self.states.extend(changed.iter().map(|(key, state)| (*key, state.clone())));
        Ok(true)
    }

    async fn load(&mut self, keys: &[Uuid]) -> Result<(), RunnerError> {
        let missing: Vec<String> =
            keys.iter().filter(|key| !self.states.contains_key(key)).map(Uuid::to_string).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let rows = sqlx::query!(
            r#"SELECT key::uuid AS "key!", state FROM saga_states WHERE saga = $1 AND key = ANY($2)"#,
            S::NAME,
            &missing,
        )
        .fetch_all(&self.pool)
        .await?;
        for row in rows {
            let state =
                serde_json::from_value(row.state).map_err(|source| RunnerError::Unreadable { key: row.key, source })?;
            self.states.insert(row.key, state);
        }
        Ok(())
    }

    async fn fire_timers(&mut self) -> Result<(), RunnerError> {
        let now = self.executor.clock.now();
        let due = sqlx::query!(
            r#"SELECT key::uuid AS "key!", due_at FROM saga_timers WHERE saga = $1 AND due_at <= $2
               ORDER BY due_at LIMIT $3"#,
            S::NAME,
            now,
            TIMERS_PER_POLL_MAX,
        )
        .fetch_all(&self.pool)
        .await?;
        for timer in due {
            self.load(&[timer.key]).await?;
            let state = self.states.get(&timer.key).cloned().unwrap_or_default();
            for command in S::wake(&state, timer.key, now) {
                self.executor.execute(S::NAME, command).await?;
            }
            sqlx::query!(
                "UPDATE saga_timers SET due_at = $4 WHERE saga = $1 AND key = $2 AND due_at = $3",
                S::NAME,
                timer.key.to_string(),
                timer.due_at,
                now + TIMER_REST,
            )
            .execute(&self.pool)
            .await?;
        }
        Ok(())
    }
}

/// States and their timers. The rows are sorted, as every multi-row write here is, so that no two writers deadlock.
async fn store_in_tx<S: Saga>(
    connection: &mut PgConnection,
    changed: &HashMap<Uuid, S::State>,
) -> Result<(), RunnerError> {
    let mut sorted: Vec<(&Uuid, &S::State)> = changed.iter().collect();
    sorted.sort_by_key(|(key, _)| **key);
    let keys: Vec<String> = sorted.iter().map(|(key, _)| key.to_string()).collect();
    let mut states = Vec::with_capacity(sorted.len());
    let mut due_at = Vec::with_capacity(sorted.len());
    for (key, state) in &sorted {
        states.push(serde_json::to_value(state).map_err(|source| RunnerError::Unreadable { key: **key, source })?);
        due_at.push(S::timer(state));
    }
    sqlx::query!(
        "INSERT INTO saga_states (saga, key, state)
         SELECT $1, t.key, t.state FROM unnest($2::text[], $3::jsonb[]) AS t(key, state)
         ON CONFLICT (saga, key) DO UPDATE SET state = excluded.state",
        S::NAME,
        &keys,
        &states,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO saga_timers (saga, key, due_at)
         SELECT $1, t.key, t.due_at FROM unnest($2::text[], $3::timestamptz[]) AS t(key, due_at)
         WHERE t.due_at IS NOT NULL
         ON CONFLICT (saga, key) DO UPDATE SET due_at = excluded.due_at",
        S::NAME,
        &keys,
        &due_at as &[Option<chrono::DateTime<chrono::Utc>>],
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM saga_timers s USING unnest($2::text[], $3::timestamptz[]) AS t(key, due_at)
         WHERE s.saga = $1 AND s.key = t.key AND t.due_at IS NULL",
        S::NAME,
        &keys,
        &due_at as &[Option<chrono::DateTime<chrono::Utc>>],
    )
    .execute(connection)
    .await?;
    Ok(())
}
