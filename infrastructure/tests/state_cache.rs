//! Remembered states never lie: two stores with caches on one database, whose writers know nothing of each other, give
//! the answers that a fresh look at the log gives.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::{CommandEnvelope, Decider, Position};
use domain::ids::{ContactId, RunId, SenderId, TenantId};
use domain::message::{
    Acceptance, FailureClass, Lane, Message, MessageCommand, MessageError, MessageEvent, OnUnknown, ReleaseReason,
    Resolution, SkipReason,
};
use infrastructure::event_store::{Actor, Addressed, BatchConfig, CommandError, Committed, MessageStore};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STRANGER: TenantId = TenantId(Uuid::from_u128(2));
/// Few, so that the stores meet on them all the time.
const MESSAGES: u128 = 6;
/// Messages by way of the store without a cache are others, with the same commands.
const MIRROR: u128 = 1_000_000;

type Envelope = CommandEnvelope<MessageCommand>;
type Answer = Result<Committed<Message>, CommandError<MessageError>>;
type History = Vec<(Position, MessageEvent)>;

fn store(pool: &PgPool, states_max: usize) -> MessageStore {
    let config = BatchConfig { states_max, ..BatchConfig::default() };
    MessageStore::start(pool, &config, &TaskTracker::new(), &CancellationToken::new())
}

fn addressed(id: u128, envelope: &Envelope) -> Addressed<MessageCommand> {
    Addressed::new(Uuid::from_u128(id), envelope.clone(), Actor::Engine("test"))
}

/// Any command, mostly about an attempt that the message is near to.
fn any_command(random: &mut StdRng, attempt: u32) -> Envelope {
    let now: DateTime<Utc> = DateTime::from_timestamp(1_780_000_000, 0).unwrap();
    let at = now + TimeDelta::seconds(random.random_range(0..120));
    let attempt = (attempt + random.random_range(0..=2)).saturating_sub(1);
    let (run_id, contact_id) = (RunId(Uuid::from_u128(10)), ContactId(Uuid::from_u128(11)));
    let (sender_id, lane, on_unknown) = (SenderId(Uuid::from_u128(12)), Lane::Utility, OnUnknown::Resend);
    let acceptance = Acceptance::Accepted;
    let command = match random.random_range(0..20) {
        0 | 1 => MessageCommand::QueueMessage { run_id, contact_id, sender_id, lane, on_unknown },
        2 => MessageCommand::Skip { run_id, contact_id, sender_id, reason: SkipReason::MissingVariable },
        3..=6 => MessageCommand::BeginDispatch { attempt, deadline: at, journal_id: Uuid::nil() },
        7 | 8 => MessageCommand::ReleaseDispatch { attempt, reason: ReleaseReason::NeverCalled },
        9 => MessageCommand::MarkSent { attempt: Some(attempt), acceptance, at },
        10 => MessageCommand::MarkSent { attempt: None, acceptance, at },
        11 => MessageCommand::MarkDelivered { at, pricing: None },
        12 => MessageCommand::MarkRead { at, pricing: None },
        13 => MessageCommand::MarkFailed { attempt: None, code: 131_026, class: FailureClass::Undeliverable, at },
        14 | 15 => MessageCommand::Defer { attempt, until: now + TimeDelta::seconds(60), code: 131_056 },
        16 => MessageCommand::MarkOutcomeUnknown { attempt },
        17 | 18 => {
            let all = [Resolution::Unconfirmed, Resolution::Sent, Resolution::NotSent, Resolution::Resend];
            MessageCommand::Settle { resolution: all[random.random_range(0..all.len())] }
        }
        _ if random.random_bool(0.2) => MessageCommand::Cancel,
        _ => MessageCommand::ReleaseDispatch { attempt, reason: ReleaseReason::Shutdown },
    };
    let tenant = if random.random_bool(0.03) { STRANGER } else { TENANT };
    CommandEnvelope::new(tenant, at, command)
}

async fn history(pool: &PgPool, id: u128) -> History {
    sqlx::query!(
        r#"SELECT position AS "position!", payload FROM events
           WHERE aggregate_type = 'Message' AND aggregate_id = $1 ORDER BY sequence"#,
        Uuid::from_u128(id).to_string(),
    )
    .fetch_all(pool)
    .await
    .unwrap()
    .into_iter()
    .map(|row| (row.position, serde_json::from_value(row.payload).unwrap()))
    .collect()
}

fn fold(history: &[(Position, MessageEvent)]) -> Message {
    let mut state = Message::default();
    history.iter().for_each(|(_, event)| state.evolve(event));
    state
}

/// An answer without its positions: they are the log's, whatever was decided.
fn decision(answer: &Answer) -> Result<Vec<MessageEvent>, MessageError> {
    match answer {
        Ok(committed) => Ok(committed.events.iter().map(|(_, event)| event.clone()).collect()),
        Err(CommandError::Refused(refusal)) => Err(refusal.clone()),
        Err(error) => panic!("{error}"),
    }
}

