//! What one contact allows: nothing, reminders only, or offers as well.
//!
//! Stopping offers and opting out of everything are kept apart. An upload never lifts an opt-out; only the contact's
//! own word does.

mod aggregate;
mod commands;
mod decide;
mod error;
mod events;
mod keywords;
#[cfg(test)]
mod tests;

pub use aggregate::Consent;
pub use commands::ConsentCommand;
pub use error::ConsentError;
pub use events::{ConsentEvent, ConsentSource};
pub use keywords::{KeywordFault, Keywords, Word, normal_form};
