//! The broker fails in the middle of a run, each time in another way: it is started anew, it refuses the engine's
//! channels, it takes nothing. The run ends as if nothing had been, and the engine says what is wrong while it lasts.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use domain::message::Lane;
use infrastructure::private_servers::PrivateRabbitmq;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use test_kit::rabbitmq::control;
use test_kit::wait;

use crate::engine::{Engine, Options, Queue, send};
use crate::queue::{self, Queues};

const CONTACTS: u32 = 1_500;
/// Erlang's own default.
const WATERMARK: &str = "0.4";

async fn sent(engine: &Engine, run: &str) -> u64 {
    engine.get(&format!("/v1/runs/{run}")).await["funnel"]["sent"].as_u64().unwrap()
}

/// Sending goes on.
async fn goes_on(engine: &Engine, run: &str, what: &str) {
    let before = sent(engine, run).await;
    engine.run_when(run, what, |run| run["funnel"]["sent"].as_u64().unwrap() >= before + 30).await;
}

async fn readiness(engine: &Engine) -> (StatusCode, Value) {
    send(engine.raw(Method::GET, "/readyz")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_survives_whatever_its_broker_does() {
    // The node's user has to pass through the folder.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let node = PrivateRabbitmq::start(folder.path()).await.unwrap();
    let options = Options { queue: Queue::Rabbitmq, broker_url: Some(node.amqp_url()), rate: 40, ..Options::default() };
    let engine = Engine::start_with(options).await;
    engine.contacts("gold", CONTACTS).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    goes_on(&engine, &run, "messages are sent").await;

    // A restart: every connection ends, what the queues hold survives.
    assert!(node.stop().await.unwrap(), "the node is used by somebody else");
    let node = PrivateRabbitmq::start(folder.path()).await.unwrap();
    goes_on(&engine, &run, "messages are sent after the broker's restart").await;

    // The queue is gone and another one stands in its place: whoever declares it loses the channel.
    let queues = Queues::of(&engine).await;
    let lane = queue::name(engine.sender().await, Lane::Utility);
    queues.delete(&lane).await;
    queues.declare_otherwise(&lane).await;
    wait::until(Duration::from_secs(20), "nobody can consume from the queue that is no longer ours", async || {
        (queues.state(&lane).await.consumers == 0).then_some(())
    })
    .await;
    queues.delete(&lane).await;
    queues.close().await;
    goes_on(&engine, &run, "messages are sent after the queue is ours again").await;

    // No memory: the broker reads nothing from whoever publishes.
    control(&node, folder.path(), &["set_vm_memory_high_watermark", "0.0000001"]).await;
    let reasons = wait::until(Duration::from_secs(60), "the engine says that it is not ready", async || {
        let (status, readiness) = readiness(&engine).await;
        (status == StatusCode::SERVICE_UNAVAILABLE).then(|| readiness["reasons"].clone())
    })
    .await;
    let named =
        reasons.as_array().unwrap().iter().any(|reason| reason.as_str().unwrap().starts_with("dispatch queue: "));
    assert!(named, "{reasons}");
    assert_ne!(sent(&engine, &run).await, u64::from(CONTACTS), "all was sent before the broker was blocked");
    control(&node, folder.path(), &["set_vm_memory_high_watermark", WATERMARK]).await;
    goes_on(&engine, &run, "messages are sent after the broker takes them again").await;
    wait::until(Duration::from_secs(20), "the engine is ready again", async || {
        (readiness(&engine).await.0 == StatusCode::OK).then_some(())
    })
    .await;

    // The rest need not take its time.
    infrastructure::senders::set_rate(&engine.database.pool, crate::engine::PHONE_NUMBER_ID, 1000).await.unwrap();
    let run = engine.settled(&run).await;
    assert_eq!(run["counts"]["read"], CONTACTS, "{run}");
    let ledger = engine.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(CONTACTS), &json!(0)));
    let queues = Queues::of(&engine).await;
    queues.assert_nothing_dead().await;
    queues.close().await;
    engine.stop().await;
    node.destroy().await.unwrap();
}
