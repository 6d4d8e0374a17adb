//! What becomes of a message that does not go the usual way. It is decided when the call is accepted and written into
//! the call's line of the ledger, so that a sandbox that is killed goes on with it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::behavior::{Fate, Status};
use super::draws::Draws;
use super::faults::Effect;

/// Purpose of draws; faults draw by their place in the list.
const ORDER: u64 = 3 << 32;
/// The code that undeliverable messages fail with.
pub(super) const UNDELIVERABLE: u32 = 131_026;
/// The most steps of a course, as many as an index holds.
const STEPS_MAX: usize = 200;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Course {
    pub(super) steps: Vec<Step>,
    /// The id that statuses show, if it is not the message's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shown_wamid: Option<String>,
    /// The number that WhatsApp calls the recipient by, if it is not the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wa_id: Option<String>,
    /// The category that statuses price the message by, if it is not utility.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) category: Option<String>,
    /// Whether statuses lack the callback data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) no_echo: bool,
    /// Tells how many statuses were acknowledged, if anybody waits for it.
    #[serde(skip)]
    pub(super) acknowledged: Option<watch::Sender<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) status: Status,
    /// The code of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) code: Option<u32>,
    /// Instead of the usual gap, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) delay_ms: Option<u64>,
}

impl Step {
    pub(super) fn of(status: Status) -> Self {
        let code = (status == Status::Failed).then_some(UNDELIVERABLE);
        Self { status, code, delay_ms: None }
    }

    pub(super) fn failed(code: u32) -> Self {
        Self { code: Some(code), ..Self::of(Status::Failed) }
    }

    pub(super) fn delay(self) -> Option<Duration> {
        self.delay_ms.map(Duration::from_millis)
    }
}

impl Course {
    /// The usual statuses.
    pub(super) fn of(fate: Fate) -> Self {
        Self { steps: fate.statuses().iter().copied().map(Step::of).collect(), ..Self::default() }
    }

    /// The message is accepted and fails.
    pub(super) fn failed(code: u32) -> Self {
        Self { steps: vec![Step::failed(code)], ..Self::default() }
    }

    /// Changes what becomes of the message. `wamid` is the message's own id, `foreign` one that nobody was told.
    pub(super) fn take(&mut self, effect: &Effect, foreign: impl FnOnce() -> String) {
        match effect {
            Effect::Fail { code, after, echo, known_wamid } => {
                self.steps = after.iter().copied().map(Step::of).collect();
                self.steps.push(Step::failed(*code));
                self.no_echo = !echo;
                self.shown_wamid = (!known_wamid).then(foreign);
            }
            Effect::DeliverAfterFail { code } => {
                self.steps = vec![Step::failed(*code), Step::of(Status::Delivered)];
            }
            Effect::NoWebhook {} => self.steps.clear(),
            Effect::Hold { delay_ms, code, paused: _ } => {
                if let Some(code) = code {
                    self.steps = vec![Step::failed(*code)];
                }
                if let Some(first) = self.steps.first_mut() {
                    first.delay_ms = Some(*delay_ms);
                }
            }
            // The other effects leave the outcome as it is.
            _ => {}
        }
    }

    /// Changes how the statuses arrive.
    pub(super) fn deliver(&mut self, effect: &Effect, draws: Draws, other_wa_id: impl FnOnce() -> Option<String>) {
        match effect {
            Effect::Drop { statuses } => self.steps.retain(|step| !statuses.contains(&step.status)),
            Effect::Delay { delay_ms, statuses } => {
                let late = |step: &&mut Step| statuses.is_empty() || statuses.contains(&step.status);
                self.steps.iter_mut().filter(late).for_each(|step| step.delay_ms = Some(*delay_ms));
            }
            Effect::Duplicate { copies } => {
                let copies = std::iter::repeat_n((), copies + 1);
                let repeated = self.steps.iter().flat_map(|step| copies.clone().map(|()| *step));
                self.steps = repeated.take(STEPS_MAX).collect();
            }
            Effect::Shuffle {} => draws.shuffle(ORDER, &mut self.steps),
            Effect::Reverse {} => self.steps.reverse(),
            Effect::Add { status } if self.steps.len() < STEPS_MAX => self.steps.push(Step::of(*status)),
            Effect::NoEcho {} => self.no_echo = true,
            Effect::OtherWaId {} => self.wa_id = other_wa_id(),
            // The other effects leave the delivery as it is.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(course: &Course) -> Vec<&'static str> {
        course.steps.iter().map(|step| step.status.name()).collect()
    }

    fn delivered(effects: &[Effect]) -> Course {
        let mut course = Course::of(Fate::Read);
        for effect in effects {
            course.deliver(effect, Draws::new(1, "91", 1), || Some("5511".to_owned()));
        }
        course
    }

    #[test]
    fn outcomes_replace_the_usual_statuses() {
        let taken = |effect| {
            let mut course = Course::of(Fate::Read);
            course.take(&effect, || "wamid.foreign".to_owned());
            course
        };
        let failed = taken(Effect::Fail { code: 131_049, after: vec![Status::Sent], echo: false, known_wamid: false });
        assert_eq!(statuses(&failed), ["sent", "failed"]);
        assert_eq!(failed.steps[1].code, Some(131_049));
        assert_eq!((failed.shown_wamid.as_deref(), failed.no_echo), (Some("wamid.foreign"), true));
        assert_eq!(statuses(&taken(Effect::DeliverAfterFail { code: 131_026 })), ["failed", "delivered"]);
        assert!(taken(Effect::NoWebhook {}).steps.is_empty());
        let released = taken(Effect::Hold { delay_ms: 900, code: None, paused: false });
        assert_eq!(statuses(&released), ["sent", "delivered", "read"]);
        assert_eq!([released.steps[0].delay_ms, released.steps[1].delay_ms], [Some(900), None]);
        let dropped = taken(Effect::Hold { delay_ms: 900, code: Some(132_015), paused: false });
        assert_eq!(dropped.steps, [Step { status: Status::Failed, code: Some(132_015), delay_ms: Some(900) }]);
    }

    #[test]
    fn deliveries_add_up() {
        let course = delivered(&[Effect::Drop { statuses: vec![Status::Sent] }, Effect::Reverse {}]);
        assert_eq!(statuses(&course), ["read", "delivered"]);
        let course = delivered(&[Effect::Duplicate { copies: 1 }, Effect::Add { status: Status::UnheardOf }]);
        assert_eq!(statuses(&course), ["sent", "sent", "delivered", "delivered", "read", "read", "unheard_of"]);
        let course = delivered(&[Effect::Delay { delay_ms: 7, statuses: vec![Status::Read] }, Effect::NoEcho {}]);
        assert_eq!(course.steps.iter().map(|step| step.delay_ms).collect::<Vec<_>>(), [None, None, Some(7)]);
        assert!(course.no_echo && course.wa_id.is_none());
        assert_eq!(delivered(&[Effect::OtherWaId {}]).wa_id.as_deref(), Some("5511"));
        let mut shuffled = statuses(&delivered(&[Effect::Shuffle {}]));
        shuffled.sort_unstable();
        assert_eq!(shuffled, ["delivered", "read", "sent"]);
    }

    #[test]
    fn a_course_is_read_back_as_it_was_written() {
        let mut course = Course::failed(131_050);
        course.no_echo = true;
        let text = serde_json::to_string(&course).unwrap();
        assert_eq!(text, r#"{"steps":[{"status":"failed","code":131050}],"no_echo":true}"#);
        let read: Course = serde_json::from_str(&text).unwrap();
        assert_eq!((read.steps, read.no_echo), (course.steps, true));
    }
}
