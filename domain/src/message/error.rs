use thiserror::Error;

use super::events::MessageStatus;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// There is no such message, or it belongs to another tenant; the two look the same on purpose.
    #[error("no such message")]
    NotFound,
    /// Somebody else has begun this attempt, or a later one: there is no receipt and no right to call.
    #[error("attempt {attempt} has begun already; {latest} is the latest")]
    AttemptBegun { attempt: u32, latest: u32 },
    /// Attempts begin one after the other.
    #[error("attempt {attempt} cannot begin; the next one is {next}")]
    AttemptOutOfOrder { attempt: u32, next: u32 },
    /// A deferred message cannot be claimed before its time.
    #[error("the message is deferred and not due yet")]
    NotDue,
    /// The status does not allow the command.
    #[error("a message that is {} does not allow this", status.name())]
    NotAllowed { status: MessageStatus },
    /// WhatsApp cannot have a status for a message that was never handed to it.
    #[error("the message was never handed to WhatsApp")]
    NeverDispatched,
}
