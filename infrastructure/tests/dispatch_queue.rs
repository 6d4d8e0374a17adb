//! One conformance suite for both dispatch queues.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::{MessageId, RunId, SenderId, TenantId};
use domain::message::Lane;
use infrastructure::dispatch_queue::{
    Delivery, DispatchConsumer, DispatchItem, DispatchQueue, PostgresQueue, RabbitmqConfig, RabbitmqQueue,
};
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;
use test_kit::rabbitmq::TestVhost;
use uuid::Uuid;

const WAIT: Duration = Duration::from_secs(10);
const NOTHING_COMES: Duration = Duration::from_millis(300);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn item(number: u128, sender: u128) -> DispatchItem {
    DispatchItem {
        message_id: MessageId(Uuid::from_u128(number)),
        attempt: 1,
        tenant_id: TenantId(Uuid::from_u128(1)),
        run_id: RunId(Uuid::from_u128(2)),
        sender_id: SenderId(Uuid::from_u128(sender)),
        lane: Lane::Utility,
    }
}

/// What differs between the two: how rows come to be there, and how a consumer that died is noticed.
trait Bench {
    fn queue(&self) -> &dyn DispatchQueue;
    async fn publish(&self, items: &[DispatchItem]);
    async fn consumer_died(&self);
}

struct PostgresBench {
    queue: PostgresQueue,
    pool: PgPool,
}

impl Bench for PostgresBench {
    fn queue(&self) -> &dyn DispatchQueue {
        &self.queue
    }

    /// The queue lies on the ready list, which the feeder marks as published.
    async fn publish(&self, items: &[DispatchItem]) {
        assert!(self.queue.publish(items).await.unwrap().iter().all(|taken| *taken));
        for item in items {
            sqlx::query!(
                "INSERT INTO ready_list (message_id, attempt, tenant_id, run_id, due_at, published_at, sender_id, lane)
                 VALUES ($1, $2, $3, $4, $5, $5, $6, $7)",
                item.message_id.0,
                i32::try_from(item.attempt).unwrap(),
                item.tenant_id.0,
                item.run_id.0,
                now(),
                item.sender_id.0,
                item.lane.name(),
            )
            .execute(&self.pool)
            .await
            .unwrap();
        }
    }

    async fn consumer_died(&self) {
        // A new consumer frees what the dead one has taken.
    }
}

struct RabbitmqBench {
    queue: RabbitmqQueue,
}

impl Bench for RabbitmqBench {
    fn queue(&self) -> &dyn DispatchQueue {
        &self.queue
    }

    async fn publish(&self, items: &[DispatchItem]) {
        assert!(self.queue.publish(items).await.unwrap().iter().all(|taken| *taken), "a publish was not confirmed");
    }

    async fn consumer_died(&self) {}
}

async fn take(consumer: &mut dyn DispatchConsumer, wanted: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < wanted {
        let more = consumer.next(wanted - taken.len(), WAIT).await.unwrap();
        assert!(!more.is_empty(), "{} of {wanted} came", taken.len());
        taken.extend(more);
    }
    taken
}

fn tags(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries.iter().map(|delivery| delivery.tag).collect()
}

fn items(deliveries: Vec<Delivery>) -> Vec<DispatchItem> {
    let mut items: Vec<DispatchItem> = deliveries.into_iter().map(|delivery| delivery.item).collect();
    items.sort_by_key(|item| item.message_id);
    items
}

