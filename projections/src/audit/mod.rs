//! Replay for audits: what the log says of one aggregate, folded by the domain's own rules up to a position.
//!
//! Nothing here is kept: every answer is folded from the log when it is asked for, so it is right whatever the read
//! models hold. Only which messages a run or a contact has is looked up in a read model; what they were comes from the log.

mod diff;
mod fold;
pub mod log;
pub mod texts;

pub use self::diff::{Change, changes};
pub use self::fold::{Audit, AuditError, AuditKind, AuditedEvent, audit};
pub use self::log::{EventFilter, EventPage, LoggedEvent};
