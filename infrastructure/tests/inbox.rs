//! Storing webhooks: bodies share commits, each caller is answered after its own commit, and what cannot be stored
//! fails alone.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::SenderId;
use futures::future::join_all;
use infrastructure::webhook_inbox::{Inbox, InboxConfig, InboxError};
use sqlx::{Executor, PgPool};
use test_kit::postgres::TestDatabase;
use test_kit::proxy::PostgresProxy;
use test_kit::wait;
use tokio::task::JoinHandle;
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The key of the advisory lock that stands between a statement and its commit.
const COMMITS: i64 = 4711;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn config() -> InboxConfig {
    InboxConfig { batch_max: 500, batch_bytes_max: 1 << 20, queue_max: 1000, queue_bytes_max: 1 << 20 }
}

fn start(pool: &PgPool, config: &InboxConfig) -> Inbox {
    Inbox::start(pool, config, &TaskTracker::new(), &CancellationToken::new())
}

fn senders(numbers: &[u128]) -> Arc<[SenderId]> {
    numbers.iter().map(|number| SenderId(Uuid::from_u128(*number))).collect()
}

async fn store(inbox: &Inbox, body: impl Into<Bytes>) -> Result<(), InboxError> {
    inbox.store(body.into(), senders(&[1]), now()).await
}

fn store_in_background(inbox: &Inbox, body: &'static str) -> JoinHandle<Result<(), InboxError>> {
    let inbox = inbox.clone();
    tokio::spawn(async move { store(&inbox, body).await })
}

/// How many bodies each transaction stored.
async fn bodies_per_transaction(database: &TestDatabase) -> Vec<i64> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM webhook_bodies b JOIN webhook_pending p ON p.body_id = b.id
           WHERE b.xmin = p.xmin GROUP BY b.xmin::text ORDER BY min(b.id)"#
    )
    .fetch_all(&database.owner)
    .await
    .unwrap()
}

async fn stored(database: &TestDatabase) -> Vec<String> {
    let bodies = sqlx::query_scalar!("SELECT body FROM webhook_bodies ORDER BY id").fetch_all(&database.owner).await;
    bodies.unwrap().into_iter().map(|body| String::from_utf8(body).unwrap()).collect()
}

/// From now on a transaction that has inserted bodies does not commit while the returned one holds its lock.
async fn hold_commits(database: &TestDatabase) -> sqlx::Transaction<'static, sqlx::Postgres> {
    database
        .owner
        .execute(
            "CREATE FUNCTION wait_to_commit() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER wait_to_commit AFTER INSERT ON webhook_bodies
                 DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION wait_to_commit()",
        )
        .await
        .unwrap();
    let mut tx = database.owner.begin().await.unwrap();
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", COMMITS).execute(&mut *tx).await.unwrap();
    tx
}

