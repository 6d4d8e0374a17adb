//! What can be asked: tables folded from the log, one folder per read model, and how they are kept up to date.
//!
//! A read model holds no personal value; its reads join the erasable tables. Everything in it can be thrown away and
//! folded again from the log, which is what [`rebuild`] does beside the live tables, and no projection has any other effect.

pub mod activity;
pub mod audit;
pub mod billing;
pub mod campaigns;
pub mod explain;
mod feeding;
pub mod generation;
pub mod history;
pub mod messages;
pub mod parking;
pub mod progress;
pub mod projection;
pub mod projector;
pub mod rebuild;
pub mod registry;
pub mod runs;
pub mod status;
mod stored;
