//! What the batch path appends in statements of its own, each of its own commit, is what the feed serves: every event, once,
//! however fast both are.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::CommandEnvelope;
use domain::event::{Event, RecordedEvent};
use domain::ids::{ContactId, RunId, SenderId, TenantId};
use domain::message::{Acceptance, Lane, MessageCommand, OnUnknown};
use infrastructure::event_feed::{EventFeed, FeedConfig};
use infrastructure::event_store::{Actor, Addressed, BatchConfig, MessageStore};
use test_kit::postgres::TestDatabase;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STORES: u128 = 3;
const CALLERS: u128 = 4;
const MESSAGES_OF_A_CALLER: u128 = 1_200;
const MESSAGES: u128 = STORES * CALLERS * MESSAGES_OF_A_CALLER;
/// Commands given at once: from one to as many.
const AT_ONCE_MAX: usize = 29;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn life() -> [MessageCommand; 5] {
    [
        MessageCommand::QueueMessage {
            run_id: RunId(Uuid::from_u128(2)),
            contact_id: ContactId(Uuid::from_u128(3)),
            sender_id: SenderId(Uuid::from_u128(4)),
            lane: Lane::Utility,
            on_unknown: OnUnknown::Hold,
        },
        MessageCommand::BeginDispatch { attempt: 1, deadline: now() + TimeDelta::hours(1), journal_id: Uuid::nil() },
        MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at: now() },
        MessageCommand::MarkDelivered { at: now(), pricing: None },
        MessageCommand::MarkRead { at: now(), pricing: None },
    ]
}

/// Gives the lives of its messages, in pieces of changing size.
async fn call(store: MessageStore, first: u128) {
    let messages: Vec<Uuid> =
        (first..first + MESSAGES_OF_A_CALLER).map(|n| Uuid::from_u128((n << 16) | (n % 97))).collect();
    let mut size = 1;
    let mut begin = 0;
    while begin < messages.len() {
        let some = &messages[begin..messages.len().min(begin + size)];
        for command in life() {
            let commands = some.iter().map(|message| {
                let envelope = CommandEnvelope::new(TENANT, now(), command.clone());
                Addressed::new(*message, envelope, Actor::Engine("test"))
            });
            for answer in store.execute_many(commands.collect()).await {
                assert_eq!(answer.unwrap().events.len(), 1);
            }
        }
        begin += size;
        size = size % AT_ONCE_MAX + 1;
    }
}

/// What was served of each message: its sequences, in order.
async fn served(feed: EventFeed, count: usize) -> HashMap<Uuid, Vec<i64>> {
    let (mut position, mut seen, mut by_message) = (0, 0, HashMap::<Uuid, Vec<i64>>::new());
    while seen < count {
        let batch = tokio::time::timeout(Duration::from_secs(20), feed.next(position)).await;
        let Ok(batch) = batch else { break };
        let batch = batch.unwrap();
        for event in &batch.events {
            let event: &Arc<RecordedEvent> = event;
            assert!(matches!(event.event, Event::Message(_)));
            by_message.entry(event.aggregate_id).or_default().push(event.sequence);
        }
        seen += batch.events.len();
        position = batch.up_to;
    }
    by_message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_serves_every_event_of_the_batch_path_once() {
    let database = TestDatabase::create().await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let fast = FeedConfig { poll_busy: Duration::from_millis(1), ring_max: 500, ..FeedConfig::default() };
    let feed = EventFeed::start(database.pool.clone(), fast, &tasks, &stop).await.unwrap();
    let count = usize::try_from(MESSAGES).unwrap() * life().len();
    let readers: Vec<_> = (0..2).map(|_| tokio::spawn(served(feed.clone(), count))).collect();
    let mut callers = Vec::new();
    for number in 0..STORES {
        let config = BatchConfig { writers: 2, ..BatchConfig::default() };
        let store = MessageStore::start(&database.pool, &config, &tasks, &stop);
        for caller in 0..CALLERS {
            let first = (number * CALLERS + caller) * MESSAGES_OF_A_CALLER + 1;
            callers.push(tokio::spawn(call(store.clone(), first)));
        }
    }
    for caller in callers {
        caller.await.unwrap();
    }
    for reader in readers {
        let served = reader.await.unwrap();
        assert_eq!(served.len(), usize::try_from(MESSAGES).unwrap(), "messages of which anything was served");
        let odd: Vec<_> = served.iter().filter(|(_, sequences)| **sequences != [1, 2, 3, 4, 5]).take(5).collect();
        assert!(odd.is_empty(), "not every event once and in order: {odd:?}");
    }
    stop.cancel();
    database.close().await;
}

/// Positions that a rollback has lost hold the feed up for a moment, and no longer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_that_are_lost_do_not_stall_the_feed() {
    let database = TestDatabase::create().await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let feed = EventFeed::start(database.pool.clone(), FeedConfig::default(), &tasks, &stop).await.unwrap();
    let store = MessageStore::start(&database.pool, &BatchConfig::default(), &tasks, &stop);
    let reader = tokio::spawn(served(feed, 10));
    for number in 1..=2_u128 {
        sqlx::query!("SELECT nextval('events_position_seq') AS lost").fetch_one(&database.owner).await.unwrap();
        for command in life() {
            let envelope = CommandEnvelope::new(TENANT, now(), command);
            store.execute(Addressed::new(Uuid::from_u128(number), envelope, Actor::Engine("test"))).await.unwrap();
        }
    }
    let served = tokio::time::timeout(Duration::from_secs(10), reader).await.unwrap().unwrap();
    assert!(served.len() == 2 && served.values().all(|sequences| sequences[..] == [1, 2, 3, 4, 5]), "{served:?}");
    stop.cancel();
    database.close().await;
}
