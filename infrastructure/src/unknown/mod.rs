//! Outcomes that nobody knows: calls that WhatsApp may or may not have accepted.
//!
//! A webhook settles them whenever it comes, in whatever state they are. Until then they wait: [`UnknownEffect`] lists
//! them from the log, [`UnknownWindow`] ends their waiting, and [`settle`] is a person's word. No call is repeated here
//! but where the campaign asks for it.

mod effect;
mod settling;
mod window;

pub use self::effect::UnknownEffect;
pub use self::settling::{SettleError, Settled, UnknownOutcome, list, settle};
pub use self::window::{UnknownConfig, UnknownWindow};
