//! The inbox: a webhook is stored before it is answered, and answered before it is interpreted.
//!
//! [`Inbox`] stores bodies. [`Interpreter`] turns them into commands, in steps: `pending` takes and ends a step,
//! `reading` finds what its bodies hold, [`Listener`](crate::inbound::Listener) hears what users said, `applying` gives the
//! statuses to their messages.

mod applying;
mod interpreter;
mod owners;
mod pending;
mod purge;
mod reading;
mod store;
mod unknown;

pub use applying::FailureRules;
pub use interpreter::{Interpreter, InterpreterConfig};
pub use purge::BodyPurge;
pub use store::{Inbox, InboxConfig, InboxError};
