//! The form that every read model has.

use std::sync::Arc;

use async_trait::async_trait;
use domain::event::RecordedEvent;
use sqlx::PgConnection;

/// What writes a read model.
///
/// Whoever calls [`apply`](Projection::apply) moves the checkpoint of the generation it writes in the same transaction,
/// so each event is applied exactly once, and those of one aggregate in order. What is written depends on the events
/// alone: not on the time, not on how they were cut into batches, and not on other projections, or a rebuild would not
/// give the same rows. Nothing but rows of its own tables is written, ever.
#[async_trait]
pub trait Projection: Send + Sync {
    /// The name that people use.
    fn name(&self) -> &'static str;

    /// Raised when the rows of older releases would differ: then it has to be rebuilt.
    fn version(&self) -> u32;

    /// Its tables. The migrations make them, in the schema `read_model`; a rebuild makes others of the same form.
    fn tables(&self) -> &'static [&'static str];

    /// Events that do not concern it are passed over.
    fn concerns(&self, event: &RecordedEvent) -> bool;

    /// Writes what these events mean. All of them concern it. Its statements name the tables without a schema: the
    /// caller has set the search path to that of the generation.
    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error>;
}
