//! Whether a contact may get a message, and what follows when that changes.
//!
//! [`standings`] tells what contacts have said and what WhatsApp has said of them; [`ConsentPolicy`] makes a reason to
//! skip of it when an audience is resolved. [`ConsentFollower`] makes a stop of a refusal by WhatsApp, and cancels what is
//! queued for whoever stopped. [`ContactFlagsEffect`] notes down who cannot be reached for a while.

mod flags;
mod follower;
mod history;
mod policy;
mod standing;

pub use flags::ContactFlagsEffect;
pub use follower::ConsentFollower;
pub use history::{ConsentRecord, ConsentStatement, record_of};
pub use policy::{ConsentPolicy, OptInRequired};
pub use standing::{Standing, StandingError, standings};
