//! Tests of the whole engine, through HTTP, against the real Postgres, the real RabbitMQ and the sandbox.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod bad_input;
mod broker;
mod consent;
mod dead_letters;
mod doubt;
mod engine;
mod erasure;
mod fair_share;
mod fan_out_kill;
mod faults;
mod flow;
mod inbound;
mod kill;
mod ledger;
mod poison;
mod process;
mod queue;
mod rate;
mod read_models;
mod recurrence;
mod sandbox_process;
mod six_kills;
mod templates;
mod trouble;
mod turn;
mod webhooks;
mod why;
mod why_held;
