//! A campaign's runs follow the campaign: triggered → started; paused, resumed, cancelled → so are its open runs.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Saga, SagaCommand, SagaRequest};
use crate::campaign::{CampaignDefinition, CampaignEvent};
use crate::campaign_run::{CampaignRunCommand, CampaignRunEvent};
use crate::event::{Event, RecordedEvent};
use crate::ids::{CampaignId, RunId};

pub struct RunSaga;

/// Per campaign.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    definition: Option<CampaignDefinition>,
    open_runs: BTreeSet<RunId>,
}

impl Saga for RunSaga {
    const NAME: &'static str = "saga:run";
    type State = RunState;

    fn key(event: &RecordedEvent) -> Option<Uuid> {
        match &event.event {
            Event::Campaign(_) => Some(event.aggregate_id),
            Event::CampaignRun(run) => ended_run_of(run).map(Uuid::from),
            Event::Message(_) | Event::Consent(_) => None,
        }
    }

    fn react(state: &mut RunState, event: &RecordedEvent) -> Vec<SagaCommand> {
        match &event.event {
            Event::Campaign(campaign) => state.campaign_event(campaign, event),
            Event::CampaignRun(_) => {
                state.open_runs.remove(&RunId(event.aggregate_id));
                Vec::new()
            }
            Event::Message(_) | Event::Consent(_) => Vec::new(),
        }
    }

    fn timer(_: &RunState) -> Option<DateTime<Utc>> {
        None
    }

    fn wake(_: &RunState, _: Uuid, _: DateTime<Utc>) -> Vec<SagaCommand> {
        Vec::new()
    }
}

/// The campaign of a run that this event ends.
pub(super) fn ended_run_of(event: &CampaignRunEvent) -> Option<CampaignId> {
    match event {
        CampaignRunEvent::Cancelled { campaign_id, .. }
        | CampaignRunEvent::Expired { campaign_id, .. }
        | CampaignRunEvent::Completed { campaign_id, .. } => *campaign_id,
        CampaignRunEvent::Started { .. }
        | CampaignRunEvent::AudienceResolved { .. }
        | CampaignRunEvent::Paused { .. }
        | CampaignRunEvent::Resumed { .. }
        | CampaignRunEvent::Stalled { .. } => None,
    }
}

impl RunState {
    fn campaign_event(&mut self, campaign: &CampaignEvent, event: &RecordedEvent) -> Vec<SagaCommand> {
        match campaign {
            CampaignEvent::Created { definition, .. } | CampaignEvent::Revised { definition, .. } => {
                self.definition = Some(definition.clone());
                Vec::new()
            }
            CampaignEvent::RunTriggered { run_id, trigger, nominal_at } => {
                self.open_runs.insert(*run_id);
                let Some(definition) = &self.definition else { return Vec::new() };
                vec![SagaCommand {
                    tenant_id: event.tenant_id,
                    cause: Some(event.position),
                    request: SagaRequest::StartRun {
                        run_id: *run_id,
                        campaign_id: CampaignId(event.aggregate_id),
                        definition: Box::new(definition.clone()),
                        trigger: trigger.clone(),
                        nominal_at: *nominal_at,
                    },
                }]
            }
            CampaignEvent::Paused { .. } => self.to_open_runs(event, &CampaignRunCommand::Pause),
            CampaignEvent::Resumed { .. } => self.to_open_runs(event, &CampaignRunCommand::Resume),
            CampaignEvent::Cancelled { .. } => self.to_open_runs(event, &CampaignRunCommand::Cancel),
            CampaignEvent::Activated { .. }
            | CampaignEvent::OccurrenceSkipped { .. }
            | CampaignEvent::Completed { .. } => Vec::new(),
        }
    }

    fn to_open_runs(&self, event: &RecordedEvent, command: &CampaignRunCommand) -> Vec<SagaCommand> {
        self.open_runs
            .iter()
            .map(|run_id| SagaCommand {
                tenant_id: event.tenant_id,
                cause: Some(event.position),
                request: SagaRequest::Run(*run_id, command.clone()),
            })
            .collect()
    }
}
