//! A tenant with everything a campaign needs, and a history that is written through the real stores.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::{CommandEnvelope, Position};
use domain::campaign::{CampaignCommand, CampaignDefinition, CampaignType, ParameterSource, Trigger};
use domain::campaign_run::{Audience, CampaignRunCommand, FrozenTemplate, RunDefinition};
use domain::ids::{CampaignId, ContactId, MessageId, RunId, SenderId, TemplateId, TenantId};
use domain::message::{
    Acceptance, FailureClass, Lane, MessageCommand, OnUnknown, ReleaseReason, Resolution, SkipReason,
};
use domain::schedule::{Recurrence, Schedule};
use infrastructure::event_feed::{EventFeed, FeedConfig};
use infrastructure::event_store::{
    Actor, Addressed, Attachment, BatchConfig, CampaignRunStore, CampaignStore, MessageStore, RecipientRow,
};
use infrastructure::senders::{self, NewSender, Secret};
use infrastructure::templates::{self, NewTemplate};
use jiff::civil::date;
use projections::progress::Progress;
use projections::projector;
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn at(second: i64) -> DateTime<Utc> {
    "2026-12-01T04:30:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::seconds(second)
}

/// The projections of one process.
pub(crate) struct Engine {
    pub(crate) progress: Progress,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Engine {
    pub(crate) async fn start(pool: &PgPool, batch_max: usize) -> Self {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let config = FeedConfig { batch_max, poll_idle: Duration::from_millis(10), ..FeedConfig::default() };
        let feed = EventFeed::start(pool.clone(), config, &tasks, &shutdown).await.unwrap();
        let progress = projector::start_all(pool, &feed, Duration::ZERO, &tasks, &shutdown);
        Self { progress, tasks, shutdown }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

pub(crate) struct Script {
    pub(crate) tenant: TenantId,
    pub(crate) campaign: CampaignId,
    pub(crate) template: TemplateId,
    pub(crate) sender: SenderId,
    pub(crate) campaigns: CampaignStore,
    pub(crate) runs: CampaignRunStore,
    pub(crate) messages: MessageStore,
    pool: PgPool,
}

impl Script {
    pub(crate) async fn begin(pool: &PgPool, name: &str, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let tenant = infrastructure::tenants::create_tenant(pool, name, "Asia/Kolkata", at(-100)).await.unwrap().id;
        let new = NewTemplate {
            name: "diwali_offer".to_owned(),
            language: "en".to_owned(),
            category: "MARKETING".to_owned(),
            components: json!([{"type": "BODY", "text": "Dear {{1}}"}]),
        };
        let template = templates::record_template(pool, tenant, new, at(-90)).await.unwrap().id;
        let secret = |text: &str| Secret::new(text);
        let new = NewSender {
            tenant_id: tenant,
            phone_number_id: format!("number-of-{name}"),
            waba_id: "2000".to_owned(),
            base_url: None,
            access_token: secret("access"),
            app_secret: secret("app"),
            verify_token: secret("verify"),
            sandbox: true,
        };
        let sender = senders::add_sender(pool, new, at(-80)).await.unwrap().id;
        Self {
            tenant,
            campaign: CampaignId(Uuid::new_v4()),
            template,
            sender,
            campaigns: CampaignStore::new(pool.clone()),
            runs: CampaignRunStore::new(pool.clone()),
            messages: MessageStore::start(pool, &BatchConfig::default(), tasks, shutdown),
            pool: pool.clone(),
        }
    }

    pub(crate) fn definition(&self, name: &str) -> CampaignDefinition {
        let first = ParameterSource::Attribute { attribute: "name".to_owned(), fallback: Some("Customer".to_owned()) };
        CampaignDefinition {
            name: name.to_owned(),
            template_id: self.template,
            segment: "vip".to_owned(),
            campaign_type: CampaignType::Marketing,
            schedule: Schedule::try_new(Recurrence::Daily, date(2026, 12, 1).at(10, 0, 0, 0), None, "Asia/Kolkata")
                .unwrap(),
            parameters: BTreeMap::from([("1".to_owned(), first)]),
            sender_id: Some(self.sender),
            on_unknown: OnUnknown::Hold,
        }
    }

    pub(crate) async fn campaign(&self, second: i64, command: CampaignCommand) -> Position {
        let envelope = CommandEnvelope::new(self.tenant, at(second), command);
        let done = self.campaigns.execute(Addressed::new(self.campaign, envelope, Actor::Operator)).await.unwrap();
        done.position().expect("an event")
    }

    pub(crate) async fn run(&self, run: RunId, second: i64, command: CampaignRunCommand) -> Position {
        let envelope = CommandEnvelope::new(self.tenant, at(second), command);
        let done = self.runs.execute(Addressed::new(run, envelope, Actor::Operator)).await.unwrap();
        done.position().expect("an event")
    }

    pub(crate) async fn message(&self, message: MessageId, second: i64, command: MessageCommand) -> Position {
        let envelope = CommandEnvelope::new(self.tenant, at(second), command);
        let done = self.messages.execute(Addressed::new(message, envelope, Actor::Operator)).await.unwrap();
        done.position().expect("an event")
    }

    pub(crate) async fn contact(&self, phone: &str) -> ContactId {
        let id = Uuid::new_v4();
        sqlx::query!(
            "INSERT INTO contacts (id, tenant_id, phone, created_at) VALUES ($1, $2, $3, $4)",
            id,
            self.tenant.0,
            phone,
            at(-70),
        )
        .execute(&self.pool)
        .await
        .unwrap();
        ContactId(id)
    }

    pub(crate) async fn start_run(&self, run: RunId, second: i64, trigger: Trigger) {
        let definition = RunDefinition {
            campaign_id: (trigger != Trigger::Test).then_some(self.campaign),
            audience: match &trigger {
                Trigger::Test => Audience::Contact { contact_id: ContactId(Uuid::new_v4()) },
                Trigger::Schedule { .. } | Trigger::Manual => Audience::Segment { name: "vip".to_owned() },
            },
            trigger,
            nominal_at: at(0),
            template: FrozenTemplate {
                template_id: self.template,
                name: "diwali_offer".to_owned(),
                language: "en".to_owned(),
                components: json!([{"type": "BODY", "text": "Dear {{1}}"}]),
                variables: vec!["1".to_owned()],
            },
            parameters: BTreeMap::new(),
            sender_id: self.sender,
            lane: Lane::Marketing,
            on_unknown: OnUnknown::Hold,
        };
        self.run(run, second, CampaignRunCommand::Start { definition }).await;
    }

    /// A message in the queue, with its recipient.
    pub(crate) async fn queue(&self, run: RunId, phone: &str, second: i64) -> MessageId {
        let contact = self.contact(phone).await;
        let message = MessageId::of(run, contact, at(0));
        let command = MessageCommand::QueueMessage {
            run_id: run,
            contact_id: contact,
            sender_id: self.sender,
            lane: Lane::Marketing,
            on_unknown: OnUnknown::Hold,
        };
        let recipient = Attachment::Recipient(RecipientRow {
            tenant_id: self.tenant.into(),
            contact_id: contact.into(),
            phone: phone.to_owned(),
            variables: json!({"1": "Customer"}),
        });
        let envelope = CommandEnvelope::new(self.tenant, at(second), command);
        let addressed = Addressed::new(message, envelope, Actor::Operator).with(recipient);
        self.messages.execute(addressed).await.unwrap().position().expect("an event");
        message
    }

    pub(crate) async fn begin_attempt(&self, message: MessageId, second: i64, attempt: u32) {
        let (deadline, journal_id) = (at(second + 30), Uuid::from_u128(1));
        self.message(message, second, MessageCommand::BeginDispatch { attempt, deadline, journal_id }).await;
    }

    /// Every way that a message can go, one of each; see `Ways`.
    pub(crate) async fn every_way(&self, run: RunId) -> Ways {
        let phone = |number: u32| format!("+9198765{number:05}");
        let mut queued = Vec::new();
        for number in 0..11 {
            queued.push(self.queue(run, &phone(number), 2).await);
        }
        let [
            read,
            reordered,
            recovered,
            failed,
            retried,
            not_sent,
            cancelled,
            late_failure,
            settled_wrong,
            pending,
            unknown,
        ] = queued.try_into().expect("eleven messages");
        let contact = self.contact(&phone(11)).await;
        let skipped = MessageId::of(run, contact, at(0));
        let reason = SkipReason::OptedOut;
        let skip = MessageCommand::Skip { run_id: run, contact_id: contact, sender_id: self.sender, reason };
        self.message(skipped, 3, skip).await;
        for message in
            [read, reordered, recovered, failed, retried, not_sent, cancelled, late_failure, settled_wrong, unknown]
        {
            self.begin_attempt(message, 4, 1).await;
        }
        let sent = || MessageCommand::MarkSent { attempt: None, acceptance: Acceptance::Accepted, at: at(5) };
        let delivered = || MessageCommand::MarkDelivered { at: at(6), pricing: None };
        let reading = || MessageCommand::MarkRead { at: at(7), pricing: None };
        let refused = |code, class| MessageCommand::MarkFailed { attempt: None, code, class, at: at(8) };
        for message in [read, late_failure] {
            self.message(message, 5, sent()).await;
            self.message(message, 6, delivered()).await;
            self.message(message, 7, reading()).await;
        }
        self.message(late_failure, 8, refused(131_049, FailureClass::Cooling)).await;
        self.message(reordered, 8, refused(131_053, FailureClass::Permanent)).await;
        self.message(reordered, 9, sent()).await;
        self.message(recovered, 8, refused(131_026, FailureClass::Undeliverable)).await;
        self.message(failed, 8, refused(131_026, FailureClass::Undeliverable)).await;
        self.message(retried, 8, MessageCommand::Defer { attempt: 1, until: at(20), code: 130_429 }).await;
        self.message(cancelled, 8, MessageCommand::ReleaseDispatch { attempt: 1, reason: ReleaseReason::RunPaused })
            .await;
        for message in [not_sent, settled_wrong, unknown] {
            self.message(message, 9, MessageCommand::MarkOutcomeUnknown { attempt: 1 }).await;
        }
        for message in [not_sent, settled_wrong] {
            self.message(message, 10, MessageCommand::Settle { resolution: Resolution::NotSent }).await;
        }
        self.message(cancelled, 11, MessageCommand::Cancel).await;
        self.begin_attempt(retried, 20, 2).await;
        self.message(retried, 21, sent()).await;
        self.message(recovered, 22, delivered()).await;
        self.message(settled_wrong, 23, delivered()).await;
        Ways {
            read,
            reordered,
            recovered,
            failed,
            retried,
            not_sent,
            cancelled,
            late_failure,
            settled_wrong,
            pending,
            unknown,
            skipped,
        }
    }
}

/// One message for each way.
pub(crate) struct Ways {
    pub(crate) read: MessageId,
    /// Reported as failed before the answer to its call was known.
    pub(crate) reordered: MessageId,
    /// Failed first, delivered afterwards.
    pub(crate) recovered: MessageId,
    pub(crate) failed: MessageId,
    /// Deferred, then sent by a second attempt.
    pub(crate) retried: MessageId,
    /// Unknown, and settled as not sent.
    pub(crate) not_sent: MessageId,
    /// Given back, then cancelled.
    pub(crate) cancelled: MessageId,
    /// Read, and then reported as failed.
    pub(crate) late_failure: MessageId,
    /// Settled as not sent, and then reported as delivered.
    pub(crate) settled_wrong: MessageId,
    pub(crate) pending: MessageId,
    pub(crate) unknown: MessageId,
    pub(crate) skipped: MessageId,
}

/// Every row of every read model, as text and in order.
pub(crate) async fn dump(pool: &PgPool) -> String {
    let tables = sqlx::query_scalar!(
        r#"SELECT concat_ws(E'\n',
               (SELECT string_agg(c::text, E'\n' ORDER BY c::text) FROM read_model.campaigns c),
               (SELECT string_agg(r::text, E'\n' ORDER BY r::text) FROM read_model.runs r),
               (SELECT string_agg(n::text, E'\n' ORDER BY n::text) FROM read_model.run_counts n),
               (SELECT string_agg(m::text, E'\n' ORDER BY m::text) FROM read_model.messages m)) AS "rows!""#
    )
    .fetch_one(pool)
    .await;
    tables.unwrap()
}

/// The messages of a run by status, told from the log alone and by other means than a projection's.
pub(crate) async fn counts_by_log(pool: &PgPool, run: RunId) -> BTreeMap<String, i64> {
    sqlx::query!(
        r#"SELECT last.status AS "status!", count(*) AS "count!" FROM (
               SELECT DISTINCT ON (aggregate_id) payload -> event_type -> 'transition' ->> 'to' AS status
               FROM events
               WHERE aggregate_type = 'Message' AND payload -> event_type -> 'transition' ->> 'run_id' = $1
               ORDER BY aggregate_id, sequence DESC
           ) last GROUP BY last.status"#,
        run.to_string(),
    )
    .fetch_all(pool)
    .await
    .unwrap()
    .into_iter()
    .map(|row| (row.status, row.count))
    .collect()
}

pub(crate) async fn last_position(pool: &PgPool) -> Position {
    sqlx::query_scalar!(r#"SELECT max(position) AS "last!" FROM events"#).fetch_one(pool).await.unwrap()
}
