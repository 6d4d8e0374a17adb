//! What can be asked of a message.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::events::{Acceptance, FailureClass, Lane, OnUnknown, Pricing, ReleaseReason, SkipReason};
use crate::ids::{ContactId, RunId, SenderId};

#[derive(Debug, Clone, PartialEq)]
pub enum MessageCommand {
    QueueMessage {
        run_id: RunId,
        contact_id: ContactId,
        sender_id: SenderId,
        lane: Lane,
        on_unknown: OnUnknown,
    },
    /// Records that a contact of the audience gets no message, and why.
    Skip {
        run_id: RunId,
        contact_id: ContactId,
        sender_id: SenderId,
        reason: SkipReason,
    },
    /// Asks for the right to call WhatsApp once. The appended event is the receipt; an error or an empty answer is
    /// none.
    BeginDispatch {
        /// Counts from 1; each attempt begins at most once.
        attempt: u32,
        /// After this the call may not be made any more.
        deadline: DateTime<Utc>,
        /// The call journal in which the claimant marks the call before it makes it.
        journal_id: Uuid,
    },
    /// Gives a claim back: the call was not made.
    ReleaseDispatch {
        attempt: u32,
        reason: ReleaseReason,
    },
    MarkSent {
        /// The attempt whose call was answered; `None` for a status, which does not say which attempt it is about.
        attempt: Option<u32>,
        acceptance: Acceptance,
        at: DateTime<Utc>,
    },
    /// A status says that WhatsApp has accepted, under an id that belongs to none of the earlier attempts.
    ConfirmLatestAttempt {
        at: DateTime<Utc>,
    },
    MarkDelivered {
        at: DateTime<Utc>,
        pricing: Option<Pricing>,
    },
    MarkRead {
        at: DateTime<Utc>,
        pricing: Option<Pricing>,
    },
    MarkFailed {
        /// The attempt that failed; `None` for a status that does not say which attempt it is about.
        attempt: Option<u32>,
        code: i32,
        class: FailureClass,
        at: DateTime<Utc>,
    },
    /// WhatsApp refused the call of this attempt; another may be made from `until` on.
    Defer {
        attempt: u32,
        until: DateTime<Utc>,
        code: i32,
    },
    /// A status reports that WhatsApp gave up after it had accepted, with a code that may be retried. Where it may not be
    /// retried any more, the message has failed.
    RetryFailed {
        /// `None` for a status that does not say which attempt it is about.
        attempt: Option<u32>,
        code: i32,
        at: DateTime<Utc>,
        until: DateTime<Utc>,
        /// Retries after such a status, of one message.
        retries_max: u32,
    },
    MarkOutcomeUnknown {
        attempt: u32,
    },
    /// Decides what an unknown outcome was.
    Settle {
        resolution: Resolution,
    },
    Expire,
    Cancel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The window passed without a word from WhatsApp.
    Unconfirmed,
    /// It was accepted.
    Sent,
    /// It was not accepted and is not tried again.
    NotSent,
    /// Try again; only where the campaign allows it.
    Resend,
}
