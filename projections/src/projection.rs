//! The form that every read model has.

use std::sync::Arc;

use async_trait::async_trait;
use domain::event::RecordedEvent;
use sqlx::PgConnection;

/// What writes a read model.
///
/// Whoever calls [`apply`](Projection::apply) moves the projection's checkpoint in the same transaction, so each event
/// is applied exactly once and in order. What is written depends on the events alone: not on the time, and not on how
/// they were cut into batches, or a rebuild would not give the same rows.
#[async_trait]
pub trait Projection: Send + Sync {
    /// The name that people use.
    fn name(&self) -> &'static str;

    /// The stored name of its subscription: `projection:` and the name.
    fn subscription(&self) -> &'static str;

    /// Raised when the rows of older releases would differ: then it has to be rebuilt.
    fn version(&self) -> u32;

    /// Events that do not concern it are passed over.
    fn concerns(&self, event: &RecordedEvent) -> bool;

    /// Writes what these events mean. All of them concern it.
    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error>;

    /// Empties its tables.
    async fn clear(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error>;
}
