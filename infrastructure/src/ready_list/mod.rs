//! The ready list: which messages may be sent, and which claims are open. A table that follows the log, ids only.
//!
//! The log is the outbox. Nothing is ever put on this list except by reading an event, so it can be lost and read
//! again, and no broker holds anything that it does not.

mod effect;
mod feeder;
mod outstanding;
mod pick;
mod put_back;

pub use effect::ReadyListEffect;
pub use feeder::{Feeder, FeederConfig};
pub(crate) use pick::postpone;
pub(crate) use put_back::{PutBack, lock_in_tx, put_back_in_tx};
