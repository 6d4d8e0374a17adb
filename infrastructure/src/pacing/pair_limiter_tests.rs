use proptest::prelude::*;

use super::*;

const S: Duration = Duration::from_secs(1);

fn limiter(burst: u32) -> PairLimiter {
    PairLimiter::new(PairConfig { burst, ..PairConfig::default() })
}

#[test]
fn one_message_per_interval_without_a_burst() {
    let start = Instant::now();
    let mut limiter = limiter(1);
    let key = limiter.key("+919812345600");
    assert_eq!(limiter.check(key, start), Ok(()));
    assert_eq!(limiter.check(key, start + S), Err(S * 5));
    assert_eq!(limiter.check(key, start + S * 6), Ok(()));
    assert_eq!(limiter.check(key, start + S * 6), Err(S * 6));
}

#[test]
fn a_burst_is_paid_for_with_silence() {
    let start = Instant::now();
    let mut limiter = limiter(3);
    let key = limiter.key("+919812345600");
    for s in [0, 1, 5] {
        assert_eq!(limiter.check(key, start + S * s), Ok(()));
    }
    assert_eq!(limiter.check(key, start + S * 5), Err(S * 13));
    assert_eq!(limiter.check(key, start + S * 17), Err(S));
    assert_eq!(limiter.check(key, start + S * 18), Ok(()), "all three are paid for");
}

#[test]
fn after_the_first_interval_a_burst_is_over() {
    let start = Instant::now();
    let mut limiter = limiter(45);
    let key = limiter.key("+919812345600");
    assert_eq!((0..20).filter(|_| limiter.check(key, start).is_ok()).count(), 20);
    assert_eq!(limiter.check(key, start + S * 6), Err(S * 114), "two minutes of silence after 20");
    assert_eq!(limiter.check(key, start + S * 120), Ok(()));
}

#[test]
fn a_message_that_is_not_sent_is_not_paid_for() {
    let start = Instant::now();
    let mut limiter = limiter(1);
    let key = limiter.key("+919812345600");
    assert_eq!(limiter.check(key, start), Ok(()));
    limiter.undo(key);
    assert_eq!(limiter.check(key, start + S), Ok(()));
    assert_eq!(limiter.check(key, start + S * 2), Err(S * 5));
}

#[test]
fn recipients_do_not_wait_for_each_other() {
    let start = Instant::now();
    let mut limiter = limiter(1);
    for n in 0..1000 {
        let key = limiter.key(&format!("+9198123{n:05}"));
        assert_eq!(limiter.check(key, start), Ok(()));
    }
    assert_eq!(limiter.key("+919812300001"), limiter.key("+919812300001"));
}

#[test]
fn who_has_paid_is_forgotten() {
    let mut now = Instant::now();
    let mut limiter = limiter(3);
    for n in 0..20_000u32 {
        let key = limiter.key(&n.to_string());
        assert_eq!(limiter.check(key, now), Ok(()));
        now += Duration::from_millis(1);
    }
    assert!(limiter.len() <= 6_001, "{} recipients at 1,000/s", limiter.len());
    for n in 0..6_000 {
        let key = limiter.key(&format!("later {n}"));
        limiter.check(key, now + S * 60 + S * n).unwrap();
    }
    assert!(limiter.len() <= 7, "{}", limiter.len());
    assert_eq!(limiter.len(), limiter.by_age.len());
}

#[test]
fn a_full_memory_makes_strangers_wait_and_nobody_else() {
    let start = Instant::now();
    let mut limiter = PairLimiter { recipients_max: 2, ..limiter(2) };
    let keys = ["a", "b", "c"].map(|name| limiter.key(name));
    assert_eq!(keys.map(|key| limiter.check(key, start)), [Ok(()), Ok(()), Err(S * 6)]);
    assert_eq!(limiter.check(keys[0], start), Ok(()));
    assert_eq!(limiter.check(keys[2], start + S * 12), Ok(()), "the others have paid");
}

proptest! {
    /// Never more than Meta permits, whether it counts with a leaky bucket or with bursts that are paid for.
    #[test]
    fn a_leaky_bucket_of_the_same_size_would_have_allowed_it(
        burst in 1..6u32,
        waits_ms in proptest::collection::vec(0..9_000u64, 1..200),
    ) {
        let mut limiter = limiter(burst);
        let key = limiter.key("one");
        let mut now = Instant::now();
        let mut empty_at = now;
        for wait in waits_ms {
            now += Duration::from_millis(wait);
            match limiter.check(key, now) {
                Ok(()) => {
                    prop_assert!(empty_at.saturating_duration_since(now) <= S * 6 * (burst - 1));
                    empty_at = empty_at.max(now) + S * 6;
                }
                Err(wait) => {
                    prop_assert!(wait <= S * 6 * burst);
                    prop_assert!(limiter.clone_for_trial().check(key, now + wait).is_ok());
                }
            }
        }
    }
}

impl PairLimiter {
    fn clone_for_trial(&self) -> Self {
        Self {
            config: self.config,
            hash: self.hash.clone(),
            bursts: self.bursts.clone(),
            by_age: self.by_age.clone(),
            recipients_max: self.recipients_max,
        }
    }
}
