use std::collections::BTreeMap;

use super::aggregate::{CampaignRun, Started};
use super::commands::CampaignRunCommand;
use super::error::CampaignRunError;
use super::events::{CampaignRunEvent, RunStatus};
use crate::aggregate::{CommandEnvelope, Position};
use crate::message::MessageStatus;

type Decision = Result<Vec<CampaignRunEvent>, CampaignRunError>;

const NOTHING: Decision = Ok(Vec::new());

pub(super) fn decide(state: &CampaignRun, envelope: &CommandEnvelope<CampaignRunCommand>) -> Decision {
    let Some(started) = &state.started else {
        return match &envelope.command {
            CampaignRunCommand::Start { definition } => {
                Ok(vec![CampaignRunEvent::Started { tenant_id: envelope.tenant_id, definition: definition.clone() }])
            }
            _ => Err(CampaignRunError::NotFound),
        };
    };
    if started.tenant_id != envelope.tenant_id {
        return Err(CampaignRunError::NotFound);
    }
    match (Known { started, envelope }).decide() {
        // A saga's command that is repeated in a later state has nothing left to do.
        Err(CampaignRunError::NotAllowed { .. }) if envelope.cause.is_some() => NOTHING,
        decision => decision,
    }
}

/// A run that exists and is the tenant's.
struct Known<'a> {
    started: &'a Started,
    envelope: &'a CommandEnvelope<CampaignRunCommand>,
}

impl Known<'_> {
    fn decide(&self) -> Decision {
        let campaign_id = self.started.definition.campaign_id;
        let at = self.envelope.at;
        let cause = self.envelope.cause;
        let status = self.started.status;
        match &self.envelope.command {
            // A run of this id exists: the same occurrence.
            CampaignRunCommand::Start { .. } => NOTHING,
            CampaignRunCommand::ResolveAudience { queued, skipped } => {
                if self.started.audience_resolved {
                    return NOTHING;
                }
                self.open()?;
                Ok(vec![CampaignRunEvent::AudienceResolved { queued: *queued, skipped: *skipped }])
            }
            CampaignRunCommand::Pause => {
                if self.is_heeded(cause) || status == RunStatus::Paused {
                    return NOTHING;
                }
                self.open()?;
                Ok(vec![CampaignRunEvent::Paused { epoch: self.started.epoch + 1, cause }])
            }
            CampaignRunCommand::Resume => {
                if self.is_heeded(cause) || status == RunStatus::Running {
                    return NOTHING;
                }
                self.open()?;
                Ok(vec![CampaignRunEvent::Resumed { epoch: self.started.epoch, cause }])
            }
            CampaignRunCommand::Cancel => {
                if status == RunStatus::Cancelled {
                    return NOTHING;
                }
                self.open()?;
                Ok(vec![CampaignRunEvent::Cancelled { campaign_id, at }])
            }
            CampaignRunCommand::Expire => {
                if status == RunStatus::Expired {
                    return NOTHING;
                }
                self.open()?;
                Ok(vec![CampaignRunEvent::Expired { campaign_id, at }])
            }
            CampaignRunCommand::Stall { reason } => match status {
                RunStatus::Stalled => NOTHING,
                RunStatus::Running => Ok(vec![CampaignRunEvent::Stalled { reason: reason.clone() }]),
                RunStatus::Paused | RunStatus::Completed | RunStatus::Cancelled | RunStatus::Expired => {
                    self.not_allowed()
                }
            },
            CampaignRunCommand::Complete { counts, as_of } => self.complete(counts, *as_of),
        }
    }

    fn complete(&self, counts: &BTreeMap<MessageStatus, u64>, as_of: Position) -> Decision {
        if self.started.status == RunStatus::Completed {
            return NOTHING;
        }
        self.open()?;
        if !self.started.audience_resolved {
            return Err(CampaignRunError::AudienceOpen);
        }
        let open = counts.iter().filter(|(status, _)| status.holds_run_open()).map(|(_, count)| count).sum();
        if open > 0 {
            return Err(CampaignRunError::MessagesOpen { open });
        }
        Ok(vec![CampaignRunEvent::Completed {
            campaign_id: self.started.definition.campaign_id,
            counts: counts.clone(),
            as_of,
            at: self.envelope.at,
        }])
    }

    /// Has the reaction to this event, or to a later one, been carried out before?
    fn is_heeded(&self, cause: Option<Position>) -> bool {
        cause.is_some_and(|cause| cause <= self.started.last_cause)
    }

    fn open(&self) -> Result<(), CampaignRunError> {
        if self.started.status.has_ended() { self.not_allowed() } else { Ok(()) }
    }

    fn not_allowed<T>(&self) -> Result<T, CampaignRunError> {
        Err(CampaignRunError::NotAllowed { status: self.started.status })
    }
}
