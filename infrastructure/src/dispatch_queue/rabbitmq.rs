//! The queue on RabbitMQ: one durable quorum queue per sender, persistent messages, every publish confirmed and checked
//! for being routed, manual acknowledgements, and a dead-letter queue.
//!
//! Connections are supervised here and not by the client's own recovery: after any error the connection is dropped,
//! and the next call builds connection, channel and topology anew. What was in flight is published again by the
//! feeder or delivered again by the broker, and either copy is harmless.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::ids::SenderId;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicNackOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind};
use tokio::sync::Mutex;

use super::{Delivery, DispatchConsumer, DispatchItem, DispatchQueue, QueueError};

/// Part of every name: arguments of a queue cannot be changed, so another topology gets another version.
const PREFIX: &str = "ektola.dispatch.v1";
/// Deliveries of one message before it is dead-lettered. A dispatcher that is killed at full prefetch counts one for
/// each of its messages, so the limit stands well above what a bad day brings.
const DELIVERY_LIMIT: i32 = 50;
/// Messages in one queue; the feeder keeps far fewer outstanding.
const LENGTH_MAX: i32 = 100_000;
/// Any answer of the broker is given up after this, and the connection with it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct RabbitmqConfig {
    pub url: String,
    /// Deliveries that a consumer may hold without acknowledging them.
    pub prefetch: u16,
}

pub struct RabbitmqQueue {
    config: RabbitmqConfig,
    publisher: Mutex<Option<Publisher>>,
    /// Consumers share a connection of their own, so that a blocked publisher does not hold up acknowledgements.
    consuming: Mutex<Option<Arc<Connection>>>,
}

struct Publisher {
    _connection: Connection,
    channel: Channel,
    declared: HashSet<SenderId>,
}

impl RabbitmqQueue {
    /// Connects on first use; a broker that is not there yet is not an error.
    pub fn new(config: RabbitmqConfig) -> Self {
        Self { config, publisher: Mutex::new(None), consuming: Mutex::new(None) }
    }

    async fn connect(&self, name: &str) -> Result<Connection, QueueError> {
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        answered(Connection::connect(&self.config.url, properties)).await
    }

    async fn new_publisher(&self) -> Result<Publisher, QueueError> {
        let connection = self.connect("ektola feeder").await?;
        let channel = answered(connection.create_channel()).await?;
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        declare_dead_letters(&channel).await?;
        Ok(Publisher { _connection: connection, channel, declared: HashSet::new() })
    }

    async fn consuming_connection(&self) -> Result<Arc<Connection>, QueueError> {
        let mut held = self.consuming.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| connection.status().connected()) {
            return Ok(connection.clone());
        }
        let connection = Arc::new(self.connect("ektola dispatcher").await?);
        *held = Some(connection.clone());
        Ok(connection)
    }
}

#[async_trait]
impl DispatchQueue for RabbitmqQueue {
    async fn publish(&self, items: &[DispatchItem]) -> Result<Vec<bool>, QueueError> {
        let mut held = self.publisher.lock().await;
        let mut publisher = match held.take() {
            Some(publisher) if publisher.channel.status().connected() => publisher,
            _ => self.new_publisher().await?,
        };
        let taken = publisher.publish(items).await?;
        // Only a publisher that has had no error is used again.
        *held = Some(publisher);
        Ok(taken)
    }

    async fn consumer(&self, sender: SenderId) -> Result<Box<dyn DispatchConsumer>, QueueError> {
        let connection = self.consuming_connection().await?;
        let channel = answered(connection.create_channel()).await?;
        declare_dead_letters(&channel).await?;
        declare_queue(&channel, sender).await?;
        // Before the consumer: without it the broker sends everything it has.
        answered(channel.basic_qos(self.config.prefetch, BasicQosOptions::default())).await?;
        let deliveries = answered(channel.basic_consume(
            queue_name(sender).as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        ))
        .await?;
        Ok(Box::new(RabbitmqConsumer { _connection: connection, channel, deliveries }))
    }
}

impl Publisher {
    async fn publish(&mut self, items: &[DispatchItem]) -> Result<Vec<bool>, QueueError> {
        for item in items {
            if self.declared.insert(item.sender_id) {
                declare_queue(&self.channel, item.sender_id).await?;
            }
        }
        let confirms = join_all(items.iter().map(|item| self.publish_one(item)));
        confirms.await.into_iter().collect()
    }

