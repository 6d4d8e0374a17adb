//! The composition root: the one place where everything is put together, by role.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use domain::sagas::{CompletionSaga, RunSaga, ScheduleSaga};
use infrastructure::clock::Clock;
use infrastructure::consent::{ConsentFollower, ContactFlagsEffect};
use infrastructure::dispatch_queue::{DispatchQueue, PostgresQueue, RabbitmqConfig, RabbitmqQueue};
use infrastructure::dispatcher::{
    AccountHolds, CallJournal, Dispatcher, DispatcherConfig, InFlight, MisfitLimits, Misfits, Sweeper,
};
use infrastructure::erasure::{Eraser, SuppressionKey};
use infrastructure::event_feed::{EventFeed, FeedConfig, LogTimes, TableEffect, follow};
use infrastructure::event_store::{BatchConfig, CampaignRunStore, CampaignStore, ConsentStore, MessageStore};
use infrastructure::fan_out::{FanOut, FanOutConfig, FanOutEffect};
use infrastructure::inbound::Listener;
use infrastructure::ready_list::{Feeder, FeederConfig, ReadyListEffect};
use infrastructure::sagas::{SagaConfig, SagaExecutor};
use infrastructure::seals::{SealKey, Sealer, SealerConfig};
use infrastructure::templates::{TemplateRunsEffect, TemplateSync, TemplateWatch};
use infrastructure::trouble::TroubleEffect;
use infrastructure::unknown::{UnknownConfig, UnknownEffect, UnknownWindow};
use infrastructure::webhook_inbox::{BodyPurge, FailureRules, Inbox, InboxConfig, Interpreter, InterpreterConfig};
use infrastructure::whatsapp::WhatsAppClient;
use infrastructure::{postgres, sagas};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::http::{self, ApiState};
use crate::readiness::Readiness;

/// What a process does. All of them by default; any number of processes may have the same role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// The HTTP commands and queries.
    Api,
    /// Receiving and interpreting webhooks.
    Webhooks,
    /// Triggering occurrences at their time.
    Scheduler,
    /// Starting, filling and completing runs.
    Sagas,
    /// Keeping the dispatch queue filled.
    Feeder,
    /// Calling WhatsApp.
    Dispatcher,
    /// Keeping the read models up to date.
    Projector,
}

impl Role {
    pub fn all() -> BTreeSet<Self> {
        Self::value_variants().iter().copied().collect()
    }
}

#[derive(Debug, Clone)]
pub enum QueueChoice {
    Postgres,
    Rabbitmq { url: String },
}

pub struct AppOptions {
    pub database_url: String,
    pub queue: QueueChoice,
    pub clock: Clock,
    pub config: Arc<Config>,
    /// For the call journal and spooled uploads.
    pub data: PathBuf,
    pub roles: BTreeSet<Role>,
    /// May a sender have another address than WhatsApp's own? For stand-ins only.
    pub base_url_allowed: bool,
    /// Where the roles `api` and `webhooks` listen.
    pub listener: Option<TcpListener>,
}

/// A running engine.
pub struct App {
    pub pool: PgPool,
    pub address: Option<SocketAddr>,
    pub readiness: Readiness,
    workers: TaskTracker,
    workers_stop: CancellationToken,
    stores: TaskTracker,
    stores_stop: CancellationToken,
}

/// How long a stopping engine waits for calls that are under way. Longer than a call may take.
const DRAIN_MAX: Duration = Duration::from_secs(45);
/// How long connections are waited for that somebody has not given back.
const POOL_CLOSE_MAX: Duration = Duration::from_secs(5);
/// More calls than that are not under way at once in one process: 16 numbers at their most.
const CALL_JOURNAL_SLOTS: usize = 16_384;

