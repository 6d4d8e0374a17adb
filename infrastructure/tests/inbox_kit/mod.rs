//! A database with one WhatsApp number, messages whose call is under way, webhooks about them, and an interpreter.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::CommandEnvelope;
use domain::consent::Keywords;
use domain::ids::{ContactId, MessageId, RunId, SenderId, TenantId};
use domain::message::{Lane, MessageCommand, OnUnknown};
use infrastructure::clock::Clock;
use infrastructure::event_store::{Actor, Addressed, BatchConfig, ConsentStore, MessageStore};
use infrastructure::inbound::Listener;
use infrastructure::senders::{self, NewSender, Secret};
use infrastructure::tenants;
use infrastructure::webhook_inbox::{FailureRules, Inbox, InboxConfig, Interpreter, InterpreterConfig};
use infrastructure::whatsapp::RetryLadder;
use serde_json::{Value, json};
use test_kit::postgres::TestDatabase;
use test_kit::wait;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) const NUMBER: &str = "100000000000101";
const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_780_000_000, 0).unwrap()
}

pub(crate) fn config() -> InterpreterConfig {
    InterpreterConfig {
        batch_max: 500,
        batch_bytes_max: 1 << 20,
        poll: Duration::from_millis(10),
        attempts_max: 3,
        waiting_max: Duration::from_secs(3600),
        failures: FailureRules { waits: RetryLadder::default(), retries_max: 1 },
    }
}

pub(crate) struct Kit {
    pub(crate) database: TestDatabase,
    pub(crate) messages: MessageStore,
    pub(crate) tenant_id: TenantId,
    pub(crate) sender_id: SenderId,
    listener: Listener,
    inbox: Inbox,
}

/// An interpreter that runs until it is stopped.
pub(crate) struct Running {
    stop: CancellationToken,
    pub(crate) task: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

impl Kit {
    pub(crate) async fn start() -> Self {
        let database = TestDatabase::create().await;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        // One writer that waits for the whole of a step, so that a step is one batch.
        let batch = BatchConfig { batch_max: 1000, batch_wait: Duration::from_millis(100), ..BatchConfig::default() };
        let messages = MessageStore::start(&database.pool, &BatchConfig { writers: 1, ..batch }, &tasks, &stop);
        let inbox = InboxConfig { batch_max: 500, batch_bytes_max: 1 << 22, queue_max: 5000, queue_bytes_max: 1 << 26 };
        let inbox = Inbox::start(&database.pool, &inbox, &tasks, &stop);
        let tenant = tenants::ensure_tenant(&database.pool, "demo", "Asia/Kolkata", now()).await.unwrap();
        let sender = NewSender {
            tenant_id: tenant.id,
            phone_number_id: NUMBER.to_owned(),
            waba_id: "100000000000001".to_owned(),
            base_url: None,
            access_token: Secret::new("access"),
            app_secret: Secret::new("secret"),
            verify_token: Secret::new("verify"),
            sandbox: true,
        };
        let sender_id = senders::add_sender(&database.pool, sender, now()).await.unwrap().id;
        let consents = ConsentStore::start(&database.pool, &BatchConfig::default(), &tasks, &stop);
        let keywords = Keywords::parse("stop all", "stop", "start").unwrap();
        let listener = Listener { pool: database.pool.clone(), consents, keywords: Arc::new(keywords) };
        Self { database, messages, tenant_id: tenant.id, sender_id, listener, inbox }
    }

    /// Messages that are queued.
    pub(crate) async fn queued(&self, count: u128) -> Vec<MessageId> {
        let ids: Vec<MessageId> = (1..=count).map(|number| MessageId(Uuid::from_u128(number))).collect();
        let queue = MessageCommand::QueueMessage {
            run_id: RunId(Uuid::from_u128(10)),
            contact_id: ContactId(Uuid::from_u128(11)),
            sender_id: self.sender_id,
            lane: Lane::Utility,
            on_unknown: OnUnknown::Hold,
        };
        self.command_all(&ids, &queue).await;
        ids
    }