async fn conformance(bench: &impl Bench) {
    let sender = SenderId(Uuid::from_u128(7));
    let mut consumer = bench.queue().consumer(sender).await.unwrap();
    assert!(consumer.next(10, NOTHING_COMES).await.unwrap().is_empty(), "an empty queue waits and gives nothing");

    let published: Vec<DispatchItem> = (100..110).map(|number| item(number, 7)).collect();
    bench.publish(&published).await;
    bench.publish(&[item(200, 8)]).await;
    let first = consumer.next(4, WAIT).await.unwrap();
    assert!((1..=4).contains(&first.len()), "at most as many as asked for: {}", first.len());
    let first_tags = tags(&first);
    consumer.ack(&first_tags).await.unwrap();
    let missing = published.len() - first.len();
    let rest = take(&mut *consumer, missing).await;
    let kept = rest.len() / 2;
    consumer.ack(&tags(&rest[..kept])).await.unwrap();
    let given_back = items_of(&rest[kept..]);
    let seen: Vec<DispatchItem> = items(first.into_iter().chain(rest).collect());
    assert_eq!(seen, published, "each item once, with every field, and none of another sender");

    // What is not acknowledged comes again when its consumer has died.
    drop(consumer);
    bench.consumer_died().await;
    let mut heir = bench.queue().consumer(sender).await.unwrap();
    let again = take(&mut *heir, given_back.len()).await;
    assert_eq!(items_of(&again).len(), given_back.len());
    assert!(
        given_back.iter().all(|item| again.iter().any(|delivery| delivery.item == *item)),
        "only what was not acknowledged"
    );

    // And at once when it is given back.
    heir.give_back(&tags(&again)).await.unwrap();
    let once_more = take(&mut *heir, again.len()).await;
    heir.ack(&tags(&once_more)).await.unwrap();

    let mut other = bench.queue().consumer(SenderId(Uuid::from_u128(8))).await.unwrap();
    assert_eq!(items(take(&mut *other, 1).await), [item(200, 8)]);
}

fn items_of(deliveries: &[Delivery]) -> Vec<DispatchItem> {
    deliveries.iter().map(|delivery| delivery.item.clone()).collect()
}

#[tokio::test]
async fn the_postgres_queue_conforms() {
    let database = TestDatabase::create().await;
    let queue = PostgresQueue::new(database.pool.clone(), PostgresQueue::LEASE);
    conformance(&PostgresBench { queue, pool: database.pool.clone() }).await;
    database.close().await;
}

/// A claim that was refused as not due yet must not take the message's only way back with it.
#[tokio::test]
async fn a_delivery_that_is_discarded_leaves_the_message_on_the_ready_list() {
    let database = TestDatabase::create().await;
    let queue = PostgresQueue::new(database.pool.clone(), Duration::from_millis(200));
    let bench = PostgresBench { queue, pool: database.pool.clone() };
    bench.publish(&[item(1, 7)]).await;
    let mut consumer = bench.queue().consumer(SenderId(Uuid::from_u128(7))).await.unwrap();
    let taken = take(&mut *consumer, 1).await;
    consumer.discard(&tags(&taken)).await.unwrap();
    assert!(consumer.next(1, Duration::ZERO).await.unwrap().is_empty(), "it comes again at once");
    assert_eq!(items(take(&mut *consumer, 1).await), [item(1, 7)], "and again once its lease is over");
    database.close().await;
}

#[tokio::test]
async fn the_rabbitmq_queue_conforms() {
    let vhost = TestVhost::create().await;
    let queue = RabbitmqQueue::new(RabbitmqConfig { url: vhost.url.clone(), prefetch: 50 });
    conformance(&RabbitmqBench { queue }).await;
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_made_again_and_publishing_goes_on() {
    let vhost = TestVhost::create().await;
    let queue = RabbitmqQueue::new(RabbitmqConfig { url: vhost.url.clone(), prefetch: 50 });
    assert_eq!(queue.publish(&[item(1, 7)]).await.unwrap(), [true]);
    let connection = lapin::Connection::connect(&vhost.url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let name = format!("ektola.dispatch.v1.{}", Uuid::from_u128(7));
    channel.queue_delete(name.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    // A message without a queue is not taken, and says so; a consumer makes the queue again.
    assert_eq!(queue.publish(&[item(2, 7)]).await.unwrap(), [false]);
    let mut consumer = queue.consumer(SenderId(Uuid::from_u128(7))).await.unwrap();
    assert_eq!(queue.publish(&[item(2, 7)]).await.unwrap(), [true]);
    assert_eq!(items(take(&mut *consumer, 1).await), [item(2, 7)]);
}
