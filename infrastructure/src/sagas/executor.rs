//! Carries out what sagas ask for. Everything here may happen twice and is a no-op the second time.

use domain::aggregate::CommandEnvelope;
use domain::campaign::{CampaignDefinition, Trigger};
use domain::campaign_run::{
    Audience, CampaignRunCommand, CampaignRunEvent, FrozenTemplate, RunDefinition, StallReason,
};
use domain::ids::{CampaignId, RunId, TenantId};
use domain::message::Lane;
use domain::sagas::{SagaCommand, SagaRequest};
use sqlx::PgPool;

use crate::clock::Clock;
use crate::event_store::{Actor, Addressed, CampaignRunStore, CampaignStore, CommandError};
use crate::senders::{self, Sender};
use crate::templates::{self, Template};
use crate::whatsapp::reactions::meaning;

#[derive(Clone)]
pub struct SagaExecutor {
    pub pool: PgPool,
    pub clock: Clock,
    pub campaigns: CampaignStore,
    pub runs: CampaignRunStore,
}

/// A failure that may pass; a refusal is not one.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecuteError {
    #[error("a saga's command could not be carried out")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the template or the sender of a run could not be read")]
    Lookup(#[from] sqlx::Error),
}

impl SagaExecutor {
    /// Gives a command. A refusal by the aggregate ends the matter: the aggregate is the authority, and a saga that
    /// lags behind it asks for things that no longer fit.
    pub(super) async fn execute(&self, saga: &'static str, command: SagaCommand) -> Result<(), ExecuteError> {
        let SagaCommand { tenant_id, cause, request } = command;
        let context = Context { executor: self, saga, tenant_id, cause };
        match request {
            SagaRequest::Campaign(id, command) => context.campaign(id, command).await,
            SagaRequest::Run(id, command) => context.run(id, command).await,
            SagaRequest::StartRun { run_id, campaign_id, definition, trigger, nominal_at } => {
                context.start_run(run_id, campaign_id, *definition, trigger, nominal_at).await
            }
        }
    }
}

/// A run reads as a few lines in the log; together with "audience resolved" and "sending" these are all.
pub(crate) fn log_run_event(id: RunId, event: &CampaignRunEvent) {
    match event {
        CampaignRunEvent::Started { definition, .. } => {
            let campaign_id = definition.campaign_id.map(|id| id.to_string()).unwrap_or_default();
            tracing::info!(run.id = %id, campaign.id = campaign_id, "run triggered");
        }
        CampaignRunEvent::Paused { .. } => tracing::info!(run.id = %id, "run paused"),
        CampaignRunEvent::Resumed { .. } => tracing::info!(run.id = %id, "run resumed"),
        CampaignRunEvent::Cancelled { .. } => tracing::info!(run.id = %id, "run cancelled"),
        CampaignRunEvent::Expired { .. } => tracing::info!(run.id = %id, "run expired"),
        CampaignRunEvent::Stalled { reason } => match reason {
            StallReason::TemplateIsOffer => {
                tracing::warn!(run.id = %id, reason = reason.name(), "run stalled: Meta has made its template one for offers");
            }
            StallReason::SetupUnfit => {
                tracing::warn!(run.id = %id, reason = reason.name(), "run stalled: its template or its number has changed and does not fit the campaign any more");
            }
            StallReason::SetupMissing => {
                tracing::warn!(run.id = %id, reason = reason.name(), "run stalled: its template or its sender no longer exists");
            }
            StallReason::TemplateNotApproved { status } => {
                tracing::warn!(run.id = %id, reason = reason.name(), status, "run stalled: Meta does not allow its template now");
            }
            StallReason::SenderRefused { code }
            | StallReason::AccountRefused { code }
            | StallReason::PortfolioRefused { code }
            | StallReason::TemplateRefused { code }
            | StallReason::MessagesRefused { code } => {
                let meaning = meaning(*code).unwrap_or("a code that this release does not know");
                tracing::warn!(run.id = %id, reason = reason.name(), code, meaning, "run stalled; see `ektola notices list`");
            }
        },
        CampaignRunEvent::Completed { counts, .. } => {
            let counts: Vec<String> =
                counts.iter().map(|(status, count)| format!("{count} {}", status.name())).collect();
            tracing::info!(run.id = %id, counts = counts.join(", "), "run completed");
        }
        CampaignRunEvent::AudienceResolved { .. } => {}
    }
}

