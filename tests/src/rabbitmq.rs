//! One vhost per test on the run's RabbitMQ node.

use std::path::Path;

use infrastructure::private_servers::PrivateRabbitmq;
use tokio::process::Command;
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

/// Runs the control program of the packages on a node of this data folder.
///
/// # Panics
///
/// When it fails.
pub async fn control(node: &PrivateRabbitmq, dir: &Path, arguments: &[&str]) {
    let scripts = PrivateRabbitmq::find_scripts().unwrap_or_else(|error| panic!("RabbitMQ is not installed: {error}"));
    let cookie = std::fs::read_to_string(dir.join("rabbitmq/node/.erlang.cookie"))
        .unwrap_or_else(|error| panic!("the node's cookie cannot be read: {error}"));
    let [_, _, epmd] = node.ports();
    let output = Command::new(scripts.join("rabbitmqctl"))
        .args(["--node", "ektola@localhost", "--quiet", "--erlang-cookie", &cookie])
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", dir)
        .env("ERL_EPMD_PORT", epmd.to_string())
        .env("ERL_FLAGS", "-kernel inet_dist_use_interface {127,0,0,1}")
        .env("RABBITMQ_CONF_ENV_FILE", dir.join("no-environment"))
        .output()
        .await
        .unwrap_or_else(|error| panic!("the control program does not start: {error}"));
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
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
