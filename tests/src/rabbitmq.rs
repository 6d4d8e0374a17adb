//! One vhost per test on the run's RabbitMQ node.

use std::path::Path;

use infrastructure::private_servers::PrivateRabbitmq;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::RABBITMQ_DIR_VARIABLE;

/// The node of the run, which its `servers` process stops when all tests have ended.
static NODE: OnceCell<PrivateRabbitmq> = OnceCell::const_new();

/// A vhost of this test alone; it goes with the node.
#[derive(Debug)]
pub struct TestVhost {
    pub url: String,
}

impl TestVhost {
    /// With `AMQP_URL` alone, the broker of that address is used as it is: tests must name their queues apart.
    ///
    /// # Panics
    ///
    /// When no broker is named by the environment, or it does not answer.
    pub async fn create() -> Self {
        if let Some(dir) = set(RABBITMQ_DIR_VARIABLE) {
            let node = NODE
                .get_or_init(async || {
                    let node = PrivateRabbitmq::start(Path::new(&dir)).await;
                    node.unwrap_or_else(|error| panic!("the RabbitMQ of the tests does not answer: {error}"))
                })
                .await;
            let name = format!("test_{}", Uuid::new_v4().simple());
            let url = node.create_vhost(&name).await;
            return Self { url: url.unwrap_or_else(|error| panic!("cannot make a vhost: {error}")) };
        }
        let url = set("AMQP_URL")
            .expect("run the tests through `make test`, or set AMQP_URL to a broker where queues may be created");
        Self { url }
    }
}

fn set(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_test_has_a_broker_to_itself() {
        let (first, second) = tokio::join!(TestVhost::create(), TestVhost::create());
        if set(RABBITMQ_DIR_VARIABLE).is_some() {
            assert_ne!(first.url, second.url);
        }
        for vhost in [first, second] {
            let connected = lapin::Connection::connect(&vhost.url, lapin::ConnectionProperties::default()).await;
            let connection = connected.unwrap();
            let channel = connection.create_channel().await.unwrap();
            let queue = lapin::options::QueueDeclareOptions { durable: true, ..Default::default() };
            channel.queue_declare("same name".into(), queue, Default::default()).await.unwrap();
            connection.close(200, "done".into()).await.unwrap();
        }
    }
}
