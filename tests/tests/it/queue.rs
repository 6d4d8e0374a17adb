//! The queues of an engine on RabbitMQ, seen from outside and tampered with.

use domain::ids::SenderId;
use domain::message::Lane;
use lapin::options::{BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties};

use crate::engine::Engine;

/// The topology that the engine declares has this in its names.
const PREFIX: &str = "ektola.dispatch.v2";

pub(crate) struct Queues {
    /// Ends with the channel.
    connection: Connection,
    channel: Channel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Parcels that no consumer holds.
    pub(crate) ready: u32,
    pub(crate) consumers: u32,
}

pub(crate) fn name(sender: SenderId, lane: Lane) -> String {
    format!("{PREFIX}.{sender}.{}", lane.name())
}

pub(crate) fn dead() -> String {
    format!("{PREFIX}.dead")
}

impl Queues {
    pub(crate) async fn of(engine: &Engine) -> Self {
        let url = engine.broker_url().expect("an engine on RabbitMQ");
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        Self { connection, channel }
    }

    /// As the broker knows it at this moment.
    pub(crate) async fn state(&self, queue: &str) -> State {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap();
        State { ready: queue.message_count(), consumers: queue.consumer_count() }
    }

    pub(crate) async fn delete(&self, queue: &str) -> u32 {
        self.channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.unwrap()
    }

    /// Declares the queue as the engine does not: every declaration of the engine's is refused from now on, and its
    /// channel with it.
    pub(crate) async fn declare_otherwise(&self, queue: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
    }

    /// Nothing was dead-lettered. Asked for a message, since the count of a queue of this kind may be behind.
    pub(crate) async fn assert_nothing_dead(&self) {
        let letter = self.channel.basic_get(dead().as_str().into(), BasicGetOptions::default()).await.unwrap();
        let letter = letter.map(|letter| String::from_utf8_lossy(&letter.data).into_owned());
        assert_eq!(letter, None, "a healthy parcel was dead-lettered");
    }

    pub(crate) async fn close(self) {
        self.connection.close(200, "done".into()).await.unwrap();
    }
}
