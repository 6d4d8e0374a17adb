//! Rules that turn events into commands. A saga is pure: it has a state per key, reacts to events, and says when it
//! wants to be woken. The runner in `infrastructure` gives the commands first and remembers afterwards, so every
//! command here may be given twice and must then be a no-op: that is what derived ids and causes are for.

mod completion;
mod run;
mod schedule;
#[cfg(test)]
mod tests;

pub use completion::CompletionSaga;
pub use run::RunSaga;
pub use schedule::ScheduleSaga;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::aggregate::Position;
use crate::campaign::{CampaignCommand, CampaignDefinition, Trigger};
use crate::campaign_run::CampaignRunCommand;
use crate::event::RecordedEvent;
use crate::ids::{CampaignId, RunId, TenantId};

pub trait Saga: Send + Sync + 'static {
    /// The stored name of the saga and of its subscription.
    const NAME: &'static str;
    type State: Default + Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync;

    /// The instance that an event concerns; `None` if the saga does not care for it.
    fn key(event: &RecordedEvent) -> Option<Uuid>;

    fn react(state: &mut Self::State, event: &RecordedEvent) -> Vec<SagaCommand>;

    /// When the instance wants to be woken next.
    fn timer(state: &Self::State) -> Option<DateTime<Utc>>;

    /// What is due by now. The state moves on only through the events that the commands lead to.
    fn wake(state: &Self::State, key: Uuid, now: DateTime<Utc>) -> Vec<SagaCommand>;
}

/// A command that a saga wants given, with what makes a repetition harmless.
#[derive(Debug, Clone, PartialEq)]
pub struct SagaCommand {
    pub tenant_id: TenantId,
    /// The event reacted to; `None` for a timer.
    pub cause: Option<Position>,
    pub request: SagaRequest,
}

#[derive(Debug, Clone, PartialEq)]
pub enum SagaRequest {
    Campaign(CampaignId, CampaignCommand),
    Run(RunId, CampaignRunCommand),
    /// Start a run: the template and the sender are looked up and frozen by whoever carries this out.
    StartRun {
        run_id: RunId,
        campaign_id: CampaignId,
        definition: Box<CampaignDefinition>,
        trigger: Trigger,
        nominal_at: DateTime<Utc>,
    },
}
