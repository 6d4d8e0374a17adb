//! Whether this process can do its work, said by the parts that know.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A cheap handle. Each part of the engine has one entry under its name: ready, or why not.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Option<String>>>>);

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// `None`: this part is ready.
    pub fn set(&self, name: &'static str, reason: Option<String>) {
        self.entries().insert(name, reason);
    }

    /// Why the process is not ready, each reason with the name of its part before it. Empty: it is ready.
    pub fn reasons(&self) -> Vec<String> {
        let entries = self.entries();
        entries.iter().filter_map(|(name, reason)| Some(format!("{name}: {}", reason.as_ref()?))).collect()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<&'static str, Option<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_counts_until_it_says_otherwise() {
        let readiness = Readiness::new();
        assert!(readiness.reasons().is_empty());
        let handle = readiness.clone();
        handle.set("feed", Some("has not started".to_owned()));
        handle.set("sandbox", None);
        assert_eq!(readiness.reasons(), ["feed: has not started"]);
        readiness.set("feed", None);
        assert!(readiness.reasons().is_empty());
    }
}
