//! The dispatch protocol under faults, simulated: seeds × kills × lost answers × redelivered work and webhooks, on the real
//! rules of `Message`, with checkers after every step. A seed that fails is the whole report: it plays the same again.
//!
//! What is simulated is everything around the rules: the log, the queue, dispatchers with their call journals, and a
//! provider that may answer, lose its answer, refuse for now, or lose the call.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::{CommandEnvelope, Decider};
use domain::ids::{ContactId, RunId, SenderId, TenantId};
use domain::message::{
    Acceptance, Lane, Message, MessageCommand, MessageEvent, MessageStatus, OnUnknown, ReleaseReason,
};
use uuid::Uuid;

const MESSAGES: usize = 12;
const DISPATCHERS: usize = 3;
const STEPS: usize = 600;
const SEEDS: u64 = 400;

/// SplitMix64: a seed is all it needs, and the same seed gives the same run for ever.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("less than the bound")
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt {
    message: usize,
    number: u32,
}

/// What one dispatcher is doing with one delivery.
#[derive(Clone, Copy, Debug)]
enum Work {
    Delivered(Attempt),
    /// It holds a receipt.
    Claimed(Attempt),
    /// The call is marked in the journal; its bytes may leave.
    Marked(Attempt),
    Answered(Attempt, Answer),
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Accepted,
    RefusedForNow,
    None,
}

#[derive(Default)]
struct Dispatcher {
    journal_id: Uuid,
    /// Survives a kill.
    journal: BTreeSet<Attempt>,
    work: Vec<Work>,
}

#[derive(Default)]
struct Provider {
    accepted: BTreeMap<usize, u32>,
    /// Webhooks that may still come, any number of times, in any order.
    statuses: Vec<(usize, MessageStatus)>,
}

struct World {
    dice: Dice,
    now: DateTime<Utc>,
    messages: Vec<Message>,
    /// The journal of each open claim, as `DispatchStarted` names it.
    claims: BTreeMap<Attempt, Uuid>,
    /// Deliveries in the queue; duplicates are ordinary.
    queue: Vec<Attempt>,
    dispatchers: Vec<Dispatcher>,
    provider: Provider,
}

impl World {
    fn new(seed: u64) -> Self {
        let dispatchers = (0..DISPATCHERS)
            .map(|number| Dispatcher { journal_id: Uuid::from_u128(number as u128 + 1), ..Dispatcher::default() })
            .collect();
        let mut world = Self {
            dice: Dice(seed),
            now: DateTime::from_timestamp(1_780_000_000, 0).expect("a valid time"),
            messages: vec![Message::default(); MESSAGES],
            claims: BTreeMap::new(),
            queue: Vec::new(),
            dispatchers,
            provider: Provider::default(),
        };
        for message in 0..MESSAGES {
            let queue = MessageCommand::QueueMessage {
                run_id: RunId(Uuid::from_u128(1)),
                contact_id: ContactId(Uuid::from_u128(message as u128)),
                sender_id: SenderId(Uuid::from_u128(2)),
                lane: Lane::Utility,
                on_unknown: OnUnknown::Hold,
            };
            assert_eq!(world.append(message, queue).map(|events| events.len()), Ok(1));
        }
        world
    }

    /// Decides and appends, as the store does: the events of this very commit come back.
    fn append(&mut self, message: usize, command: MessageCommand) -> Result<Vec<MessageEvent>, ()> {
        let envelope = CommandEnvelope::new(TenantId(Uuid::nil()), self.now, command);
        let events = self.messages[message].decide(&envelope).map_err(|_| ())?;
        for event in &events {
            self.messages[message].evolve(event);
            match event {
                MessageEvent::DispatchStarted { attempt, journal_id, .. } => {
                    self.claims.insert(Attempt { message, number: *attempt }, *journal_id);
                }
                _ if !matches!(self.messages[message].status(), Some(MessageStatus::Dispatching)) => {
                    self.claims.retain(|attempt, _| attempt.message != message);
                }
                _ => {}
            }
        }
        Ok(events)
    }

