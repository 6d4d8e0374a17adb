//! The order of the log, through real concurrent connections: nobody reads past a writer that may still commit below.
//!
//! Each race is played with transactions that are held open on purpose. A naive reader, which remembers the last
//! position it has seen, is shown to lose events in the same races.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::Utc;
use domain::aggregate::Position;
use domain::consent::{ConsentEvent, ConsentSource};
use domain::ids::TenantId;
use infrastructure::event_feed::{HighWaterMark, read_events};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use test_kit::postgres::TestDatabase;
use uuid::Uuid;

const STALL_WARNING: Duration = Duration::from_secs(1);
/// Longer than a mark takes that waits for nobody.
const PROMPT: Duration = Duration::from_secs(5);
/// Long enough to see that something waits.
const WAITS: Duration = Duration::from_millis(150);

async fn append(connection: &mut PgConnection) -> Position {
    let tenant = TenantId(Uuid::from_u128(1));
    let at = chrono::DateTime::<Utc>::UNIX_EPOCH;
    let event = ConsentEvent::OptedOut { tenant_id: tenant, source: ConsentSource::Operator, at };
    sqlx::query_scalar!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('Consent', $1, 1, 'OptedOut', '1', $2, $3) RETURNING position",
        Uuid::new_v4().to_string(),
        serde_json::to_value(&event).unwrap(),
        serde_json::json!({"tenant_id": tenant.to_string(), "at": at}),
    )
    .fetch_one(connection)
    .await
    .unwrap()
}

/// A writer that has appended and not committed yet.
async fn slow_writer(pool: &PgPool, events: usize) -> (Transaction<'static, Postgres>, Vec<Position>) {
    let mut tx = pool.begin().await.unwrap();
    let mut positions = Vec::new();
    for _ in 0..events {
        positions.push(append(&mut tx).await);
    }
    (tx, positions)
}

async fn fast_writer(pool: &PgPool) -> Position {
    let mut tx = pool.begin().await.unwrap();
    let position = append(&mut tx).await;
    tx.commit().await.unwrap();
    position
}

/// A reader as subscriptions are: reads up to the mark, remembers how far it has come.
struct Reader {
    pool: PgPool,
    mark: HighWaterMark,
    after: Position,
    seen: Vec<Position>,
}

impl Reader {
    fn new(pool: &PgPool) -> Self {
        Self { pool: pool.clone(), mark: HighWaterMark::new(pool.clone(), STALL_WARNING), after: 0, seen: Vec::new() }
    }

    async fn read(&mut self) {
        let until = self.mark.advance().await.unwrap();
        let events = read_events(&self.pool, self.after, until, 10_000).await.unwrap();
        self.seen.extend(events.iter().map(|event| event.position));
        self.after = until;
    }

    /// Reads while something waits to commit; the caller ends the waiting.
    fn spawn_read(mut self) -> tokio::task::JoinHandle<Self> {
        tokio::spawn(async move {
            self.read().await;
            self
        })
    }
}

/// What is wrong with `position > last`: it is the reader that most event stores begin with.
struct NaiveReader {
    pool: PgPool,
    last: Position,
    seen: Vec<Position>,
}

impl NaiveReader {
    fn new(pool: &PgPool) -> Self {
        Self { pool: pool.clone(), last: 0, seen: Vec::new() }
    }

    async fn read(&mut self) {
        let events = read_events(&self.pool, self.last, Position::MAX, 10_000).await.unwrap();
        self.seen.extend(events.iter().map(|event| event.position));
        self.last = self.seen.last().copied().unwrap_or(self.last);
    }
}

#[tokio::test]
async fn race_1_two_writers_committing_in_either_order_are_read_by_position() {
    for first_commits_first in [true, false] {
        let database = TestDatabase::create().await;
        let (first, first_positions) = slow_writer(&database.pool, 1).await;
        let (second, second_positions) = slow_writer(&database.pool, 1).await;
        let (earlier, later) = if first_commits_first { (first, second) } else { (second, first) };
        earlier.commit().await.unwrap();
        later.commit().await.unwrap();
        let mut reader = Reader::new(&database.pool);
        reader.read().await;
        assert_eq!(reader.seen, [first_positions, second_positions].concat());
        database.close().await;
    }
}

#[tokio::test]
async fn race_2_a_later_commit_stays_hidden_while_a_writer_with_a_lower_position_is_open() {
    let database = TestDatabase::create().await;
    let (slow, _) = slow_writer(&database.pool, 1).await;
    fast_writer(&database.pool).await;
    let reading = Reader::new(&database.pool).spawn_read();
    tokio::time::sleep(WAITS).await;
    assert!(!reading.is_finished(), "the reader did not wait for the open writer");
    slow.commit().await.unwrap();
    let reader = tokio::time::timeout(PROMPT, reading).await.unwrap().unwrap();
    assert_eq!(reader.seen.len(), 2);
    database.close().await;
}