async fn until_a_commit_is_held(database: &TestDatabase) {
    wait::until(Duration::from_secs(10), "a commit is under way", async || {
        let held = sqlx::query_scalar!(
            r#"SELECT count(*) AS "held!" FROM pg_locks
               WHERE locktype = 'advisory' AND NOT granted AND objid = $1::bigint::oid
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"#,
            COMMITS,
        );
        (held.fetch_one(&database.owner).await.unwrap() > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn concurrent_bodies_share_commits_within_the_bounds() {
    let database = TestDatabase::create().await;
    let by_count = start(&database.pool, &InboxConfig { batch_max: 50, ..config() });
    let answers = join_all((0..200).map(|number| store(&by_count, format!("body {number}")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let batches = bodies_per_transaction(&database).await;
    assert_eq!(batches.iter().sum::<i64>(), 200);
    assert!(batches.len() <= 6 && batches.iter().all(|bodies| *bodies <= 50), "{batches:?}");
    let bodies = stored(&database).await;
    assert!(bodies.iter().enumerate().all(|(number, body)| *body == format!("body {number}")), "not in order");

    database.owner.execute("TRUNCATE webhook_bodies, webhook_pending CASCADE").await.unwrap();
    let by_bytes = start(&database.pool, &InboxConfig { batch_bytes_max: 10_000, ..config() });
    let sizes = [4000; 20].into_iter().chain([30_000, 4000]);
    let answers = join_all(sizes.map(|bytes| store(&by_bytes, vec![b'x'; bytes]))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let batches = bodies_per_transaction(&database).await;
    assert_eq!(batches.iter().sum::<i64>(), 22);
    assert!((11..=13).contains(&batches.len()) && batches.iter().all(|bodies| *bodies <= 2), "{batches:?}");
    database.close().await;
}

#[tokio::test]
async fn a_body_is_stored_with_the_senders_that_verified_it() {
    let database = TestDatabase::create().await;
    let inbox = start(&database.pool, &config());
    let lists = [&[1, 2][..], &[1, 2], &[3], &[], &[1, 2]];
    let answers = join_all(lists.map(|list| inbox.store(Bytes::from_static(b"{}"), senders(list), now()))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let rows = sqlx::query!("SELECT received_at, verified_senders FROM webhook_bodies ORDER BY id");
    let rows = rows.fetch_all(&database.pool).await.unwrap();
    for (row, list) in rows.iter().zip(lists) {
        let expected: Vec<Uuid> = list.iter().map(|number| Uuid::from_u128(*number)).collect();
        assert_eq!((row.received_at, &row.verified_senders), (now(), &expected));
    }
    assert_eq!(bodies_per_transaction(&database).await.iter().sum::<i64>(), 5);
    database.close().await;
}

#[tokio::test]
async fn a_body_that_the_database_refuses_fails_alone() {
    let database = TestDatabase::create().await;
    database
        .owner
        .execute("ALTER TABLE webhook_bodies ADD CONSTRAINT poisonous CHECK (body <> 'poison')")
        .await
        .unwrap();
    let inbox = start(&database.pool, &config());
    let bodies = (0..40).map(|number| if number == 23 { "poison".to_owned() } else { format!("body {number}") });
    let answers = join_all(bodies.map(|body| store(&inbox, body))).await;
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(matches!(answer, Err(InboxError::Database(_))), number == 23, "{number}: {answer:?}");
    }
    let stored = stored(&database).await;
    assert_eq!(stored.len(), 39, "each of the others once: {stored:?}");
    assert!(store(&inbox, "afterwards").await.is_ok());
    database.close().await;
}

#[tokio::test]
async fn nobody_is_answered_before_the_commit() {
    let database = TestDatabase::create().await;
    let inbox = start(&database.pool, &config());
    let held = hold_commits(&database).await;
    let first = store_in_background(&inbox, "first");
    until_a_commit_is_held(&database).await;
    assert!(!first.is_finished(), "answered while its commit is under way");
    assert_eq!(stored(&database).await.len(), 0);
    held.rollback().await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(stored(&database).await, ["first"]);
    database.close().await;
}

#[tokio::test]
async fn what_comes_while_a_commit_is_under_way_makes_the_next_batch() {
    let database = TestDatabase::create().await;
    let inbox = start(&database.pool, &config());
    let held = hold_commits(&database).await;
    let first = store_in_background(&inbox, "first");
    until_a_commit_is_held(&database).await;
    let others = ["second", "third", "fourth"].map(|body| store_in_background(&inbox, body));
    // They run until they wait for their commit.
    tokio::task::yield_now().await;
    held.rollback().await.unwrap();
    for stored in std::iter::once(first).chain(others) {
        stored.await.unwrap().unwrap();
    }
    assert_eq!(bodies_per_transaction(&database).await, [1, 3]);
    database.close().await;
}

#[tokio::test]
async fn whoever_comes_to_a_full_inbox_is_refused_at_once() {
    let database = TestDatabase::create().await;
    let by_count = start(&database.pool, &InboxConfig { queue_max: 1, ..config() });
    let by_bytes = start(&database.pool, &InboxConfig { queue_bytes_max: 12, ..config() });
    let held = hold_commits(&database).await;
    let under_way = store_in_background(&by_count, "under way");
    until_a_commit_is_held(&database).await;
    let queued = store_in_background(&by_count, "queued");
    tokio::task::yield_now().await;
    assert!(matches!(store(&by_count, "one too many").await, Err(InboxError::Full)));
    let large = store_in_background(&by_bytes, "ten bytes.");
    tokio::task::yield_now().await;
    assert!(matches!(store(&by_bytes, "three").await, Err(InboxError::Full)));
    held.rollback().await.unwrap();
    for stored in [under_way, queued, large] {
        stored.await.unwrap().unwrap();
    }
    // A body that is larger than the whole room takes it alone.
    assert!(store(&by_bytes, "more than twelve bytes").await.is_ok());
    assert_eq!(stored(&database).await.len(), 4);
    database.close().await;
}

#[tokio::test]
async fn an_answer_that_is_lost_is_an_error_and_the_next_body_is_stored() {
    let database = TestDatabase::create().await;
    let proxy = PostgresProxy::start(&database.url).await;
    let pool = infrastructure::postgres::connect(&proxy.url, 2).await.unwrap();
    let inbox = start(&pool, &config());
    proxy.lose_next_answer_to(b"the answer to this one is lost");
    let lost = store(&inbox, "the answer to this one is lost").await;
    assert!(matches!(lost, Err(InboxError::Database(_))), "{lost:?}");
    assert!(proxy.has_lost_an_answer());
    store(&inbox, "another one").await.unwrap();
    // The commit had happened; WhatsApp sends it again, which changes nothing.
    assert_eq!(stored(&database).await, ["the answer to this one is lost", "another one"]);
    pool.close().await;
    database.close().await;
}

#[tokio::test]
async fn what_was_accepted_is_committed_before_the_writer_ends() {
    let database = TestDatabase::create().await;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let inbox = Inbox::start(&database.pool, &InboxConfig { batch_max: 2, ..config() }, &tasks, &stop);
    let accepted = ["a", "b", "c", "d", "e"].map(|body| store_in_background(&inbox, body));
    tokio::task::yield_now().await;
    stop.cancel();
    tasks.close();
    tokio::time::timeout(Duration::from_secs(10), tasks.wait()).await.unwrap();
    for stored in accepted {
        stored.await.unwrap().unwrap();
    }
    assert_eq!(stored(&database).await, ["a", "b", "c", "d", "e"]);
    assert!(matches!(store(&inbox, "too late").await, Err(InboxError::ShuttingDown)));
    database.close().await;
}
