use super::aggregate::Consent;
use super::commands::ConsentCommand;
use super::error::ConsentError;
use super::events::{ConsentEvent, ConsentSource};
use crate::aggregate::CommandEnvelope;

type Decision = Result<Vec<ConsentEvent>, ConsentError>;

const NOTHING: Decision = Ok(Vec::new());

pub(super) fn decide(state: &Consent, envelope: &CommandEnvelope<ConsentCommand>) -> Decision {
    let tenant_id = envelope.tenant_id;
    if state.tenant_id.is_some_and(|owner| owner != tenant_id) {
        return Err(ConsentError::NotFound);
    }
    if state.erased {
        return if envelope.command == ConsentCommand::Erase { NOTHING } else { Err(ConsentError::Erased) };
    }
    match &envelope.command {
        ConsentCommand::OptIn { source, wording, said_at: at } => {
            if state.opted_in || state.stopped_after(*source, *at) {
                return NOTHING;
            }
            lifts_opt_out(state, *source)?;
            Ok(vec![ConsentEvent::OptedIn { tenant_id, source: *source, wording: wording.clone(), at: *at }])
        }
        ConsentCommand::OptOut { source, said_at: at } => {
            if (state.opted_out && !state.is_said_again_later(*source, *at)) || state.resumed_after(*source, *at) {
                return NOTHING;
            }
            Ok(vec![ConsentEvent::OptedOut { tenant_id, source: *source, at: *at }])
        }
        ConsentCommand::StopMarketing { source, said_at: at } => {
            let stopped = state.marketing_stopped || state.opted_out;
            if (stopped && !state.is_said_again_later(*source, *at)) || state.resumed_after(*source, *at) {
                return NOTHING;
            }
            Ok(vec![ConsentEvent::MarketingStopped { tenant_id, source: *source, at: *at }])
        }
        ConsentCommand::ResumeMarketing { source, said_at: at } => {
            let stopped = state.marketing_stopped || state.opted_out;
            if !stopped || state.stopped_after(*source, *at) {
                return NOTHING;
            }
            lifts_opt_out(state, *source)?;
            Ok(vec![ConsentEvent::MarketingResumed { tenant_id, source: *source, at: *at }])
        }
        ConsentCommand::Erase => Ok(vec![ConsentEvent::Erased { tenant_id, at: envelope.at }]),
    }
}

/// Only the contact's own word lifts an opt-out.
fn lifts_opt_out(state: &Consent, source: ConsentSource) -> Result<(), ConsentError> {
    if state.opted_out && !source.is_contact() { Err(ConsentError::OptedOut) } else { Ok(()) }
}
