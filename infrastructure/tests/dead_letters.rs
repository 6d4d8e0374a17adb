//! Dead letters: parked once, given back or discarded by a person, and never lost in between.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod inbox_kit;

use std::time::Duration;

use chrono::TimeDelta;
use domain::ids::MessageId;
use domain::message::{MessageCommand, MessageStatus, ReleaseReason};
use infrastructure::clock::Clock;
use infrastructure::dead_letters::{self, Outcome, Parked, Report, Selection, Source};
use infrastructure::event_store::{BatchConfig, MessageStore};
use test_kit::postgres::TestDatabase;
use test_kit::wait;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::inbox_kit::{Kit, config, now, status};

fn parked(source: Source, reference: &str, reason: &str, attempts: u32) -> Parked {
    Parked { source, reference: reference.to_owned(), tenant_id: None, reason: reason.to_owned(), attempts }
}

async fn park(database: &TestDatabase, letters: &[Parked]) {
    let mut tx = database.pool.begin().await.unwrap();
    dead_letters::park_in_tx(&mut tx, letters, now()).await.unwrap();
    tx.commit().await.unwrap();
}

/// A message that was taken off the ready list and parked, as the dispatch side does it.
async fn parked_message(kit: &Kit, message: MessageId) -> i64 {
    sqlx::query!("DELETE FROM ready_list WHERE message_id = $1", message.0).execute(&kit.database.pool).await.unwrap();
    park(&kit.database, &[parked(Source::Dispatch, &message.to_string(), "ends the process", 5)]).await;
    kit.parked().await.last().unwrap().0
}

async fn ready(kit: &Kit) -> Vec<(MessageId, i32)> {
    let rows = sqlx::query!("SELECT message_id, attempt FROM ready_list WHERE due_at <= $1 ORDER BY message_id", now());
    let rows = rows.fetch_all(&kit.database.pool).await.unwrap();
    rows.into_iter().map(|row| (MessageId(row.message_id), row.attempt)).collect()
}

async fn retry(kit: &Kit, ids: &[i64]) -> Report {
    dead_letters::retry(&kit.database.pool, &Selection::Ids(ids.to_vec())).await.unwrap()
}

async fn discard(kit: &Kit, ids: &[i64]) -> Report {
    let clock = Clock::manual(now());
    dead_letters::discard(&kit.database.pool, &kit.messages, &clock, &Selection::Ids(ids.to_vec())).await.unwrap()
}

fn outcomes(report: &Report) -> Vec<(i64, Outcome)> {
    report.handled.iter().map(|handled| (handled.id, handled.outcome.clone())).collect()
}

#[tokio::test]
async fn a_thing_is_parked_once_with_the_latest_reason() {
    let database = TestDatabase::create().await;
    let first = parked(Source::Webhook, "1", "first", 1);
    park(&database, &[first.clone(), parked(Source::Dispatch, "1", "of another source", 2), first]).await;
    park(&database, &[parked(Source::Webhook, "1", "sec\0ond", 4)]).await;
    let letters = dead_letters::list(&database.pool, None, 10).await.unwrap();
    let mut shown: Vec<_> =
        letters.iter().map(|letter| (letter.source, letter.reason.as_str(), letter.attempts)).collect();
    shown.sort_unstable();
    assert_eq!(shown, [(Source::Webhook, "second", 4), (Source::Dispatch, "of another source", 2)]);
    database.close().await;
}

#[tokio::test]
async fn letters_are_listed_newest_first_and_counted_by_source() {
    let database = TestDatabase::create().await;
    let counts = dead_letters::counts(&database.pool).await.unwrap();
    assert!(counts.iter().all(|count| count.letters == 0 && count.oldest_parked_at.is_none()), "{counts:?}");
    for number in 0..4 {
        let source = if number == 2 { Source::Dispatch } else { Source::Webhook };
        let mut tx = database.pool.begin().await.unwrap();
        let at = now() + TimeDelta::seconds(number);
        let letter = parked(source, &number.to_string(), "why", 1);
        dead_letters::park_in_tx(&mut tx, &[letter], at).await.unwrap();
        tx.commit().await.unwrap();
    }
    let references = async |source, limit| -> Vec<String> {
        let letters = dead_letters::list(&database.pool, source, limit).await.unwrap();
        letters.into_iter().map(|letter| letter.reference).collect()
    };
    assert_eq!(references(None, 3).await, ["3", "2", "1"]);
    assert_eq!(references(Some(Source::Webhook), 10).await, ["3", "1", "0"]);
    let counts = dead_letters::counts(&database.pool).await.unwrap();
    let counts: Vec<_> = counts.iter().map(|count| (count.source, count.letters, count.oldest_parked_at)).collect();
    let second = Some(now() + TimeDelta::seconds(2));
    assert_eq!(counts, [(Source::Webhook, 3, Some(now())), (Source::Dispatch, 1, second)]);
    database.close().await;
}

