//! When owed statuses are due. Of each message only the next status is scheduled, and the one after it when that one
//! has been acknowledged: so the statuses of a message arrive in their order, and a message takes one small entry
//! however many statuses it still owes.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::behavior::Fate;
use super::controls::Controls;
use super::course::{Course, Step};

/// Due times are rounded up to a multiple of this, so that statuses which fall due at nearly the same time share a
/// webhook body instead of filling the receiver with bodies of one.
const WINDOW: Duration = Duration::from_millis(20);

/// A message with the statuses that are still to be posted.
#[derive(Debug)]
pub(super) struct OwedMessage {
    /// wamid, number id, recipient, and the callback data if the call had any, one a line: one allocation per message.
    packed: Box<str>,
    way: Way,
    /// The index of the next status.
    next: u8,
}

/// What becomes of a message.
#[derive(Debug, Clone)]
pub(super) enum Way {
    Usual(Fate),
    Other(Box<Course>),
}

impl Way {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Usual(fate) => fate.statuses().len(),
            Self::Other(course) => course.steps.len(),
        }
    }

    pub(super) fn step(&self, place: usize) -> Option<Step> {
        match self {
            Self::Usual(fate) => fate.statuses().get(place).copied().map(Step::of),
            Self::Other(course) => course.steps.get(place).copied(),
        }
    }

    pub(super) fn course(&self) -> Option<&Course> {
        match self {
            Self::Usual(_) => None,
            Self::Other(course) => Some(course),
        }
    }
}

impl OwedMessage {
    /// `next` is the place of the first status that is still to be posted; `None` if none is.
    pub(super) fn new(
        wamid: &str,
        phone_number_id: &str,
        recipient_id: &str,
        callback: Option<&str>,
        way: Way,
        next: usize,
    ) -> Option<Self> {
        way.step(next)?;
        let packed = match callback {
            Some(callback) => format!("{wamid}\n{phone_number_id}\n{recipient_id}\n{callback}"),
            None => format!("{wamid}\n{phone_number_id}\n{recipient_id}"),
        };
        Some(Self { packed: packed.into_boxed_str(), way, next: u8::try_from(next).ok()? })
    }

    pub(super) fn fields(&self) -> OwedFields<'_> {
        // The callback data comes last, for it alone may contain line ends.
        let mut parts = self.packed.splitn(4, '\n');
        let mut part = || parts.next().unwrap_or_default();
        let (wamid, phone_number_id, recipient_id) = (part(), part(), part());
        OwedFields { wamid, phone_number_id, recipient_id, callback: parts.next() }
    }

    pub(super) fn course(&self) -> Option<&Course> {
        self.way.course()
    }

    /// The next status to post.
    pub(super) fn step(&self) -> Step {
        self.way.step(usize::from(self.next)).expect("a message without a next status is owed nothing")
    }

    /// How many statuses are still to be posted.
    pub(super) fn remaining(&self) -> usize {
        self.way.len() - usize::from(self.next)
    }

    /// The message after its next status was acknowledged; `None` if that was the last.
    fn acknowledged(mut self) -> Option<Self> {
        self.next += 1;
        if let Some(acknowledged) = self.course().and_then(|course| course.acknowledged.as_ref()) {
            acknowledged.send_replace(usize::from(self.next));
        }
        (self.remaining() > 0).then_some(self)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct OwedFields<'a> {
    pub(super) wamid: &'a str,
    pub(super) phone_number_id: &'a str,
    pub(super) recipient_id: &'a str,
    pub(super) callback: Option<&'a str>,
}

pub(super) struct Schedule {
    controls: Arc<Controls>,
    started: Instant,
    state: Mutex<State>,
    earlier: Notify,
}

#[derive(Default)]
struct State {
    heap: BinaryHeap<Reverse<Entry>>,
    pushed: u64,
}

struct Entry {
    due: Instant,
    /// Keeps statuses that are due together in the order in which they were scheduled.
    order: u64,
    message: OwedMessage,
}

impl Schedule {
    pub(super) fn new(controls: Arc<Controls>, started: Instant) -> Self {
        Self { controls, started, state: Mutex::default(), earlier: Notify::new() }
    }

    /// A message was accepted: its first status is due in one gap.
    pub(super) fn accepted(&self, message: OwedMessage, now: Instant) {
        self.push_next([message], now);
    }

    /// The next status of these messages was acknowledged: the one after it is due in one gap.
    pub(super) fn acknowledged(&self, messages: Vec<OwedMessage>, now: Instant) {
        self.push_next(messages.into_iter().filter_map(OwedMessage::acknowledged), now);
    }

    /// These messages were owed statuses when the last sandbox on this ledger ended: they are due at once.
    pub(super) fn recovered(&self, messages: Vec<OwedMessage>) {
        self.push(messages.into_iter().map(|message| (self.started, message)));
    }

