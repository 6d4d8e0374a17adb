//! The permit as the provider sees it, with a machine and a network between that do what they like.
//!
//! The sleeping task wakes on whole milliseconds and later, and is stalled now and then for 20 to 100 ms; each call
//! takes up to 8 ms longer than another to be read; the provider may stall as well. Times are computed, not waited for.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::{Departure, PacingConfig, PermitLog};

const SECONDS: u64 = 60;
/// Left out of the mean: the first calls have nothing to catch up with.
const WARM_UP: Duration = Duration::from_secs(2);
const JITTER_US: u64 = 8_000;

#[derive(Clone, Copy)]
struct World {
    permit: u32,
    /// Of the machine that calls.
    stalls_per_s: f64,
    /// Of the provider.
    reader_stalls_per_s: f64,
    /// Time that the provider takes to answer, from and to, in microseconds.
    answer_us: (u64, u64),
    inbound_per_s: u32,
}

impl World {
    fn quiet(permit: u32) -> Self {
        Self { permit, stalls_per_s: 0.0, reader_stalls_per_s: 0.0, answer_us: (1_000, 3_000), inbound_per_s: 0 }
    }

    fn stalling(permit: u32) -> Self {
        Self { stalls_per_s: 1.0, ..Self::quiet(permit) }
    }
}

/// What the provider saw: times of reading.
struct Seen {
    world: World,
    start: Instant,
    reads: Vec<Instant>,
}

impl Seen {
    fn worst_second(&self) -> usize {
        let mut sorted = self.reads.clone();
        sorted.sort();
        let (mut from, mut worst) = (0, 0);
        for (to, read) in sorted.iter().enumerate() {
            while *read - sorted[from] >= Duration::from_secs(1) {
                from += 1;
            }
            worst = worst.max(to - from + 1);
        }
        worst
    }

    /// Of the permit, over 60 s.
    fn mean_ratio(&self) -> f64 {
        let window = self.start + WARM_UP..self.start + WARM_UP + Duration::from_secs(SECONDS);
        let counted = self.reads.iter().filter(|read| window.contains(*read)).count();
        f64::from(u32::try_from(counted).unwrap()) / (f64::from(self.world.permit) * 60.0)
    }
}

/// Intervals in which somebody does nothing.
fn stalls(rng: &mut StdRng, per_s: f64, start: Instant) -> Vec<(Instant, Instant)> {
    let mut stalls = Vec::new();
    let mut at = start;
    while per_s > 0.0 && at < start + Duration::from_secs(SECONDS + 4) {
        at += Duration::from_secs_f64(-(1.0 - rng.random::<f64>()).ln() / per_s);
        let end = at + Duration::from_millis(rng.random_range(20..=100));
        stalls.push((at, end));
        at = end;
    }
    stalls
}

/// The end of the stall that `at` falls into, or `at`.
fn awake(stalls: &[(Instant, Instant)], at: Instant) -> Instant {
    let place = stalls.partition_point(|(_, end)| *end <= at);
    stalls.get(place).map_or(at, |(from, end)| if *from <= at { *end } else { at })
}

fn simulate(world: World, seed: u64) -> Seen {
    let mut rng = StdRng::seed_from_u64(seed);
    let start = Instant::now();
    let own_stalls = stalls(&mut rng, world.stalls_per_s, start);
    let reader_stalls = stalls(&mut rng, world.reader_stalls_per_s, start);
    let mut log = PermitLog::new(PacingConfig::default(), world.permit, start);
    let mut reads = Vec::new();
    let mut answers: BinaryHeap<Reverse<(Instant, usize)>> = BinaryHeap::new();
    let mut departures: Vec<Option<Departure>> = Vec::new();
    let mut now = start;
    let mut inbound_told = start;
    while now < start + Duration::from_secs(SECONDS + 3) {
        while answers.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((at, call)) = answers.pop().unwrap();
            let departure = departures[call].take().unwrap();
            log.answered(departure, at);
        }
        if world.inbound_per_s > 0 && now - inbound_told >= Duration::from_millis(250) {
            inbound_told += Duration::from_millis(250);
            log.inbound(world.inbound_per_s / 4, now);
        }
        let next = log.next_at(now);
        if next > now {
            // The timer's wheel turns by whole milliseconds, and the task is scheduled a little after it.
            let ms = u64::try_from((next - start).as_micros().div_ceil(1000)).unwrap();
            let woken = start + Duration::from_millis(ms) + Duration::from_micros(rng.random_range(0..1_000));
            now = awake(&own_stalls, woken);
            continue;
        }
        let mut departure = log.depart(now);
        now += Duration::from_micros(20);
        log.left(&mut departure, now);
        let arrived = now + Duration::from_micros(500 + rng.random_range(0..=JITTER_US));
        let read = awake(&reader_stalls, arrived);
        reads.push(read);
        let answered = read + Duration::from_micros(rng.random_range(world.answer_us.0..=world.answer_us.1));
        answers.push(Reverse((awake(&own_stalls, answered), departures.len())));
        departures.push(Some(departure));
    }
    Seen { world, start, reads }
}

#[track_caller]
fn holds(world: World) {
    for seed in 0..3 {
        let seen = simulate(world, seed);
        let (worst, mean) = (seen.worst_second(), seen.mean_ratio());
        let permit = usize::try_from(world.permit).unwrap();
        assert!(worst <= permit, "{worst} calls in a second at {permit}/s, seed {seed}");
        assert!(mean >= 0.98, "{mean} of {permit}/s, seed {seed}");
    }
}

#[test]
fn every_permit_is_kept_and_used_on_a_quiet_machine() {
    for permit in [1, 2, 5, 20, 80, 250, 1000] {
        holds(World::quiet(permit));
    }
}

#[test]
fn every_permit_is_kept_and_used_on_a_machine_that_stalls() {
    for permit in [1, 5, 20, 80, 250, 1000] {
        holds(World::stalling(permit));
    }
}

#[test]
fn every_permit_is_kept_and_used_with_answers_that_take_any_time() {
    for permit in [1, 5, 20, 80, 250, 1000] {
        holds(World { answer_us: (150_000, 400_000), ..World::stalling(permit) });
    }
}

#[test]
fn a_permit_is_kept_and_used_where_the_provider_stalls_as_well() {
    for permit in [5, 20, 80, 250, 1000] {
        for answer_us in [(1_000, 3_000), (200_000, 203_000)] {
            holds(World { reader_stalls_per_s: 0.2, stalls_per_s: 0.5, answer_us, ..World::quiet(permit) });
        }
    }
}

/// What comes in takes its part of the permit away, and no more.
#[test]
fn inbound_messages_take_their_part_of_the_permit() {
    for (permit, inbound_per_s) in [(80, 20), (1000, 100)] {
        let seen = simulate(World { inbound_per_s, ..World::stalling(permit) }, 1);
        let left = usize::try_from(permit - inbound_per_s).unwrap();
        // They are told of in lots of a quarter second, and a lot counts for the margin longer than a second too.
        let lot = usize::try_from(inbound_per_s / 4).unwrap();
        assert!(seen.worst_second() <= left + lot, "{} at {permit}/s", seen.worst_second());
        let ratio = seen.mean_ratio() * f64::from(permit) / f64::from(permit - inbound_per_s);
        assert!((0.94..=1.0).contains(&ratio), "{ratio} of what is left of {permit}/s");
    }
}
