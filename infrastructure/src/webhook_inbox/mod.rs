//! The inbox: a webhook is stored before it is answered, and answered before it is interpreted.
//!
//! [`Inbox`] stores bodies. [`Interpreter`] turns them into commands, in steps: `pending` takes and ends a step,
//! `reading` finds the statuses in its bodies, `applying` gives them to their messages.

mod applying;
mod interpreter;
mod owners;
mod pending;
mod purge;
mod reading;
mod store;

pub use applying::FailureRules;
pub use interpreter::{Interpreter, InterpreterConfig};
pub use purge::BodyPurge;
pub use store::{Inbox, InboxConfig, InboxError};