    /// Messages whose call is under way.
    pub(crate) async fn claimed(&self, count: u128) -> Vec<MessageId> {
        let ids = self.queued(count).await;
        self.claim(&ids).await;
        ids
    }

    pub(crate) async fn claim(&self, ids: &[MessageId]) {
        let deadline = now() + TimeDelta::hours(1);
        self.command_all(ids, &MessageCommand::BeginDispatch { attempt: 1, deadline, journal_id: Uuid::nil() }).await;
    }

    pub(crate) async fn command_all(&self, ids: &[MessageId], command: &MessageCommand) {
        let commands = ids.iter().map(|id| {
            let envelope = CommandEnvelope::new(self.tenant_id, now(), command.clone());
            Addressed::new(*id, envelope, Actor::Engine("test"))
        });
        for answer in self.messages.execute_many(commands.collect()).await {
            answer.unwrap();
        }
    }

    pub(crate) fn interpret(&self, config: InterpreterConfig) -> Running {
        let stop = CancellationToken::new();
        let interpreter = Interpreter {
            pool: self.database.pool.clone(),
            clock: Clock::manual(now()),
            messages: self.messages.clone(),
            listener: self.listener.clone(),
            config,
        };
        Running { task: tokio::spawn(interpreter.run(stop.clone())), stop }
    }

    /// Stores a body with these statuses and answers its id.
    pub(crate) async fn receive(&self, statuses: &[Value]) -> i64 {
        self.receive_raw(body_of(statuses)).await
    }

    pub(crate) async fn receive_raw(&self, body: Vec<u8>) -> i64 {
        self.inbox.store(body.into(), [self.sender_id].into(), now()).await.unwrap();
        let id = sqlx::query_scalar!(r#"SELECT max(id) AS "id!" FROM webhook_bodies"#);
        id.fetch_one(&self.database.pool).await.unwrap()
    }

    pub(crate) async fn interpreted(&self) {
        wait::until(DEADLINE, "all webhooks are interpreted", async || {
            let pending = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_pending"#);
            (pending.fetch_one(&self.database.pool).await.unwrap() == 0).then_some(())
        })
        .await;
        let steps = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_steps"#);
        assert_eq!(steps.fetch_one(&self.database.pool).await.unwrap(), 0, "steps that did not end");
    }

    /// The messages that have an event of this type, in the order of the log.
    pub(crate) async fn with_event(&self, event_type: &str) -> Vec<MessageId> {
        let ids = sqlx::query_scalar!(
            r#"SELECT aggregate_id::uuid AS "id!" FROM events
               WHERE aggregate_type = 'Message' AND event_type = $1 ORDER BY position"#,
            event_type,
        );
        ids.fetch_all(&self.database.pool).await.unwrap().into_iter().map(MessageId).collect()
    }

    /// What is parked: id, reference, attempts and reason.
    pub(crate) async fn parked(&self) -> Vec<(i64, String, i32, String)> {
        let rows = sqlx::query!("SELECT id, reference, attempts, reason FROM dead_letters ORDER BY id");
        let rows = rows.fetch_all(&self.database.pool).await.unwrap();
        rows.into_iter().map(|row| (row.id, row.reference, row.attempts, row.reason)).collect()
    }
}

/// A status that names its message by our id.
pub(crate) fn status(message: MessageId, name: &str) -> Value {
    let mut status = status_of(&format!("wamid.{message}"), name);
    status["biz_opaque_callback_data"] = json!(message.to_string());
    status
}

/// A status that names its message by WhatsApp's id alone.
pub(crate) fn status_of(wamid: &str, name: &str) -> Value {
    json!({"id": wamid, "status": name, "timestamp": "1780000000", "recipient_id": "919825000000"})
}

fn body_of(statuses: &[Value]) -> Vec<u8> {
    let value = json!({
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1555", "phone_number_id": NUMBER},
        "statuses": statuses,
    });
    json!({
        "object": "whatsapp_business_account",
        "entry": [{"id": "100000000000001", "changes": [{"field": "messages", "value": value}]}],
    })
    .to_string()
    .into_bytes()
}
