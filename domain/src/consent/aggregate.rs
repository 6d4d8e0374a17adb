use serde::{Deserialize, Serialize};

use super::commands::ConsentCommand;
use super::decide::decide;
use super::error::ConsentError;
use super::events::ConsentEvent;
use crate::aggregate::{CommandEnvelope, Decider, cqrs_aggregate};
use crate::ids::TenantId;
use crate::message::{Lane, SkipReason};

/// What is known of a contact's word. A contact of whom nothing was said has the default state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Consent {
    /// `None` until something was said.
    pub(super) tenant_id: Option<TenantId>,
    pub(super) opted_in: bool,
    pub(super) opted_out: bool,
    pub(super) marketing_stopped: bool,
    pub(super) erased: bool,
}

impl Consent {
    /// May a message of this lane be sent, as far as the contact's word goes?
    pub fn allows(&self, lane: Lane) -> bool {
        self.refusal(lane).is_none()
    }

    /// Why a message of this lane may not be sent.
    pub fn refusal(&self, lane: Lane) -> Option<SkipReason> {
        if self.erased {
            Some(SkipReason::Erased)
        } else if self.opted_out {
            Some(SkipReason::OptedOut)
        } else if self.marketing_stopped && lane == Lane::Marketing {
            Some(SkipReason::MarketingStopped)
        } else {
            None
        }
    }
}

cqrs_aggregate!(Consent, "Consent", ConsentCommand, ConsentEvent, ConsentError);

impl Decider for Consent {
    fn decide(&self, envelope: &CommandEnvelope<ConsentCommand>) -> Result<Vec<ConsentEvent>, ConsentError> {
        decide(self, envelope)
    }

    fn evolve(&mut self, event: &ConsentEvent) {
        match event {
            ConsentEvent::OptedIn { tenant_id, .. } => {
                self.tenant_id = Some(*tenant_id);
                self.opted_in = true;
                self.opted_out = false;
            }
            ConsentEvent::OptedOut { tenant_id, .. } => {
                self.tenant_id = Some(*tenant_id);
                self.opted_in = false;
                self.opted_out = true;
            }
            ConsentEvent::MarketingStopped { tenant_id, .. } => {
                self.tenant_id = Some(*tenant_id);
                self.marketing_stopped = true;
            }
            ConsentEvent::MarketingResumed { tenant_id, .. } => {
                self.tenant_id = Some(*tenant_id);
                self.opted_out = false;
                self.marketing_stopped = false;
            }
            ConsentEvent::Erased { tenant_id, .. } => {
                self.tenant_id = Some(*tenant_id);
                self.erased = true;
            }
        }
    }
}
