//! The write side of the log: two paths, one table, rows of one format. Each aggregate type is written by exactly one.
//!
//! `Campaign` and `CampaignRun` are low-rate: [`StockStore`] is cqrs-es over postgres-es. `Message` and `Consent` are
//! high-rate: [`BatchStore`] gathers concurrent commands and commits them together.

mod append;
mod batch;
mod batch_store;
mod metadata;
mod state_cache;
mod stock_store;

pub use append::{Attachment, RecipientRow};
pub use batch_store::{BatchConfig, BatchStore, ConsentStore, MessageStore};
pub use metadata::{Actor, Metadata};
pub use stock_store::{CampaignRunStore, CampaignStore, StockStore};

use domain::aggregate::{CommandEnvelope, Decider, Position};
use uuid::Uuid;

/// A command on its way to its aggregate.
#[derive(Debug, Clone)]
pub struct Addressed<C> {
    pub id: Uuid,
    pub envelope: CommandEnvelope<C>,
    pub actor: Actor,
    /// Erasable data that is written with the events of this command; one that leads to none writes nothing.
    pub attachment: Option<Attachment>,
}

impl<C> Addressed<C> {
    pub fn new(id: impl Into<Uuid>, envelope: CommandEnvelope<C>, actor: Actor) -> Self {
        Self { id: id.into(), envelope, actor, attachment: None }
    }

    #[must_use]
    pub fn with(mut self, attachment: Attachment) -> Self {
        self.attachment = Some(attachment);
        self
    }
}

/// What a command led to.
#[derive(Debug, Clone)]
pub struct Committed<A: Decider> {
    /// The positions of the events that this very commit appended, with the events. Empty: it was done already.
    pub events: Vec<(Position, A::Event)>,
    /// The aggregate after the command.
    pub state: A,
}

impl<A: Decider> Committed<A> {
    /// The place in the log that the command reached; `None` if it changed nothing.
    pub fn position(&self) -> Option<Position> {
        self.events.last().map(|(position, _)| *position)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CommandError<E: std::error::Error> {
    /// The aggregate refused.
    #[error(transparent)]
    Refused(E),
    /// The aggregate is no longer at the position that the caller has seen.
    #[error("the aggregate has moved to position {now}")]
    Moved { now: Position },
    /// Others changed the aggregate as often as it was tried.
    #[error("the aggregate changed under each of {attempts} attempts")]
    Conflict { attempts: u32 },
    /// A stored event cannot be read.
    #[error("the stored history of {aggregate_id} cannot be read")]
    Unreadable {
        aggregate_id: Uuid,
        #[source]
        source: std::sync::Arc<serde_json::Error>,
    },
    /// The database did not answer. Whether the command took effect is not known; give it again.
    #[error("the event store could not be reached")]
    Unavailable(#[source] std::sync::Arc<dyn std::error::Error + Send + Sync>),
    /// The database refused the command's rows.
    #[error("the event store refused the command")]
    Poisoned(#[source] std::sync::Arc<sqlx::Error>),
    /// The engine is shutting down.
    #[error("the engine is shutting down")]
    ShuttingDown,
}

impl<E: std::error::Error> CommandError<E> {
    /// May the same command succeed when it is given again later?
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Conflict { .. } | Self::Unavailable(_) | Self::ShuttingDown => true,
            Self::Refused(_) | Self::Moved { .. } | Self::Unreadable { .. } | Self::Poisoned(_) => false,
        }
    }
}
