//! What the tests of every crate share: real servers, never doubles of them, and waiting with a deadline.

pub mod postgres;
pub mod proxy;
pub mod rabbitmq;
pub mod wait;

/// The maintenance database of the run's private cluster; set by `servers run`.
pub const POSTGRES_VARIABLE: &str = "EKTOLA_TEST_POSTGRES";
/// The data folder of the run's private RabbitMQ node; set by `servers run --rabbitmq`.
pub const RABBITMQ_DIR_VARIABLE: &str = "EKTOLA_TEST_RABBITMQ_DIR";