#[tokio::test]
async fn a_retried_item_is_interpreted_and_no_other_item_of_its_body() {
    let kit = Kit::start().await;
    let messages = kit.queued(3).await;
    let interpreter = kit.interpret(config());
    let statuses = messages.iter().map(|message| status(*message, "delivered")).collect::<Vec<_>>();
    let body = kit.receive(&statuses).await;
    kit.interpreted().await;
    let letters = kit.parked().await;
    let references: Vec<&str> = letters.iter().map(|(_, reference, _, _)| reference.as_str()).collect();
    assert_eq!(references, [format!("{body}/0"), format!("{body}/1"), format!("{body}/2")]);
    assert!(letters[0].3.contains("never handed to WhatsApp"), "{letters:?}");

    // Nothing has changed: it is parked again, as itself.
    assert_eq!(outcomes(&retry(&kit, &[letters[1].0]).await), [(letters[1].0, Outcome::Pending)]);
    kit.interpreted().await;
    let again = kit.parked().await;
    assert_eq!(again.len(), 3, "{again:?}");
    assert_eq!((&again[2].1, again[2].2), (&format!("{body}/1"), 2), "the attempts are not counted on");

    // The cause is gone.
    kit.claim(&messages).await;
    let report = retry(&kit, &[again[1].0, again[2].0, 999]).await;
    assert_eq!(outcomes(&report), [(again[1].0, Outcome::Pending), (again[2].0, Outcome::Pending)]);
    assert_eq!(report.unknown, [999]);
    kit.interpreted().await;
    assert_eq!(kit.with_event("MessageDelivered").await, messages[1..]);
    assert_eq!(kit.parked().await.len(), 1);

    // A second time there is no such letter, and nothing happens.
    let report = retry(&kit, &[again[1].0]).await;
    assert_eq!((report.handled.len(), report.unknown), (0, vec![again[1].0]));
    interpreter.stop().await;
    kit.database.close().await;
}

#[tokio::test]
async fn a_retried_body_is_interpreted_as_a_whole_and_one_that_is_not_kept_stays_parked() {
    let kit = Kit::start().await;
    let message = kit.claimed(1).await[0];
    let body = kit.receive(&[status(message, "delivered")]).await;
    sqlx::query!("DELETE FROM webhook_pending").execute(&kit.database.pool).await.unwrap();
    let letters = [(body.to_string(), "a"), ("9999".to_owned(), "b"), ("nonsense".to_owned(), "c")]
        .map(|(reference, reason)| parked(Source::Webhook, &reference, reason, 3));
    park(&kit.database, &letters).await;
    let report = dead_letters::retry(&kit.database.pool, &Selection::All(Some(Source::Webhook))).await.unwrap();
    let kept: Vec<&str> = report
        .handled
        .iter()
        .filter(|handled| matches!(handled.outcome, Outcome::Kept(_)))
        .map(|handled| handled.reference.as_str())
        .collect();
    assert_eq!((report.handled.len(), kept), (3, vec!["9999", "nonsense"]));
    let interpreter = kit.interpret(config());
    kit.interpreted().await;
    assert_eq!(kit.with_event("MessageDelivered").await, [message]);
    let left = kit.parked().await;
    assert_eq!(left.iter().map(|letter| letter.1.as_str()).collect::<Vec<_>>(), ["9999", "nonsense"]);
    interpreter.stop().await;
    kit.database.close().await;
}

#[tokio::test]
async fn a_retried_message_is_on_the_ready_list_with_its_next_attempt() {
    let kit = Kit::start().await;
    let messages = kit.queued(3).await;
    // The second one was called before, and that call was never made.
    kit.claim(&messages[1..]).await;
    let release = ReleaseReason::NeverCalled;
    let release = MessageCommand::ReleaseDispatch { attempt: 1, reason: release };
    kit.command_all(&messages[1..2], &release).await;
    let mut letters = Vec::new();
    for message in &messages {
        letters.push(parked_message(&kit, *message).await);
    }
    let report = retry(&kit, &letters).await;
    let sent = Outcome::Obsolete(Some(MessageStatus::Dispatching));
    assert_eq!(outcomes(&report), [(letters[0], Outcome::Ready), (letters[1], Outcome::Ready), (letters[2], sent)]);
    assert_eq!(ready(&kit).await, [(messages[0], 1), (messages[1], 2)]);
    assert_eq!(kit.parked().await, []);
    kit.database.close().await;
}

