//! What may happen: the aggregates, their rules, and the sagas that react to them.
//!
//! Nothing in this crate does I/O, reads a clock, draws a random number or makes a new id: all of that arrives in
//! commands. So every rule here can be tested by values alone and gives the same answer on every replay.

pub mod aggregate;
pub mod campaign;
pub mod campaign_run;
pub mod consent;
pub mod event;
pub mod ids;
pub mod message;
pub mod phone;
pub mod sagas;
pub mod schedule;
pub mod template;
