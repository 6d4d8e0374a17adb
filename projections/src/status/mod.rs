//! The state of the whole installation at a glance. It has no table of its own.

pub mod read;
