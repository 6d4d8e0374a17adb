use std::time::Duration;

use super::*;

const MS: Duration = Duration::from_millis(1);
const S: Duration = Duration::from_secs(1);

fn departures(rate_per_s: u32) -> Departures<u32> {
    Departures::new(PacingConfig::default(), rate_per_s, Instant::now())
}

async fn take(departures: &Departures<u32>, count: usize) -> Vec<(u32, Departure)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(departures.next().await.expect("it is open"));
    }
    taken
}

#[tokio::test(start_paused = true)]
async fn calls_leave_in_their_order_and_at_the_pace() {
    let start = Instant::now();
    let departures = departures(1000);
    assert!(departures.push(0..3000).is_empty());
    let taken = take(&departures, 3000).await;
    assert!(taken.iter().map(|(call, _)| *call).eq(0..3000));
    let times: Vec<Instant> = taken.iter().map(|(_, departure)| departure.at()).collect();
    for window in times.windows(1001) {
        assert!(window[1000] - window[0] >= MS * 1012);
    }
    let rate = 3000.0 / (Instant::now() - start).as_secs_f64();
    assert!((983.0..=1000.0).contains(&rate), "{rate}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_while_none_waits_leaves_at_once() {
    let departures = departures(80);
    let taker = tokio::spawn({
        let departures = departures.clone();
        async move { departures.next().await.map(|(call, departure)| (call, departure.at())) }
    });
    tokio::time::sleep(S * 5).await;
    let pushed = Instant::now();
    departures.push([7]);
    assert_eq!(taker.await.unwrap(), Some((7, pushed)));
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_changed_rate_hold_for_the_next_call() {
    let start = Instant::now();
    let departures = departures(1);
    departures.push(0..100);
    take(&departures, 1).await;
    departures.hold_until(start + S * 3);
    let (_, departure) = departures.next().await.unwrap();
    assert!(departure.at() >= start + S * 3 && departure.at() <= start + MS * 3002);

    // While the task sleeps until the next second.
    let faster = {
        let departures = departures.clone();
        tokio::spawn(async move {
            tokio::time::sleep(MS * 100).await;
            departures.set_rate(1000);
        })
    };
    take(&departures, 50).await;
    faster.await.unwrap();
    assert!(Instant::now() < start + MS * 3200, "{:?}", Instant::now() - start);
    assert_eq!(departures.rate(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_lowers_the_rate_until_quiet_time_brings_it_back() {
    let departures = departures(80);
    departures.push(0..10_000);
    let (_, departure) = departures.next().await.unwrap();
    assert!(departures.refused(&departure));
    assert!(!departures.refused(&departure));
    assert_eq!(departures.rate(), 40);
    let lowered = Instant::now();
    let taken = take(&departures, 120).await;
    let span = taken[119].1.at() - lowered;
    assert!(span >= MS * 2950, "{span:?} for 120 calls at 40/s");
    tokio::time::sleep(S * 60).await;
    assert_eq!(departures.rate(), 80);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_not_made_take_nothing_away() {
    let start = Instant::now();
    let departures = departures(80);
    departures.push(0..240);
    let mut made = 0;
    while made < 80 {
        let (call, departure) = departures.next().await.unwrap();
        if call % 3 == 0 { made += 1 } else { departures.give_back(departure) }
    }
    let span = Instant::now() - start;
    assert!(span < MS * 2100, "{span:?} for 80 calls among 240");
}

#[tokio::test(start_paused = true)]
async fn closing_returns_what_waits_and_ends_the_taker() {
    let departures = departures(80);
    departures.push([1, 2, 3]);
    take(&departures, 1).await;
    departures.hold_until(Instant::now() + S * 3600);
    let taker = tokio::spawn({
        let departures = departures.clone();
        async move { departures.next().await.is_none() }
    });
    tokio::task::yield_now().await;
    assert_eq!(departures.close(), [2, 3]);
    assert!(taker.await.unwrap());
    assert_eq!(departures.push([4]), [4], "nothing is taken in any more");
    assert_eq!(departures.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn there_is_room_for_what_may_leave_in_time() {
    let departures = departures(80);
    let until = || Instant::now() + MS * 500;
    assert_eq!(departures.room(until()), 40);
    departures.push(0..30);
    assert_eq!(departures.room(until()), 10);
    departures.inbound(20);
    assert!(departures.room(until()) <= 1, "{}", departures.room(until()));
    departures.hold_until(Instant::now() + S);
    assert_eq!(departures.room(until()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_taker_that_gives_up_waiting_has_taken_nothing() {
    let departures = departures(1);
    departures.push([1, 2]);
    take(&departures, 1).await;
    assert!(tokio::time::timeout(MS * 10, departures.next()).await.is_err());
    assert_eq!(departures.waiting(), 1);
    assert_eq!(departures.next().await.map(|(call, _)| call), Some(2));
}
