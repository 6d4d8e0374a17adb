//! Waiting for a condition: tests never sleep and hope.

use std::time::Duration;

use tokio::time::Instant;

/// Short against what is waited for, long against what one probe costs.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `probe` again and again until it answers `Some`.
///
/// # Panics
///
/// When it has not done so within `deadline`; `what` says what was waited for.
pub async fn until<T>(deadline: Duration, what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, probe()).await {
            Ok(Some(value)) => return value,
            Ok(None) if started.elapsed() < deadline => tokio::time::sleep(PAUSE).await,
            Ok(None) | Err(_) => panic!("waited {deadline:?} in vain for: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_answers_what_the_probe_found() {
        let mut asked = 0;
        let found = until(Duration::from_secs(5), "the third answer", async || {
            asked += 1;
            (asked == 3).then_some(asked)
        })
        .await;
        assert_eq!(found, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "in vain for: a thing that never comes")]
    async fn it_gives_up_at_the_deadline_even_when_a_probe_hangs() {
        until(Duration::from_millis(50), "a thing that never comes", async || {
            std::future::pending::<()>().await;
            None::<()>
        })
        .await;
    }
}
