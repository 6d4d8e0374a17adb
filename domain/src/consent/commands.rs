//! What can be asked of a contact's consent. Every command may be the first one: a contact of whom nothing was said
//! has no events.

use chrono::{DateTime, Utc};

use super::events::ConsentSource;

/// `said_at` is when it was said, which may be long before it became known: WhatsApp delivers late and out of order. What
/// was said before a later word of the contact itself changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsentCommand {
    /// `wording` is what the contact was shown. Does not lift an opt-out unless the source is the contact itself.
    OptIn {
        source: ConsentSource,
        wording: Option<String>,
        said_at: DateTime<Utc>,
    },
    OptOut {
        source: ConsentSource,
        said_at: DateTime<Utc>,
    },
    StopMarketing {
        source: ConsentSource,
        said_at: DateTime<Utc>,
    },
    /// Lifts a stop of offers, and an opt-out where the source is the contact itself.
    ResumeMarketing {
        source: ConsentSource,
        said_at: DateTime<Utc>,
    },
    Erase,
}
