use serde::{Deserialize, Serialize};

use super::commands::CampaignRunCommand;
use super::decide::decide;
use super::error::CampaignRunError;
use super::events::{CampaignRunEvent, RunDefinition, RunStatus};
use crate::aggregate::{CommandEnvelope, Decider, Position, cqrs_aggregate};
use crate::ids::TenantId;

/// The state that decisions need.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CampaignRun {
    /// `None` until the run was started.
    pub(super) started: Option<Started>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) tenant_id: TenantId,
    pub(super) definition: RunDefinition,
    pub(super) status: RunStatus,
    pub(super) audience_resolved: bool,
    /// Counts pauses.
    pub(super) epoch: u32,
    /// The newest event that a pause or a resumption reacted to.
    pub(super) last_cause: Position,
}

impl CampaignRun {
    pub fn tenant_id(&self) -> Option<TenantId> {
        self.started.as_ref().map(|started| started.tenant_id)
    }

    /// `None` for a run that does not exist.
    pub fn status(&self) -> Option<RunStatus> {
        self.started.as_ref().map(|started| started.status)
    }

    pub fn definition(&self) -> Option<&RunDefinition> {
        self.started.as_ref().map(|started| &started.definition)
    }

    pub fn audience_resolved(&self) -> bool {
        self.started.as_ref().is_some_and(|started| started.audience_resolved)
    }
}

cqrs_aggregate!(CampaignRun, "CampaignRun", CampaignRunCommand, CampaignRunEvent, CampaignRunError);

impl Decider for CampaignRun {
    fn decide(
        &self,
        envelope: &CommandEnvelope<CampaignRunCommand>,
    ) -> Result<Vec<CampaignRunEvent>, CampaignRunError> {
        decide(self, envelope)
    }

    fn evolve(&mut self, event: &CampaignRunEvent) {
        if let CampaignRunEvent::Started { tenant_id, definition } = event {
            self.started = Some(Started {
                tenant_id: *tenant_id,
                definition: definition.clone(),
                status: RunStatus::Running,
                audience_resolved: false,
                epoch: 0,
                last_cause: 0,
            });
        }
        let Some(started) = &mut self.started else { return };
        match event {
            CampaignRunEvent::Started { .. } => {}
            CampaignRunEvent::AudienceResolved { .. } => started.audience_resolved = true,
            CampaignRunEvent::Paused { epoch, cause } => {
                started.status = RunStatus::Paused;
                started.epoch = *epoch;
                started.last_cause = started.last_cause.max(cause.unwrap_or_default());
            }
            CampaignRunEvent::Resumed { cause, .. } => {
                started.status = RunStatus::Running;
                started.last_cause = started.last_cause.max(cause.unwrap_or_default());
            }
            CampaignRunEvent::Cancelled { .. } => started.status = RunStatus::Cancelled,
            CampaignRunEvent::Expired { .. } => started.status = RunStatus::Expired,
            CampaignRunEvent::Stalled { .. } => started.status = RunStatus::Stalled,
            CampaignRunEvent::Completed { .. } => started.status = RunStatus::Completed,
        }
    }
}