    fn step(&mut self) {
        self.now += TimeDelta::seconds(1);
        match self.dice.below(10) {
            0 | 1 => self.feed(),
            2 => self.deliver(),
            3..=6 => self.work(),
            7 => self.webhook(),
            8 => self.sweep(),
            _ if self.dice.one_in(3) => self.kill(),
            _ => self.deliver(),
        }
    }

    /// The feeder publishes what is pending, again and again.
    fn feed(&mut self) {
        let message = self.dice.below(MESSAGES);
        if self.messages[message].status() == Some(MessageStatus::Pending) {
            self.queue.push(Attempt { message, number: self.messages[message].attempt + 1 });
        }
    }

    fn deliver(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let place = self.dice.below(self.queue.len());
        // Redelivered: the copy in the queue stays.
        let attempt = if self.dice.one_in(3) { self.queue[place] } else { self.queue.swap_remove(place) };
        let dispatcher = self.dice.below(DISPATCHERS);
        self.dispatchers[dispatcher].work.push(Work::Delivered(attempt));
    }

    fn work(&mut self) {
        let dispatcher = self.dice.below(DISPATCHERS);
        if self.dispatchers[dispatcher].work.is_empty() {
            return;
        }
        let place = self.dice.below(self.dispatchers[dispatcher].work.len());
        let work = self.dispatchers[dispatcher].work.swap_remove(place);
        if let Some(next) = self.go_on(dispatcher, work) {
            self.dispatchers[dispatcher].work.push(next);
        }
    }

    fn go_on(&mut self, dispatcher: usize, work: Work) -> Option<Work> {
        match work {
            Work::Delivered(attempt) => {
                let journal_id = self.dispatchers[dispatcher].journal_id;
                let deadline = self.now + TimeDelta::seconds(30);
                let begin = MessageCommand::BeginDispatch { attempt: attempt.number, deadline, journal_id };
                let receipt = self.append(attempt.message, begin).is_ok_and(|events| !events.is_empty());
                // The answer to the commit may be lost: then there is no receipt, whatever was committed.
                (receipt && !self.dice.one_in(8)).then_some(Work::Claimed(attempt))
            }
            Work::Claimed(attempt) if self.dice.one_in(6) => {
                self.record(
                    attempt,
                    MessageCommand::ReleaseDispatch { attempt: attempt.number, reason: ReleaseReason::RunPaused },
                );
                None
            }
            Work::Claimed(attempt) => {
                assert!(self.dispatchers[dispatcher].journal.insert(attempt), "marked twice: {attempt:?}");
                Some(Work::Marked(attempt))
            }
            Work::Marked(attempt) => Some(Work::Answered(attempt, self.call(attempt))),
            Work::Answered(attempt, answer) => {
                let number = attempt.number;
                self.record(
                    attempt,
                    match answer {
                        Answer::Accepted => MessageCommand::MarkSent {
                            attempt: Some(number),
                            acceptance: Acceptance::Accepted,
                            at: self.now,
                        },
                        Answer::RefusedForNow => {
                            MessageCommand::Defer { attempt: number, until: self.now, code: 131_056 }
                        }
                        Answer::None => MessageCommand::MarkOutcomeUnknown { attempt: number },
                    },
                );
                self.dispatchers[dispatcher].journal.remove(&attempt);
                None
            }
        }
    }

    fn record(&mut self, attempt: Attempt, command: MessageCommand) {
        // Refused: a webhook was faster, or somebody closed the claim.
        let _ = self.append(attempt.message, command);
    }

    /// The provider reads the call, or not; it accepts, or refuses for now; its answer arrives, or not.
    fn call(&mut self, attempt: Attempt) -> Answer {
        match self.dice.below(8) {
            0 => Answer::None,
            1 => Answer::RefusedForNow,
            accepted => {
                *self.provider.accepted.entry(attempt.message).or_default() += 1;
                for status in [MessageStatus::Sent, MessageStatus::Delivered, MessageStatus::Read] {
                    self.provider.statuses.push((attempt.message, status));
                }
                if accepted == 2 { Answer::None } else { Answer::Accepted }
            }
        }
    }

