//! One conformance suite for both dispatch queues.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::time::Duration;

use domain::ids::{ContactId, MessageId, RunId, SenderId, TenantId};
use domain::message::Lane;
use infrastructure::dispatch_queue::{
    Delivery, DispatchConsumer, DispatchItem, DispatchQueue, Parcel, PostgresQueue, RabbitmqConfig, RabbitmqQueue, Tag,
};
use test_kit::postgres::TestDatabase;
use test_kit::rabbitmq::TestVhost;
use uuid::Uuid;

const WAIT: Duration = Duration::from_secs(10);
const NOTHING_COMES: Duration = Duration::from_millis(300);

fn item(number: u128) -> DispatchItem {
    DispatchItem {
        message_id: MessageId(Uuid::from_u128(number)),
        attempt: 1,
        tenant_id: TenantId(Uuid::from_u128(1)),
        run_id: RunId(Uuid::from_u128(2)),
        contact_id: ContactId(Uuid::from_u128(number + 1_000_000)),
    }
}

fn parcel(sender: u128, lane: Lane, numbers: impl IntoIterator<Item = u128>) -> Parcel {
    Parcel { sender_id: SenderId(Uuid::from_u128(sender)), lane, items: numbers.into_iter().map(item).collect() }
}

async fn publish(queue: &dyn DispatchQueue, parcels: &[Parcel]) {
    assert!(queue.publish(parcels).await.unwrap().iter().all(|taken| *taken), "a publish was not confirmed");
}

/// Takes until that many messages have come.
async fn take(consumer: &mut dyn DispatchConsumer, wanted: usize) -> Vec<Delivery> {
    let mut taken: Vec<Delivery> = Vec::new();
    let messages = |taken: &[Delivery]| taken.iter().map(|delivery| delivery.parcel.items.len()).sum::<usize>();
    while messages(&taken) < wanted {
        let more = consumer.next(wanted - messages(&taken), WAIT).await.unwrap();
        assert!(!more.is_empty(), "{} of {wanted} came", messages(&taken));
        taken.extend(more);
    }
    taken
}

fn tags(deliveries: &[Delivery]) -> Vec<Tag> {
    deliveries.iter().map(|delivery| delivery.tag).collect()
}

fn parcels(deliveries: &[Delivery]) -> Vec<Parcel> {
    let mut parcels: Vec<Parcel> = deliveries.iter().map(|delivery| delivery.parcel.clone()).collect();
    parcels.sort_by_key(|parcel| parcel.items[0].message_id);
    parcels
}

async fn conformance(queue: &dyn DispatchQueue) {
    let sender = SenderId(Uuid::from_u128(7));
    let mut consumer = queue.consumer(sender).await.unwrap();
    assert!(consumer.next(10, NOTHING_COMES).await.unwrap().is_empty(), "an empty queue waits and gives nothing");

    let published: Vec<Parcel> =
        (0..10).map(|n| parcel(7, Lane::Marketing, [100 + 3 * n, 101 + 3 * n, 102 + 3 * n])).collect();
    publish(queue, &published).await;
    publish(queue, &[parcel(8, Lane::Marketing, [200])]).await;
    let first = consumer.next(4, WAIT).await.unwrap();
    assert!((1..=2).contains(&first.len()), "no parcel beyond what was asked for: {}", first.len());
    consumer.ack(&tags(&first)).await.unwrap();
    let rest = take(&mut *consumer, 3 * (published.len() - first.len())).await;
    let kept = rest.len() / 2;
    consumer.ack(&tags(&rest[..kept])).await.unwrap();
    let not_acknowledged = parcels(&rest[kept..]);
    let seen: Vec<Delivery> = first.into_iter().chain(rest).collect();
    assert_eq!(parcels(&seen), published, "each parcel once, with every field, and none of another sender");
    assert!(seen.iter().all(|delivery| !delivery.redelivered));

    // What is not acknowledged comes again when its consumer has died, and says so.
    drop(consumer);
    let mut heir = queue.consumer(sender).await.unwrap();
    let again = take(&mut *heir, 3 * not_acknowledged.len()).await;
    assert_eq!(parcels(&again), not_acknowledged, "only what was not acknowledged");
    assert!(again.iter().all(|delivery| delivery.redelivered), "a redelivery looks like a first one");

    heir.ack(&tags(&again)).await.unwrap();
    assert!(heir.next(10, NOTHING_COMES).await.unwrap().is_empty(), "something is left");

    let mut other = queue.consumer(SenderId(Uuid::from_u128(8))).await.unwrap();
    assert_eq!(parcels(&take(&mut *other, 1).await), [parcel(8, Lane::Marketing, [200])]);

    // Reminders overtake offers that were there before them, and do not stop them.
    let offers: Vec<Parcel> = (0..40).map(|n| parcel(9, Lane::Marketing, [300 + n])).collect();
    let reminders: Vec<Parcel> = (0..40).map(|n| parcel(9, Lane::Utility, [400 + n])).collect();
    publish(queue, &offers).await;
    publish(queue, &reminders).await;
    let mut mixed = queue.consumer(SenderId(Uuid::from_u128(9))).await.unwrap();
    let mut order = Vec::new();
    while order.len() < 80 {
        let taken = take(&mut *mixed, 1).await;
        order.extend(taken.iter().map(|delivery| delivery.parcel.lane));
        mixed.ack(&tags(&taken)).await.unwrap();
    }
    let reminders_first = order[..40].iter().filter(|lane| **lane == Lane::Utility).count();
    assert!((25..40).contains(&reminders_first), "{reminders_first} of the first 40 are reminders");
}

#[tokio::test]
async fn the_postgres_queue_conforms() {
    let database = TestDatabase::create().await;
    conformance(&PostgresQueue::new(database.pool.clone(), PostgresQueue::LEASE)).await;
    database.close().await;
}

#[tokio::test]
async fn the_rabbitmq_queue_conforms() {
    let vhost = TestVhost::create().await;
    conformance(&RabbitmqQueue::new(RabbitmqConfig { url: vhost.url.clone(), prefetch: 50 })).await;
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_made_again_and_publishing_goes_on() {
    let vhost = TestVhost::create().await;
    let queue = RabbitmqQueue::new(RabbitmqConfig { url: vhost.url.clone(), prefetch: 50 });
    let [first, second] = [1, 2].map(|number| parcel(7, Lane::Utility, [number]));
    assert_eq!(queue.publish(&[first]).await.unwrap(), [true]);
    let connection = lapin::Connection::connect(&vhost.url, lapin::ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let name = format!("ektola.dispatch.v2.{}.utility", Uuid::from_u128(7));
    channel.queue_delete(name.as_str().into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
    // A parcel without a queue is not taken, and says so; a consumer makes the queue again.
    assert_eq!(queue.publish(std::slice::from_ref(&second)).await.unwrap(), [false]);
    let mut consumer = queue.consumer(SenderId(Uuid::from_u128(7))).await.unwrap();
    assert_eq!(queue.publish(std::slice::from_ref(&second)).await.unwrap(), [true]);
    assert_eq!(parcels(&take(&mut *consumer, 1).await), [second]);
}
