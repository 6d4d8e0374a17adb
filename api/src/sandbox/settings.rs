//! How a sandbox behaves, as far as it can be changed while it runs: `GET /_control` shows it whole, `PATCH /_control`
//! changes the keys that it names. Everything is off or as fast as it goes unless it is said otherwise.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::faults::Fault;
use super::graph_error::Advice;
use super::template_status::id_of;
use super::templates::Template;

/// So many can be looked at for each call.
const FAULTS_MAX: usize = 100;
/// Longer times make no sense in a tool.
pub(super) const MS_MAX: u64 = 30 * 24 * 3_600_000;
/// The statuses that templates have.
const TEMPLATE_STATUSES: [&str; 9] = [
    "APPROVED",
    "PENDING",
    "REJECTED",
    "PAUSED",
    "DISABLED",
    "IN_APPEAL",
    "PENDING_DELETION",
    "LIMIT_EXCEEDED",
    "ARCHIVED",
];
/// The code for a text that no template takes.
pub(super) const BAD_TEXT: u32 = 132_018;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Feeds every draw and every id that is made up.
    pub seed: u64,
    pub latency: LatencySettings,
    pub answers: AnswerSettings,
    pub access: AccessSettings,
    pub limits: LimitSettings,
    pub tier: TierSettings,
    pub statuses: StatusSettings,
    pub posts: PostSettings,
    /// Recipients who have stopped marketing: their messages are accepted and fail with 131050. A message of
    /// `POST /_inbound` with the preference stop or resume changes it.
    pub opted_out: Vec<String>,
    /// What goes wrong; see [`Fault`].
    pub faults: Vec<Fault>,
    /// The templates that exist, in Meta's shape; without a list every template exists.
    pub templates: Option<Vec<Template>>,
    /// The status of templates by their name, in place of the catalogue's: APPROVED, PAUSED, DISABLED.
    pub template_status: BTreeMap<String, String>,
    pub marketing: MarketingSettings,
    pub number: NumberSettings,
}

/// The endpoint for marketing messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarketingSettings {
    /// Whether the account may use it. If not, messages go the usual way, or with the policy STRICT are refused with
    /// 134100.
    pub onboarded: bool,
    /// For so long after the first call with a template, in milliseconds, calls with it are refused with 134101.
    /// WhatsApp takes up to 10 minutes.
    pub sync_ms: u64,
    /// Whether callback data is refused there with 100.
    pub refuse_callback_data: bool,
    /// Whether marketing templates are refused everywhere else with 131063; needs `templates`.
    pub cloud_api_disabled: bool,
}

impl Default for MarketingSettings {
    fn default() -> Self {
        Self { onboarded: true, sync_ms: 0, refuse_callback_data: false, cloud_api_disabled: false }
    }
}

/// What every number shows of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NumberSettings {
    /// GREEN, YELLOW, RED or UNKNOWN.
    pub quality_rating: String,
    /// STANDARD, HIGH or NOT_APPLICABLE.
    pub throughput_level: String,
    /// TIER_250, TIER_2K, TIER_10K, TIER_100K or TIER_UNLIMITED.
    pub messaging_limit: String,
}

impl Default for NumberSettings {
    fn default() -> Self {
        let [quality_rating, throughput_level, messaging_limit] =
            ["GREEN", "STANDARD", "TIER_UNLIMITED"].map(str::to_owned);
        Self { quality_rating, throughput_level, messaging_limit }
    }
}

/// How long calls take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencySettings {
    /// Half of the calls are answered within this time, in milliseconds.
    pub median_ms: u64,
    /// One call in a hundred takes longer, in milliseconds; at most `median_ms`: every call takes `median_ms`.
    pub p99_ms: u64,
    /// The share of calls that take `stall_ms` longer, 0 to 1.
    pub stall_share: f64,
    /// In milliseconds.
    pub stall_ms: u64,
}

impl Default for LatencySettings {
    fn default() -> Self {
        Self { median_ms: 0, p99_ms: 0, stall_share: 0.0, stall_ms: 30_000 }
    }
}

/// What answers to accepted calls hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AnswerSettings {
    /// Whether `message_status` is in them.
    pub message_status: bool,
    /// The codes that a text which no template takes is refused with, drawn for each call: which it is, WhatsApp does
    /// not say.
    pub bad_text_codes: Vec<u32>,
}

impl Default for AnswerSettings {
    fn default() -> Self {
        Self { message_status: true, bad_text_codes: vec![BAD_TEXT] }
    }
}

/// Who may call, and as which number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessSettings {
    /// Every token is refused with 190.
    pub token_revoked: bool,
    /// The phone number ids that exist; without a list every number exists.
    pub numbers: Option<Vec<String>>,
    /// The code for a number that does not exist: 100 or 33.
    pub unknown_number_code: u32,
}

