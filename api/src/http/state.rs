use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::{CommandEnvelope, Decider, Position};
use infrastructure::clock::Clock;
use infrastructure::erasure::Eraser;
use infrastructure::event_feed::EventFeed;
use infrastructure::event_store::{
    Addressed, CampaignRunStore, CampaignStore, CommandError, Committed, ConsentStore, MessageStore, StockStore,
};
use infrastructure::templates::TemplateSync;
use infrastructure::webhook_inbox::Inbox;
use projections::progress::Progress;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::auth::Caller;
use crate::config::Config;
use crate::readiness::Readiness;

/// How long a command waits for the read models, so that its caller reads its own write.
const READ_MODELS_DEADLINE: Duration = Duration::from_secs(5);

/// What every handler works with; a cheap handle.
#[derive(Clone)]
pub struct ApiState {
    pub pool: PgPool,
    pub clock: Clock,
    pub config: Arc<Config>,
    pub campaigns: CampaignStore,
    pub runs: CampaignRunStore,
    pub messages: MessageStore,
    pub consents: ConsentStore,
    pub inbox: Inbox,
    pub templates: TemplateSync,
    pub progress: Progress,
    pub eraser: Eraser,
    pub feed: EventFeed,
    /// Cancelled when the engine stops: streams end then.
    pub stop: CancellationToken,
    /// The spool of uploads: files that are read once and deleted.
    pub upload_dir: PathBuf,
    pub readiness: Readiness,
}

impl ApiState {
    /// Gives a caller's command to its aggregate.
    pub(super) async fn give<A, C, E>(
        &self,
        store: &StockStore<A>,
        caller: &Caller,
        id: impl Into<Uuid>,
        command: C,
    ) -> Result<Committed<A>, CommandError<E>>
    where
        A: Decider<Command = CommandEnvelope<C>, Error = E>,
        C: Clone,
        E: std::error::Error + Send + Sync + 'static,
    {
        let envelope = CommandEnvelope::new(caller.tenant.id, self.clock.now(), command);
        store.execute(Addressed::new(id, envelope, caller.actor())).await
    }

    /// The same, if the aggregate is still at the position that the caller has seen.
    pub(super) async fn give_at<A, C, E>(
        &self,
        store: &StockStore<A>,
        caller: &Caller,
        id: impl Into<Uuid>,
        command: C,
        seen: Position,
    ) -> Result<Committed<A>, CommandError<E>>
    where
        A: Decider<Command = CommandEnvelope<C>, Error = E>,
        C: Clone,
        E: std::error::Error + Send + Sync + 'static,
    {
        let envelope = CommandEnvelope::new(caller.tenant.id, self.clock.now(), command);
        store.execute_at(Addressed::new(id, envelope, caller.actor()), seen).await
    }

    /// The position that a command reached: that of its last event, or, if it had nothing to do, of the last one that
    /// the aggregate had already. Waits until the read models show it, for a while.
    pub(super) async fn reached<A: Decider>(
        &self,
        id: Uuid,
        committed: &Committed<A>,
    ) -> Result<Position, sqlx::Error> {
        let position = match committed.position() {
            Some(position) => position,
            None => last_position(&self.pool, A::TYPE, id).await?.unwrap_or_default(),
        };
        self.wait_for(position).await;
        Ok(position)
    }

    /// A read model that is behind makes the answer late, never wrong: after the deadline it is given all the same.
    pub(super) async fn wait_for(&self, position: Position) {
        if !self.progress.wait_for(position, READ_MODELS_DEADLINE).await {
            tracing::debug!(position, "a command was answered before the read models show it");
        }
    }
}

/// The position of the last event of an aggregate; `None` if there is no such aggregate.
pub(super) async fn last_position(
    pool: &PgPool,
    aggregate_type: &str,
    id: Uuid,
) -> Result<Option<Position>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT max(position) FROM events WHERE aggregate_type = $1 AND aggregate_id = $2",
        aggregate_type,
        id.to_string(),
    )
    .fetch_one(pool)
    .await
}