    fn webhook(&mut self) {
        if self.provider.statuses.is_empty() {
            return;
        }
        // Not taken away: it may come again, in any order.
        let (message, status) = self.provider.statuses[self.dice.below(self.provider.statuses.len())];
        let (at, pricing) = (self.now, None);
        let _ = self.append(
            message,
            match status {
                MessageStatus::Sent => MessageCommand::MarkSent { attempt: None, acceptance: Acceptance::Accepted, at },
                MessageStatus::Delivered => MessageCommand::MarkDelivered { at, pricing },
                _ => MessageCommand::MarkRead { at, pricing },
            },
        );
    }

    /// Looks at open claims that nobody works on: the journal says whether the call may have been made.
    fn sweep(&mut self) {
        let open: Vec<(Attempt, Uuid)> = self.claims.iter().map(|(attempt, journal)| (*attempt, *journal)).collect();
        for (attempt, journal_id) in open {
            let Some(owner) = self.dispatchers.iter().find(|dispatcher| dispatcher.journal_id == journal_id) else {
                continue;
            };
            let in_flight = owner.work.iter().any(|work| match work {
                Work::Delivered(_) => false,
                Work::Claimed(held) | Work::Marked(held) | Work::Answered(held, _) => *held == attempt,
            });
            if in_flight {
                continue;
            }
            let number = attempt.number;
            let verdict = if owner.journal.contains(&attempt) {
                MessageCommand::MarkOutcomeUnknown { attempt: number }
            } else {
                MessageCommand::ReleaseDispatch { attempt: number, reason: ReleaseReason::NeverCalled }
            };
            self.record(attempt, verdict);
        }
    }

    /// SIGKILL: what it held in memory is gone, its journal is not.
    fn kill(&mut self) {
        let dispatcher = self.dice.below(DISPATCHERS);
        self.dispatchers[dispatcher].work.clear();
        if self.dice.one_in(2) {
            self.queue.clear();
        }
    }

    /// Nothing twice: not after any step, whatever has happened so far.
    fn check(&self, seed: u64, step: usize) {
        for (message, accepted) in &self.provider.accepted {
            assert!(*accepted <= 1, "seed {seed}, step {step}: message {message} was accepted {accepted} times");
        }
    }

    /// Faults end, every webhook comes: nothing may be open, and nothing that was accepted may be in doubt.
    fn drain(&mut self, seed: u64) {
        for _ in 0..200 {
            self.now += TimeDelta::seconds(60);
            for message in 0..MESSAGES {
                if self.messages[message].status() == Some(MessageStatus::Pending) {
                    self.queue.push(Attempt { message, number: self.messages[message].attempt + 1 });
                }
            }
            while !self.queue.is_empty() {
                self.deliver();
            }
            for dispatcher in 0..DISPATCHERS {
                while let Some(work) = self.dispatchers[dispatcher].work.pop() {
                    let next = self.go_on(dispatcher, work);
                    self.dispatchers[dispatcher].work.extend(next);
                }
            }
            self.sweep();
            self.check(seed, STEPS);
        }
        for _ in 0..self.provider.statuses.len() * 20 {
            self.webhook();
        }
        for (number, message) in self.messages.iter().enumerate() {
            let accepted = self.provider.accepted.contains_key(&number);
            match message.status() {
                Some(MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read) => {
                    assert!(accepted, "seed {seed}: message {number} shows as sent, and WhatsApp never accepted it");
                }
                Some(MessageStatus::Unknown) => {
                    assert!(!accepted, "seed {seed}: message {number} is in doubt, though webhooks spoke of it");
                }
                status => panic!("seed {seed}: message {number} ended as {status:?}"),
            }
        }
    }
}

#[test]
fn nothing_is_sent_twice_and_nothing_is_lost_whatever_dies() {
    let (mut accepted, mut unknown) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            world.step();
            world.check(seed, step);
        }
        world.drain(seed);
        accepted += world.provider.accepted.len();
        unknown += world.messages.iter().filter(|message| message.status() == Some(MessageStatus::Unknown)).count();
    }
    // The faults were there, and they did not stand in everybody's way.
    assert!(unknown > 0, "no call was ever lost");
    assert!(accepted > unknown, "{accepted} accepted, {unknown} unknown");
}
