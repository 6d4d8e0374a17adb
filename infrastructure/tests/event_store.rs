//! Both write paths of the log under one suite, and what only the batch path promises: each command its own outcome,
//! and a receipt for nobody but the one whose commit appended it.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::CommandEnvelope;
use domain::campaign::{Campaign, CampaignCommand, CampaignDefinition, CampaignError, CampaignType, ParameterMapping};
use domain::ids::{ContactId, MessageId, RunId, SenderId, TemplateId, TenantId};
use domain::message::{
    Acceptance, Lane, Message, MessageCommand, MessageError, MessageEvent, MessageStatus, OnUnknown, ReleaseReason,
};
use domain::schedule::{Recurrence, Schedule};
use infrastructure::event_store::{
    Actor, Addressed, Attachment, BatchConfig, CampaignStore, CommandError, Committed, MessageStore, RecipientRow,
};
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STRANGER: TenantId = TenantId(Uuid::from_u128(2));

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

fn start(pool: &PgPool) -> MessageStore {
    MessageStore::start(pool, &BatchConfig::default(), &TaskTracker::new(), &CancellationToken::new())
}

fn addressed<C>(id: Uuid, tenant: TenantId, command: C) -> Addressed<C> {
    Addressed::new(id, CommandEnvelope::new(tenant, now(), command), Actor::Engine("test"))
}

fn queue() -> MessageCommand {
    MessageCommand::QueueMessage {
        run_id: RunId(Uuid::from_u128(10)),
        contact_id: ContactId(Uuid::from_u128(11)),
        sender_id: SenderId(Uuid::from_u128(12)),
        lane: Lane::Utility,
        on_unknown: OnUnknown::Hold,
    }
}

fn begin(attempt: u32) -> MessageCommand {
    MessageCommand::BeginDispatch { attempt, deadline: now() + TimeDelta::seconds(30), journal_id: Uuid::nil() }
}

fn campaign() -> CampaignCommand {
    let start = jiff::civil::date(2026, 12, 1).at(10, 0, 0, 0);
    CampaignCommand::Create {
        definition: CampaignDefinition {
            name: "Reminders".to_owned(),
            template_id: TemplateId(Uuid::from_u128(3)),
            segment: "gold".to_owned(),
            campaign_type: CampaignType::Utility,
            schedule: Schedule::try_new(Recurrence::Daily, start, None, "Asia/Kolkata").unwrap(),
            parameters: ParameterMapping::new(),
            sender_id: None,
            on_unknown: OnUnknown::Hold,
        },
    }
}

/// A write path, with a way to create an aggregate, to change it once, and to be refused.
trait Path {
    const TYPE: &'static str;
    async fn create(&self, id: Uuid, tenant: TenantId) -> Outcome;
    /// Something that a created aggregate allows once and that is a no-op afterwards.
    async fn change(&self, id: Uuid, tenant: TenantId) -> Outcome;
}

#[derive(Debug, PartialEq)]
enum Outcome {
    /// How many events were appended, and the position of the last.
    Done(usize, Option<i64>),
    NotFound,
}

struct Stock(CampaignStore);
struct Batch(MessageStore);

impl Path for Stock {
    const TYPE: &'static str = "Campaign";

    async fn create(&self, id: Uuid, tenant: TenantId) -> Outcome {
        stock_outcome(self.0.execute(addressed(id, tenant, campaign())).await)
    }

    async fn change(&self, id: Uuid, tenant: TenantId) -> Outcome {
        stock_outcome(self.0.execute(addressed(id, tenant, CampaignCommand::Activate)).await)
    }
}

fn stock_outcome(answer: Result<Committed<Campaign>, CommandError<CampaignError>>) -> Outcome {
    match answer {
        Ok(committed) => Outcome::Done(committed.events.len(), committed.position()),
        Err(CommandError::Refused(CampaignError::NotFound)) => Outcome::NotFound,
        Err(error) => panic!("{error}"),
    }
}

