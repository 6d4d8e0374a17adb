//! Runs, one row each, and every counter of a run as a sum over the log.

mod counts;
mod project;
pub mod read;

pub use project::Runs;