/// One command at a time, through either store by turns: every answer is the one that a fresh look gives, and the one of
/// a store that remembers nothing.
#[tokio::test]
async fn answers_of_two_stores_with_caches_are_those_of_a_fresh_look() {
    let database = TestDatabase::create().await;
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let cached = [store(&database.pool, 1000), store(&database.pool, 3)];
        let without = store(&database.pool, 0);
        let first = u128::from(seed) * 100;
        for step in 0..150 {
            let id = first + random.random_range(0..MESSAGES);
            let before = history(&database.pool, id).await;
            // A few for one message in one batch are decided one after the other.
            let (mut state, mut commands, mut expected) = (fold(&before), Vec::new(), Vec::new());
            for _ in 0..random.random_range(1..=3) {
                let envelope = any_command(&mut random, state.attempt);
                let decided = state.decide(&envelope);
                decided.iter().flatten().for_each(|event| state.evolve(event));
                expected.push(decided);
                commands.push(envelope);
            }
            let through = &cached[random.random_range(0..cached.len())];
            let answers = through.execute_many(commands.iter().map(|e| addressed(id, e)).collect()).await;
            let decisions: Vec<_> = answers.iter().map(decision).collect();
            assert_eq!(decisions, expected, "seed {seed}, step {step}: {commands:?} after {before:?}");
            let mirrored = commands.iter().map(|envelope| addressed(MIRROR + id, envelope)).collect();
            let mirrored: Vec<_> = without.execute_many(mirrored).await.iter().map(decision).collect();
            assert_eq!(mirrored, expected, "seed {seed}, step {step}: without a cache");
            let after = history(&database.pool, id).await;
            assert_eq!(fold(&after), state, "seed {seed}, step {step}: the log holds something else");
        }
        for id in first..first + MESSAGES {
            let events = async |id| history(&database.pool, id).await.into_iter().map(|(_, e)| e).collect::<Vec<_>>();
            assert_eq!(events(id).await, events(MIRROR + id).await, "seed {seed}: the histories differ");
        }
    }
    database.close().await;
}

/// Each round has messages of its own, for most of them come to their end soon.
const ROUNDS: u128 = 8;
const COMMANDS_PER_ROUND: u128 = 20;

/// A command with what is known of the moment of its answer: how many events its message had before and after.
struct Given {
    id: u128,
    envelope: Envelope,
    answer: Answer,
    before: usize,
    after: usize,
}

async fn give(pool: PgPool, store: MessageStore, seed: u64) -> Vec<Given> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut given = Vec::new();
    for step in 0..ROUNDS * COMMANDS_PER_ROUND {
        let id = step / COMMANDS_PER_ROUND * MESSAGES + random.random_range(0..MESSAGES);
        let seen = history(&pool, id).await;
        let envelope = any_command(&mut random, fold(&seen).attempt);
        let answer = store.execute(addressed(id, &envelope)).await;
        let after = history(&pool, id).await.len();
        given.push(Given { id, envelope, answer, before: seen.len(), after });
    }
    given
}

/// Both stores at once on the same messages: every answer is the one of some moment between the command and the answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_to_concurrent_commands_are_those_of_a_moment_in_between() {
    let database = TestDatabase::create().await;
    let stores = [store(&database.pool, 1000), store(&database.pool, 1000)];
    let callers = (0..6_u64).map(|caller| {
        let store = stores[usize::try_from(caller).unwrap() % stores.len()].clone();
        tokio::spawn(give(database.pool.clone(), store, 100 + caller))
    });
    let given: Vec<Given> =
        futures::future::join_all(callers).await.into_iter().flat_map(|ended| ended.unwrap()).collect();
    let mut histories: BTreeMap<u128, History> = BTreeMap::new();
    for id in 0..ROUNDS * MESSAGES {
        histories.insert(id, history(&database.pool, id).await);
    }

    let mut receipts = BTreeSet::new();
    let mut conflicts = 0;
    for Given { id, envelope, answer, before, after } in &given {
        if matches!(answer, Err(CommandError::Conflict { .. })) {
            conflicts += 1;
            continue;
        }
        let (history, decided) = (&histories[id], decision(answer));
        let mut moments = *before..=*after;
        if let Ok(Committed { events, .. }) = answer
            && let Some((first, _)) = events.first()
        {
            // What was appended was decided on exactly what stood before it.
            let at = history.iter().position(|(position, _)| position == first).expect("a receipt without an event");
            assert!(moments.contains(&at), "{envelope:?} was appended before it was given");
            assert_eq!(history[at..at + events.len()], events[..], "another command's events in between");
            moments = at..=at;
        }
        let explained = moments.clone().any(|moment| fold(&history[..moment]).decide(envelope) == decided);
        assert!(explained, "{envelope:?} on message {id}: {decided:?} at none of the moments {moments:?}");
        for event in decided.iter().flatten() {
            if let MessageEvent::DispatchStarted { attempt, .. } = event {
                assert!(receipts.insert((*id, *attempt)), "attempt {attempt} of message {id} has two receipts");
            }
        }
    }
    let begun: BTreeSet<(u128, u32)> = histories
        .iter()
        .flat_map(|(id, history)| history.iter().map(move |(_, event)| (*id, event)))
        .filter_map(|(id, event)| match event {
            MessageEvent::DispatchStarted { attempt, .. } => Some((id, *attempt)),
            _ => None,
        })
        .collect();
    assert_eq!(receipts, begun, "the receipts are what the log says");
    assert!(begun.len() > 10, "too little happened to show anything: {begun:?}");
    assert!(conflicts * 20 < given.len(), "{conflicts} of {} commands lost every time", given.len());

    // In the end each store sees what the log holds, whatever it remembered: this command changes nothing and is not
    // answered without a look.
    let nothing = MessageCommand::ReleaseDispatch { attempt: u32::MAX, reason: ReleaseReason::NeverCalled };
    let nothing = CommandEnvelope::new(TENANT, DateTime::UNIX_EPOCH, nothing);
    for store in &stores {
        for (id, history) in histories.iter().filter(|(_, history)| !history.is_empty()) {
            let seen = match store.execute(addressed(*id, &nothing)).await {
                // It was a stranger who created it.
                Err(CommandError::Refused(MessageError::NotFound)) => continue,
                seen => seen.unwrap(),
            };
            assert_eq!((seen.events.len(), seen.state), (0, fold(history)), "message {id}");
        }
    }
    database.close().await;
}