struct Context<'a> {
    executor: &'a SagaExecutor,
    saga: &'static str,
    tenant_id: TenantId,
    cause: Option<i64>,
}

impl Context<'_> {
    fn envelope<C>(&self, command: C) -> CommandEnvelope<C> {
        CommandEnvelope { tenant_id: self.tenant_id, at: self.executor.clock.now(), cause: self.cause, command }
    }

    async fn campaign(&self, id: CampaignId, command: domain::campaign::CampaignCommand) -> Result<(), ExecuteError> {
        let command = Addressed::new(id, self.envelope(command), Actor::Engine(self.saga));
        self.outcome(self.executor.campaigns.execute(command).await)
    }

    async fn run(&self, id: RunId, command: CampaignRunCommand) -> Result<(), ExecuteError> {
        let command = Addressed::new(id, self.envelope(command), Actor::Engine(self.saga));
        let result = self.executor.runs.execute(command).await;
        if let Ok(committed) = &result {
            for (_, event) in &committed.events {
                log_run_event(id, event);
            }
        }
        self.outcome(result)
    }

    fn outcome<T, E>(&self, result: Result<T, CommandError<E>>) -> Result<(), ExecuteError>
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        match result {
            Ok(_) => Ok(()),
            Err(CommandError::Refused(refusal)) => {
                tracing::debug!(saga = self.saga, refusal = %refusal, "the aggregate refused a saga's command");
                Ok(())
            }
            Err(error) => Err(ExecuteError::Store(Box::new(error))),
        }
    }

    /// Freezes the template, the mapping and the sender into the run. A run whose template or sender is gone, or whose
    /// template may not be sent now, starts stalled, where a person can see why, instead of not starting at all.
    async fn start_run(
        &self,
        run_id: RunId,
        campaign_id: CampaignId,
        definition: CampaignDefinition,
        trigger: Trigger,
        nominal_at: chrono::DateTime<chrono::Utc>,
    ) -> Result<(), ExecuteError> {
        let pool = &self.executor.pool;
        let template = templates::find_template(pool, self.tenant_id, definition.template_id).await?;
        let sender = match definition.sender_id {
            Some(id) => senders::find_sender(pool, self.tenant_id, id).await?,
            None => senders::default_sender(pool, self.tenant_id).await?,
        };
        let obstacle = match (&template, &sender) {
            (None, _) | (_, None) => Some(StallReason::SetupMissing),
            (Some(template), Some(_)) if !template.is_approved() => {
                Some(StallReason::TemplateNotApproved { status: template.status.clone() })
            }
            (Some(template), Some(sender)) if !fits(&definition, template, sender) => Some(StallReason::SetupUnfit),
            (Some(_), Some(_)) => None,
        };
        // Meta may have moved it there since the campaign was activated: then it is an offer, and is kept from whoever stopped
        // offers.
        let is_offer = template.as_ref().is_some_and(|template| template.category == "MARKETING");
        let frozen = template.map_or_else(
            || FrozenTemplate {
                template_id: definition.template_id,
                name: String::new(),
                language: String::new(),
                components: serde_json::Value::Array(Vec::new()),
                variables: Vec::new(),
            },
            |template| FrozenTemplate {
                template_id: template.id,
                name: template.name,
                language: template.language,
                components: template.components,
                variables: template.variables,
            },
        );
        let run = RunDefinition {
            campaign_id: Some(campaign_id),
            trigger,
            nominal_at,
            template: frozen,
            parameters: definition.parameters,
            audience: Audience::Segment { name: definition.segment },
            sender_id: sender.map_or(domain::ids::SenderId(uuid::Uuid::nil()), |sender| sender.id),
            lane: if is_offer { Lane::Marketing } else { definition.campaign_type.lane() },
            on_unknown: definition.on_unknown,
        };
        self.run(run_id, CampaignRunCommand::Start { definition: run }).await?;
        if let Some(reason) = obstacle {
            self.run(run_id, CampaignRunCommand::Stall { reason }).await?;
        }
        Ok(())
    }
}

/// Activation has looked at all this, but templates and default numbers change while a campaign recurs.
fn fits(definition: &CampaignDefinition, template: &Template, sender: &Sender) -> bool {
    let same_account = template.waba_id.as_ref().is_none_or(|waba_id| *waba_id == sender.waba_id);
    let content = domain::template::Template::parse(&template.components);
    same_account
        && content.is_ok_and(|content| {
            content.slots().iter().all(|slot| !slot.required || definition.parameters.contains_key(&slot.name))
        })
}