impl Default for AccessSettings {
    fn default() -> Self {
        Self { token_revoked: false, numbers: None, unknown_number_code: 100 }
    }
}

/// Limits of calls.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// The most calls and inbound messages of one number in any second, beyond which calls are refused with 130429;
    /// 0 is no limit. WhatsApp's is 80, or 1,000 after its upgrade.
    pub rate_per_s: usize,
    /// The most messages to one recipient within 6 s, after which as many times 6 s must pass; further calls are
    /// refused with 131056; 0 is no limit. WhatsApp's is 45.
    pub pair_burst: u32,
    /// The HTTP status of both refusals: 429 or 400.
    pub http_status: u16,
    /// `Retry-After` in both refusals, in seconds.
    pub retry_after_s: Option<u32>,
    /// `estimated_time_to_regain_access` in the usage header of both refusals, in minutes.
    pub regain_minutes: Option<u32>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { rate_per_s: 0, pair_burst: 0, http_status: 429, retry_after_s: None, regain_minutes: None }
    }
}

impl LimitSettings {
    pub(super) fn advice(&self) -> Advice {
        Advice { retry_after_s: self.retry_after_s, regain_minutes: self.regain_minutes }
    }
}

/// The limit of the portfolio, which all numbers of the sandbox share.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TierSettings {
    /// The most recipients in 24 h; 0 is no limit. WhatsApp's are 250, 2,000, 10,000 and 100,000.
    pub recipients_max: usize,
    /// How messages to further recipients end: WhatsApp does not say.
    pub over: OverTier,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverTier {
    /// The call is refused with 131048.
    #[default]
    Refuse,
    /// The call is accepted, and the message fails with 131048.
    Fail,
}

/// When statuses come, and how they are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusSettings {
    /// Time before each status of a message, in milliseconds: from the acceptance to the first one, and from the
    /// acknowledgement of one to the next.
    pub gap_ms: u64,
    /// The most statuses in one webhook body, 1 to 1,000.
    pub batch_max: usize,
    /// Whether the statuses of a body stand in an order of their own.
    pub shuffle: bool,
    /// The share of bodies with a status of a message that somebody else sent, 0 to 1.
    pub foreign_share: f64,
    pub contacts: Contacts,
    pub recipient_id: RecipientId,
    /// Whether timestamps are numbers instead of text.
    pub timestamps_as_numbers: bool,
    /// Whether each status names a conversation, as versions before v24 did.
    pub conversation: bool,
    /// Whether fields that nobody has heard of stand among the known ones.
    pub unknown_fields: bool,
}

impl Default for StatusSettings {
    fn default() -> Self {
        Self {
            gap_ms: 300,
            batch_max: 50,
            shuffle: false,
            foreign_share: 0.0,
            contacts: Contacts::default(),
            recipient_id: RecipientId::default(),
            timestamps_as_numbers: false,
            conversation: false,
            unknown_fields: false,
        }
    }
}

/// Which statuses bring the contact along.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contacts {
    #[default]
    Never,
    NotOnFailed,
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecipientId {
    #[default]
    Present,
    Absent,
    Empty,
}

/// How webhooks travel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostSettings {
    /// The share of acknowledged bodies that come once more, 0 to 1.
    pub duplicate_share: f64,
    /// The share of bodies before which a copy with a wrong signature comes, 0 to 1.
    pub wrong_signature_share: f64,
    /// The share of bodies before which a copy without a signature comes, 0 to 1.
    pub unsigned_share: f64,
    /// The wait before a body that was not answered with 200 comes again, in milliseconds; it doubles each time.
    pub retry_first_ms: u64,
    /// The longest of these waits, in milliseconds.
    pub retry_max_ms: u64,
}

impl Default for PostSettings {
    fn default() -> Self {
        Self {
            duplicate_share: 0.0,
            wrong_signature_share: 0.0,
            unsigned_share: 0.0,
            retry_first_ms: 50,
            retry_max_ms: 5_000,
        }
    }
}

/// Why settings are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A key that is unknown, or a value of another kind.
    #[error("the settings cannot be read: {0}")]
    Shape(String),
    /// A value beyond its range.
    #[error("{key} must be {range}")]
    Range { key: String, range: &'static str },
}

