use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::commands::CampaignCommand;
use super::decide::decide;
use super::error::CampaignError;
use super::events::{CampaignDefinition, CampaignEvent, CampaignStatus, Trigger};
use crate::aggregate::{CommandEnvelope, Decider, cqrs_aggregate};
use crate::ids::{RunId, TenantId};

/// The state that decisions need.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// `None` until the campaign was created.
    pub(super) created: Option<Created>,
    /// The time of the last occurrence that was run or skipped.
    pub(super) last_nominal_at: Option<DateTime<Utc>>,
    /// Runs that people triggered; as many as people trigger, never as many as the audience has contacts.
    pub(super) manual_runs: BTreeSet<RunId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Created {
    pub(super) tenant_id: TenantId,
    pub(super) status: CampaignStatus,
    pub(super) revision: u32,
    pub(super) definition: CampaignDefinition,
}

impl Campaign {
    pub fn tenant_id(&self) -> Option<TenantId> {
        self.created.as_ref().map(|created| created.tenant_id)
    }

    /// `None` for a campaign that does not exist.
    pub fn status(&self) -> Option<CampaignStatus> {
        self.created.as_ref().map(|created| created.status)
    }

    /// Counts from 1; 0 for a campaign that does not exist.
    pub fn revision(&self) -> u32 {
        self.created.as_ref().map_or(0, |created| created.revision)
    }

    pub fn definition(&self) -> Option<&CampaignDefinition> {
        self.created.as_ref().map(|created| &created.definition)
    }

    pub fn last_nominal_at(&self) -> Option<DateTime<Utc>> {
        self.last_nominal_at
    }

    fn set_status(&mut self, status: CampaignStatus) {
        if let Some(created) = &mut self.created {
            created.status = status;
        }
    }
}

cqrs_aggregate!(Campaign, "Campaign", CampaignCommand, CampaignEvent, CampaignError);

impl Decider for Campaign {
    fn decide(&self, envelope: &CommandEnvelope<CampaignCommand>) -> Result<Vec<CampaignEvent>, CampaignError> {
        decide(self, envelope)
    }

    fn evolve(&mut self, event: &CampaignEvent) {
        match event {
            CampaignEvent::Created { tenant_id, definition } => {
                self.created = Some(Created {
                    tenant_id: *tenant_id,
                    status: CampaignStatus::Draft,
                    revision: 1,
                    definition: definition.clone(),
                });
            }
            CampaignEvent::Revised { revision, definition } => {
                if let Some(created) = &mut self.created {
                    created.revision = *revision;
                    created.definition = definition.clone();
                }
            }
            CampaignEvent::Activated { .. } | CampaignEvent::Resumed { .. } => self.set_status(CampaignStatus::Active),
            CampaignEvent::Paused { .. } => self.set_status(CampaignStatus::Paused),
            CampaignEvent::Cancelled { .. } => self.set_status(CampaignStatus::Cancelled),
            CampaignEvent::Completed { .. } => self.set_status(CampaignStatus::Completed),
            CampaignEvent::RunTriggered { run_id, trigger, nominal_at } => match trigger {
                Trigger::Schedule { .. } => self.last_nominal_at = Some(*nominal_at),
                Trigger::Manual | Trigger::Test => {
                    self.manual_runs.insert(*run_id);
                }
            },
            CampaignEvent::OccurrenceSkipped { nominal_at, .. } => self.last_nominal_at = Some(*nominal_at),
        }
    }
}
