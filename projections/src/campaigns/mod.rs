//! Campaigns, one row each.

mod project;
pub mod read;

pub use project::Campaigns;
