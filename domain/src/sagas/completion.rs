//! A run is complete when its audience is closed and none of its messages is pending or dispatching, nor unknown where
//! the campaign sends such messages again.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Saga, SagaCommand, SagaRequest};
use crate::campaign_run::{CampaignRunCommand, CampaignRunEvent};
use crate::event::{Event, RecordedEvent};
use crate::ids::RunId;
use crate::message::{MessageStatus, OnUnknown, Transition};

pub struct CompletionSaga;

/// Per run: a sum over the log, so it needs no other table and survives a rebuild of any projection.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionState {
    counts: BTreeMap<MessageStatus, i64>,
    audience_closed: bool,
    ended: bool,
    /// Is a message sent again when its outcome stays unknown? Then the run is not over before that.
    #[serde(default)]
    resends: bool,
}

impl Saga for CompletionSaga {
    const NAME: &'static str = "saga:completion";
    type State = CompletionState;

    fn key(event: &RecordedEvent) -> Option<Uuid> {
        match &event.event {
            Event::CampaignRun(_) => Some(event.aggregate_id),
            Event::Message(message) => Some(message.transition().run_id.into()),
            Event::Campaign(_) | Event::Consent(_) => None,
        }
    }

    fn react(state: &mut CompletionState, event: &RecordedEvent) -> Vec<SagaCommand> {
        if state.ended {
            return Vec::new();
        }
        let run_id = match &event.event {
            Event::CampaignRun(run) => {
                state.run_event(run);
                RunId(event.aggregate_id)
            }
            Event::Message(message) => {
                state.count(message.transition());
                message.transition().run_id
            }
            Event::Campaign(_) | Event::Consent(_) => return Vec::new(),
        };
        if !state.is_complete() {
            return Vec::new();
        }
        state.ended = true;
        let command = CampaignRunCommand::Complete { counts: state.known_counts(), as_of: event.position };
        vec![SagaCommand {
            tenant_id: event.tenant_id,
            cause: Some(event.position),
            request: SagaRequest::Run(run_id, command),
        }]
    }

    fn timer(_: &CompletionState) -> Option<DateTime<Utc>> {
        None
    }

    fn wake(_: &CompletionState, _: Uuid, _: DateTime<Utc>) -> Vec<SagaCommand> {
        Vec::new()
    }
}

impl CompletionState {
    fn run_event(&mut self, event: &CampaignRunEvent) {
        match event {
            CampaignRunEvent::Started { definition, .. } => self.resends = definition.on_unknown == OnUnknown::Resend,
            CampaignRunEvent::AudienceResolved { .. } => self.audience_closed = true,
            CampaignRunEvent::Cancelled { .. }
            | CampaignRunEvent::Expired { .. }
            | CampaignRunEvent::Completed { .. } => {
                self.ended = true;
            }
            CampaignRunEvent::Paused { .. } | CampaignRunEvent::Resumed { .. } | CampaignRunEvent::Stalled { .. } => {}
        }
    }

    fn count(&mut self, transition: &Transition) {
        if let Some(from) = transition.from {
            *self.counts.entry(from).or_default() -= 1;
        }
        *self.counts.entry(transition.to).or_default() += 1;
    }

    fn is_complete(&self) -> bool {
        self.audience_closed
            && !self.ended
            && self.counts.iter().all(|(status, count)| !self.is_held_open_by(*status) || *count == 0)
    }

    fn is_held_open_by(&self, status: MessageStatus) -> bool {
        status.holds_run_open() || (self.resends && status == MessageStatus::Unknown)
    }

    fn known_counts(&self) -> BTreeMap<MessageStatus, u64> {
        self.counts
            .iter()
            .filter_map(|(status, count)| Some((*status, u64::try_from(*count).ok().filter(|count| *count > 0)?)))
            .collect()
    }
}
