//! The queue on RabbitMQ: one durable quorum queue per sender and lane, persistent messages, every publish confirmed and
//! checked for being routed, manual acknowledgements, and a dead-letter queue.
//!
//! Connections are supervised here and not by the client's own recovery: after any error the connection is dropped,
//! and the next call builds connection, channel and topology anew. What was in flight is published again by the
//! feeder or delivered again by the broker, and either copy is harmless.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::ids::SenderId;
use domain::message::Lane;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, BasicRejectOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind};
use tokio::sync::Mutex;

use super::lanes::LaneTurns;
use super::{Delivery, DispatchConsumer, DispatchQueue, Parcel, QueueError, Tag};

/// Part of every name: arguments of a queue cannot be changed, so another topology gets another version.
const PREFIX: &str = "ektola.dispatch.v2";
/// Deliveries of one message before it is dead-lettered. A dispatcher that is killed at full prefetch counts one for
/// each of its messages, so the limit stands well above what a bad day brings.
const DELIVERY_LIMIT: i32 = 50;
/// Parcels in one queue; the feeder keeps far fewer outstanding.
const LENGTH_MAX: i32 = 100_000;
/// Any answer of the broker is given up after this, and the connection with it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct RabbitmqConfig {
    pub url: String,
    /// Parcels of a lane that a consumer may hold without acknowledging them.
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
    declared: HashSet<(SenderId, Lane)>,
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
    async fn publish(&self, parcels: &[Parcel]) -> Result<Vec<bool>, QueueError> {
        let mut held = self.publisher.lock().await;
        let mut publisher = match held.take() {
            Some(publisher) if publisher.channel.status().connected() => publisher,
            _ => self.new_publisher().await?,
        };
        let taken = publisher.publish(parcels).await?;
        // Only a publisher that has had no error is used again.
        *held = Some(publisher);
        Ok(taken)
    }

    async fn consumer(&self, sender: SenderId) -> Result<Box<dyn DispatchConsumer>, QueueError> {
        let connection = self.consuming_connection().await?;
        let channel = answered(connection.create_channel()).await?;
        declare_dead_letters(&channel).await?;
        let utility = self.consume(&channel, sender, Lane::Utility).await?;
        let marketing = self.consume(&channel, sender, Lane::Marketing).await?;
        Ok(Box::new(RabbitmqConsumer {
            _connection: connection,
            channel,
            utility,
            marketing,
            turns: LaneTurns::default(),
        }))
    }
}

impl RabbitmqQueue {
    async fn consume(&self, channel: &Channel, sender: SenderId, lane: Lane) -> Result<Consumer, QueueError> {
        declare_queue(channel, sender, lane).await?;
        // Before the consumer, for which it counts: without it the broker sends everything it has.
        answered(channel.basic_qos(self.config.prefetch, BasicQosOptions::default())).await?;
        answered(channel.basic_consume(
            queue_name(sender, lane).as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        ))
        .await
    }
}

impl Publisher {
    async fn publish(&mut self, parcels: &[Parcel]) -> Result<Vec<bool>, QueueError> {
        for parcel in parcels {
            if self.declared.insert((parcel.sender_id, parcel.lane)) {
                declare_queue(&self.channel, parcel.sender_id, parcel.lane).await?;
            }
        }
        let confirms = join_all(parcels.iter().map(|parcel| self.publish_one(parcel)));
        confirms.await.into_iter().collect()
    }

