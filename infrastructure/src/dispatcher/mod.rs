//! From the dispatch queue to WhatsApp, at most once per attempt.
//!
//! Consume → append `DispatchStarted` for the batch → acknowledge → look at the streams of consent, run and campaign once
//! more → wait for the permit → mark the call in the journal → call → append the outcome. The appended event is the
//! receipt, and there is no call without one. What may no longer be sent is released. A claim that is found open later
//! becomes unknown if its call may have been made, and is released if the journal shows that it was not.

mod account_holds;
mod call;
mod claim;
mod departing;
mod journal;
mod last_look;
mod misfits;
mod outage;
mod readying;
mod sender_loop;
mod strikes;
mod supervisor;
mod sweeper;

pub use account_holds::AccountHolds;
pub use claim::InFlight;
pub use journal::{CallJournal, Recovered};
pub use misfits::{MisfitLimits, Misfits};
pub use supervisor::{Dispatcher, DispatcherConfig};
pub use sweeper::Sweeper;