impl App {
    /// Migrates the database and starts what the roles ask for.
    pub async fn start(options: AppOptions) -> anyhow::Result<Self> {
        postgres::migrate(&options.database_url).await.context("the database could not be brought up to date")?;
        let pool = postgres::connect(&options.database_url, options.config.database.connections_max)
            .await
            .context("the database could not be reached")?;
        let app = Self {
            pool: pool.clone(),
            address: options.listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            readiness: Readiness::new(),
            workers: TaskTracker::new(),
            workers_stop: CancellationToken::new(),
            stores: TaskTracker::new(),
            stores_stop: CancellationToken::new(),
        };
        let parts = Parts::start(&app, &options).await?;
        app.start_projector_and_http(&parts, options.listener, &options.roles, &options.data)?;
        if options.roles.contains(&Role::Projector) {
            app.start_sealer(&parts, &options.data)?;
        }
        app.start_sagas(&parts, &options.roles);
        app.start_dispatch(&parts, &options.roles, &options.data, options.base_url_allowed)?;
        if options.roles.contains(&Role::Webhooks) {
            let config = InterpreterConfig {
                batch_max: parts.config.webhooks.interpret_batch_max,
                batch_bytes_max: parts.config.webhooks.interpret_batch_max_bytes,
                poll: parts.config.webhooks.interpret_poll(),
                attempts_max: parts.config.webhooks.interpret_attempts_max,
                waiting_max: parts.config.webhooks.status_waits(),
                failures: FailureRules {
                    waits: parts.config.retries.ladder(),
                    retries_max: parts.config.retries.after_acceptance_max,
                },
            };
            let purge = BodyPurge {
                pool: pool.clone(),
                clock: parts.clock.clone(),
                kept_days: parts.config.webhooks.bodies_kept_days,
            };
            app.workers.spawn(purge.run(app.workers_stop.clone()));
            let keywords = parts.config.consent.keywords().context("the words of consent cannot be used")?;
            let listener =
                Listener { pool: pool.clone(), consents: parts.consents.clone(), keywords: Arc::new(keywords) };
            let (clock, messages) = (parts.clock.clone(), parts.messages);
            let interpreter = Interpreter { pool, clock, messages, listener, config };
            app.workers.spawn(interpreter.run(app.workers_stop.clone()));
        }
        Ok(app)
    }

    /// Stops taking work, lets calls that are under way end, stores their outcomes, and returns.
    pub async fn stop(self) {
        self.workers_stop.cancel();
        self.workers.close();
        if tokio::time::timeout(DRAIN_MAX, self.workers.wait()).await.is_err() {
            tracing::warn!("some work did not end in time; it goes on after the next start");
        }
        self.stores_stop.cancel();
        self.stores.close();
        drop(tokio::time::timeout(DRAIN_MAX, self.stores.wait()).await);
        drop(tokio::time::timeout(POOL_CLOSE_MAX, self.pool.close()).await);
    }

    fn start_projector_and_http(
        &self,
        parts: &Parts,
        listener: Option<TcpListener>,
        roles: &BTreeSet<Role>,
        data: &std::path::Path,
    ) -> anyhow::Result<()> {
        let no_projector = CancellationToken::new();
        no_projector.cancel();
        // Without the role the followers end at once, and nobody waits for a projection of this process.
        let stop = if roles.contains(&Role::Projector) { &self.workers_stop } else { &no_projector };
        let gather = parts.config.events.gather();
        let progress = projections::projector::start_all(&self.pool, &parts.feed, gather, &self.workers, stop);
        let serves_http = roles.contains(&Role::Api) || roles.contains(&Role::Webhooks);
        let Some(listener) = listener.filter(|_| serves_http) else { return Ok(()) };
        // A folder for each process: several may share a data folder.
        let upload_dir = data.join("tmp").join(std::process::id().to_string());
        std::fs::create_dir_all(&upload_dir)
            .with_context(|| format!("the folder for uploads {} cannot be made", upload_dir.display()))?;
        // Uploads hold phone numbers; those of a process that was killed must not stay.
        remove_spools_of_ended_processes(&data.join("tmp"))
            .with_context(|| format!("{} cannot be cleared", data.join("tmp").display()))?;
        let inbox = InboxConfig {
            batch_max: parts.config.webhooks.store_batch_max,
            batch_bytes_max: parts.config.webhooks.store_batch_max_bytes,
            queue_max: parts.config.webhooks.store_queue_max,
            queue_bytes_max: parts.config.webhooks.store_queue_max_bytes,
        };
        let eraser = Eraser {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            consents: parts.consents.clone(),
            key: SuppressionKey::load_or_create(&parts.config.erasure.key_file(data))
                .context("erased numbers cannot be known again")?,
            http: Eraser::client()?,
        };
        if roles.contains(&Role::Api) {
            self.workers.spawn(eraser.clone().run(self.workers_stop.clone()));
        }
        let state = ApiState {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            config: parts.config.clone(),
            campaigns: parts.campaigns.clone(),
            runs: parts.runs.clone(),
            messages: parts.messages.clone(),
            consents: parts.consents.clone(),
            inbox: Inbox::start(&self.pool, &inbox, &self.stores, &self.stores_stop),
            templates: parts.templates.clone(),
            progress,
            eraser,
            feed: parts.feed.clone(),
            stop: self.workers_stop.clone(),
            upload_dir,
            readiness: self.readiness.clone(),
        };
        let router = http::router(state);
        let stop = self.workers_stop.clone();
        self.workers.spawn(async move {
            let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
            if let Err(error) = served {
                tracing::error!(%error, "HTTP is no longer served");
            }
        });
        Ok(())
    }