impl Settings {
    /// These settings with the keys of `patch` in place of their own: objects are merged, anything else replaces what
    /// was there, and null brings the default back.
    pub fn patched(&self, patch: &Value) -> Result<Self, SettingsError> {
        if !patch.is_object() {
            return Err(SettingsError::Shape("they are no JSON object".to_owned()));
        }
        let mut settings = serde_json::to_value(self).map_err(|error| SettingsError::Shape(error.to_string()))?;
        merge(&mut settings, patch);
        let mut settings: Self =
            serde_json::from_value(settings).map_err(|error| SettingsError::Shape(error.to_string()))?;
        settings.check()?;
        for template in settings.templates.iter_mut().flatten().filter(|template| template.id.is_empty()) {
            template.id = id_of(&template.name, &template.language).to_string();
        }
        Ok(settings)
    }

    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let range = |key: &str, range, holds: bool| {
            if holds { Ok(()) } else { Err(SettingsError::Range { key: key.to_owned(), range }) }
        };
        let shares = [
            ("latency.stall_share", self.latency.stall_share),
            ("statuses.foreign_share", self.statuses.foreign_share),
            ("posts.duplicate_share", self.posts.duplicate_share),
            ("posts.wrong_signature_share", self.posts.wrong_signature_share),
            ("posts.unsigned_share", self.posts.unsigned_share),
        ];
        for (key, share) in shares {
            range(key, "0 to 1", (0.0..=1.0).contains(&share))?;
        }
        let times = [
            ("latency.median_ms", self.latency.median_ms),
            ("latency.p99_ms", self.latency.p99_ms),
            ("latency.stall_ms", self.latency.stall_ms),
            ("statuses.gap_ms", self.statuses.gap_ms),
            ("posts.retry_max_ms", self.posts.retry_max_ms),
            ("marketing.sync_ms", self.marketing.sync_ms),
        ];
        for (key, ms) in times {
            range(key, "at most 30 days, in milliseconds", ms <= MS_MAX)?;
        }
        let retry_range = "1 to posts.retry_max_ms";
        range("posts.retry_first_ms", retry_range, (1..=self.posts.retry_max_ms).contains(&self.posts.retry_first_ms))?;
        range("statuses.batch_max", "1 to 1000", (1..=1_000).contains(&self.statuses.batch_max))?;
        range("limits.http_status", "429 or 400", matches!(self.limits.http_status, 429 | 400))?;
        range("access.unknown_number_code", "100 or 33", matches!(self.access.unknown_number_code, 100 | 33))?;
        range("answers.bad_text_codes", "at least one code", !self.answers.bad_text_codes.is_empty())?;
        let known = |status: &String| TEMPLATE_STATUSES.contains(&status.to_ascii_uppercase().as_str());
        let catalogue = self.templates.iter().flatten().map(|template| &template.status);
        range("templates", "of a status that templates have", catalogue.into_iter().all(known))?;
        range("template_status", "a status that templates have", self.template_status.values().all(known))?;
        range("faults", "at most 100", self.faults.len() <= FAULTS_MAX)?;
        self.faults.iter().enumerate().try_for_each(|(place, fault)| fault.check(place))
    }

    /// Whether anything of a call is left to chance.
    pub(super) fn draws(&self) -> bool {
        !self.faults.is_empty() || self.latency.stall_share > 0.0 || self.latency.p99_ms > self.latency.median_ms
    }
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                match value {
                    Value::Null => drop(into.remove(key)),
                    value => merge(into.entry(key.clone()).or_insert(Value::Null), value),
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_changes_what_it_names_and_null_brings_the_default_back() {
        let settings = Settings::default();
        let changed = settings.patched(&json!({"latency": {"median_ms": 300, "p99_ms": 2000}, "seed": 4})).unwrap();
        assert_eq!((changed.latency.median_ms, changed.latency.p99_ms, changed.seed), (300, 2_000, 4));
        assert_eq!(changed.latency.stall_ms, settings.latency.stall_ms);
        let back = changed.patched(&json!({"latency": null, "seed": null})).unwrap();
        assert_eq!(back, settings);
        let shown = serde_json::to_value(&changed).unwrap();
        assert_eq!(settings.patched(&shown).unwrap(), changed, "what is shown can be sent back");
    }

    #[test]
    fn what_cannot_hold_is_refused_by_name() {
        let refusal = |patch| Settings::default().patched(&patch).expect_err("it is refused").to_string();
        assert!(refusal(json!({"latncy": {}})).contains("unknown field `latncy`"));
        assert!(refusal(json!({"limits": {"rate": 1}})).contains("unknown field `rate`"));
        assert!(refusal(json!({"posts": {"duplicate_share": 1.5}})).contains("posts.duplicate_share must be 0 to 1"));
        assert!(refusal(json!({"statuses": {"batch_max": 0}})).contains("statuses.batch_max"));
        assert!(refusal(json!({"template_status": {"offer": "PAUSD"}})).contains("template_status must be"));
        assert!(refusal(json!([])).contains("no JSON object"));
        let fault = |fault: Value| refusal(json!({ "faults": [fault] }));
        assert!(fault(json!({"effect": "refuse", "code": 190, "shre": 0.1})).contains("unknown field `shre`"));
        assert!(fault(json!({"effect": "explode"})).contains("unknown variant `explode`"));
        assert!(fault(json!({"effect": "no_webhook", "share": 2.0})).contains("faults[0].share must be 0 to 1"));
    }
}
