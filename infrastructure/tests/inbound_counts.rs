//! Messages from users, counted for the pacing of their number.

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::SenderId;
use infrastructure::pacing::inbound::{received, record_in_tx};
use infrastructure::senders::{self, NewSender, Secret};
use infrastructure::tenants;
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000, 0).expect("a valid time")
}

async fn senders(pool: &PgPool) -> [SenderId; 2] {
    let tenant = tenants::create_tenant(pool, "Shri Jewels", "Asia/Kolkata", now()).await.expect("a tenant");
    let mut ids = Vec::new();
    for phone_number_id in ["1055", "1056"] {
        let new = NewSender {
            tenant_id: tenant.id,
            phone_number_id: phone_number_id.to_owned(),
            waba_id: "2000".to_owned(),
            base_url: None,
            access_token: Secret::new("access"),
            app_secret: Secret::new("app"),
            verify_token: Secret::new("verify"),
            sandbox: false,
        };
        ids.push(senders::add_sender(pool, new, now()).await.expect("a sender").id);
    }
    [ids[0], ids[1]]
}

async fn record(pool: &PgPool, messages: &[(SenderId, DateTime<Utc>, i64)]) {
    let mut tx = pool.begin().await.expect("a transaction");
    record_in_tx(&mut tx, messages, now()).await.expect("they are counted");
    tx.commit().await.expect("a commit");
}

#[tokio::test]
async fn messages_add_up_by_sender_and_old_ones_do_not_count() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let [first, second] = senders(pool).await;
    assert_eq!(received(pool, first).await.unwrap(), 0);
    record(pool, &[]).await;
    let ago = |seconds| now() - TimeDelta::seconds(seconds);
    record(pool, &[(second, ago(0), 1), (first, ago(2), 2), (second, ago(10), 3), (second, ago(11), 100)]).await;
    record(pool, &[(first, ago(0), 5), (first, ago(3600), 1000)]).await;
    assert_eq!((received(pool, first).await.unwrap(), received(pool, second).await.unwrap()), (7, 4));
}

#[tokio::test]
async fn a_step_that_is_undone_counts_nothing_and_steps_side_by_side_lose_nothing() {
    let database = TestDatabase::create().await;
    let pool = &database.pool;
    let [first, second] = senders(pool).await;
    let mut tx = pool.begin().await.unwrap();
    record_in_tx(&mut tx, &[(first, now(), 9)], now()).await.unwrap();
    tx.rollback().await.unwrap();
    let steps = (0..40).map(|step| {
        let pool = pool.clone();
        let mut messages = vec![(first, now(), 1), (second, now(), 1)];
        if step % 2 == 0 {
            messages.reverse();
        }
        tokio::spawn(async move { record(&pool, &messages).await })
    });
    for step in steps.collect::<Vec<_>>() {
        step.await.unwrap();
    }
    assert_eq!((received(pool, first).await.unwrap(), received(pool, second).await.unwrap()), (40, 40));
}