    fn start_sealer(&self, parts: &Parts, data: &std::path::Path) -> anyhow::Result<()> {
        let audit = &parts.config.audit;
        let key = SealKey::load_or_create(&audit.key_file(data)).context("the log cannot be sealed")?;
        let config = SealerConfig { every: audit.seal_every(), segment_max: audit.segment_events_max };
        let (pool, clock) = (self.pool.clone(), parts.clock.clone());
        let times = LogTimes { pool: pool.clone(), clock: clock.clone(), feed: parts.feed.clone() };
        self.workers.spawn(times.run(self.workers_stop.clone()));
        self.workers.spawn(Sealer { pool, clock, key, config }.run(self.workers_stop.clone()));
        Ok(())
    }

    fn start_sagas(&self, parts: &Parts, roles: &BTreeSet<Role>) {
        let executor = SagaExecutor {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            campaigns: parts.campaigns.clone(),
            runs: parts.runs.clone(),
        };
        let config = SagaConfig { timer_poll: parts.config.scheduler.poll(), gather: parts.config.events.gather() };
        let (feed, stop) = (&parts.feed, &self.workers_stop);
        if roles.contains(&Role::Scheduler) {
            let saga = sagas::run::<ScheduleSaga>(executor.clone(), feed.clone(), config.clone(), stop.clone());
            self.workers.spawn(saga);
        }
        if !roles.contains(&Role::Sagas) {
            return;
        }
        self.workers.spawn(sagas::run::<RunSaga>(executor.clone(), feed.clone(), config.clone(), stop.clone()));
        self.workers.spawn(sagas::run::<CompletionSaga>(executor, feed.clone(), config, stop.clone()));
        self.follow(parts, Arc::new(FanOutEffect));
        self.start_reactions(parts);
        let fan_out = FanOut {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            messages: parts.messages.clone(),
            runs: parts.runs.clone(),
            feed: parts.feed.clone(),
            policy: parts.config.consent.policy(),
            config: FanOutConfig {
                page_size: i64::from(parts.config.fan_out.page_size),
                lease: parts.config.fan_out.lease(),
                poll: parts.config.scheduler.poll(),
                lag_max: parts.config.fan_out.lag_max_events,
            },
        };
        self.workers.spawn(fan_out.run(stop.clone()));
    }

    /// What follows from what WhatsApp and contacts say: doubts are listed and end, trouble and paused templates stall what
    /// they concern, a stop cancels what is queued.
    fn start_reactions(&self, parts: &Parts) {
        let (pool, clock) = (self.pool.clone(), parts.clock.clone());
        self.follow(parts, Arc::new(UnknownEffect));
        let window = UnknownWindow {
            pool: pool.clone(),
            clock: clock.clone(),
            messages: parts.messages.clone(),
            config: UnknownConfig {
                unconfirmed_after: parts.config.unknown.unconfirmed_after(),
                resend_after: parts.config.unknown.resend_after(),
                attempts_max: parts.config.dispatch.attempts_max,
                poll: parts.config.unknown.poll(),
            },
        };
        self.workers.spawn(window.run(self.workers_stop.clone()));
        self.follow(parts, Arc::new(TroubleEffect { pool, clock, runs: parts.runs.clone() }));
        self.follow(parts, Arc::new(ContactFlagsEffect));
        let consent = ConsentFollower {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            messages: parts.messages.clone(),
            consents: parts.consents.clone(),
        };
        self.follow(parts, Arc::new(consent));
        self.follow(parts, Arc::new(TemplateRunsEffect));
        let watch = TemplateWatch {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            runs: parts.runs.clone(),
            poll: parts.config.templates.watch_poll(),
        };
        self.workers.spawn(watch.run(self.workers_stop.clone()));
        self.workers.spawn(parts.templates.clone().run(self.workers_stop.clone()));
    }

