//! One occurrence of a campaign: a frozen template, mapping and audience filter, and the run's own state.
//!
//! `AudienceResolved` closes the audience; totals are counted from the log. Message statuses may come 30 days later:
//! they change a run's counts, never its completion.

mod aggregate;
mod commands;
mod decide;
mod error;
mod events;
#[cfg(test)]
mod tests;

pub use aggregate::CampaignRun;
pub use commands::CampaignRunCommand;
pub use error::CampaignRunError;
pub use events::{Audience, CampaignRunEvent, FrozenTemplate, RunDefinition, RunStatus, StallReason};
