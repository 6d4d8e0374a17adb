//! Messages, one row each. Phones are not here: reads join them from the erasable tables.

mod project;
pub mod read;
pub mod search;
pub(crate) mod timeline;

pub use project::Messages;
pub use timeline::TimelineEntry;
