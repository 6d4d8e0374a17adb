//! An engine of one test alone: its own database, its own vhost, its own sandbox, a clock that the test may own.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::app::{App, AppOptions, QueueChoice, Role};
use api::sandbox::{self, Outcomes, Sandbox, SandboxConfig};
use chrono::{DateTime, Utc};
use domain::aggregate::CommandEnvelope;
use domain::ids::{ContactId, MessageId, RunId, SenderId};
use domain::message::{Acceptance, Lane, MessageCommand, OnUnknown};
use infrastructure::clock::Clock;
use infrastructure::event_store::{Actor, Addressed, Attachment, BatchConfig, MessageStore};
use infrastructure::senders::{self, NewSender, Secret};
use infrastructure::tenants::{self, Tenant};
use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_kit::postgres::TestDatabase;
use test_kit::rabbitmq::TestVhost;
use test_kit::wait;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::turn::Turn;

pub(crate) const APP_SECRET: &str = "secret-of-the-tests";
pub(crate) const PHONE_NUMBER_ID: &str = "100000000000101";
const ACCESS_TOKEN: &str = "access-token-of-the-tests";
pub(crate) const VERIFY_TOKEN: &str = "verify-token-of-the-tests";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Postgres,
    Rabbitmq,
}

pub(crate) struct Options {
    pub(crate) queue: Queue,
    pub(crate) clock: Clock,
    pub(crate) outcomes: Outcomes,
    /// Messages per second.
    pub(crate) rate: u32,
    /// The access token that the sandbox accepts; `None`: any.
    pub(crate) accepted_token: Option<&'static str>,
    /// What this process does; processes of the test's own do the rest.
    pub(crate) roles: BTreeSet<Role>,
    /// Configuration of this process, as variables of the environment.
    pub(crate) settings: &'static [(&'static str, &'static str)],
    /// A broker of the test's own, instead of a vhost of the node that all tests share.
    pub(crate) broker_url: Option<String>,
    /// The test judges times: no other runs beside it.
    pub(crate) alone: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queue: Queue::Postgres,
            clock: Clock::system(),
            outcomes: Outcomes::AllRead,
            rate: 1000,
            accepted_token: None,
            roles: Role::all(),
            settings: &[],
            broker_url: None,
            alone: false,
        }
    }
}

pub(crate) struct Engine {
    pub(crate) database: TestDatabase,
    pub(crate) url: String,
    pub(crate) sandbox_url: String,
    pub(crate) clock: Clock,
    pub(crate) tenant: Tenant,
    token: String,
    http: reqwest::Client,
    app: App,
    sandbox: Sandbox,
    sandbox_stop: CancellationToken,
    broker_url: Option<String>,
    data: TempDir,
    /// The last to be dropped.
    _turn: Turn,
}

impl Engine {
    pub(crate) async fn start() -> Self {
        Self::start_with(Options::default()).await
    }

