//! Templates that change while messages are sent: what becomes of the sends, and the webhook that tells it, which comes
//! before, with or after that.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::bytes::Bytes;

use super::calls::Shared;
use super::draws::Draws;
use super::inbound::change;
use super::templates::Template;

const DAY_S: i64 = 86_400;

/// When the webhook comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookComes {
    /// So long before the first refusal.
    Before,
    /// With the first refusal.
    #[default]
    During,
    /// So long after the first refusal.
    After,
    Never,
}

/// A pause as a fault asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    pub(super) webhook: WebhookComes,
    pub(super) gap: Duration,
    pub(super) unpause_after: Option<Duration>,
}

/// A template's new status.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) name: String,
    language: String,
    id: u64,
    category: String,
    status: &'static str,
}

impl Change {
    pub(super) fn new(template: &Template, status: &'static str) -> Self {
        // Webhooks have the id as a number.
        let id = template.id.parse().unwrap_or_default();
        Self {
            name: template.name.clone(),
            language: template.language.clone(),
            id,
            category: template.category.clone(),
            status,
        }
    }

    /// Of a template that is in no catalogue.
    pub(super) fn of_name(name: &str, language: &str, status: &'static str) -> Self {
        let category = "MARKETING".to_owned();
        Self { name: name.to_owned(), language: language.to_owned(), id: id_of(name, language), category, status }
    }

    fn with_status(&self, status: &'static str) -> Self {
        Self { status, ..self.clone() }
    }

    pub(super) fn webhook(&self, waba_id: &str, timestamp: i64) -> Bytes {
        let mut value = json!({
            "event": self.status,
            "message_template_id": self.id,
            "message_template_name": self.name,
            // The API writes en_US.
            "message_template_language": self.language.replace('_', "-"),
            "message_template_category": self.category,
            "reason": Value::Null,
        });
        let other = |title: &str, description: &str| json!({"title": title, "description": description});
        match self.status {
            "PAUSED" => value["other_info"] = other("FIRST_PAUSE", "Your template has been paused for 3 hours."),
            "DISABLED" => {
                value["disable_info"] = json!({"disable_date": timestamp + DAY_S});
                value["other_info"] = other("DISABLED", "Your template has been disabled.");
            }
            _ => value["other_info"] = other("UNPAUSE", "Your template can be sent again."),
        }
        change(waba_id, "message_template_status_update", &value, Some(timestamp))
    }
}

/// An id of 15 digits, as Meta's are, that is always the same.
pub(super) fn id_of(name: &str, language: &str) -> u64 {
    const DIGITS_15: u64 = 100_000_000_000_000;
    DIGITS_15 + Draws::new(0, name, 0).number(Draws::new(0, language, 1).number(0)) % (9 * DIGITS_15)
}

impl Shared {
    /// Carries a pause out, from the first call that it meets; whether that call is refused.
    pub(super) fn pause_template(self: &Arc<Self>, pause: Pause, paused: Change) -> bool {
        let api = Arc::clone(self);
        let refuses = pause.webhook != WebhookComes::Before;
        if refuses {
            self.controls.set_template_status(&paused.name, paused.status);
        }
        let pausing = async move {
            if matches!(pause.webhook, WebhookComes::Before | WebhookComes::During) {
                api.announce(&paused);
            }
            tokio::time::sleep(pause.gap).await;
            match pause.webhook {
                WebhookComes::Before => api.controls.set_template_status(&paused.name, paused.status),
                WebhookComes::After => api.announce(&paused),
                WebhookComes::During | WebhookComes::Never => {}
            }
            let Some(after) = pause.unpause_after else { return };
            tokio::time::sleep(after).await;
            let free = paused.with_status("APPROVED");
            api.controls.set_template_status(&free.name, free.status);
            if pause.webhook != WebhookComes::Never {
                api.announce(&free);
            }
        };
        self.tasks.spawn(self.shutdown.clone().run_until_cancelled_owned(pausing));
        refuses
    }

    fn announce(&self, change: &Change) {
        self.post(change.webhook(&self.waba_id, self.clock.now().timestamp()));
    }

    /// Hands a body over to be posted. There is room for more than anybody asks for; one more is dropped.
    pub(super) fn post(&self, body: Bytes) {
        if self.bodies.try_send(body).is_err() {
            tracing::warn!("too many webhooks wait to be posted; one is dropped");
        }
    }
}
