//! What can be asked of a contact's consent. Every command may be the first one: a contact of whom nothing was said
//! has no events.

use super::events::ConsentSource;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConsentCommand {
    /// `wording` is what the contact was shown. Does not lift an opt-out unless the source is the contact itself.
    OptIn {
        source: ConsentSource,
        wording: Option<String>,
    },
    OptOut {
        source: ConsentSource,
    },
    StopMarketing {
        source: ConsentSource,
    },
    /// Lifts a stop of offers, and an opt-out where the source is the contact itself.
    ResumeMarketing {
        source: ConsentSource,
    },
    Erase,
}