    pub(crate) async fn start_with(options: Options) -> Self {
        let turn = if options.alone { Turn::alone().await } else { Turn::beside_others().await };
        let database = TestDatabase::create().await;
        let broker_url = match (&options.broker_url, options.queue) {
            (Some(url), _) => Some(url.clone()),
            (None, Queue::Postgres) => None,
            (None, Queue::Rabbitmq) => Some(TestVhost::create().await.url),
        };
        let queue = broker_url.clone().map_or(QueueChoice::Postgres, |url| QueueChoice::Rabbitmq { url });
        let data = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tenant = tenants::ensure_tenant(&database.pool, "demo", "Asia/Kolkata", options.clock.now()).await.unwrap();
        let token = tenants::create_token(&database.pool, tenant.id, options.clock.now()).await.unwrap();
        let (sandbox, sandbox_stop) = start_sandbox(&options, address, data.path()).await;
        let sandbox_url = format!("http://{}", sandbox.address);
        add_sender(&database, &tenant, &sandbox_url, &options).await;
        let settings = options.settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let app = App::start(AppOptions {
            database_url: database.url.clone(),
            queue,
            clock: options.clock.clone(),
            config: Arc::new(api::config::load(None, settings).unwrap()),
            data: data.path().to_owned(),
            base_url_allowed: true,
            roles: options.roles,
            listener: Some(listener),
        })
        .await
        .unwrap();
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).no_proxy().build().unwrap();
        Self {
            database,
            url: format!("http://{address}"),
            sandbox_url,
            clock: options.clock,
            tenant,
            token,
            http,
            app,
            sandbox,
            sandbox_stop,
            broker_url,
            data,
            _turn: turn,
        }
    }

    /// Stops everything and checks that nothing is left in flight.
    pub(crate) async fn stop(self) {
        let left = sqlx::query!(
            r#"SELECT (SELECT count(*) FROM open_claims) AS "claims!", (SELECT count(*) FROM webhook_pending) AS "webhooks!",
                      (SELECT count(*) FROM fan_out_tasks) AS "tasks!""#
        )
        .fetch_one(&self.database.pool)
        .await
        .unwrap();
        assert_eq!(
            (left.claims, left.webhooks, left.tasks),
            (0, 0, 0),
            "claims, webhooks, fan-out tasks left in flight"
        );
        self.app.stop().await;
        self.sandbox_stop.cancel();
        self.sandbox.stopped().await;
        self.database.close().await;
    }

    pub(crate) async fn request(&self, method: Method, path: &str, body: Option<&Value>) -> (StatusCode, Value) {
        let request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token);
        send(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    /// Without a token, and with whatever headers and body a caller may think of.
    pub(crate) fn raw(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = self.request(Method::GET, path, None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.request(Method::POST, path, Some(body)).await;
        assert!(status.is_success(), "{path}: {status} {answer}");
        answer
    }

    pub(crate) async fn upload(&self, file: impl Into<Vec<u8>>) -> (StatusCode, Value) {
        let part = Part::bytes(file.into()).file_name("contacts.csv");
        let request = self.raw(Method::POST, "/v1/contacts/upload").bearer_auth(&self.token);
        send(request.multipart(Form::new().part("file", part))).await
    }

    /// So many contacts of a segment, numbered from 0, each with a name.
    pub(crate) async fn contacts(&self, segment: &str, count: u32) {
        let mut file = String::from("phone,name,segment\n");
        for number in 0..count {
            file.push_str(&format!("98250{number:05},Customer {number},{segment}\n"));
        }
        let (status, report) = self.upload(file).await;
        assert_eq!((status, &report["created"]), (StatusCode::OK, &json!(count)), "{report}");
    }

    pub(crate) async fn template(&self) -> String {
        let components = json!([{"type": "BODY", "text": "Dear {{1}}, your gold loan is due."}]);
        let template = json!({"name": "reminder", "language": "en", "category": "UTILITY", "components": components});
        id_of(&self.post("/v1/templates", &template).await)
    }

    pub(crate) async fn campaign(&self, change: impl FnOnce(&mut Value)) -> String {
        let template = self.template().await;
        self.campaign_on(&template, change).await
    }

    /// With a template that there is.
    pub(crate) async fn campaign_on(&self, template: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut campaign = json!({
            "name": "Reminders",
            "template_id": template,
            "target_segment": "gold",
            "campaign_type": "utility",
            "recurrence_type": "once",
            "start_date": "2026-01-01",
            "parameters": {"1": {"attribute": "name"}},
        });
        change(&mut campaign);
        id_of(&self.post("/v1/campaigns", &campaign).await)
    }

    pub(crate) async fn campaign_from(&self, body: Value) -> String {
        id_of(&self.post("/v1/campaigns", &body).await)
    }

    /// The token of another tenant.
    pub(crate) async fn stranger(&self) -> String {
        let now = self.clock.now();
        let tenant = tenants::create_tenant(&self.database.pool, "stranger", "Asia/Kolkata", now).await.unwrap();
        tenants::create_token(&self.database.pool, tenant.id, now).await.unwrap()
    }

    /// A message of a run that is not known, so that nothing of this engine feeds it.
    pub(crate) async fn queued_message(&self) -> MessageId {
        let (message, run_id) = (MessageId(Uuid::new_v4()), RunId(Uuid::new_v4()));
        let (contact_id, sender_id) = (ContactId(Uuid::new_v4()), self.sender().await);
        let (lane, on_unknown) = (Lane::Utility, OnUnknown::Hold);
        let queue = MessageCommand::QueueMessage { run_id, contact_id, sender_id, lane, on_unknown };
        self.command(message, queue, None).await;
        message
    }

    /// A message whose call is under way, made by a dispatcher of the test's own; nothing of this engine feeds it.
    pub(crate) async fn claimed_message(&self) -> MessageId {
        let message = self.queued_message().await;
        let deadline = self.clock.now() + chrono::TimeDelta::hours(1);
        let journal_id = Uuid::new_v4();
        self.command(message, MessageCommand::BeginDispatch { attempt: 1, deadline, journal_id }, None).await;
        message
    }

    /// Stores the answer of the call, as the dispatcher does.
    pub(crate) async fn answer_with_wamid(&self, message: MessageId, wamid: &str) {
        let at = self.clock.now();
        let (sender_id, wamid) = (self.sender().await.0, wamid.to_owned());
        let known_by = Attachment::ProviderMessage { sender_id, wamid, attempt: Some(1), at };
        self.command(
            message,
            MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at },
            Some(known_by),
        )
        .await;
    }

    /// Gives the number another access token, as `ektola sender add` does.
    pub(crate) async fn set_access_token(&self, access_token: &str) {
        register(&self.database, &self.tenant, &self.sandbox_url, access_token, self.clock.now()).await;
    }

    /// Moves the number's calls to another address.
    pub(crate) async fn set_address(&self, url: &str) {
        register(&self.database, &self.tenant, url, ACCESS_TOKEN, self.clock.now()).await;
    }

    /// `None`: the queue is in Postgres.
    pub(crate) fn broker_url(&self) -> Option<&str> {
        self.broker_url.as_deref()
    }

    /// The folder of this engine's journal and of the sandbox's ledger.
    pub(crate) fn data(&self) -> &Path {
        self.data.path()
    }

    pub(crate) async fn sender(&self) -> SenderId {
        senders::default_sender(&self.database.pool, self.tenant.id).await.unwrap().unwrap().id
    }

    /// Another number of the same tenant, which is the default from now on.
    pub(crate) async fn add_number(&self, phone_number_id: &str, rate: u32) -> SenderId {
        let added =
            NewSender { phone_number_id: phone_number_id.to_owned(), ..number(&self.tenant, &self.sandbox_url) };
        let added = senders::add_sender(&self.database.pool, added, self.clock.now()).await.unwrap();
        senders::set_rate(&self.database.pool, phone_number_id, rate).await.unwrap();
        added.id
    }

    async fn command(&self, message: MessageId, command: MessageCommand, attachment: Option<Attachment>) {
        let stop = CancellationToken::new();
        let store = MessageStore::start(&self.database.pool, &BatchConfig::default(), &TaskTracker::new(), &stop);
        let envelope = CommandEnvelope::new(self.tenant.id, self.clock.now(), command);
        let mut command = Addressed::new(message, envelope, Actor::Engine("test"));
        command.attachment = attachment;
        store.execute(command).await.unwrap();
        stop.cancel();
    }

    pub(crate) async fn activate(&self, campaign: &str) {
        self.post(&format!("/v1/campaigns/{campaign}/activate"), &json!({})).await;
    }

    /// The campaign's runs, the oldest first, once there are so many.
    pub(crate) async fn runs(&self, campaign: &str, count: usize) -> Vec<Value> {
        wait::until(Duration::from_secs(20), &format!("{count} runs of the campaign"), async || {
            let runs = self.get(&format!("/v1/campaigns/{campaign}/runs")).await;
            let runs = runs["items"].as_array().unwrap().clone();
            assert!(runs.len() <= count, "more runs than occurrences: {runs:?}");
            (runs.len() == count).then_some(runs)
        })
        .await
    }

    /// The run once `ready` says so.
    pub(crate) async fn run_when(&self, run: &str, what: &str, ready: impl Fn(&Value) -> bool) -> Value {
        wait::until(Duration::from_secs(60), what, async || {
            let run = self.get(&format!("/v1/runs/{run}")).await;
            ready(&run).then_some(run)
        })
        .await
    }

    /// The completed run once the sandbox owes nothing, every webhook is interpreted, and the read model shows it all.
    pub(crate) async fn settled(&self, run_id: &str) -> Value {
        wait::until(Duration::from_secs(60), "the run is completed and every status has come", async || {
            let owed = self.ledger().await["statuses_owed"].as_u64().unwrap();
            let pending = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_pending"#)
                .fetch_one(&self.database.pool)
                .await
                .unwrap();
            let last = sqlx::query_scalar!(
                r#"SELECT max(position) AS "last!" FROM events WHERE payload::text LIKE '%' || $1 || '%' OR aggregate_id = $1"#,
                run_id
            )
            .fetch_one(&self.database.owner)
            .await
            .unwrap();
            let run = self.get(&format!("/v1/runs/{run_id}")).await;
            let shown = run["position"].as_i64().unwrap() >= last;
            (owed == 0 && pending == 0 && shown && run["status"] == "completed").then_some(run)
        })
        .await
    }

    /// Until the sandbox owes nothing and every webhook is interpreted.
    pub(crate) async fn quiet(&self) {
        wait::until(Duration::from_secs(20), "every status has come and is interpreted", async || {
            let owed = self.ledger().await["statuses_owed"].as_u64().unwrap();
            let pending = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_pending"#)
                .fetch_one(&self.database.pool)
                .await
                .unwrap();
            (owed == 0 && pending == 0).then_some(())
        })
        .await;
    }

    pub(crate) async fn ledger(&self) -> Value {
        let (status, ledger) = send(self.http.get(format!("{}/_ledger", self.sandbox_url))).await;
        assert_eq!(status, StatusCode::OK);
        ledger
    }

    /// Changes what the sandbox does.
    pub(crate) async fn sandbox(&self, settings: &Value) {
        let request = self.http.patch(format!("{}/_control", self.sandbox_url)).json(settings);
        let (status, answer) = send(request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }

    /// All events of messages.
    pub(crate) async fn message_events(&self) -> i64 {
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events WHERE aggregate_type = 'Message'"#)
            .fetch_one(&self.database.pool)
            .await
            .unwrap()
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) async fn events_of(&self, event_type: &str) -> i64 {
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events WHERE event_type = $1"#, event_type)
            .fetch_one(&self.database.pool)
            .await
            .unwrap()
    }
}

pub(crate) async fn send(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

pub(crate) fn id_of(answer: &Value) -> String {
    answer["id"].as_str().unwrap_or_else(|| panic!("no id: {answer}")).to_owned()
}

async fn start_sandbox(options: &Options, engine: SocketAddr, data: &Path) -> (Sandbox, CancellationToken) {
    let stop = CancellationToken::new();
    let webhook_url = format!("http://{engine}/webhooks/whatsapp");
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = SandboxConfig::new(listen, webhook_url, APP_SECRET.to_owned(), data.join("ledger.jsonl"));
    config.outcomes = options.outcomes;
    config.access_token = options.accepted_token.map(str::to_owned);
    config.settings.statuses.gap_ms = 50;
    (sandbox::start(config, options.clock.clone(), stop.clone()).await.unwrap(), stop)
}

async fn add_sender(database: &TestDatabase, tenant: &Tenant, sandbox_url: &str, options: &Options) {
    register(database, tenant, sandbox_url, ACCESS_TOKEN, options.clock.now()).await;
    senders::set_rate(&database.pool, PHONE_NUMBER_ID, options.rate).await.unwrap();
}

async fn register(database: &TestDatabase, tenant: &Tenant, sandbox_url: &str, access_token: &str, now: DateTime<Utc>) {
    let sender = NewSender { access_token: Secret::new(access_token), ..number(tenant, sandbox_url) };
    senders::add_sender(&database.pool, sender, now).await.unwrap();
}

fn number(tenant: &Tenant, sandbox_url: &str) -> NewSender {
    NewSender {
        tenant_id: tenant.id,
        phone_number_id: PHONE_NUMBER_ID.to_owned(),
        waba_id: "100000000000001".to_owned(),
        base_url: Some(sandbox_url.to_owned()),
        access_token: Secret::new(ACCESS_TOKEN),
        app_secret: Secret::new(APP_SECRET),
        verify_token: Secret::new(VERIFY_TOKEN),
        sandbox: true,
    }
}
