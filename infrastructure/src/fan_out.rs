//! The fan-out: one message per contact of a run's audience, page by page.
//!
//! A run that starts leaves a task with a cursor of its own. Workers take turns over the tasks, one page at a time, so
//! that a small run never waits for a large one. A page that is worked twice finds its messages there already, since
//! their ids are derived; so the cursor may follow the page and a crash in between costs nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use domain::aggregate::{CommandEnvelope, Position};
use domain::campaign_run::{Audience, CampaignRunCommand, CampaignRunEvent, RunDefinition};
use domain::event::{Event, RecordedEvent};
use domain::ids::{ContactId, MessageId, RunId, TenantId};
use domain::message::{Message, MessageCommand, MessageStatus, SkipReason};
use domain::template::{FillError, Template};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::consent::{ConsentPolicy, Standing, StandingError, standings};
use crate::contacts::{AudienceMember, audience_member, audience_page, is_being_changed};
use crate::event_feed::{EventFeed, TableEffect};
use crate::event_store::{
    Actor, Addressed, Attachment, CampaignRunStore, CommandError, Committed, MessageStore, RecipientRow,
};

/// Notes down the runs whose audience has to be resolved.
pub struct FanOutEffect;

#[async_trait]
impl TableEffect for FanOutEffect {
    fn name(&self) -> &'static str {
        "fan-out"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        matches!(event.event, Event::CampaignRun(CampaignRunEvent::Started { .. }))
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        for event in events {
            sqlx::query!(
                "INSERT INTO fan_out_tasks (run_id, tenant_id, position) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                event.aggregate_id,
                event.tenant_id.0,
                event.position,
            )
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
pub struct FanOutConfig {
    /// Contacts per page.
    pub page_size: i64,
    /// A page that takes longer than this is taken over by another worker.
    pub lease: Duration,
    /// How often new tasks are looked for.
    pub poll: Duration,
    /// Events by which the slowest follower of the log may lag before the fan-out slows down.
    pub lag_max: Position,
}

/// Between two pages while a follower lags: what is written faster than it is read makes every screen older, and sending
/// is what the permit allows in any case. It goes on all the same, for a follower may be broken.
const LAGGING_PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct FanOut {
    pub pool: PgPool,
    pub clock: Clock,
    pub messages: MessageStore,
    pub runs: CampaignRunStore,
    pub feed: EventFeed,
    pub policy: ConsentPolicy,
    pub config: FanOutConfig,
}

#[derive(Debug, thiserror::Error)]
enum FanOutError {
    #[error("the audience could not be read")]
    Database(#[from] sqlx::Error),
    #[error("the messages of a page could not be queued")]
    Command(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Consent(#[from] StandingError),
}

struct Task {
    run_id: RunId,
    tenant_id: TenantId,
    position: i64,
    cursor: ContactId,
    queued: i64,
    skipped: i64,
}

impl FanOut {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.turn().await {
                Ok(true) => self.pause_for_followers().await,
                Ok(false) => self.config.poll,
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "a page of an audience is tried again");
                    Duration::from_millis(500)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn pause_for_followers(&self) -> Duration {
        let slowest = sqlx::query_scalar!(
            "SELECT min(position) FROM subscriptions
             WHERE name = 'ready-list' OR name IN (SELECT subscription FROM projection_builds WHERE state = 'live')"
        )
        .fetch_one(&self.pool)
        .await;
        match slowest {
            Ok(Some(position)) if self.feed.mark() - position > self.config.lag_max => LAGGING_PAUSE,
            // What is wrong with the database shows with the next page.
            Ok(_) | Err(_) => Duration::ZERO,
        }
    }

    /// One page of one run; `false` if there is nothing to do.
    async fn turn(&self) -> Result<bool, FanOutError> {
        let Some(task) = self.take_task().await? else { return Ok(false) };
        let run = self.runs.load(task.run_id).await.map_err(command_error)?;
        let Some(definition) = run.definition() else { return Ok(true) };
        if run.status().is_some_and(domain::campaign_run::RunStatus::has_ended) {
            self.end_task(&task).await?;
            return Ok(true);
        }
        if is_being_changed(&self.pool, task.tenant_id).await? {
            // The task comes again when its lease is over; the runs of other tenants need not wait for this import.
            return Ok(true);
        }
        let (members, last_page) = self.page(&task, definition).await?;
        let (queued, skipped) = self.queue_page(&task, definition, &members).await?;
        let (queued, skipped) = (task.queued + queued, task.skipped + skipped);
        if !last_page {
            let cursor = members.last().map_or(task.cursor, |member| member.contact_id);
            self.move_cursor(&task, cursor, queued, skipped).await?;
            return Ok(true);
        }
        let counts = CampaignRunCommand::ResolveAudience {
            queued: u64::try_from(queued).unwrap_or_default(),
            skipped: u64::try_from(skipped).unwrap_or_default(),
        };
        let envelope = CommandEnvelope::new(task.tenant_id, self.clock.now(), counts).caused_by(task.position);
        match self.runs.execute(Addressed::new(task.run_id, envelope, Actor::Engine("fan-out"))).await {
            Ok(_) | Err(CommandError::Refused(_)) => {}
            Err(error) => return Err(command_error(error)),
        }
        tracing::info!(run.id = %task.run_id, contacts = queued + skipped, skipped, "audience resolved");
        self.end_task(&task).await?;
        Ok(true)
    }

    /// The task that has waited longest for its turn.
    async fn take_task(&self) -> Result<Option<Task>, sqlx::Error> {
        let row = sqlx::query!(
            "UPDATE fan_out_tasks
             SET leased_until = clock_timestamp() + make_interval(secs => $1),
                 last_turn = (SELECT max(last_turn) + 1 FROM fan_out_tasks)
             WHERE run_id = (SELECT run_id FROM fan_out_tasks WHERE leased_until < clock_timestamp()
                             ORDER BY last_turn, run_id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING run_id, tenant_id, position, cursor, queued, skipped",
            self.config.lease.as_secs_f64(),
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| Task {
            run_id: RunId(row.run_id),
            tenant_id: TenantId(row.tenant_id),
            position: row.position,
            cursor: ContactId(row.cursor),
            queued: row.queued,
            skipped: row.skipped,
        }))
    }

    async fn page(&self, task: &Task, run: &RunDefinition) -> Result<(Vec<AudienceMember>, bool), sqlx::Error> {
        match &run.audience {
            Audience::Segment { name } => {
                let size = self.config.page_size;
                let members = audience_page(&self.pool, task.tenant_id, name, task.position, task.cursor, size).await?;
                let last_page = i64::try_from(members.len()).unwrap_or(i64::MAX) < size;
                Ok((members, last_page))
            }
            Audience::Contact { contact_id } => {
                let member = audience_member(&self.pool, task.tenant_id, *contact_id, task.position).await?;
                Ok((member.into_iter().collect(), true))
            }
        }
    }

    /// How many contacts were queued and skipped, as the messages themselves say: a page that is worked again after
    /// a crash counts what was decided the first time.
    async fn queue_page(
        &self,
        task: &Task,
        run: &RunDefinition,
        members: &[AudienceMember],
    ) -> Result<(i64, i64), FanOutError> {
        let ids: Vec<ContactId> = members.iter().map(|member| member.contact_id).collect();
        let standings = standings(&self.pool, &ids).await?;
        let unsaid = Standing::default();
        let now = self.clock.now();
        // A run whose template could not be read is stalled; its messages wait for a person to look at it.
        let template = Template::parse(&run.template.components).ok();
        let commands = members
            .iter()
            .map(|member| {
                let standing = standings.get(&member.contact_id).unwrap_or(&unsaid);
                let refusal = match run.audience {
                    Audience::Segment { .. } => self.policy.refusal(standing, member.opt_in, run.lane, now),
                    // Somebody asked for this one message to this one number.
                    Audience::Contact { .. } => standing.refusal(run.lane),
                };
                self.command(task, run, template.as_ref(), member, refusal)
            })
            .collect();
        let (mut queued, mut skipped) = (0, 0);
        for answer in self.messages.execute_many(commands).await {
            let Committed { state, .. }: Committed<Message> = answer.map_err(command_error)?;
            if state.status() == Some(MessageStatus::Skipped) { skipped += 1 } else { queued += 1 }
        }
        Ok((queued, skipped))
    }

    fn command(
        &self,
        task: &Task,
        run: &RunDefinition,
        template: Option<&Template>,
        member: &AudienceMember,
        refusal: Option<SkipReason>,
    ) -> Addressed<MessageCommand> {
        let id = MessageId::of(task.run_id, member.contact_id, run.nominal_at);
        let (run_id, contact_id, sender_id) = (task.run_id, member.contact_id, run.sender_id);
        let filled = match (refusal, template) {
            (Some(reason), _) => Err(reason),
            (None, Some(template)) => template
                .fill(&run.parameters, &member.attributes, self.clock.now())
                .map_err(|error| skip_reason(&error)),
            (None, None) => Ok(BTreeMap::new()),
        };
        let (command, recipient) = match filled {
            Err(reason) => (MessageCommand::Skip { run_id, contact_id, sender_id, reason }, None),
            Ok(variables) => {
                let (lane, on_unknown) = (run.lane, run.on_unknown);
                let row = RecipientRow {
                    tenant_id: task.tenant_id.0,
                    contact_id: contact_id.0,
                    phone: member.phone.clone(),
                    variables: variables
                        .into_iter()
                        .map(|(name, value)| (name, value.into()))
                        .collect::<serde_json::Map<_, _>>()
                        .into(),
                };
                (MessageCommand::QueueMessage { run_id, contact_id, sender_id, lane, on_unknown }, Some(row))
            }
        };
        let envelope = CommandEnvelope::new(task.tenant_id, self.clock.now(), command).caused_by(task.position);
        let addressed = Addressed::new(id, envelope, Actor::Engine("fan-out"));
        match recipient {
            Some(row) => addressed.with(Attachment::Recipient(row)),
            None => addressed,
        }
    }

    /// Moves the cursor unless another worker, which took the task over, has moved it; then its page stands.
    async fn move_cursor(&self, task: &Task, cursor: ContactId, queued: i64, skipped: i64) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "UPDATE fan_out_tasks SET cursor = $3, queued = $4, skipped = $5, leased_until = '-infinity'
             WHERE run_id = $1 AND cursor = $2",
            task.run_id.0,
            task.cursor.0,
            cursor.0,
            queued,
            skipped,
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn end_task(&self, task: &Task) -> Result<(), sqlx::Error> {
        sqlx::query!("DELETE FROM fan_out_tasks WHERE run_id = $1", task.run_id.0).execute(&self.pool).await?;
        Ok(())
    }
}

fn skip_reason(error: &FillError) -> SkipReason {
    match error {
        FillError::Missing { .. } => SkipReason::MissingVariable,
        FillError::Invalid { .. } => SkipReason::InvalidVariable,
        FillError::TooLong { .. } => SkipReason::TextTooLong,
    }
}

fn command_error<E: std::error::Error + Send + Sync + 'static>(error: CommandError<E>) -> FanOutError {
    FanOutError::Command(Box::new(error))
}
