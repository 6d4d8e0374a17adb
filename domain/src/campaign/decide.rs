use chrono::{DateTime, Utc};

use super::aggregate::{Campaign, Created};
use super::commands::CampaignCommand;
use super::error::CampaignError;
use super::events::{CampaignEvent, CampaignStatus, Trigger};
use crate::aggregate::CommandEnvelope;
use crate::ids::RunId;

type Decision = Result<Vec<CampaignEvent>, CampaignError>;

const NOTHING: Decision = Ok(Vec::new());

pub(super) fn decide(state: &Campaign, envelope: &CommandEnvelope<CampaignCommand>) -> Decision {
    let Some(created) = &state.created else {
        return match &envelope.command {
            CampaignCommand::Create { definition } => {
                Ok(vec![CampaignEvent::Created { tenant_id: envelope.tenant_id, definition: definition.clone() }])
            }
            _ => Err(CampaignError::NotFound),
        };
    };
    if created.tenant_id != envelope.tenant_id {
        return Err(CampaignError::NotFound);
    }
    let decision = Known { state, created, at: envelope.at }.decide(&envelope.command);
    match decision {
        // A saga's command that is repeated in a later state has nothing left to do.
        Err(CampaignError::NotAllowed { status }) if envelope.cause.is_some() && has_ended(status) => NOTHING,
        decision => decision,
    }
}

fn has_ended(status: CampaignStatus) -> bool {
    matches!(status, CampaignStatus::Completed | CampaignStatus::Cancelled)
}

/// A campaign that exists and is the tenant's.
struct Known<'a> {
    state: &'a Campaign,
    created: &'a Created,
    at: DateTime<Utc>,
}

impl Known<'_> {
    fn decide(&self, command: &CampaignCommand) -> Decision {
        let at = self.at;
        let status = self.created.status;
        match command {
            // A campaign of this id exists.
            CampaignCommand::Create { .. } => NOTHING,
            CampaignCommand::Revise { based_on, definition } => {
                if *definition == self.created.definition {
                    return NOTHING;
                }
                if has_ended(status) {
                    return self.not_allowed();
                }
                self.same_revision(*based_on)?;
                Ok(vec![CampaignEvent::Revised { revision: self.created.revision + 1, definition: definition.clone() }])
            }
            CampaignCommand::Activate => match status {
                CampaignStatus::Active => NOTHING,
                CampaignStatus::Draft => Ok(vec![CampaignEvent::Activated { at }]),
                CampaignStatus::Paused | CampaignStatus::Completed | CampaignStatus::Cancelled => self.not_allowed(),
            },
            CampaignCommand::Pause => match status {
                CampaignStatus::Paused => NOTHING,
                CampaignStatus::Active => Ok(vec![CampaignEvent::Paused { at }]),
                CampaignStatus::Draft | CampaignStatus::Completed | CampaignStatus::Cancelled => self.not_allowed(),
            },
            CampaignCommand::Resume => match status {
                CampaignStatus::Active => NOTHING,
                CampaignStatus::Paused => Ok(vec![CampaignEvent::Resumed { at }]),
                CampaignStatus::Draft | CampaignStatus::Completed | CampaignStatus::Cancelled => self.not_allowed(),
            },
            CampaignCommand::Cancel => match status {
                CampaignStatus::Cancelled => NOTHING,
                CampaignStatus::Draft | CampaignStatus::Active | CampaignStatus::Paused => {
                    Ok(vec![CampaignEvent::Cancelled { at }])
                }
                CampaignStatus::Completed => self.not_allowed(),
            },
            CampaignCommand::TriggerRun { run_id, trigger, nominal_at } => self.trigger(*run_id, trigger, *nominal_at),
            CampaignCommand::SkipOccurrence { revision, local, nominal_at, because } => {
                if self.is_handled(*nominal_at) {
                    return NOTHING;
                }
                if !matches!(status, CampaignStatus::Active | CampaignStatus::Paused) {
                    return self.not_allowed();
                }
                self.same_revision(*revision)?;
                let (revision, local, nominal_at, because) = (*revision, *local, *nominal_at, *because);
                Ok(vec![CampaignEvent::OccurrenceSkipped { revision, local, nominal_at, because }])
            }
            CampaignCommand::Complete => match status {
                CampaignStatus::Completed => NOTHING,
                CampaignStatus::Active => Ok(vec![CampaignEvent::Completed { at }]),
                CampaignStatus::Draft | CampaignStatus::Paused | CampaignStatus::Cancelled => self.not_allowed(),
            },
        }
    }

    fn trigger(&self, run_id: RunId, trigger: &Trigger, nominal_at: DateTime<Utc>) -> Decision {
        match trigger {
            Trigger::Schedule { .. } if self.is_handled(nominal_at) => return NOTHING,
            Trigger::Manual if self.state.manual_runs.contains(&run_id) => return NOTHING,
            Trigger::Schedule { revision, .. } => {
                self.active()?;
                self.same_revision(*revision)?;
            }
            Trigger::Manual => self.active()?,
            // Test messages belong to no campaign.
            Trigger::Test => return self.not_allowed(),
        }
        Ok(vec![CampaignEvent::RunTriggered { run_id, trigger: trigger.clone(), nominal_at }])
    }

    fn not_allowed<T>(&self) -> Result<T, CampaignError> {
        Err(CampaignError::NotAllowed { status: self.created.status })
    }

    fn active(&self) -> Result<(), CampaignError> {
        if self.created.status == CampaignStatus::Active { Ok(()) } else { self.not_allowed() }
    }

    fn same_revision(&self, based_on: u32) -> Result<(), CampaignError> {
        let current = self.created.revision;
        if based_on == current { Ok(()) } else { Err(CampaignError::RevisionMoved { based_on, current }) }
    }

    /// Occurrences are handled in the order of time, so one that is not later than the last one has been.
    fn is_handled(&self, nominal_at: DateTime<Utc>) -> bool {
        self.state.last_nominal_at.is_some_and(|last| nominal_at <= last)
    }
}
