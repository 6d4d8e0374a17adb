//! The read side of the log: the high-water mark, and one decoded feed that all subscriptions of a process share.
//!
//! A reader that remembers "last position seen" skips a lower one that commits later. Here nobody reads above the
//! mark, and nothing can appear at or below it any more. See `docs/adr/0001-order-of-the-log.md`.

mod feed;
mod follow;
mod mark;
mod subscription;
mod times;

pub use feed::{Batch, EventFeed, FeedConfig, FeedError, Page, UnreadableEvent, read_events, read_page, read_sequence};
pub(crate) use follow::FAST_BATCH;
pub use follow::{ActError, TableEffect, follow};
pub use mark::{HighWaterMark, MarkError};
pub use subscription::{advance_in_tx, lock_position_in_tx, position_of, register};
pub use times::{LogTimes, position_at, time_of};