/// Plays a race: slow writers with lower positions, a fast one above, a read in between, then the slow ones commit.
/// Answers what the two readers have seen, and all positions that were committed.
async fn play(slow_writers: &[usize]) -> (Vec<Position>, Vec<Position>, Vec<Position>) {
    let database = TestDatabase::create().await;
    let mut slow = Vec::new();
    let mut committed = Vec::new();
    for events in slow_writers {
        let (tx, positions) = slow_writer(&database.pool, *events).await;
        slow.push(tx);
        committed.extend(positions);
    }
    committed.push(fast_writer(&database.pool).await);
    let mut naive = NaiveReader::new(&database.pool);
    naive.read().await;
    let reading = Reader::new(&database.pool).spawn_read();
    for tx in slow {
        tokio::time::sleep(Duration::from_millis(30)).await;
        tx.commit().await.unwrap();
    }
    let mut reader = tokio::time::timeout(PROMPT, reading).await.unwrap().unwrap();
    reader.read().await;
    naive.read().await;
    database.close().await;
    (reader.seen, naive.seen, committed)
}

#[tokio::test]
async fn race_3_the_event_of_a_slow_writer_is_not_skipped() {
    let (seen, naive, committed) = play(&[1]).await;
    assert_eq!(seen, committed);
    assert_ne!(naive, committed, "a naive reader is expected to lose the slow writer's event");
}

#[tokio::test]
async fn race_4_nor_several_events_of_a_slow_writer() {
    let (seen, naive, committed) = play(&[5]).await;
    assert_eq!(seen, committed);
    assert_ne!(naive, committed, "a naive reader is expected to lose the slow writer's events");
}

#[tokio::test]
async fn race_5_nor_those_of_two_slow_writers() {
    let (seen, naive, committed) = play(&[2, 3]).await;
    assert_eq!(seen, committed);
    assert_ne!(naive, committed, "a naive reader is expected to lose the slow writers' events");
}

#[tokio::test]
async fn race_6_positions_lost_to_a_rollback_do_not_stall_the_reader() {
    let database = TestDatabase::create().await;
    let before = fast_writer(&database.pool).await;
    let (lost, lost_positions) = slow_writer(&database.pool, 3).await;
    lost.rollback().await.unwrap();
    let after = fast_writer(&database.pool).await;
    let mut reader = Reader::new(&database.pool);
    tokio::time::timeout(PROMPT, reader.read()).await.expect("the reader stalls at a gap");
    assert_eq!(reader.seen, [before, after]);
    assert!(lost_positions.iter().all(|lost| before < *lost && *lost < after), "the gap lies in between");
    database.close().await;
}

#[tokio::test]
async fn race_7_one_transactions_events_appear_whole_and_are_not_repeated() {
    let database = TestDatabase::create().await;
    let mut reader = Reader::new(&database.pool);
    for round in 1..=10 {
        let (slow, positions) = slow_writer(&database.pool, 5).await;
        let above = fast_writer(&database.pool).await;
        let seen_before = reader.seen.len();
        let reading = reader.spawn_read();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!reading.is_finished(), "round {round}: a part of an open transaction was read");
        slow.commit().await.unwrap();
        reader = tokio::time::timeout(PROMPT, reading).await.unwrap().unwrap();
        assert_eq!(reader.seen[seen_before..], [positions, vec![above]].concat(), "round {round}: not whole");
        reader.read().await;
    }
    let distinct: BTreeSet<Position> = reader.seen.iter().copied().collect();
    assert_eq!((reader.seen.len(), distinct.len()), (60, 60), "events were repeated");
    database.close().await;
}

/// A mark that is read in the middle of an append may lie between two events of one transaction: the rest comes with
/// the next mark, in order, and nothing is lost or repeated.
#[tokio::test]
async fn a_transaction_that_is_cut_by_a_mark_is_completed_by_the_next() {
    let database = TestDatabase::create().await;
    let pool = database.pool.clone();
    let writing = tokio::spawn(async move {
        let mut committed = Vec::new();
        for _ in 0..40 {
            let (tx, positions) = slow_writer(&pool, 5).await;
            tx.commit().await.unwrap();
            committed.extend(positions);
        }
        committed
    });
    let mut reader = Reader::new(&database.pool);
    while !writing.is_finished() {
        reader.read().await;
    }
    reader.read().await;
    assert_eq!(reader.seen, writing.await.unwrap());
    database.close().await;
}

