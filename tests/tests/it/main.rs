//! Tests of the whole engine, through HTTP, against the real Postgres, the real RabbitMQ and the sandbox.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod bad_input;
mod broker;
mod dead_letters;
mod engine;
mod fair_share;
mod fan_out_kill;
mod faults;
mod flow;
mod kill;
mod ledger;
mod poison;
mod process;
mod queue;
mod recurrence;
mod templates;
mod webhooks;
