use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn log(permit: u32, from: Instant) -> PermitLog {
    PermitLog::new(PacingConfig::default(), permit, from)
}

/// Lets `count` calls go as soon as each may, and returns their times.
fn go(log: &mut PermitLog, mut now: Instant, count: usize) -> Vec<Instant> {
    (0..count)
        .map(|_| {
            now = log.next_at(now);
            drop(log.depart(now));
            now
        })
        .collect()
}

#[test]
fn nothing_leaves_before_the_log_begins() {
    let start = Instant::now();
    assert_eq!(log(80, start + S).next_at(start), start + S);
}

#[test]
fn calls_are_evenly_spaced_slightly_under_the_permit() {
    for (permit, gap_us) in [(1, 1_015_000), (20, 50_750), (80, 12_687), (1000, 1_015)] {
        let start = Instant::now();
        let times = go(&mut log(permit, start), start, 3000);
        for pair in times.windows(2) {
            assert_eq!((pair[1] - pair[0]).as_micros(), gap_us, "at {permit}/s");
        }
    }
}

#[test]
fn what_a_stall_held_up_is_caught_up_with_without_a_burst() {
    let start = Instant::now();
    let mut log = log(1000, start);
    let before = go(&mut log, start, 2000);
    let woken = before[1999] + MS * 100;
    let after = go(&mut log, woken, 1000);
    let in_5_ms = after.iter().filter(|time| **time - woken < MS * 5).count();
    assert!(in_5_ms <= 22, "{in_5_ms} calls left in 5 ms");
    // 100 ms late at first, on time again long before the thousandth call.
    let on_time = before[1999] + Duration::from_micros(1_015) * 1000;
    assert!(after[999] <= on_time + MS, "{:?} late", after[999].saturating_duration_since(on_time));
}

#[test]
fn a_long_pause_earns_no_more_than_a_quarter_of_a_second() {
    let start = Instant::now();
    let mut log = log(80, start);
    go(&mut log, start, 100);
    let later = start + S * 60;
    let times = go(&mut log, later, 160);
    let in_two_seconds = times.iter().filter(|time| **time - later < S * 2).count();
    assert!((157..=178).contains(&in_two_seconds), "{in_two_seconds}");
}

#[test]
fn a_slot_given_back_is_used_by_another_call() {
    let start = Instant::now();
    let mut log = log(1, start);
    let departure = log.depart(start);
    assert!(log.next_at(start) >= start + S);
    log.give_back(departure);
    assert!(log.next_at(start) <= start + S);
    let mut log = self::log(80, start);
    let (mut now, mut sent) = (start, 0);
    for n in 0..800 {
        now = log.next_at(now);
        let departure = log.depart(now);
        if n % 2 == 0 { log.give_back(departure) } else { sent += 1 }
    }
    let rate = f64::from(sent) / (now - start).as_secs_f64();
    assert!(rate >= 80.0 * 0.6, "released calls took a part of the permit: {rate}/s");
}

#[test]
fn a_call_that_left_late_counts_from_then_on() {
    let start = Instant::now();
    let mut log = log(1, start);
    let mut departure = log.depart(start);
    log.left(&mut departure, start + MS * 300);
    assert_eq!(departure.at(), start + MS * 300);
    assert_eq!(log.next_at(start + MS * 300), start + MS * 1312);
}

#[test]
fn a_call_that_was_read_late_counts_from_then_on() {
    let start = Instant::now();
    let mut log = log(80, start);
    let mut now = start;
    for _ in 0..80 {
        now = log.next_at(now);
        let departure = log.depart(now);
        log.answered(departure, now + MS);
    }
    let clears_at = |log: &PermitLog| log.clears.last().unwrap().0;
    assert_eq!(clears_at(&log), now + MS * 1012);
    let now = log.next_at(now);
    let departure = log.depart(now);
    log.answered(departure, now + MS * 101);
    assert_eq!(clears_at(&log), now + MS * 1101);
}

#[test]
fn a_lower_permit_counts_the_calls_of_the_last_second() {
    let start = Instant::now();
    let mut log = log(100, start);
    let times = go(&mut log, start, 100);
    let now = times[99];
    log.set_permit(10, now);
    // The 90th of them has to be out of the window first.
    assert!(log.next_at(now) >= times[90] + S);
}

