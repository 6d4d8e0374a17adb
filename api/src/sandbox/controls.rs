//! The settings that hold now, with what was made of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;

use super::draws::Draws;
use super::faults::FaultSet;
use super::graph_error::GraphError;
use super::ledger::fingerprint;
use super::settings::{Settings, SettingsError};
use super::template_status::Change;
use super::templates::{self, Catalogue, Template};
use super::wire::{Send, recipient_key};

/// Purposes of draws; faults draw by their place in the list.
const LATENCY: u64 = 1 << 32;
const STALL: u64 = 2 << 32;
/// Recipients whose calls are counted, about 100 MB.
const COUNTED_MAX: usize = 2_000_000;

/// The settings that hold now. Whoever reads them takes one step; nothing waits while they are changed.
pub(super) struct Controls {
    present: RwLock<Arc<InForce>>,
    /// The calls to each recipient, counted while anything is left to chance.
    calls: Mutex<HashMap<u128, u64>>,
}

/// Settings with what was made of them.
pub(super) struct InForce {
    pub(super) settings: Settings,
    pub(super) faults: Arc<FaultSet>,
    opted_out: HashSet<String>,
    catalogue: Option<Arc<Catalogue>>,
    draws: bool,
}

impl InForce {
    fn new(settings: Settings, before: Option<&Self>) -> Self {
        // The same faults go on counting where they are.
        let kept = before.filter(|before| before.settings.faults == settings.faults);
        let faults = kept.map_or_else(|| Arc::new(FaultSet::new(&settings.faults)), |kept| Arc::clone(&kept.faults));
        let opted_out = settings.opted_out.iter().map(|number| recipient_key(number)).collect();
        let kept = before.filter(|before| before.settings.templates == settings.templates);
        let catalogue = kept.map_or_else(
            || settings.templates.as_deref().map(|templates| Arc::new(Catalogue::new(templates))),
            |kept| kept.catalogue.clone(),
        );
        let draws = settings.draws();
        Self { settings, faults, opted_out, catalogue, draws }
    }

    /// The status of the template as it is now.
    pub(super) fn template_status<'a>(&'a self, template: &'a Template) -> &'a str {
        self.settings.template_status.get(&template.name).unwrap_or(&template.status)
    }

    /// The template of the send, with another status.
    pub(super) fn change_of(&self, send: &Send<'_>, status: &'static str) -> Change {
        let templates = self.settings.templates.as_deref().unwrap_or_default();
        let found = templates.iter().find(|t| t.name == *send.template && t.language == *send.language);
        found.map_or_else(
            || Change::of_name(&send.template, &send.language, status),
            |template| Change::new(template, status),
        )
    }

    /// The template of the send in the catalogue, if there is one, and if the send may be made and fits it.
    pub(super) fn admit_template(&self, send: &Send<'_>) -> Result<Option<&Template>, GraphError> {
        let status = self.settings.template_status.get(&*send.template).map(String::as_str);
        match &self.catalogue {
            Some(catalogue) => catalogue.admit(&send.template, &send.language, status, &send.components).map(Some),
            None => {
                status.map_or(Ok(()), |status| templates::admit_status(status, &send.template, &send.language))?;
                Ok(None)
            }
        }
    }

    /// Whether the user has stopped marketing.
    pub(super) fn stopped(&self, recipient: &str) -> bool {
        !self.opted_out.is_empty() && self.opted_out.contains(recipient)
    }

    pub(super) fn latency(&self, draws: Draws) -> Duration {
        let latency = &self.settings.latency;
        let (median, p99) = (Duration::from_millis(latency.median_ms), Duration::from_millis(latency.p99_ms));
        if !self.draws {
            return median;
        }
        let stalls = draws.uniform(STALL) < latency.stall_share;
        let stall = if stalls { Duration::from_millis(latency.stall_ms) } else { Duration::ZERO };
        draws.log_normal(LATENCY, median, p99) + stall
    }
}

impl Controls {
    pub(super) fn new(settings: Settings) -> Self {
        Self { present: RwLock::new(Arc::new(InForce::new(settings, None))), calls: Mutex::default() }
    }

    pub(super) fn present(&self) -> Arc<InForce> {
        Arc::clone(&self.present.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the settings and returns those that hold now.
    pub(super) fn patch(&self, patch: &Value) -> Result<Settings, SettingsError> {
        self.change(|settings| settings.patched(patch))
    }

    /// Notes that a user has stopped marketing, or takes it again.
    pub(super) fn prefers(&self, wa_id: &str, stopped: bool) {
        let changed = self.change(|settings| {
            let mut settings = settings.clone();
            settings.opted_out.retain(|number| recipient_key(number) != wa_id);
            settings.opted_out.extend(stopped.then(|| wa_id.to_owned()));
            Ok(settings)
        });
        changed.expect("a number more or less keeps the settings valid");
    }

    /// Gives the templates of this name another status.
    pub(super) fn set_template_status(&self, name: &str, status: &str) {
        let changed = self.change(|settings| {
            let mut settings = settings.clone();
            settings.template_status.insert(name.to_owned(), status.to_owned());
            Ok(settings)
        });
        changed.expect("the status of a template keeps the settings valid");
    }

    fn change(
        &self,
        change: impl FnOnce(&Settings) -> Result<Settings, SettingsError>,
    ) -> Result<Settings, SettingsError> {
        let mut present = self.present.write().unwrap_or_else(PoisonError::into_inner);
        let settings = change(&present.settings)?;
        if (settings.seed, &settings.faults) != (present.settings.seed, &present.settings.faults) {
            self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        *present = Arc::new(InForce::new(settings.clone(), Some(&present)));
        Ok(settings)
    }

    /// The draws of one more call to the recipient.
    pub(super) fn draws(&self, in_force: &InForce, recipient: &str) -> Draws {
        let seed = in_force.settings.seed;
        if !in_force.draws {
            return Draws::new(seed, "", 0);
        }
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= COUNTED_MAX {
            calls.clear();
        }
        let count = calls.entry(fingerprint(recipient)).or_default();
        *count += 1;
        Draws::new(seed, recipient, *count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::LatencySettings;
    use super::*;

    #[test]
    fn the_draws_of_a_call_repeat_with_the_seed() {
        let settings = Settings { latency: LatencySettings { p99_ms: 9, ..Default::default() }, ..Default::default() };
        let drawn = || {
            let controls = Controls::new(settings.clone());
            ["91", "92", "91"].map(|recipient| controls.draws(&controls.present(), recipient))
        };
        assert_eq!(drawn(), drawn());
        assert_ne!(drawn()[0], drawn()[2], "the second call to a recipient is another");
    }
}
