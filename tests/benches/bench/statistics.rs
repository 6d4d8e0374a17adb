//! The few statistics that the figures need.

/// The value below which this share of the values lies, by the nearest rank. 0 without values.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a length in memory is a place in it"
    )]
    let rank = (share * as_float(sorted.len())).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or_default()
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    match (sorted.get((sorted.len().saturating_sub(1)) / 2), sorted.get(sorted.len() / 2)) {
        (Some(low), Some(high)) => f64::midpoint(*low, *high),
        _ => 0.0,
    }
}

pub(crate) fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Of counts, which stay far below 2^52.
pub(crate) fn as_float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::from(u32::MAX), f64::from)
}

/// The most moments within any window of this length, wherever it begins. The moments are sorted.
pub(crate) fn most_within(moments: &[f64], window: f64) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, moment) in moments.iter().enumerate() {
        while *moment - moments[first] >= window {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}
