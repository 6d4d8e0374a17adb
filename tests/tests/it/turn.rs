//! Tests run beside each other, but one that judges times has the machine for itself: what it measures must be the
//! engine's doing, not that of its neighbours.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::const_new(());

/// Held while a test runs.
#[derive(Debug)]
pub(crate) enum Turn {
    Beside { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl Turn {
    pub(crate) async fn beside_others() -> Self {
        Self::Beside { _guard: MACHINE.read().await }
    }

    pub(crate) async fn alone() -> Self {
        Self::Alone { _guard: MACHINE.write().await }
    }
}
