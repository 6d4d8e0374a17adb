//! Messages of whose price WhatsApp has spoken: per run, quarter, category, kind of pricing and whether they are billable.

mod project;
pub mod read;

pub use project::Billing;
