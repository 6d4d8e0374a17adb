//! What drives the pure sagas of the domain: one runner, and the one place where their commands are carried out.

mod executor;
mod runner;

pub use executor::SagaExecutor;
pub(crate) use executor::log_run_event;
pub use runner::{SagaConfig, run};
