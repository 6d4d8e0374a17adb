//! A database with an engine that projects, and a history to fold.

use domain::campaign::{CampaignCommand, Trigger};
use domain::campaign_run::CampaignRunCommand;
use domain::ids::{MessageId, RunId};
use jiff::civil::date;
use projections::{messages, runs};
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::script::{DEADLINE, Engine, Script, Ways, at, last_position};

/// A database, an engine that projects in batches of three, and a tenant with a campaign, a run and a test run.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) engine: Option<Engine>,
    pub(crate) script: Script,
    pub(crate) run: RunId,
    pub(crate) ways: Ways,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl World {
    pub(crate) async fn create() -> Self {
        let database = TestDatabase::create().await;
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let engine = Engine::start(&database.pool, 3).await;
        let script = Script::begin(&database.pool, "shri", &tasks, &shutdown).await;
        script.campaign(-10, CampaignCommand::Create { definition: script.definition("Diwali") }).await;
        let revised = script.definition("Diwali offers");
        script.campaign(-9, CampaignCommand::Revise { based_on: 1, definition: revised }).await;
        script.campaign(-8, CampaignCommand::Activate).await;
        let local = date(2026, 12, 1).at(10, 0, 0, 0);
        let run = RunId::of_occurrence(script.campaign, 2, local, at(0));
        let trigger = Trigger::Schedule { revision: 2, local };
        let triggered = CampaignCommand::TriggerRun { run_id: run, trigger: trigger.clone(), nominal_at: at(0) };
        script.campaign(0, triggered).await;
        script.start_run(run, 1, trigger).await;
        let ways = script.every_way(run).await;
        script.run(run, 24, CampaignRunCommand::ResolveAudience { queued: 11, skipped: 1 }).await;
        Self { database, engine: Some(engine), script, run, ways, tasks, shutdown }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    /// Waits until the engine has projected everything that was written so far.
    pub(crate) async fn settle(&self) {
        let engine = self.engine.as_ref().expect("the engine runs");
        assert!(engine.progress.wait_for(last_position(self.pool()).await, DEADLINE).await);
    }

    pub(crate) async fn stop_engine(&mut self) {
        self.settle().await;
        self.engine.take().expect("the engine runs").stop().await;
    }

    pub(crate) async fn run_row(&self, run: RunId) -> runs::read::RunRow {
        runs::read::find(self.pool(), self.script.tenant, run).await.unwrap().expect("the run")
    }

    pub(crate) async fn message_row(&self, message: MessageId) -> messages::read::MessageWithTimeline {
        messages::read::find(self.pool(), self.script.tenant, message).await.unwrap().expect("the message")
    }

    pub(crate) async fn close(mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop().await;
        }
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.database.close().await;
    }
}
