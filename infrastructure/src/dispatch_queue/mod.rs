//! The dispatch queue: what the feeder hands to the dispatchers. It holds no truth; losing it costs seconds.
//!
//! Two implementations pass one conformance suite: `postgres` (on the ready list itself; nothing else to install) and
//! `rabbitmq` (quorum queues, confirms, manual acknowledgements).

mod postgres;
mod rabbitmq;

pub use postgres::PostgresQueue;
pub use rabbitmq::{RabbitmqConfig, RabbitmqQueue};

use std::time::Duration;

use async_trait::async_trait;
use domain::ids::{MessageId, RunId, SenderId, TenantId};
use domain::message::Lane;
use serde::{Deserialize, Serialize};

/// A message that may be claimed: ids only, so that no queue ever holds anything personal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DispatchItem {
    pub message_id: MessageId,
    /// The attempt that may begin. A copy of an attempt that has begun is worthless.
    pub attempt: u32,
    pub tenant_id: TenantId,
    pub run_id: RunId,
    pub sender_id: SenderId,
    pub lane: Lane,
}

#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("the queue's database did not answer")]
    Database(#[from] sqlx::Error),
    #[error("RabbitMQ did not answer")]
    Broker(#[source] lapin::Error),
    #[error("RabbitMQ did not answer within {seconds} s")]
    Timeout { seconds: u64 },
    #[error("the connection to RabbitMQ was closed")]
    Closed,
}

/// A delivery that has not been acknowledged yet.
#[derive(Debug)]
pub struct Delivery {
    pub item: DispatchItem,
    /// Means something to the consumer that gave it only.
    pub tag: u64,
}

#[async_trait]
pub trait DispatchQueue: Send + Sync {
    /// Hands items to the queue; answers for each whether the queue has taken it for certain.
    async fn publish(&self, items: &[DispatchItem]) -> Result<Vec<bool>, QueueError>;

    /// A consumer of one sender's items. After an error it is of no use any more and another one is made.
    async fn consumer(&self, sender: SenderId) -> Result<Box<dyn DispatchConsumer>, QueueError>;
}

#[async_trait]
pub trait DispatchConsumer: Send {
    /// Takes what is there, at most `max`; waits at most `wait` for the first. May come back empty.
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError>;

    /// The claim is committed: the delivery has done its work.
    async fn ack(&mut self, tags: &[u64]) -> Result<(), QueueError>;

    /// No claim came of this delivery, and none would come of the same delivery again. The queue forgets the delivery;
    /// whether the message is still to be sent is the ready list's to say.
    async fn discard(&mut self, tags: &[u64]) -> Result<(), QueueError>;

    /// Not claimed: somebody may have it again.
    async fn give_back(&mut self, tags: &[u64]) -> Result<(), QueueError>;
}