impl Path for Batch {
    const TYPE: &'static str = "Message";

    async fn create(&self, id: Uuid, tenant: TenantId) -> Outcome {
        batch_outcome(self.0.execute(addressed(id, tenant, queue())).await)
    }

    async fn change(&self, id: Uuid, tenant: TenantId) -> Outcome {
        batch_outcome(self.0.execute(addressed(id, tenant, MessageCommand::Cancel)).await)
    }
}

fn batch_outcome(answer: Result<Committed<Message>, CommandError<MessageError>>) -> Outcome {
    match answer {
        Ok(committed) => Outcome::Done(committed.events.len(), committed.position()),
        Err(CommandError::Refused(MessageError::NotFound)) => Outcome::NotFound,
        Err(error) => panic!("{error}"),
    }
}

/// What holds for both paths: rows of one format, no-ops, refusals, tenants, and races without gaps.
async fn contract<P: Path + Sync>(path: &P, database: &TestDatabase) {
    let id = Uuid::new_v4();
    assert_eq!(path.change(id, TENANT).await, Outcome::NotFound, "an aggregate that does not exist");
    let Outcome::Done(1, Some(created)) = path.create(id, TENANT).await else { panic!("not created") };
    assert_eq!(path.create(id, TENANT).await, Outcome::Done(0, None), "created twice");
    assert_eq!(path.change(id, STRANGER).await, Outcome::NotFound, "another tenant's");
    let Outcome::Done(1, Some(changed)) = path.change(id, TENANT).await else { panic!("not changed") };
    assert!(changed > created);
    assert_eq!(path.change(id, TENANT).await, Outcome::Done(0, None), "changed twice");

    let rows = sqlx::query!(
        "SELECT sequence, event_version, tenant_id, metadata, payload, event_type, position FROM events
         WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY sequence",
        P::TYPE,
        id.to_string(),
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(rows.iter().map(|row| row.position).collect::<Vec<_>>(), [created, changed]);
    for row in rows {
        assert_eq!((row.event_version.as_str(), row.tenant_id), ("1", TENANT.0));
        assert_eq!(row.metadata["tenant_id"], TENANT.to_string());
        assert_eq!(row.metadata["actor"], "engine:test");
        assert!(row.metadata["at"].as_str().unwrap().parse::<DateTime<Utc>>().is_ok());
        // The payload names its type once more, and nothing else.
        assert_eq!(row.payload.as_object().unwrap().keys().collect::<Vec<_>>(), [&row.event_type]);
    }

    let contested = Uuid::new_v4();
    let racers = (0..16).map(|_| path.create(contested, TENANT));
    let winners = futures::future::join_all(racers).await;
    let sequences = sqlx::query_scalar!(
        "SELECT sequence FROM events WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY sequence",
        P::TYPE,
        contested.to_string(),
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    assert_eq!(sequences, [1], "a race created the aggregate more than once");
    assert!(winners.iter().any(|outcome| matches!(outcome, Outcome::Done(1, _))));
}

#[tokio::test]
async fn the_stock_path_keeps_the_contract() {
    let database = TestDatabase::create().await;
    contract(&Stock(CampaignStore::new(database.pool.clone())), &database).await;
    database.close().await;
}

#[tokio::test]
async fn the_batch_path_keeps_the_contract() {
    let database = TestDatabase::create().await;
    contract(&Batch(start(&database.pool)), &database).await;
    database.close().await;
}

#[tokio::test]
async fn commands_for_one_message_in_one_batch_are_decided_in_order_on_one_state() {
    let database = TestDatabase::create().await;
    let store = start(&database.pool);
    let id = Uuid::new_v4();
    let sent = MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at: now() };
    let commands = vec![queue(), begin(1), sent, begin(1), MessageCommand::MarkRead { at: now(), pricing: None }];
    let commands = commands.into_iter().map(|command| addressed(id, TENANT, command)).collect();
    let answers = store.execute_many(commands).await;
    let statuses: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().map(|committed| committed.state.status()).map_err(ToString::to_string))
        .collect();
    assert_eq!(
        statuses,
        [
            Ok(Some(MessageStatus::Pending)),
            Ok(Some(MessageStatus::Dispatching)),
            Ok(Some(MessageStatus::Sent)),
            Err("attempt 1 has begun already; 1 is the latest".to_owned()),
            Ok(Some(MessageStatus::Read)),
        ]
    );
    let positions: Vec<_> = answers.iter().flatten().filter_map(Committed::position).collect();
    assert!(positions.is_sorted(), "{positions:?}");
    database.close().await;
}

