//! Tests of the whole engine, through HTTP, against the real Postgres, the real RabbitMQ and the sandbox.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod bad_input;
mod engine;
mod faults;
mod flow;
mod kill;
mod recurrence;
mod webhooks;
