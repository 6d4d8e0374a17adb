//! What happened when: counts per run and quarter of an hour. Daily totals of a tenant and the usage of a sender are sums over it.

mod project;
pub mod read;

pub use project::Activity;
