use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::commands::ConsentCommand;
use super::decide::decide;
use super::error::ConsentError;
use super::events::{ConsentEvent, ConsentSource};
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
    /// When the contact last stopped something, and when it last resumed or agreed, as far as WhatsApp's clock tells.
    pub(super) stopped_at: Option<DateTime<Utc>>,
    pub(super) resumed_at: Option<DateTime<Utc>>,
}

impl Consent {
    /// Did the contact agree by a word of its own, or did somebody record that it had? An upload is no such word.
    pub fn opted_in(&self) -> bool {
        self.opted_in
    }

    /// Does the contact want no messages at all?
    pub fn opted_out(&self) -> bool {
        self.opted_out
    }

    /// Does the contact want no offers?
    pub fn marketing_stopped(&self) -> bool {
        self.marketing_stopped
    }

    /// Whether a word of this source is older than a stop of the contact.
    pub(super) fn stopped_after(&self, source: ConsentSource, said_at: DateTime<Utc>) -> bool {
        source.is_whatsapp() && self.stopped_at.is_some_and(|stopped_at| said_at < stopped_at)
    }

    /// Whether a word of this source is older than one by which the contact resumed.
    pub(super) fn resumed_after(&self, source: ConsentSource, said_at: DateTime<Utc>) -> bool {
        source.is_whatsapp() && self.resumed_at.is_some_and(|resumed_at| said_at < resumed_at)
    }

    /// Whether a stop of this source is later than the last one. It changes nothing now, and outlasts a resumption from
    /// between the two that has not come yet.
    pub(super) fn is_said_again_later(&self, source: ConsentSource, said_at: DateTime<Utc>) -> bool {
        source.is_whatsapp() && self.stopped_at.is_none_or(|stopped_at| said_at > stopped_at)
    }

    fn note_stop(&mut self, source: ConsentSource, at: DateTime<Utc>) {
        if source.is_whatsapp() {
            self.stopped_at = self.stopped_at.max(Some(at));
        }
    }

    fn note_resumption(&mut self, source: ConsentSource, at: DateTime<Utc>) {
        if source.is_whatsapp() {
            self.resumed_at = self.resumed_at.max(Some(at));
        }
    }

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
            ConsentEvent::OptedIn { tenant_id, source, at, .. } => {
                self.tenant_id = Some(*tenant_id);
                self.opted_in = true;
                self.opted_out = false;
                self.note_resumption(*source, *at);
            }
            ConsentEvent::OptedOut { tenant_id, source, at } => {
                self.tenant_id = Some(*tenant_id);
                self.opted_in = false;
                self.opted_out = true;
                self.note_stop(*source, *at);
            }
            ConsentEvent::MarketingStopped { tenant_id, source, at } => {
                self.tenant_id = Some(*tenant_id);
                self.marketing_stopped = true;
                self.note_stop(*source, *at);
            }
            ConsentEvent::MarketingResumed { tenant_id, source, at } => {
                self.tenant_id = Some(*tenant_id);
                self.opted_out = false;
                self.marketing_stopped = false;
                self.note_resumption(*source, *at);
            }
            ConsentEvent::Erased { tenant_id, .. } => {
                self.tenant_id = Some(*tenant_id);
                self.erased = true;
            }
        }
    }
}