    /// `true` only if the broker has stored it: neither refused nor returned as unroutable. Each confirm is awaited by
    /// itself; the client's bulk wait hides refusals.
    async fn publish_one(&self, item: &DispatchItem) -> Result<bool, QueueError> {
        let body = serde_json::to_vec(item).expect("ids and numbers have a JSON form");
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(item.message_id.to_string().as_str().into());
        let publish = async {
            self.channel
                .basic_publish(
                    "".into(),
                    queue_name(item.sender_id).as_str().into(),
                    BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                    &body,
                    properties,
                )
                .await?
                .await
        };
        match answered(publish).await? {
            Confirmation::Ack(None) => Ok(true),
            Confirmation::Ack(Some(_)) | Confirmation::Nack(_) | Confirmation::NotRequested => Ok(false),
        }
    }
}

struct RabbitmqConsumer {
    _connection: Arc<Connection>,
    channel: Channel,
    deliveries: Consumer,
}

#[async_trait]
impl DispatchConsumer for RabbitmqConsumer {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let mut taken = Vec::new();
        match tokio::time::timeout(wait, self.deliveries.next()).await {
            Ok(Some(first)) => taken.extend(self.read(first)?),
            Ok(None) => return Err(QueueError::Closed),
            Err(_) => return Ok(taken),
        }
        while taken.len() < max {
            match self.deliveries.next().now_or_never() {
                Some(Some(delivery)) => taken.extend(self.read(delivery)?),
                Some(None) | None => break,
            }
        }
        Ok(taken)
    }

    async fn ack(&mut self, tags: &[u64]) -> Result<(), QueueError> {
        for tag in tags {
            answered(self.channel.basic_ack(*tag, BasicAckOptions::default())).await?;
        }
        Ok(())
    }

    async fn discard(&mut self, tags: &[u64]) -> Result<(), QueueError> {
        self.ack(tags).await
    }

    async fn give_back(&mut self, tags: &[u64]) -> Result<(), QueueError> {
        for tag in tags {
            let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            answered(self.channel.basic_nack(*tag, options)).await?;
        }
        Ok(())
    }
}

impl RabbitmqConsumer {
    /// A body that is not ours goes to the dead-letter queue at once instead of round and round.
    fn read(&self, delivery: Result<lapin::message::Delivery, lapin::Error>) -> Result<Option<Delivery>, QueueError> {
        let delivery = delivery.map_err(QueueError::Broker)?;
        match serde_json::from_slice(&delivery.data) {
            Ok(item) => Ok(Some(Delivery { item, tag: delivery.delivery_tag })),
            Err(error) => {
                tracing::error!(%error, "a message in the dispatch queue cannot be read; it goes to the dead letters");
                let (channel, tag) = (self.channel.clone(), delivery.delivery_tag);
                // Rejecting needs no answer, so it is sent off without waiting; a lost one is delivered again.
                drop(channel.basic_reject(tag, BasicRejectOptions { requeue: false }).now_or_never());
                Ok(None)
            }
        }
    }
}

fn queue_name(sender: SenderId) -> String {
    format!("{PREFIX}.{sender}")
}

/// The topology, declared here and nowhere else; declaring it again is a no-op.
async fn declare_dead_letters(channel: &Channel) -> Result<(), QueueError> {
    let name = format!("{PREFIX}.dead");
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    answered(channel.exchange_declare(name.as_str().into(), ExchangeKind::Fanout, durable, FieldTable::default()))
        .await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    answered(channel.queue_declare(name.as_str().into(), QueueDeclareOptions::durable(), arguments)).await?;
    answered(channel.queue_bind(
        name.as_str().into(),
        name.as_str().into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    ))
    .await
}

async fn declare_queue(channel: &Channel, sender: SenderId) -> Result<(), QueueError> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // Explicit: RabbitMQ 3 has no limit by default, RabbitMQ 4 has 20.
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(format!("{PREFIX}.dead").into()));
    // At-least-once dead-lettering needs a bounded queue that refuses instead of dropping.
    arguments.insert("x-dead-letter-strategy".into(), AMQPValue::LongString("at-least-once".into()));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(LENGTH_MAX));
    answered(channel.queue_declare(queue_name(sender).as_str().into(), QueueDeclareOptions::durable(), arguments))
        .await?;
    Ok(())
}

async fn answered<T>(answer: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, QueueError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(result) => result.map_err(QueueError::Broker),
        Err(_) => Err(QueueError::Timeout { seconds: ANSWER_TIMEOUT.as_secs() }),
    }
}
