//! Bodies of webhooks go when their time is over, and not before they are interpreted.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod inbox_kit;

use std::time::Duration;

use chrono::TimeDelta;
use infrastructure::clock::Clock;
use infrastructure::webhook_inbox::BodyPurge;
use test_kit::wait;
use tokio_util::sync::CancellationToken;

use self::inbox_kit::{Kit, config, now, status};

async fn bodies(kit: &Kit) -> Vec<i64> {
    sqlx::query_scalar!("SELECT id FROM webhook_bodies ORDER BY id").fetch_all(&kit.database.pool).await.unwrap()
}

#[tokio::test]
async fn bodies_go_when_their_time_is_over_unless_they_are_still_to_be_interpreted() {
    let kit = Kit::start().await;
    let messages = kit.claimed(2).await;
    let old = kit.receive(&[status(messages[0], "sent")]).await;
    let interpreter = kit.interpret(config());
    kit.interpreted().await;
    interpreter.stop().await;
    let pending = kit.receive(&[status(messages[1], "sent")]).await;
    assert_eq!(bodies(&kit).await, [old, pending]);

    let purge = |days| {
        let (pool, clock) = (kit.database.pool.clone(), Clock::manual(now() + TimeDelta::days(days)));
        let stop = CancellationToken::new();
        (tokio::spawn(BodyPurge { pool, clock, kept_days: 30 }.run(stop.clone())), stop)
    };
    let (early, stop) = purge(29);
    stop.cancel();
    early.await.unwrap();
    assert_eq!(bodies(&kit).await, [old, pending]);

    let (late, stop) = purge(31);
    wait::until(Duration::from_secs(10), "the old body is gone", async || {
        (bodies(&kit).await == [pending]).then_some(())
    })
    .await;
    stop.cancel();
    late.await.unwrap();
    // What it said stands.
    assert_eq!(kit.parked().await, []);
    assert_eq!(kit.with_event("MessageSent").await, [messages[0]]);
    kit.database.close().await;
}
