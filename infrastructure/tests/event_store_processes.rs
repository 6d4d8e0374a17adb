//! The batch path in several processes at once: writers of three processes on the same messages, in different orders.
//!
//! A process of its own has its own memory: no cache, no writer and no connection is shared, as between two engines.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::CommandEnvelope;
use domain::ids::{ContactId, RunId, SenderId, TenantId};
use domain::message::{Acceptance, Lane, MessageCommand, MessageEvent, OnUnknown, ReleaseReason};
use infrastructure::event_store::{
    Actor, Addressed, Attachment, BatchConfig, CommandError, MessageStore, RecipientRow,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;
use test_kit::wait;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const TEST: &str = "overlapping_batches_of_several_processes_neither_deadlock_nor_double";
/// Set in the processes that the test starts: the address of the database, and the number of the process.
const CHILD_DATABASE: &str = "EKTOLA_TEST_CHILD_DATABASE";
const CHILD_NUMBER: &str = "EKTOLA_TEST_CHILD_NUMBER";
/// Begins the one line that such a process prints for the test.
const REPORT: &str = "report ";
const PROCESSES: u64 = 3;
const PROCESSES_MAX: Duration = Duration::from_secs(120);

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const SENDER: Uuid = Uuid::from_u128(12);
const MESSAGES: u128 = 300;
/// Every process gives every command of every round; the attempts of a message follow each other through the rounds.
const ROUNDS: u32 = 3;
/// Callers of one process that give commands at the same time, each for a part of the messages.
const CALLERS: usize = 3;
/// A command that lost against others every time is given again.
const CONFLICTS_MAX: usize = 20;

#[derive(Default, Serialize, Deserialize)]
struct Report {
    /// Message, attempt and position of each receipt.
    receipts: Vec<(Uuid, u32, i64)>,
    conflicts: usize,
    /// What no command may end in.
    failures: Vec<String>,
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn message(number: u128) -> Uuid {
    Uuid::from_u128(1_000_000 + number)
}

fn addressed(id: Uuid, command: MessageCommand) -> Addressed<MessageCommand> {
    Addressed::new(id, CommandEnvelope::new(TENANT, now(), command), Actor::Engine("test"))
}

fn queued(id: Uuid) -> Addressed<MessageCommand> {
    let contact = Uuid::from_u128(id.as_u128() + 1_000_000);
    let queue = MessageCommand::QueueMessage {
        run_id: RunId(Uuid::from_u128(10)),
        contact_id: ContactId(contact),
        sender_id: SenderId(SENDER),
        lane: Lane::Utility,
        on_unknown: OnUnknown::Hold,
    };
    addressed(id, queue).with(Attachment::Recipient(RecipientRow {
        tenant_id: TENANT.0,
        contact_id: contact,
        phone: format!("+91{}", id.as_u128()),
        variables: serde_json::json!({}),
    }))
}

/// The steps of a round, in the order of a message's life: an attempt that is given back, and in the last round one
/// that is made and heard of. Each step comes for every message before the next.
fn steps(round: u32) -> Vec<fn(Uuid, u32) -> Addressed<MessageCommand>> {
    let begin = |id, attempt| {
        let deadline = now() + TimeDelta::seconds(30);
        addressed(id, MessageCommand::BeginDispatch { attempt, deadline, journal_id: Uuid::nil() })
    };
    if round < ROUNDS {
        let release = |id, attempt| {
            addressed(id, MessageCommand::ReleaseDispatch { attempt, reason: ReleaseReason::NeverCalled })
        };
        return vec![|id, _| queued(id), begin, release];
    }
    vec![
        |id, _| queued(id),
        begin,
        |id, attempt| known(id, Some(attempt)),
        // What the webhooks say: they do not know of attempts, and come in any order.
        |id, _| known(id, None),
        |id, _| addressed(id, MessageCommand::MarkRead { at: now(), pricing: None }),
        |id, _| addressed(id, MessageCommand::MarkDelivered { at: now(), pricing: None }),
    ]
}

/// The dispatcher's answer or a status: both write the row by which WhatsApp's id is known.
fn known(id: Uuid, attempt: Option<u32>) -> Addressed<MessageCommand> {
    let row = Attachment::ProviderMessage { sender_id: SENDER, wamid: format!("wamid.{id}"), attempt: None, at: now() };
    addressed(id, MessageCommand::MarkSent { attempt, acceptance: Acceptance::Accepted, at: now() }).with(row)
}

/// What a process that the test has started does.
async fn work(url: &str, number: u64) -> Report {
    let pool = infrastructure::postgres::connect(url, 8).await.unwrap();
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let config = BatchConfig { writers: 3, ..BatchConfig::default() };
    let store = MessageStore::start(&pool, &config, &tasks, &stop);
    let mut report = Report::default();
    for round in 1..=ROUNDS {
        let callers = (0..CALLERS).map(|caller| {
            // The same for every run of the test, and another for every process, round and caller.
            let seed = number * 1000 + u64::from(round) * 10 + u64::try_from(caller).unwrap();
            tokio::spawn(call(store.clone(), round, StdRng::seed_from_u64(seed)))
        });
        for ended in futures::future::join_all(callers).await {
            let ended = ended.unwrap();
            report.receipts.extend(ended.receipts);
            report.conflicts += ended.conflicts;
            report.failures.extend(ended.failures);
        }
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    pool.close().await;
    report
}

/// Gives the commands of one round, for all messages, in batches of random size and in a random order of messages.
async fn call(store: MessageStore, round: u32, mut random: StdRng) -> Report {
    let mut report = Report::default();
    for step in steps(round) {
        let mut ids: Vec<Uuid> = (0..MESSAGES).map(message).collect();
        ids.shuffle(&mut random);
        let mut rest = ids.as_slice();
        while !rest.is_empty() {
            let (batch, behind) = rest.split_at(random.random_range(1..=120).min(rest.len()));
            rest = behind;
            give(&store, batch.iter().map(|id| step(*id, round)).collect(), &mut report).await;
        }
    }
    report
}

/// Gives commands until each has an answer that is one.
async fn give(store: &MessageStore, mut commands: Vec<Addressed<MessageCommand>>, report: &mut Report) {
    for _ in 0..=CONFLICTS_MAX {
        let answers = store.execute_many(commands.clone()).await;
        let mut again = Vec::new();
        for (command, answer) in commands.into_iter().zip(answers) {
            match answer {
                Ok(committed) => report.receipts.extend(committed.events.iter().filter_map(|(position, event)| {
                    let MessageEvent::DispatchStarted { attempt, .. } = event else { return None };
                    Some((command.id, *attempt, *position))
                })),
                // Another process is further, or not so far.
                Err(CommandError::Refused(_)) => {}
                Err(CommandError::Conflict { .. }) => again.push(command),
                Err(error) => report.failures.push(format!("{error}: {:?}", std::error::Error::source(&error))),
            }
        }
        if again.is_empty() {
            return;
        }
        report.conflicts += again.len();
        commands = again;
    }
    report.failures.push(format!("{} commands lost against others every time", commands.len()));
}

async fn start_process(url: &str, number: u64) -> Report {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", TEST, "--nocapture"])
        .env(CHILD_DATABASE, url)
        .env(CHILD_NUMBER, number.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = tokio::time::timeout(PROCESSES_MAX, child.wait_with_output()).await.expect("a process hangs").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "process {number} failed: {text}");
    let report = text.lines().find_map(|line| line.split_once(REPORT)).expect("the process did not report").1;
    serde_json::from_str(report).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overlapping_batches_of_several_processes_neither_deadlock_nor_double() {
    if let (Ok(url), Ok(number)) = (std::env::var(CHILD_DATABASE), std::env::var(CHILD_NUMBER)) {
        let report = work(&url, number.parse().unwrap()).await;
        // Written at once, so that the harness cannot print into the line.
        let line = format!("\n{REPORT}{}\n", serde_json::to_string(&report).unwrap());
        std::io::stdout().write_all(line.as_bytes()).unwrap();
        return;
    }
    let database = TestDatabase::create().await;
    let reports = futures::future::join_all((0..PROCESSES).map(|number| start_process(&database.url, number))).await;
    let failures: Vec<&String> = reports.iter().flat_map(|report| &report.failures).collect();
    assert!(failures.is_empty(), "{} commands have no answer: {:?}", failures.len(), &failures[..1]);

    let mut receipts: BTreeMap<(String, i64), i64> = BTreeMap::new();
    for (message, attempt, position) in reports.iter().flat_map(|report| &report.receipts) {
        let before = receipts.insert((message.to_string(), i64::from(*attempt)), *position);
        assert_eq!(before, None, "attempt {attempt} of {message} has two receipts");
    }
    assert_eq!(receipts, begun(&database.pool).await, "the receipts are what the log says");
    // All messages were begun and read, so the processes did meet.
    let share = |report: &Report| report.receipts.len();
    assert!(reports.iter().filter(|report| share(report) > 0).count() > 1, "one process alone did all the work");
    check_log(&database.pool).await;
    wait::until(Duration::from_secs(20), "the server has counted what the processes did", async || {
        let others = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'ektola' AND pid <> pg_backend_pid()
                 AND state <> 'idle'"#
        )
        .fetch_one(&database.owner)
        .await
        .unwrap();
        (others == 0).then_some(())
    })
    .await;
    let deadlocks = sqlx::query_scalar!(
        r#"SELECT deadlocks AS "deadlocks!" FROM pg_stat_database WHERE datname = current_database()"#
    )
    .fetch_one(&database.owner)
    .await
    .unwrap();
    assert_eq!(deadlocks, 0, "batches of different processes waited for each other");
    database.close().await;
}

/// The attempts in the log, with their positions.
async fn begun(pool: &PgPool) -> BTreeMap<(String, i64), i64> {
    sqlx::query!(
        r#"SELECT aggregate_id, (payload -> 'DispatchStarted' ->> 'attempt')::bigint AS "attempt!", position AS "position!"
           FROM events WHERE event_type = 'DispatchStarted'"#
    )
    .fetch_all(pool)
    .await
    .unwrap()
    .into_iter()
    .map(|row| ((row.aggregate_id, row.attempt), row.position))
    .collect()
}

/// Histories without gaps, each fact once, and every row that belongs to a message.
async fn check_log(pool: &PgPool) {
    let torn = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (
               SELECT aggregate_id FROM events GROUP BY aggregate_id
               HAVING max(sequence) <> count(*) OR min(sequence) <> 1) torn"#
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(torn, 0, "sequences with gaps");
    let doubled = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (
               SELECT aggregate_id FROM events
               WHERE event_type IN ('MessageQueued', 'MessageSent', 'MessageDelivered', 'MessageRead')
               GROUP BY aggregate_id, event_type HAVING count(*) > 1) doubled"#
    )
    .fetch_one(pool)
    .await
    .unwrap();
    assert_eq!(doubled, 0, "facts that were stated twice");
    let rows = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM events WHERE event_type = 'MessageRead') AS "read!",
                  (SELECT count(*) FROM message_recipients) AS "recipients!",
                  (SELECT count(*) FROM provider_messages WHERE message_id IS NOT NULL) AS "known!""#
    )
    .fetch_one(pool)
    .await
    .unwrap();
    let expected = i64::try_from(MESSAGES).unwrap();
    assert_eq!((rows.read, rows.recipients, rows.known), (expected, expected, expected));
}
