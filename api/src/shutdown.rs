//! When a person or a supervisor asks the process to end.

use tokio::signal::unix::{SignalKind, signal};

/// Returns at the first SIGINT or SIGTERM.
pub async fn requested() {
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler for SIGINT can always be installed");
    let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM can always be installed");
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tracing::info!("stopping; calls that are under way are brought to their end");
}
