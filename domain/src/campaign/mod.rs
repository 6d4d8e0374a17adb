//! A person's request to send a template to a segment: once, daily, weekly or monthly.
//!
//! The campaign decides which occurrences become runs; it knows nothing of messages and does not grow with the
//! audience.

mod aggregate;
mod commands;
mod decide;
mod error;
mod events;
#[cfg(test)]
mod tests;

pub use aggregate::Campaign;
pub use commands::CampaignCommand;
pub use error::CampaignError;
pub use events::{
    CampaignDefinition, CampaignEvent, CampaignStatus, CampaignType, ParameterMapping, ParameterSource, SkippedBecause,
    Trigger,
};
