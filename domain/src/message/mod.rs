//! One template to one contact in one run.
//!
//! The status is a set of facts, not "the last webhook wins": `read` implies delivered and sent; late, repeated and
//! reordered statuses change nothing that is already known; a `delivered` after a `failed` counts as delivered.
//!
//! The right to call WhatsApp is the position of the `DispatchStarted` that a commit appended. That is why
//! `BeginDispatch` on an attempt that has begun is an error and not a no-op: an empty answer must never look like a
//! receipt.

mod aggregate;
mod commands;
mod decide;
mod error;
mod events;
#[cfg(test)]
mod tests;

pub use aggregate::Message;
pub use commands::{MessageCommand, Resolution};
pub use error::MessageError;
pub use events::{
    Acceptance, FailureClass, Lane, MessageEvent, MessageStatus, Milestone, OnUnknown, Pricing, ReleaseReason,
    SkipReason, Transition,
};