#[tokio::test]
async fn race_8_an_open_transaction_that_appended_nothing_blocks_nobody() {
    let database = TestDatabase::create().await;
    let mut idle = database.pool.begin().await.unwrap();
    // It has an id of its own and holds other locks, as a projection's transaction does.
    sqlx::query!("INSERT INTO subscriptions (name) VALUES ('idle')").execute(&mut *idle).await.unwrap();
    let position = fast_writer(&database.pool).await;
    let mut reader = Reader::new(&database.pool);
    tokio::time::timeout(PROMPT, reader.read())
        .await
        .expect("the reader waits for a transaction that appended nothing");
    assert_eq!(reader.seen, [position]);
    idle.rollback().await.unwrap();
    database.close().await;
}

#[tokio::test]
async fn race_9_on_an_empty_log_the_very_first_event_is_not_skipped() {
    let database = TestDatabase::create().await;
    let mut reader = Reader::new(&database.pool);
    reader.read().await;
    assert_eq!((reader.seen.len(), reader.after), (0, 0), "nothing was appended yet");
    let (slow, positions) = slow_writer(&database.pool, 1).await;
    let reading = reader.spawn_read();
    tokio::time::sleep(WAITS).await;
    slow.commit().await.unwrap();
    let mut reader = tokio::time::timeout(PROMPT, reading).await.unwrap().unwrap();
    reader.read().await;
    assert_eq!(reader.seen, positions);
    database.close().await;
}

#[tokio::test]
async fn race_10_a_slow_writer_beside_readers_at_full_speed_does_not_slow_the_other_writers() {
    let database = TestDatabase::create().await;
    let (slow, _) = slow_writer(&database.pool, 1).await;
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let mut mark = HighWaterMark::new(database.pool.clone(), Duration::from_secs(60));
            tokio::spawn(async move {
                loop {
                    mark.advance().await.unwrap();
                }
            })
        })
        .collect();
    // The readers wait, so every writer must get through while they do: a scheme in which readers ask for an exclusive
    // lock would let none through before the slow writer ends.
    for _ in 0..200 {
        tokio::time::timeout(PROMPT, fast_writer(&database.pool)).await.expect("a writer waits for readers");
    }
    assert!(readers.iter().all(|reader| !reader.is_finished()));
    for reader in &readers {
        reader.abort();
    }
    slow.rollback().await.unwrap();
    database.close().await;
}

/// The ten races together, at random: whatever is at or below a mark when it is read stays exactly that.
#[tokio::test]
async fn nothing_appears_at_or_below_a_mark_that_was_read() {
    let database = TestDatabase::create().await;
    let writers: Vec<_> = (0..6_u64)
        .map(|writer| {
            let pool = database.pool.clone();
            tokio::spawn(async move {
                for turn in 0..25_u64 {
                    let events = usize::try_from(turn % 3 + 1).unwrap();
                    let (tx, _) = slow_writer(&pool, events).await;
                    tokio::time::sleep(Duration::from_millis((writer * 7 + turn * 3) % 12)).await;
                    if turn % 10 == writer { tx.rollback().await.unwrap() } else { tx.commit().await.unwrap() }
                }
            })
        })
        .collect();
    let mut mark = HighWaterMark::new(database.owner.clone(), STALL_WARNING);
    let mut history = Vec::new();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        let position = mark.advance().await.unwrap();
        history.push((position, count_up_to(&database.owner, position).await));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert!(history.len() > 10, "too few marks were read to show anything: {}", history.len());
    for (position, seen) in history {
        assert_eq!(count_up_to(&database.owner, position).await, seen, "an event appeared below the mark {position}");
    }
    database.close().await;
}

async fn count_up_to(pool: &PgPool, position: Position) -> i64 {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events WHERE position <= $1"#, position)
        .fetch_one(pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_log_is_append_only_for_the_engine_and_for_the_owner() {
    let database = TestDatabase::create().await;
    fast_writer(&database.pool).await;
    for pool in [&database.pool, &database.owner] {
        let changes = [
            sqlx::query!("UPDATE events SET event_version = '2'").execute(pool).await,
            sqlx::query!("DELETE FROM events").execute(pool).await,
            sqlx::query!("TRUNCATE events").execute(pool).await,
        ];
        for change in changes {
            let error = change.expect_err("history can be changed");
            let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
            assert_eq!(code.as_deref(), Some("42501"), "{error}");
        }
    }
    assert_eq!(count_up_to(&database.owner, Position::MAX).await, 1);
    database.close().await;
}

#[tokio::test]
async fn an_event_without_a_tenant_is_refused() {
    let database = TestDatabase::create().await;
    let refused = sqlx::query!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('Consent', 'x', 1, 'OptedOut', '1', '{}', '{}')"
    )
    .execute(&database.pool)
    .await;
    assert!(refused.is_err());
    database.close().await;
}
