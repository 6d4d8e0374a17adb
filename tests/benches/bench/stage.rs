//! Engine and sandbox on one database, and campaigns followed from activation to READ.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior};

use crate::engine::Engine;
use crate::installation::Installation;
use crate::sandbox::{Behaviour, Sandbox};
use crate::site::{Database, Site};
use crate::usage::{CpuSeconds, Meter, peak_mb};

/// Seldom enough not to be part of the load.
const POLL: Duration = Duration::from_millis(250);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// After the last READ, what is still to be said of a run.
const SETTLE_MAX: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    Rabbitmq,
    Postgres,
}

pub(crate) struct Stage {
    pub(crate) engine: Engine,
    pub(crate) sandbox: Sandbox,
    vhost: Option<String>,
    meter: Meter,
}

/// What the runs of several campaigns add up to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    pub(crate) audience: u64,
    pub(crate) attempted: u64,
    pub(crate) sent: u64,
    pub(crate) delivered: u64,
    pub(crate) read: u64,
    /// Runs whose audience is resolved.
    pub(crate) resolved: u64,
}

impl Totals {
    fn add(&mut self, run: &Value) {
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        self.audience += number(&run["audience"]);
        self.attempted += number(&run["funnel"]["attempted"]);
        self.sent += number(&run["funnel"]["sent"]);
        self.delivered += number(&run["funnel"]["delivered"]);
        self.read += number(&run["funnel"]["read"]);
        self.resolved += u64::from(!run["audience_resolved_at"].is_null());
    }
}

/// How campaigns went from activation to the last READ.
pub(crate) struct Course {
    pub(crate) seconds: f64,
    pub(crate) cpu: CpuSeconds,
    pub(crate) engine_peak_mb: f64,
    /// Before the activation.
    pub(crate) engine_idle_mb: f64,
    /// Once a second, what the runs showed.
    pub(crate) timeline: Vec<Value>,
}

impl Stage {
    /// All roles in one engine.
    pub(crate) async fn open(
        site: &Site,
        database: &Database,
        installation: &Installation,
        queue: Queue,
        behaviour: Behaviour,
    ) -> Result<Self> {
        let (vhost, amqp_url) = match queue {
            Queue::Rabbitmq => site.vhost().await.map(|(vhost, url)| (Some(vhost), Some(url)))?,
            Queue::Postgres => (None, None),
        };
        let engine = Engine::start(database, installation, amqp_url.as_deref(), None).await?;
        let webhook_url = format!("{}/webhooks/whatsapp", engine.address);
        let sandbox = Sandbox::start(&installation.data, &webhook_url, behaviour).await?;
        let mut meter = site.meter();
        meter.engine = Some(engine.pid());
        meter.sandbox = Some(sandbox.process.pid());
        meter.rabbitmq = site.rabbitmq_pid().filter(|_| queue == Queue::Rabbitmq);
        Ok(Self { engine, sandbox, vhost, meter })
    }

    pub(crate) fn meter(&self) -> Meter {
        self.meter
    }

    /// Activates the campaigns together and follows them until all their messages are read. The clock starts before
    /// the first activation and stops when `GET /v1/runs/{id}` shows the last READ.
    pub(crate) async fn follow_to_read(
        &mut self,
        site: &Site,
        what: &str,
        campaigns: &[String],
        messages: u32,
        limit: Duration,
    ) -> Result<Course> {
        site.checkpoint().await?;
        let (before, engine_idle_mb) = (self.meter.read()?, peak_mb(self.engine.pid())?);
        let began = Instant::now();
        let engine = &self.engine;
        let started = futures::future::try_join_all(campaigns.iter().map(async |campaign| {
            engine.activate(campaign).await?;
            engine.run_of(campaign).await
        }));
        let runs = started.await?;
        let mut timeline = Vec::new();
        let mut next_sample = began;
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            poll.tick().await;
            let totals = self.totals(&runs).await?;
            let elapsed = began.elapsed();
            if Instant::now() >= next_sample {
                timeline.push(sample(elapsed, &totals));
                next_sample += SAMPLE_EVERY;
            }
            let Totals { audience, attempted, sent, read, .. } = totals;
            let state = format!("{audience} queued, {attempted} attempted, {sent} sent, {read} read of {messages}");
            site.progress.show(format!("{what}: {state}"));
            if read >= u64::from(messages) {
                timeline.push(sample(elapsed, &totals));
                let (cpu, engine_peak_mb) = (self.meter.read()? - before, peak_mb(self.engine.pid())?);
                self.settle(&runs).await?;
                let seconds = elapsed.as_secs_f64();
                return Ok(Course { seconds, cpu, engine_peak_mb, engine_idle_mb, timeline });
            }
            self.engine.process.check()?;
            self.sandbox.process.check()?;
            if elapsed > limit {
                bail!("after {} s: {state}; the engine said:\n{}", limit.as_secs(), self.engine.process.last_words());
            }
        }
    }

    pub(crate) async fn totals(&self, runs: &[String]) -> Result<Totals> {
        let mut totals = Totals::default();
        for run in runs {
            totals.add(&self.engine.run(run).await?);
        }
        Ok(totals)
    }

    /// Every run completes, each of its messages is read, and the sandbox saw each of them once.
    async fn settle(&self, runs: &[String]) -> Result<()> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut audience = 0;
        for run in runs {
            let document = loop {
                let document = self.engine.run(run).await?;
                if document["status"] == "completed" {
                    break document;
                }
                ensure!(Instant::now() < deadline, "all are read, but the run does not complete: {document}");
                tokio::time::sleep(POLL).await;
            };
            let counts: Vec<u64> = document["counts"]
                .as_object()
                .context("a run has counts")?
                .values()
                .filter_map(Value::as_u64)
                .collect();
            let sum: u64 = counts.iter().sum();
            ensure!(document["audience"] == sum, "the counts do not add up to the audience: {document}");
            ensure!(document["counts"]["read"] == sum, "not all messages are read: {document}");
            audience += sum;
        }
        let ledger = self.sandbox.counts().await?;
        ensure!(ledger.doubled == 0, "{} messages were accepted more than once", ledger.doubled);
        ensure!(ledger.accepted == audience, "{} calls were accepted for {audience} messages", ledger.accepted);
        ensure!(ledger.statuses_owed == 0, "{} statuses did not come", ledger.statuses_owed);
        Ok(())
    }

    /// Ends engine and sandbox in order, after a look at the queues that the engine has declared.
    pub(crate) async fn close(self, site: &Site) -> Result<()> {
        if let Some(vhost) = &self.vhost {
            site.check_queues_are_durable(vhost).await?;
        }
        self.engine.process.stop().await?;
        self.sandbox.process.stop().await
    }
}

fn sample(elapsed: Duration, totals: &Totals) -> Value {
    json!({
        "s": elapsed.as_secs_f64(),
        "queued": totals.audience,
        "attempted": totals.attempted,
        "sent": totals.sent,
        "delivered": totals.delivered,
        "read": totals.read,
    })
}