    /// `true` only if the broker has stored it: neither refused nor returned as unroutable. Each confirm is awaited by
    /// itself; the client's bulk wait hides refusals.
    async fn publish_one(&self, parcel: &Parcel) -> Result<bool, QueueError> {
        let body = serde_json::to_vec(parcel).expect("ids and numbers have a JSON form");
        let properties = BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
        let publish = async {
            self.channel
                .basic_publish(
                    "".into(),
                    queue_name(parcel.sender_id, parcel.lane).as_str().into(),
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
    utility: Consumer,
    marketing: Consumer,
    turns: LaneTurns,
}

type Delivered = Option<Result<lapin::message::Delivery, lapin::Error>>;

#[async_trait]
impl DispatchConsumer for RabbitmqConsumer {
    async fn next(&mut self, items: usize, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let mut taken = Vec::new();
        let mut missing = items;
        while missing > 0 {
            let Some((lane, delivered)) = self.waiting() else { break };
            missing -= self.take(lane, delivered, &mut taken)?.min(missing);
        }
        if taken.is_empty() {
            let first = tokio::time::timeout(wait, async {
                tokio::select! {
                    delivered = self.utility.next() => (Lane::Utility, delivered),
                    delivered = self.marketing.next() => (Lane::Marketing, delivered),
                }
            });
            if let Ok((lane, delivered)) = first.await {
                self.take(lane, delivered, &mut taken)?;
            }
        }
        Ok(taken)
    }

    async fn ack(&mut self, tags: &[Tag]) -> Result<(), QueueError> {
        for tag in tags {
            answered(self.channel.basic_ack(tag.number, BasicAckOptions::default())).await?;
        }
        Ok(())
    }
}

impl RabbitmqConsumer {
    /// What has arrived already, by the lanes' turns.
    fn waiting(&mut self) -> Option<(Lane, Delivered)> {
        self.turns.order().into_iter().find_map(|lane| {
            let stream = match lane {
                Lane::Utility => &mut self.utility,
                Lane::Marketing => &mut self.marketing,
            };
            stream.next().now_or_never().map(|delivered| (lane, delivered))
        })
    }

    /// Answers how many messages were taken. A body that is not ours goes to the dead-letter queue at once instead of
    /// round and round.
    fn take(&mut self, lane: Lane, delivered: Delivered, taken: &mut Vec<Delivery>) -> Result<usize, QueueError> {
        let delivery = delivered.ok_or(QueueError::Closed)?.map_err(QueueError::Broker)?;
        self.turns.next();
        match serde_json::from_slice::<Parcel>(&delivery.data) {
            Ok(parcel) => {
                let items = parcel.items.len();
                let tag = Tag { lane, number: delivery.delivery_tag };
                taken.push(Delivery { parcel, tag, redelivered: delivery.redelivered });
                Ok(items)
            }
            Err(error) => {
                tracing::error!(%error, "a parcel in the dispatch queue cannot be read; it goes to the dead letters");
                let (channel, tag) = (self.channel.clone(), delivery.delivery_tag);
                // Rejecting needs no answer, so it is sent off without waiting; a lost one is delivered again.
                drop(channel.basic_reject(tag, BasicRejectOptions { requeue: false }).now_or_never());
                Ok(0)
            }
        }
    }
}

fn queue_name(sender: SenderId, lane: Lane) -> String {
    format!("{PREFIX}.{sender}.{}", lane.name())
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

async fn declare_queue(channel: &Channel, sender: SenderId, lane: Lane) -> Result<(), QueueError> {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // Explicit: RabbitMQ 3 has no limit by default, RabbitMQ 4 has 20.
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERY_LIMIT));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(format!("{PREFIX}.dead").into()));
    // At-least-once dead-lettering needs a bounded queue that refuses instead of dropping.
    arguments.insert("x-dead-letter-strategy".into(), AMQPValue::LongString("at-least-once".into()));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(LENGTH_MAX));
    answered(channel.queue_declare(
        queue_name(sender, lane).as_str().into(),
        QueueDeclareOptions::durable(),
        arguments,
    ))
    .await?;
    Ok(())
}

async fn answered<T>(answer: impl Future<Output = Result<T, lapin::Error>>) -> Result<T, QueueError> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(result) => result.map_err(QueueError::Broker),
        Err(_) => Err(QueueError::Timeout { seconds: ANSWER_TIMEOUT.as_secs() }),
    }
}