#[test]
fn a_higher_permit_holds_at_once() {
    let start = Instant::now();
    let mut log = log(1, start);
    drop(log.depart(start));
    log.set_permit(1000, start + MS);
    assert!(log.next_at(start + MS) <= start + MS * 3);
    let times = go(&mut log, start + MS, 500);
    assert!(times[499] - start < MS * 520, "{:?}", times[499] - start);
}

#[test]
fn a_pause_holds_and_a_shorter_one_does_not_end_it() {
    let start = Instant::now();
    let mut log = log(80, start);
    log.hold_until(start + S * 5);
    log.hold_until(start + S);
    assert_eq!(log.next_at(start), start + S * 5);
    let times = go(&mut log, start, 80);
    assert!(times[79] - times[0] >= MS * 990, "a pause earns no credit");
}

#[test]
fn more_inbound_than_the_permit_holds_everything_back_and_not_for_ever() {
    let start = Instant::now();
    let mut log = log(80, start);
    log.inbound(1_000_000, start);
    let next = log.next_at(start);
    assert!(next >= start + S && next <= start + S * 2, "{:?}", next - start);
    assert!(log.clears.len() <= 160);
}

#[test]
fn calls_that_may_still_leave_are_counted() {
    let start = Instant::now();
    let mut log = log(80, start);
    assert_eq!(log.free_before(start, start + MS * 500), 40);
    let now = *go(&mut log, start, 80).last().unwrap();
    let free = log.free_before(now, now + MS * 500);
    assert!((38..=40).contains(&free), "{free}");
    assert_eq!(log.free_before(now, now), 0);
    log.hold_until(now + S);
    assert_eq!(log.free_before(now, now + MS * 500), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Depart,
    GiveBack,
    Left(u64),
    Inbound(u32),
    Permit(u32),
    Hold(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..400_000u64).prop_map(Step::Wait),
        20 => Just(Step::Depart),
        2 => Just(Step::GiveBack),
        2 => (0..30_000u64).prop_map(Step::Left),
        1 => (0..20u32).prop_map(Step::Inbound),
        1 => prop_oneof![1..10u32, 1..200u32].prop_map(Step::Permit),
        1 => (0..500_000u64).prop_map(Step::Hold),
    ];
    proptest::collection::vec(step, 1..400)
}

proptest! {
    /// Whatever happens: a window of a second and the margin holds no more than the highest permit that held in it.
    #[test]
    fn no_window_ever_holds_more_than_the_permit(permit in 1..100u32, steps in steps()) {
        let start = Instant::now();
        let window = PacingConfig::default().window();
        let mut log = log(permit, start);
        let mut now = start;
        let mut permits = vec![(start, permit)];
        let mut out: Option<Departure> = None;
        let mut times: Vec<Instant> = Vec::new();
        for step in steps {
            match step {
                Step::Wait(us) => now += Duration::from_micros(us),
                Step::Depart => {
                    times.extend(out.take().map(|departure| departure.at()));
                    now = log.next_at(now);
                    out = Some(log.depart(now));
                }
                Step::GiveBack => if let Some(departure) = out.take() { log.give_back(departure) },
                Step::Left(us) => if let Some(departure) = &mut out {
                    now += Duration::from_micros(us);
                    log.left(departure, now);
                },
                Step::Inbound(count) => {
                    let room = log.permit.saturating_sub(log.clears.iter().filter(|(at, _)| *at > now).count());
                    // More than there is room for is not ours to prevent.
                    let count = count.min(u32::try_from(room).unwrap());
                    log.inbound(count, now);
                    times.extend((0..count).map(|_| now));
                }
                Step::Permit(permit) => { log.set_permit(permit, now); permits.push((now, permit)); }
                Step::Hold(us) => log.hold_until(now + Duration::from_micros(us)),
            }
        }
        times.extend(out.map(|departure| departure.at()));
        times.sort();
        for (first, from) in times.iter().enumerate() {
            let held = times[first..].iter().take_while(|time| **time - *from < window).count();
            let before = permits.iter().rev().find(|(at, _)| at < from).unwrap_or(&permits[0]).1;
            let within = permits.iter().filter(|(at, _)| at >= from && *at - *from < window).map(|(_, permit)| *permit);
            let highest = within.fold(before, u32::max);
            prop_assert!(held <= usize::try_from(highest).unwrap(), "{held} in a window at {highest}/s");
        }
    }
}
