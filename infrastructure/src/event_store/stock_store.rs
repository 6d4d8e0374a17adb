//! The low-rate path: cqrs-es' framework over postgres-es' repository, with what both lack: bounded retries on
//! conflict, and the position that a command reached.

use std::sync::Arc;

use cqrs_es::persist::{PersistedEventRepository as _, PersistedEventStore, PersistenceError, SerializedEvent};
use cqrs_es::{AggregateError, CqrsFramework, DomainEvent as _};
use domain::aggregate::{Decider, Position};
use domain::campaign::Campaign;
use domain::campaign_run::CampaignRun;
use postgres_es::PostgresEventRepository;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Addressed, CommandError, Committed, Metadata};

pub type CampaignStore = StockStore<Campaign>;
pub type CampaignRunStore = StockStore<CampaignRun>;

const CONFLICT_RETRIES_MAX: u32 = 5;

/// A cheap handle.
pub struct StockStore<A: Decider> {
    pool: PgPool,
    framework: Arc<CqrsFramework<A, PersistedEventStore<PostgresEventRepository, A>>>,
    repository: Arc<PostgresEventRepository>,
}

impl<A: Decider> Clone for StockStore<A> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone(), framework: self.framework.clone(), repository: self.repository.clone() }
    }
}

impl<A, C, E> StockStore<A>
where
    A: Decider<Command = domain::aggregate::CommandEnvelope<C>, Error = E>,
    C: Clone,
    E: std::error::Error + Send + Sync + 'static,
{
    pub fn new(pool: PgPool) -> Self {
        // The event-store mode only: the snapshot and aggregate modes of cqrs-es 0.5 apply events twice.
        let store = PersistedEventStore::new_event_store(PostgresEventRepository::new(pool.clone()));
        let repository = Arc::new(PostgresEventRepository::new(pool.clone()));
        Self { pool, framework: Arc::new(CqrsFramework::new(store, Vec::new(), ())), repository }
    }

    /// Executes a command. The events that are reported are those appended after what the aggregate held before.
    pub async fn execute(&self, command: Addressed<C>) -> Result<Committed<A>, CommandError<E>> {
        let id = command.id.to_string();
        let metadata = Metadata::of(&command.envelope, &command.actor).to_map();
        let (_, before) = self.load_with_sequence(command.id).await?;
        for _ in 0..=CONFLICT_RETRIES_MAX {
            match self.framework.execute_with_metadata(&id, command.envelope.clone(), metadata.clone()).await {
                Ok(()) => return self.committed(command.id, before).await,
                Err(AggregateError::UserError(refusal)) => return Err(CommandError::Refused(refusal)),
                Err(AggregateError::AggregateConflict) => {}
                Err(AggregateError::DatabaseConnectionError(source) | AggregateError::UnexpectedError(source)) => {
                    return Err(CommandError::Unavailable(Arc::from(source)));
                }
                Err(AggregateError::DeserializationError(source)) => {
                    return Err(CommandError::Unavailable(Arc::from(source)));
                }
            }
        }
        Err(CommandError::Conflict { attempts: CONFLICT_RETRIES_MAX + 1 })
    }

    /// The same, if the aggregate is still at this position: that of its last event that the caller has seen. Whoever
    /// changes it in between makes the append fail on its key, and the command is refused as moved.
    pub async fn execute_at(&self, command: Addressed<C>, seen: Position) -> Result<Committed<A>, CommandError<E>> {
        let id = command.id.to_string();
        let metadata = serde_json::to_value(Metadata::of(&command.envelope, &command.actor).to_map())
            .map_err(|source| CommandError::Unavailable(Arc::new(source)))?;
        for _ in 0..=CONFLICT_RETRIES_MAX {
            let (mut state, mut before, mut now) = (A::default(), 0, 0);
            for (sequence, position, event) in self.history(command.id, 0).await? {
                state.evolve(&event);
                (before, now) = (sequence, position);
            }
            let events = state.decide(&command.envelope).map_err(CommandError::Refused)?;
            if now != seen {
                return Err(CommandError::Moved { now });
            }
            let rows = (before + 1..)
                .zip(events)
                .map(|(sequence, event)| {
                    Ok(SerializedEvent::new(
                        id.clone(),
                        usize::try_from(sequence).unwrap_or_default(),
                        A::TYPE.to_owned(),
                        event.event_type(),
                        event.event_version(),
                        serde_json::to_value(&event)?,
                        metadata.clone(),
                    ))
                })
                .collect::<Result<Vec<_>, serde_json::Error>>()
                .map_err(|source| CommandError::Unavailable(Arc::new(source)))?;
            match self.repository.persist::<A>(&rows, None).await {
                Ok(()) => return self.committed(command.id, before).await,
                Err(PersistenceError::OptimisticLockError) => {}
                Err(source) => return Err(CommandError::Unavailable(Arc::new(source))),
            }
        }
        Err(CommandError::Conflict { attempts: CONFLICT_RETRIES_MAX + 1 })
    }

    pub async fn load(&self, id: impl Into<Uuid>) -> Result<A, CommandError<E>> {
        self.load_with_sequence(id.into()).await.map(|(state, _)| state)
    }

    async fn load_with_sequence(&self, id: Uuid) -> Result<(A, i64), CommandError<E>> {
        let mut state = A::default();
        let mut last = 0;
        for (sequence, _, event) in self.history(id, 0).await? {
            state.evolve(&event);
            last = sequence;
        }
        Ok((state, last))
    }

    async fn committed(&self, id: Uuid, before: i64) -> Result<Committed<A>, CommandError<E>> {
        let mut state = A::default();
        let mut events = Vec::new();
        for (sequence, position, event) in self.history(id, 0).await? {
            state.evolve(&event);
            if sequence > before {
                events.push((position, event));
            }
        }
        Ok(Committed { events, state })
    }

    async fn history(&self, id: Uuid, after: i64) -> Result<Vec<(i64, Position, A::Event)>, CommandError<E>> {
        let rows = sqlx::query!(
            "SELECT sequence, position, payload FROM events
             WHERE aggregate_type = $1 AND aggregate_id = $2 AND sequence > $3
             ORDER BY sequence",
            A::TYPE,
            id.to_string(),
            after,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|source| CommandError::Unavailable(Arc::new(source)))?;
        rows.into_iter()
            .map(|row| {
                let event = serde_json::from_value(row.payload)
                    .map_err(|source| CommandError::Unreadable { aggregate_id: id, source: Arc::new(source) })?;
                Ok((row.sequence, row.position, event))
            })
            .collect()
    }
}
