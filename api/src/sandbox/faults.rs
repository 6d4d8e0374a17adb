//! What goes wrong, and when: a list of faults, each an effect with the calls that it meets.
//!
//! Effects come in stages. Of those that refuse a call, of those that change its answer, of those that change what
//! becomes of the message, and of what the recipient does, the first fault of the list that meets the call holds; of
//! those that change how its statuses arrive, all that meet it.

use std::collections::HashSet;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::behavior::Status;
use super::draws::Draws;
use super::settings::{MS_MAX, SettingsError};
use super::template_status::WebhookComes;
use super::wire::recipient_key;

/// One thing that goes wrong. In JSON the keys of [`When`] and those of [`Effect`] stand side by side:
/// `{"effect": "refuse", "code": 190, "after_calls": 50, "for_ms": 20000}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>")]
pub struct Fault {
    #[serde(flatten)]
    pub effect: Effect,
    #[serde(flatten)]
    pub when: When,
}

/// Which calls a fault meets; without any key, all.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// The share of calls, 0 to 1, drawn by the seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// So many calls, then none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// Only after so many other calls.
    #[serde(skip_serializing_if = "is_zero")]
    pub after_calls: u64,
    /// For so long after the first call that it meets, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// Calls to these numbers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recipients: Vec<String>,
    /// Calls with these templates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case", deny_unknown_fields)]
pub enum Effect {
    /// Refuses the call with this code. Without `http_status` it comes with the code's own.
    Refuse {
        code: u32,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        http_status: Option<u16>,
        /// `Retry-After`, in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after_s: Option<u32>,
        /// `estimated_time_to_regain_access` in the usage header, in minutes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        regain_minutes: Option<u32>,
    },
    /// The template of the first call that it meets is paused (132015), or disabled for good (132016). The webhook
    /// that tells it comes `gap_ms` before or after the first refusal, with it, or never. It is free again after
    /// `unpause_after_ms`.
    PauseTemplate {
        #[serde(default)]
        disable: bool,
        #[serde(default)]
        webhook: WebhookComes,
        #[serde(default)]
        gap_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unpause_after_ms: Option<u64>,
    },
    /// The call is never accepted and never answered; the connection is cut after `hang_ms`.
    LoseCall {
        #[serde(default)]
        hang_ms: u64,
    },
    /// The call is accepted and never answered; the connection is cut after `hang_ms`.
    LoseAnswer {
        #[serde(default)]
        hang_ms: u64,
    },
    /// A server error, with an error of this code, or without one with a page of HTML.
    ServerError {
        #[serde(default = "internal_server_error")]
        http_status: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
        /// Whether the message was accepted all the same.
        #[serde(default)]
        accepted: bool,
    },
    /// So many statuses are acknowledged before the call is answered, or `wait_ms_max` has passed.
    StatusBeforeAnswer {
        #[serde(default = "one")]
        statuses: usize,
        #[serde(default = "ten_seconds")]
        wait_ms_max: u64,
    },
    /// The answer to the accepted call has no message id.
    AnswerWithoutId {},
    /// The message fails with this code, after these other statuses. Without `echo` the status lacks the callback
    /// data; without `known_wamid` it comes with an id that nobody was told.
    Fail {
        code: u32,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<Status>,
        #[serde(default = "yes")]
        echo: bool,
        #[serde(default = "yes")]
        known_wamid: bool,
    },
    /// The message fails with this code, and is delivered afterwards.
    DeliverAfterFail { code: u32 },
    /// Nothing is ever heard of the message.
    NoWebhook {},
    /// The answer says `held_for_quality_assessment` (with `paused`: `paused`). After `delay_ms` the message goes its
    /// way, or fails with `code`.
    Hold {
        delay_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u32>,
        #[serde(default)]
        paused: bool,
    },
    /// These statuses are left out.
    Drop { statuses: Vec<Status> },
    /// Each of these statuses, without a list each status, comes so late, in milliseconds.
    Delay {
        delay_ms: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        statuses: Vec<Status>,
    },
    /// Each status comes so many times more.
    Duplicate {
        #[serde(default = "one")]
        copies: usize,
    },
    /// The message's statuses come in a drawn order.
    Shuffle {},
    /// The message's statuses come in the opposite order.
    Reverse {},
    /// One status more, at the end.
    Add { status: Status },
    /// The statuses lack the callback data.
    NoEcho {},
    /// WhatsApp calls the recipient by another number than the caller does.
    OtherWaId {},
    /// The recipient answers with this text after `delay_ms`; with `button` by a tap on the button of that payload.
    /// An answer that has not been posted when the sandbox ends is forgotten.
    Reply {
        text: String,
        delay_ms: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        button: Option<String>,
    },
    /// The recipient stops marketing after `delay_ms`; forgotten as an answer is.
    StopMarketing { delay_ms: u64 },
}

fn internal_server_error() -> u16 {
    500
}

