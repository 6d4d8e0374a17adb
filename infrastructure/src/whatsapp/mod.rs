//! WhatsApp's Cloud API: calls out, webhooks in. Nothing here touches the database or the clock.
//!
//! The send call has no idempotency key, so the one question that matters about an answer is whether the message may
//! have been accepted. Only two things may be called again: a call of which no byte left, and a refusal of which
//! WhatsApp says in so many words that nothing was accepted. Everything else is unknown until a webhook speaks.

mod answer;
pub mod catalog;
pub mod client;
pub mod reactions;
mod retry_ladder;
pub mod signature;
pub mod webhook;

pub use answer::{SendOutcome, UnknownReason, answer_of};
pub use client::{ClientConfig, ClientError, PrepareError, PreparedCall, SendRequest, WhatsAppClient};
pub use reactions::{Channel, PauseScope, Reaction, RetryScope, reaction};
pub use retry_ladder::{RetryLadder, Rung};

/// WhatsApp promises no bound for its message ids. Ours is far above what is seen and below what an index row holds.
pub const WAMID_BYTES_MAX: usize = 1024;

/// Postgres text and jsonb cannot hold U+0000.
fn without_nul(text: &str) -> String {
    text.replace('\0', "")
}