    /// Takes up to `max` messages whose next status is due.
    pub(super) fn take_due(&self, now: Instant, max: usize) -> Vec<OwedMessage> {
        let mut state = self.state();
        let mut due = Vec::new();
        while due.len() < max && state.heap.peek().is_some_and(|Reverse(entry)| entry.due <= now) {
            let Some(Reverse(entry)) = state.heap.pop() else { break };
            due.push(entry.message);
        }
        due
    }

    /// When the earliest status is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.state().heap.peek().map(|Reverse(entry)| entry.due)
    }

    /// Returns when something was scheduled before the due time that was the earliest until then.
    pub(super) async fn earlier(&self) {
        self.earlier.notified().await;
    }

    /// The next status of each is due in one gap, or in the time of its own.
    fn push_next(&self, messages: impl IntoIterator<Item = OwedMessage>, now: Instant) {
        let usual = now + Duration::from_millis(self.controls.present().settings.statuses.gap_ms);
        let due = |message: &OwedMessage| message.step().delay().map_or(usual, |delay| now + delay);
        self.push(messages.into_iter().map(|message| (due(&message), message)));
    }

    fn push(&self, messages: impl IntoIterator<Item = (Instant, OwedMessage)>) {
        let mut state = self.state();
        let before = state.heap.peek().map(|Reverse(entry)| entry.due);
        for (due, message) in messages {
            let (due, order) = (self.windowed(due), state.pushed);
            state.pushed += 1;
            state.heap.push(Reverse(Entry { due, order, message }));
        }
        let after = state.heap.peek().map(|Reverse(entry)| entry.due);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.earlier.notify_one();
        }
    }

    fn windowed(&self, due: Instant) -> Instant {
        let since = due.saturating_duration_since(self.started);
        let windows = since.as_nanos().div_ceil(WINDOW.as_nanos());
        self.started + WINDOW * u32::try_from(windows).unwrap_or(u32::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

#[cfg(test)]
mod tests {
    use super::super::behavior::Status;
    use super::super::settings::Settings;
    use super::*;

    fn owed(wamid: &str, callback: Option<&str>) -> OwedMessage {
        OwedMessage::new(wamid, "1055", "919812345600", callback, Way::Usual(Fate::Delivered), 0)
            .expect("it owes two statuses")
    }

    #[test]
    fn packing_keeps_every_field_apart() {
        let fields =
            |callback| OwedFields { wamid: "wamid.A", phone_number_id: "1055", recipient_id: "919812345600", callback };
        assert_eq!(owed("wamid.A", None).fields(), fields(None));
        assert_eq!(owed("wamid.A", Some("")).fields(), fields(Some("")));
        assert_eq!(owed("wamid.A", Some("two\nlines")).fields(), fields(Some("two\nlines")));
    }

    fn statuses(messages: &[OwedMessage]) -> Vec<Status> {
        messages.iter().map(|message| message.step().status).collect()
    }

    fn schedule(gap_ms: u64, started: Instant) -> Schedule {
        let mut settings = Settings::default();
        settings.statuses.gap_ms = gap_ms;
        Schedule::new(Arc::new(Controls::new(settings)), started)
    }

    #[test]
    fn each_status_waits_for_its_gap_and_for_the_one_before_it() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let schedule = schedule(300, started);
        schedule.accepted(owed("wamid.A", None), at(0));
        assert!(schedule.take_due(at(299), 10).is_empty());

        let due = schedule.take_due(at(300), 10);
        assert_eq!(statuses(&due), [Status::Sent]);
        assert!(schedule.take_due(at(60_000), 10).is_empty(), "nothing follows before the acknowledgement");

        schedule.acknowledged(due, at(60_001));
        assert!(schedule.take_due(at(60_300), 10).is_empty());
        let due = schedule.take_due(at(60_320), 10);
        assert_eq!(statuses(&due), [Status::Delivered]);
        schedule.acknowledged(due, at(60_320));
        assert_eq!(schedule.next_due(), None);
    }

    #[test]
    fn statuses_due_together_are_taken_in_order_and_in_bounded_batches() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let schedule = schedule(5, started);
        for (ms, name) in [(0, "a"), (7, "b"), (15, "c")] {
            schedule.accepted(owed(name, None), at(ms));
        }
        let names = |batch: &[OwedMessage]| batch.iter().map(|m| m.fields().wamid.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&schedule.take_due(at(20), 2)), ["a", "b"]);
        assert_eq!(names(&schedule.take_due(at(20), 2)), ["c"]);
    }

    #[tokio::test]
    async fn an_earlier_status_wakes_the_waiting_loop() {
        let started = Instant::now();
        let schedule = schedule(3_600_000, started);
        schedule.accepted(owed("late", None), started);
        schedule.earlier().await;
        schedule.recovered(vec![owed("now", None)]);
        tokio::time::timeout(Duration::from_secs(10), schedule.earlier()).await.expect("it is woken");
    }
}