fn one() -> usize {
    1
}

fn ten_seconds() -> u64 {
    10_000
}

fn yes() -> bool {
    true
}

/// What a fault changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The call is not accepted.
    Refusal,
    /// The call is accepted and answered otherwise.
    Answer,
    /// Something else becomes of the message.
    Outcome,
    /// Its statuses arrive otherwise.
    Delivery,
    /// The recipient does something.
    Reaction,
}

impl Effect {
    pub(super) fn stage(&self) -> Stage {
        match self {
            Self::Refuse { .. }
            | Self::PauseTemplate { .. }
            | Self::LoseCall { .. }
            | Self::ServerError { accepted: false, .. } => Stage::Refusal,
            Self::LoseAnswer { .. }
            | Self::ServerError { accepted: true, .. }
            | Self::StatusBeforeAnswer { .. }
            | Self::AnswerWithoutId {} => Stage::Answer,
            Self::Fail { .. } | Self::DeliverAfterFail { .. } | Self::NoWebhook {} | Self::Hold { .. } => {
                Stage::Outcome
            }
            Self::Drop { .. }
            | Self::Delay { .. }
            | Self::Duplicate { .. }
            | Self::Shuffle {}
            | Self::Reverse {}
            | Self::Add { .. }
            | Self::NoEcho {}
            | Self::OtherWaId {} => Stage::Delivery,
            Self::Reply { .. } | Self::StopMarketing { .. } => Stage::Reaction,
        }
    }
}

impl Fault {
    /// For every call.
    pub fn always(effect: Effect) -> Self {
        Self { effect, when: When::default() }
    }

    pub(super) fn check(&self, place: usize) -> Result<(), SettingsError> {
        let range = |key: &str, range, holds: bool| {
            if holds { Ok(()) } else { Err(SettingsError::Range { key: format!("faults[{place}].{key}"), range }) }
        };
        range("share", "0 to 1", self.when.share.is_none_or(|share| (0.0..=1.0).contains(&share)))?;
        let error_status = |status: u16| (400..600).contains(&status);
        match &self.effect {
            Effect::Refuse { http_status, .. } => {
                range("http_status", "400 to 599", http_status.is_none_or(error_status))?;
            }
            Effect::ServerError { http_status, .. } => {
                range("http_status", "500 to 599", (500..600).contains(http_status))?;
            }
            Effect::Delay { delay_ms, .. }
            | Effect::Hold { delay_ms, .. }
            | Effect::Reply { delay_ms, .. }
            | Effect::StopMarketing { delay_ms }
            | Effect::LoseCall { hang_ms: delay_ms }
            | Effect::LoseAnswer { hang_ms: delay_ms }
            | Effect::StatusBeforeAnswer { wait_ms_max: delay_ms, .. }
            | Effect::PauseTemplate { gap_ms: delay_ms, .. } => {
                range("effect", "at most 30 days, in milliseconds", *delay_ms <= MS_MAX)?;
            }
            Effect::Duplicate { copies } => range("copies", "1 to 10", (1..=10).contains(copies))?,
            Effect::Fail { after, .. } => range("after", "at most 10 statuses", after.len() <= 10)?,
            _ => {}
        }
        Ok(())
    }
}

impl TryFrom<Map<String, Value>> for Fault {
    type Error = serde_json::Error;

    /// Serde itself cannot refuse unknown keys in an object that two types share.
    fn try_from(keys: Map<String, Value>) -> Result<Self, Self::Error> {
        const WHEN: [&str; 6] = ["share", "next", "after_calls", "for_ms", "recipients", "templates"];
        let (when, effect): (Map<_, _>, Map<_, _>) = keys.into_iter().partition(|(key, _)| WHEN.contains(&&**key));
        Ok(Self {
            effect: serde_json::from_value(Value::Object(effect))?,
            when: serde_json::from_value(Value::Object(when))?,
        })
    }
}

/// The faults with what they have met so far.
pub(super) struct FaultSet(Vec<Armed>);

struct Armed {
    fault: Fault,
    recipients: HashSet<String>,
    /// Calls that it could have met.
    seen: AtomicU64,
    /// Calls that it met.
    met: AtomicU64,
    began: OnceLock<Instant>,
}

/// What a fault may ask of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    /// Digits, or a business-scoped user id.
    pub(super) recipient: &'a str,
    pub(super) template: &'a str,
    pub(super) draws: Draws,
    pub(super) at: Instant,
}

impl FaultSet {
    pub(super) fn new(faults: &[Fault]) -> Self {
        let armed = |fault: &Fault| Armed {
            fault: fault.clone(),
            recipients: fault.when.recipients.iter().map(|recipient| recipient_key(recipient)).collect(),
            seen: AtomicU64::new(0),
            met: AtomicU64::new(0),
            began: OnceLock::new(),
        };
        Self(faults.iter().map(armed).collect())
    }

