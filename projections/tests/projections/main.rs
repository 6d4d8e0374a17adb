//! The read models against the real log: what is folded, what is read, what a rebuild gives, and what is set aside.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

mod folding;
mod parking;
mod rebuild;
mod script;
mod world;
