//! What the provider saw: the sandbox's lines, one for each call that it accepted.

use serde::Deserialize;

use crate::engine::Engine;

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Call {
    /// When its body had been read, in milliseconds since 1970.
    pub(crate) read_at_ms: f64,
    pub(crate) phone_number_id: String,
    /// The recipient's number.
    pub(crate) to: String,
}

/// All accepted calls, the earliest first.
pub(crate) fn calls(engine: &Engine) -> Vec<Call> {
    let text = std::fs::read_to_string(engine.data().join("ledger.jsonl")).unwrap();
    // The last line may be on its way.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut calls: Vec<Call> = whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    calls.sort_by(|one, other| one.read_at_ms.total_cmp(&other.read_at_ms));
    calls
}

/// The most calls in any 1,000 ms, wherever they begin; `times` in order.
pub(crate) fn worst_second(times: &[f64]) -> usize {
    let within = |first: usize| times[first..].iter().take_while(|time| **time - times[first] < 1000.0).count();
    (0..times.len()).map(within).max().unwrap_or_default()
}

/// The longest time between two calls, in milliseconds; `times` in order.
pub(crate) fn longest_pause_ms(times: &[f64]) -> f64 {
    times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
}

/// The engine's clock, as the ledger shows times.
pub(crate) fn now_ms(engine: &Engine) -> f64 {
    engine.clock.now().timestamp_micros() as f64 / 1000.0
}

#[test]
fn the_worst_second_begins_anywhere_and_is_open_at_its_end() {
    assert_eq!(worst_second(&[]), 0);
    assert_eq!(worst_second(&[0.0, 1000.0, 2000.0]), 1);
    assert_eq!(worst_second(&[0.0, 600.0, 1200.0, 1500.0, 1599.0, 1600.0]), 4);
    assert!((longest_pause_ms(&[1.0, 3.0, 10.0, 11.0]) - 7.0).abs() < f64::EPSILON);
}
