//! The open runs of each template follow its status: a run stops while its template may not be sent, and goes on when
//! Meta approves the template again, without anybody's doing, as long as Meta itself lifts pauses.
//!
//! The watch compares states instead of following news, so it does not matter from where, how late or how often the
//! news came, nor which came first, the run or the news.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::aggregate::CommandEnvelope;
use domain::campaign_run::{CampaignRunCommand, CampaignRunEvent, RunStatus, StallReason};
use domain::event::{Event, RecordedEvent};
use domain::ids::{RunId, TenantId};
use domain::message::Lane;
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::APPROVED;
use super::changes::PAUSES_LIFTED_MAX;
use crate::clock::Clock;
use crate::event_feed::TableEffect;
use crate::event_store::{Actor, Addressed, CampaignRunStore, CommandError};

/// Meta's code for a template that is paused for its quality.
const TEMPLATE_PAUSED: i32 = 132_015;
/// Runs that are stopped or resumed in one turn.
const RUNS_MAX: i64 = 500;

/// Keeps the list of open runs by template.
pub struct TemplateRunsEffect;

#[async_trait]
impl TableEffect for TemplateRunsEffect {
    fn name(&self) -> &'static str {
        "template-runs"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        matches!(event.event, Event::CampaignRun(_))
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        for event in events {
            let Event::CampaignRun(run) = &event.event else { continue };
            let state = match run {
                CampaignRunEvent::Started { definition, .. } => {
                    add_in_tx(connection, event, definition.template.template_id.0, definition.lane).await?;
                    continue;
                }
                CampaignRunEvent::Resumed { .. } => "running",
                CampaignRunEvent::Stalled {
                    reason: StallReason::TemplateNotApproved { .. } | StallReason::TemplateIsOffer,
                } => "waiting",
                CampaignRunEvent::Stalled { reason: StallReason::TemplateRefused { code: TEMPLATE_PAUSED } } => {
                    "refused"
                }
                CampaignRunEvent::Stalled { .. } | CampaignRunEvent::Paused { .. } => "held",
                CampaignRunEvent::Cancelled { .. }
                | CampaignRunEvent::Expired { .. }
                | CampaignRunEvent::Completed { .. } => {
                    sqlx::query!("DELETE FROM template_runs WHERE run_id = $1", event.aggregate_id)
                        .execute(&mut *connection)
                        .await?;
                    continue;
                }
                CampaignRunEvent::AudienceResolved { .. } => continue,
            };
            sqlx::query!(
                "UPDATE template_runs SET state = $2, since = $3 WHERE run_id = $1",
                event.aggregate_id,
                state,
                event.at,
            )
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

async fn add_in_tx(
    connection: &mut PgConnection,
    event: &RecordedEvent,
    template: uuid::Uuid,
    lane: Lane,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO template_runs (run_id, tenant_id, template_id, state, since, reminders)
         VALUES ($1, $2, $3, 'running', $4, $5)
         ON CONFLICT (run_id) DO NOTHING",
        event.aggregate_id,
        event.tenant_id.0,
        template,
        event.at,
        lane == Lane::Utility,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Stops and resumes runs; several at once do no harm.
#[derive(Clone)]
pub struct TemplateWatch {
    pub pool: PgPool,
    pub clock: Clock,
    pub runs: CampaignRunStore,
    /// How often the templates of open runs are looked at.
    pub poll: Duration,
}

#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("the templates of open runs could not be read")]
    Database(#[from] sqlx::Error),
    #[error("a run could not be stopped or resumed")]
    Command(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl TemplateWatch {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            if let Err(error) = self.turn().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "runs follow their templates later");
            }
            tokio::select! {
                () = tokio::time::sleep(self.poll) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn turn(&self) -> Result<(), WatchError> {
        // A refusal may come before its news. Approval that is older than the refusal does not lift it.
        let rows = sqlx::query!(
            r#"SELECT r.run_id, r.tenant_id, t.status, r.state = 'running' AS "running!"
             FROM template_runs r
             JOIN templates t ON t.id = r.template_id AND t.tenant_id = r.tenant_id
             WHERE (r.state = 'running' AND (t.status <> 'APPROVED' OR (r.reminders AND t.category = 'MARKETING')))
                OR (t.status = 'APPROVED' AND NOT (r.reminders AND t.category = 'MARKETING') AND t.pauses <= $1
                    AND (r.state = 'waiting' OR (r.state = 'refused' AND t.status_at > r.since)))
             ORDER BY r.run_id LIMIT $2"#,
            PAUSES_LIFTED_MAX,
            RUNS_MAX,
        )
        .fetch_all(&self.pool)
        .await?;
        for row in rows {
            let (run, tenant) = (RunId(row.run_id), TenantId(row.tenant_id));
            if !row.running {
                // A person may have paused it in the meantime.
                let found = self.runs.load(run).await.map_err(|error| WatchError::Command(Box::new(error)))?;
                if found.status() == Some(RunStatus::Stalled) {
                    self.give(run, tenant, CampaignRunCommand::Resume).await?;
                }
            } else if row.status == APPROVED {
                self.give(run, tenant, CampaignRunCommand::Stall { reason: StallReason::TemplateIsOffer }).await?;
            } else {
                let reason = StallReason::TemplateNotApproved { status: row.status };
                self.give(run, tenant, CampaignRunCommand::Stall { reason }).await?;
            }
        }
        Ok(())
    }

    async fn give(&self, run: RunId, tenant: TenantId, command: CampaignRunCommand) -> Result<(), WatchError> {
        let envelope = CommandEnvelope::new(tenant, self.clock.now(), command);
        match self.runs.execute(Addressed::new(run, envelope, Actor::Engine("templates"))).await {
            Ok(committed) => {
                for (_, event) in &committed.events {
                    crate::sagas::log_run_event(run, event);
                }
                Ok(())
            }
            // It was paused or has ended in the meantime.
            Err(CommandError::Refused(_)) => Ok(()),
            Err(error) => Err(WatchError::Command(Box::new(error))),
        }
    }
}