/// While the follower of the log is at the message, a retry waits for it, so no row is left behind that nobody takes away.
#[tokio::test]
async fn a_retry_does_not_pass_the_follower_of_the_ready_list() {
    let kit = Kit::start().await;
    let message = kit.queued(1).await[0];
    let letter = parked_message(&kit, message).await;
    sqlx::query!("INSERT INTO subscriptions (name) VALUES ('ready-list')").execute(&kit.database.pool).await.unwrap();
    let mut follower = kit.database.pool.begin().await.unwrap();
    sqlx::query!("UPDATE subscriptions SET position = 2 WHERE name = 'ready-list'")
        .execute(&mut *follower)
        .await
        .unwrap();
    let pool = kit.database.pool.clone();
    let retried = tokio::spawn(async move { dead_letters::retry(&pool, &Selection::All(None)).await });
    wait::until(Duration::from_secs(10), "the retry waits for the follower", async || {
        let waiting = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM pg_stat_activity
               WHERE datname = current_database() AND wait_event_type = 'Lock'"#
        );
        (waiting.fetch_one(&kit.database.owner).await.unwrap() == 1).then_some(())
    })
    .await;
    // The message is claimed, and the follower, which has seen it, goes on.
    kit.claim(&[message]).await;
    follower.commit().await.unwrap();
    let report = retried.await.unwrap().unwrap();
    let claimed = Outcome::Obsolete(Some(MessageStatus::Dispatching));
    assert_eq!(outcomes(&report), [(letter, claimed)]);
    assert_eq!(ready(&kit).await, []);
    kit.database.close().await;
}

#[tokio::test]
async fn a_discarded_message_is_cancelled_and_a_discarded_webhook_is_gone() {
    let kit = Kit::start().await;
    let messages = kit.queued(2).await;
    kit.claim(&messages[1..]).await;
    let cancelled = parked_message(&kit, messages[0]).await;
    let under_way = parked_message(&kit, messages[1]).await;
    let missing = parked(Source::Dispatch, "00000000-0000-0000-0000-0000000000ff", "no such message", 1);
    park(&kit.database, &[missing, parked(Source::Webhook, "17/3", "unreadable", 1)]).await;
    let others: Vec<i64> = kit.parked().await.iter().map(|letter| letter.0).filter(|id| *id > under_way).collect();
    let report = discard(&kit, &[cancelled, under_way, others[0], others[1], 999]).await;
    assert_eq!(report.unknown, [999]);
    let mut outcomes: Vec<Outcome> = report.handled.into_iter().map(|handled| handled.outcome).collect();
    outcomes.sort_by_key(|outcome| format!("{outcome:?}"));
    let dispatching = Outcome::Obsolete(Some(MessageStatus::Dispatching));
    assert_eq!(outcomes, [Outcome::Cancelled, Outcome::Discarded, Outcome::Obsolete(None), dispatching]);
    assert_eq!(kit.with_event("MessageCancelled").await, [messages[0]]);
    assert_eq!(kit.parked().await, []);
    assert_eq!(discard(&kit, &[cancelled]).await.unknown, [cancelled]);
    kit.database.close().await;
}

#[tokio::test]
async fn all_means_those_that_there_are_page_by_page() {
    let database = TestDatabase::create().await;
    let letters: Vec<Parked> =
        (0..1203).map(|number| parked(Source::Webhook, &format!("gone/{number}"), "why", 1)).collect();
    park(&database, &letters).await;
    park(&database, &[parked(Source::Dispatch, "kept", "why", 1)]).await;
    let messages =
        MessageStore::start(&database.pool, &BatchConfig::default(), &TaskTracker::new(), &CancellationToken::new());
    let (clock, all) = (Clock::manual(now()), Selection::All(Some(Source::Webhook)));
    let report = dead_letters::discard(&database.pool, &messages, &clock, &all).await.unwrap();
    assert_eq!(report.handled.len(), 1203);
    let left = dead_letters::list(&database.pool, None, 10).await.unwrap();
    assert_eq!(left.iter().map(|letter| letter.reference.as_str()).collect::<Vec<_>>(), ["kept"]);
    database.close().await;
}