    /// The first effect of this stage that meets the call.
    pub(super) fn first(&self, stage: Stage, call: Call<'_>) -> Option<&Effect> {
        self.of_stage(stage).find(|(place, armed)| armed.meets(*place, call)).map(|(_, armed)| &armed.fault.effect)
    }

    /// All effects of this stage that meet the call.
    pub(super) fn all(&self, stage: Stage, call: Call<'_>) -> impl Iterator<Item = &Effect> {
        self.of_stage(stage)
            .filter(move |(place, armed)| armed.meets(*place, call))
            .map(|(_, armed)| &armed.fault.effect)
    }

    /// How many calls each fault met, in the order of the list.
    pub(super) fn met(&self) -> Vec<u64> {
        self.0.iter().map(|armed| armed.met.load(Ordering::Relaxed)).collect()
    }

    fn of_stage(&self, stage: Stage) -> impl Iterator<Item = (usize, &Armed)> {
        self.0.iter().enumerate().filter(move |(_, armed)| armed.fault.effect.stage() == stage)
    }
}

impl Armed {
    fn meets(&self, place: usize, call: Call<'_>) -> bool {
        let when = &self.fault.when;
        let asked_for = (self.recipients.is_empty() || self.recipients.contains(call.recipient))
            && (when.templates.is_empty() || when.templates.iter().any(|template| template == call.template));
        if !asked_for || self.seen.fetch_add(1, Ordering::Relaxed) < when.after_calls {
            return false;
        }
        let place = u64::try_from(place).unwrap_or_default();
        if when.share.is_some_and(|share| call.draws.uniform(place) >= share) {
            return false;
        }
        if let Some(for_ms) = when.for_ms {
            let began = *self.began.get_or_init(|| call.at);
            if call.at.saturating_duration_since(began) >= Duration::from_millis(for_ms) {
                return false;
            }
        }
        // A template is paused once, unless more is asked for.
        let bound = match self.fault.effect {
            Effect::PauseTemplate { .. } => when.next.unwrap_or(1),
            _ => when.next.unwrap_or(u64::MAX),
        };
        self.met.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |met| (met < bound).then_some(met + 1)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(faults: Value) -> FaultSet {
        FaultSet::new(&serde_json::from_value::<Vec<Fault>>(faults).unwrap())
    }

    fn call(recipient: &str, nth: u64, at: Instant) -> Call<'_> {
        Call { recipient, template: "greeting", draws: Draws::new(1, recipient, nth), at }
    }

    #[test]
    fn a_fault_meets_the_calls_that_it_asks_for() {
        let now = Instant::now();
        let met = |when: Value| {
            let mut fault = json!({"effect": "refuse", "code": 190});
            fault.as_object_mut().unwrap().extend(when.as_object().unwrap().clone());
            let set = set(json!([fault]));
            let recipients = ["911", "912", "911", "912", "911"];
            let at = |n: usize| now + Duration::from_secs(1) * u32::try_from(n).unwrap();
            let calls = recipients.iter().enumerate();
            calls.map(|(n, to)| set.first(Stage::Refusal, call(to, 1, at(n))).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(met(json!({})), [true; 5]);
        assert_eq!(met(json!({"next": 2})), [true, true, false, false, false]);
        assert_eq!(met(json!({"after_calls": 2, "next": 1})), [false, false, true, false, false]);
        assert_eq!(met(json!({"after_calls": 1, "for_ms": 2000})), [false, true, true, false, false]);
        assert_eq!(met(json!({"recipients": ["+91 2"]})), [false, true, false, true, false]);
        assert_eq!(met(json!({"templates": ["other"]})), [false; 5]);
        assert_eq!(met(json!({"share": 0.0})), [false; 5]);
        assert_eq!(met(json!({"share": 1.0})), [true; 5]);
    }

    #[test]
    fn the_first_fault_of_a_stage_holds_and_the_others_keep_their_calls() {
        let set = set(json!([
            {"effect": "refuse", "code": 1, "next": 1}, {"effect": "refuse", "code": 2, "next": 1},
            {"effect": "no_echo"}, {"effect": "shuffle"}, {"effect": "lose_answer"},
        ]));
        let code = |effect: Option<&Effect>| match effect {
            Some(Effect::Refuse { code, .. }) => Some(*code),
            _ => None,
        };
        let now = Instant::now();
        let codes: Vec<_> = (0..3).map(|n| code(set.first(Stage::Refusal, call("91", n, now)))).collect();
        assert_eq!(codes, [Some(1), Some(2), None]);
        assert_eq!(set.all(Stage::Delivery, call("91", 1, now)).count(), 2);
        assert_eq!(set.met(), [1, 1, 1, 1, 0]);
    }

    #[test]
    fn a_fault_is_shown_as_it_was_written() {
        let written = json!({"effect": "fail", "code": 131_049, "echo": true, "known_wamid": false, "share": 0.5});
        let fault: Fault = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&fault).unwrap(), written);
    }
}
