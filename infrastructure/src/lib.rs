//! How it is stored, ordered, queued, sent and timed.

pub mod clock;
pub mod consent;
pub mod contacts;
pub mod dead_letters;
pub mod dispatch_queue;
pub mod dispatcher;
pub mod erasure;
pub mod event_feed;
pub mod event_store;
pub mod fan_out;
pub mod inbound;
pub mod lease;
pub mod pacing;
pub mod postgres;
pub mod private_servers;
pub mod ready_list;
pub mod sagas;
pub mod seals;
pub mod senders;
pub mod templates;
pub mod tenants;
pub mod trouble;
pub mod unknown;
pub mod webhook_inbox;
pub mod whatsapp;