#[tokio::test]
async fn a_poisoned_command_fails_alone() {
    let database = TestDatabase::create().await;
    let store = start(&database.pool);
    let poisoned = 7;
    let commands = (0..40)
        .map(|number| {
            // Postgres text cannot hold U+0000.
            let phone = if number == poisoned { "+91\0".to_owned() } else { format!("+9198250{number:05}") };
            let row = RecipientRow {
                tenant_id: TENANT.0,
                contact_id: Uuid::from_u128(number),
                phone,
                variables: serde_json::json!({}),
            };
            addressed(Uuid::from_u128(1000 + number), TENANT, queue()).with(Attachment::Recipient(row))
        })
        .collect();
    let answers = store.execute_many(commands).await;
    let failed: Vec<_> =
        answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(n, _)| n as u128).collect();
    assert_eq!(failed, [poisoned]);
    assert!(matches!(answers[7], Err(CommandError::Poisoned(_))));
    let stored = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM events) AS "events!", (SELECT count(*) FROM message_recipients) AS "recipients!""#
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!((stored.events, stored.recipients), (39, 39));
    database.close().await;
}

#[tokio::test]
async fn an_attachment_is_written_with_its_event_and_never_without() {
    let database = TestDatabase::create().await;
    let store = start(&database.pool);
    let id = Uuid::new_v4();
    let row = |phone: &str| {
        let (tenant_id, contact_id) = (TENANT.0, Uuid::from_u128(1));
        Attachment::Recipient(RecipientRow {
            tenant_id,
            contact_id,
            phone: phone.to_owned(),
            variables: serde_json::json!({}),
        })
    };
    store.execute(addressed(id, TENANT, queue()).with(row("+911"))).await.unwrap();
    store.execute(addressed(id, TENANT, queue()).with(row("+912"))).await.unwrap();
    let phones = sqlx::query_scalar!("SELECT phone FROM message_recipients").fetch_all(&database.pool).await.unwrap();
    assert_eq!(phones, ["+911"], "a command that appended nothing wrote its attachment");
    database.close().await;
}

/// Many stores, as of many processes, on overlapping messages: nothing deadlocks, nothing is lost or doubled.
#[tokio::test]
async fn overlapping_batches_of_several_writers_neither_deadlock_nor_double() {
    let database = TestDatabase::create().await;
    let ids: Vec<Uuid> = (0..60).map(|_| Uuid::new_v4()).collect();
    let writers = (0..4).map(|shift| {
        let store = start(&database.pool);
        let mut ids = ids.clone();
        ids.rotate_left(shift * 13);
        async move {
            let commands: Vec<_> =
                ids.iter().flat_map(|id| [queue(), begin(1)].map(|command| addressed(*id, TENANT, command))).collect();
            store.execute_many(commands).await
        }
    });
    let answers = futures::future::join_all(writers).await;
    let receipts = answers.iter().flatten().flatten().filter(|committed| is_receipt(committed)).count();
    assert_eq!(receipts, ids.len(), "each attempt has exactly one receipt");
    for error in answers.iter().flatten().filter_map(|answer| answer.as_ref().err()) {
        assert!(matches!(error, CommandError::Refused(MessageError::AttemptBegun { .. })), "{error}");
    }
    let gaps = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (
               SELECT aggregate_id FROM events GROUP BY aggregate_id HAVING max(sequence) <> count(*)) torn"#
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(gaps, 0);
    database.close().await;
}

