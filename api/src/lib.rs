//! The outermost room: HTTP, webhooks, the command line, the sandbox, configuration, and the one place where
//! everything is put together.

pub mod app;
pub mod cli;
pub mod config;
pub mod http;
pub mod readiness;
pub mod sandbox;
pub mod shutdown;
pub mod webhooks;