    fn start_dispatch(
        &self,
        parts: &Parts,
        roles: &BTreeSet<Role>,
        data: &std::path::Path,
        base_url_allowed: bool,
    ) -> anyhow::Result<()> {
        let stop = &self.workers_stop;
        let config = &parts.config;
        if roles.contains(&Role::Feeder) {
            self.follow(parts, Arc::new(ReadyListEffect));
            let (trouble, mut troubled) = tokio::sync::watch::channel(None);
            let readiness = self.readiness.clone();
            self.workers.spawn(async move {
                // Ends with the feeder, which drops its half.
                while troubled.changed().await.is_ok() {
                    readiness.set("dispatch queue", troubled.borrow_and_update().clone());
                }
            });
            let feeder = Feeder {
                trouble,
                pool: self.pool.clone(),
                clock: parts.clock.clone(),
                queue: parts.queue.clone(),
                messages: parts.messages.clone(),
                feed: parts.feed.clone(),
                config: FeederConfig {
                    poll: config.feeder.poll(),
                    outstanding: config.feeder.outstanding(),
                    republish_after: config.feeder.republish_after(),
                },
            };
            self.workers.spawn(feeder.run(stop.clone()));
        }
        if !roles.contains(&Role::Dispatcher) {
            return Ok(());
        }
        let client = WhatsAppClient::try_new(config.client())?;
        let path = data.join("journal");
        let (journal, recovered) = CallJournal::open(&path, CALL_JOURNAL_SLOTS)
            .with_context(|| format!("the call journal {} cannot be opened", path.display()))?;
        if !recovered.marks.is_empty() {
            tracing::info!(calls = recovered.marks.len(), "calls were under way when the engine last ended");
        }
        let in_flight = InFlight::default();
        let sweeper = Sweeper {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            messages: parts.messages.clone(),
            journal: journal.clone(),
            in_flight: in_flight.clone(),
            grace: config.dispatch.call_timeout() + config.dispatch.sweep_margin(),
        };
        self.workers.spawn(sweeper.run(recovered, stop.clone()));
        let dispatcher = Dispatcher {
            pool: self.pool.clone(),
            clock: parts.clock.clone(),
            queue: parts.queue.clone(),
            messages: parts.messages.clone(),
            runs: parts.runs.clone(),
            client,
            journal,
            in_flight,
            account_holds: AccountHolds::default(),
            misfits: Misfits::new(MisfitLimits {
                in_row: config.dispatch.misfits_in_row,
                percent: config.dispatch.misfits_percent,
            }),
            config: DispatcherConfig {
                claim_batch_max: usize::try_from(config.dispatch.claim_batch_max).unwrap_or(usize::MAX),
                claim_ttl: config.dispatch.claim_ttl(),
                concurrency: config.dispatch.concurrency(),
                lease_ttl: config.dispatch.lease_ttl(),
                base_url_allowed,
                attempts_max: config.dispatch.attempts_max,
                outage_after: config.dispatch.outage_after,
                strikes_max: config.dispatch.strikes_max,
                pacing: config.dispatch.pacing(),
                pairs: config.dispatch.pair(),
            },
        };
        self.workers.spawn(dispatcher.run(stop.clone()));
        Ok(())
    }

    fn follow(&self, parts: &Parts, effect: Arc<dyn TableEffect>) {
        let (progress, _) = tokio::sync::watch::channel(0);
        let stop = self.workers_stop.clone();
        self.workers.spawn(follow(self.pool.clone(), parts.feed.clone(), effect, progress, stop));
    }
}

/// Each process names its folder by its id.
fn remove_spools_of_ended_processes(spools: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(spools)? {
        let path = entry?.path();
        let process = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        let is_alive = |pid: i32| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok();
        if process.is_some_and(|pid| !is_alive(pid)) {
            std::fs::remove_dir_all(path)?;
        }
    }
    Ok(())
}

/// What the roles share.
struct Parts {
    clock: Clock,
    config: Arc<Config>,
    campaigns: CampaignStore,
    runs: CampaignRunStore,
    messages: MessageStore,
    consents: ConsentStore,
    feed: EventFeed,
    queue: Arc<dyn DispatchQueue>,
    templates: TemplateSync,
}

impl Parts {
    async fn start(app: &App, options: &AppOptions) -> anyhow::Result<Self> {
        let (pool, config) = (&app.pool, &options.config);
        let batch = BatchConfig {
            batch_max: config.messages.batch_max,
            batch_wait: config.messages.batch_wait(),
            conflict_retries_max: config.messages.conflict_retries_max,
            writers: config.messages.writers,
            states_max: config.messages.states_max,
        };
        let feed = FeedConfig {
            poll_busy: config.events.mark_poll_busy(),
            poll_idle: config.events.mark_poll_idle(),
            stall_warning: config.events.mark_stall_warning(),
            batch_max: usize::try_from(config.events.feed_batch_max).unwrap_or(usize::MAX),
            ring_max: config.events.feed_ring_max,
        };
        let queue: Arc<dyn DispatchQueue> = match &options.queue {
            QueueChoice::Postgres => Arc::new(PostgresQueue::new(pool.clone(), PostgresQueue::LEASE)),
            QueueChoice::Rabbitmq { url } => {
                let prefetch = config.dispatch.prefetch;
                Arc::new(RabbitmqQueue::new(RabbitmqConfig { url: url.clone(), prefetch }))
            }
        };
        let templates = config.template_sync(pool.clone(), options.clock.clone(), options.base_url_allowed)?;
        Ok(Self {
            clock: options.clock.clone(),
            config: config.clone(),
            templates,
            campaigns: CampaignStore::new(pool.clone()),
            runs: CampaignRunStore::new(pool.clone()),
            messages: MessageStore::start(pool, &batch, &app.stores, &app.stores_stop),
            consents: ConsentStore::start(pool, &batch, &app.stores, &app.stores_stop),
            feed: EventFeed::start(pool.clone(), feed, &app.workers, &app.workers_stop)
                .await
                .context("the event log cannot be read")?,
            queue,
        })
    }
}