fn is_receipt(committed: &Committed<Message>) -> bool {
    committed.events.iter().any(|(_, event)| matches!(event, MessageEvent::DispatchStarted { .. }))
}

#[tokio::test]
async fn a_redelivered_attempt_gets_no_receipt_whatever_became_of_the_first() {
    let database = TestDatabase::create().await;
    let store = start(&database.pool);
    let release = MessageCommand::ReleaseDispatch { attempt: 1, reason: ReleaseReason::Shutdown };
    let sent = MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at: now() };
    for outcome in [None, Some(release), Some(sent)] {
        let id = Uuid::from(MessageId(Uuid::new_v4()));
        store.execute(addressed(id, TENANT, queue())).await.unwrap();
        let first = store.execute(addressed(id, TENANT, begin(1))).await.unwrap();
        assert!(is_receipt(&first));
        if let Some(outcome) = outcome {
            store.execute(addressed(id, TENANT, outcome)).await.unwrap();
        }
        let again = store.execute(addressed(id, TENANT, begin(1))).await;
        assert!(matches!(again, Err(CommandError::Refused(MessageError::AttemptBegun { attempt: 1, latest: 1 }))));
    }
    database.close().await;
}

/// Two dispatchers with the same delivery: the one that loses the race for the row decides again on a fresh load and
/// finds the attempt begun.
#[tokio::test]
async fn a_claim_that_loses_a_conflict_gets_no_receipt() {
    let database = TestDatabase::create().await;
    let (one, other) = (start(&database.pool), start(&database.pool));
    for _ in 0..50 {
        let id = Uuid::new_v4();
        one.execute(addressed(id, TENANT, queue())).await.unwrap();
        let (first, second) =
            tokio::join!(one.execute(addressed(id, TENANT, begin(1))), other.execute(addressed(id, TENANT, begin(1))));
        let receipts = [&first, &second].into_iter().flatten().filter(|committed| is_receipt(committed)).count();
        let refusals = [&first, &second]
            .into_iter()
            .filter(|answer| matches!(answer, Err(CommandError::Refused(MessageError::AttemptBegun { .. }))))
            .count();
        assert_eq!((receipts, refusals), (1, 1));
    }
    database.close().await;
}

/// The commit happens and its answer is lost. Nobody may take that for a receipt, and a second try finds the attempt
/// begun: in doubt nothing is sent.
#[tokio::test]
async fn a_lost_commit_answer_gives_no_receipt() {
    let database = TestDatabase::create().await;
    let proxy = test_kit::proxy::PostgresProxy::start(&database.url).await;
    let through_proxy = infrastructure::postgres::connect(&proxy.url, 2).await.unwrap();
    let store = start(&through_proxy);
    let direct = start(&database.pool);
    let id = Uuid::new_v4();
    direct.execute(addressed(id, TENANT, queue())).await.unwrap();

    // A claim is one statement, which commits by itself.
    proxy.lose_next_answer_to(b"DispatchStarted");
    let answer = tokio::time::timeout(Duration::from_secs(20), store.execute(addressed(id, TENANT, begin(1)))).await;
    assert!(matches!(answer, Ok(Err(CommandError::Unavailable(_)))), "{answer:?}");
    assert!(proxy.has_lost_an_answer());
    let committed = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM events WHERE aggregate_id = $1 AND event_type = 'DispatchStarted'"#,
        id.to_string(),
    )
    .fetch_one(&database.pool)
    .await
    .unwrap();
    assert_eq!(committed, 1, "the commit itself was meant to happen");

    let again = direct.execute(addressed(id, TENANT, begin(1))).await;
    assert!(matches!(again, Err(CommandError::Refused(MessageError::AttemptBegun { .. }))), "{again:?}");
    database.close().await;
}
