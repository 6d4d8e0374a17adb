//! An instant leads to the last position of the log of then, with samples of the clock and without, and across gaps.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::Position;
use infrastructure::event_feed::{position_at, time_of};
use serde_json::json;
use sqlx::PgPool;
use test_kit::postgres::TestDatabase;
use uuid::Uuid;

const EVENTS: usize = 120;
const APART: TimeDelta = TimeDelta::seconds(7);

fn start() -> DateTime<Utc> {
    "2026-12-01T04:30:00Z".parse().unwrap()
}

/// Appends events, one each seven seconds; behind every tenth lies a gap. Answers their positions and times.
async fn log(pool: &PgPool) -> Vec<(Position, DateTime<Utc>)> {
    let mut appended = Vec::new();
    let mut at = start();
    for number in 0..EVENTS {
        let position = sqlx::query_scalar!(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
             VALUES ('Message', $1, 1, 'MessageExpired', '1', '{}', $2) RETURNING position",
            Uuid::new_v4().to_string(),
            json!({"tenant_id": Uuid::from_u128(1), "actor": "engine:test", "at": at}),
        )
        .fetch_one(pool)
        .await
        .unwrap();
        appended.push((position, at));
        at += APART;
        if number % 10 == 9 {
            sqlx::query!("SELECT nextval('events_position_seq')").fetch_one(pool).await.unwrap();
        }
    }
    appended
}

async fn agrees(pool: &PgPool, appended: &[(Position, DateTime<Utc>)]) {
    let end = TimeDelta::seconds(7 * 130);
    let mut instant = start() - APART;
    while instant < start() + end {
        let expected = appended.iter().rev().find(|(_, at)| *at <= instant).map_or(0, |(position, _)| *position);
        assert_eq!(position_at(pool, instant).await.unwrap(), expected, "{instant}");
        instant += TimeDelta::milliseconds(3_500);
    }
}

#[tokio::test]
async fn an_instant_leads_to_its_position_and_a_position_to_its_time() {
    let database = TestDatabase::create().await;
    assert_eq!(position_at(&database.pool, start()).await.unwrap(), 0);
    assert_eq!(time_of(&database.pool, 1).await.unwrap(), None);
    let appended = log(&database.owner).await;
    agrees(&database.pool, &appended).await;
    // A mark lies behind the clock, now by a little and now by minutes.
    for (number, (position, at)) in appended.iter().enumerate().step_by(9) {
        let late = TimeDelta::seconds(if number % 2 == 0 { 1 } else { 500 });
        sqlx::query!("INSERT INTO log_times (position, at) VALUES ($1, $2)", position, *at + late)
            .execute(&database.owner)
            .await
            .unwrap();
    }
    agrees(&database.pool, &appended).await;
    for (position, at) in &appended {
        assert_eq!(time_of(&database.pool, *position).await.unwrap(), Some(*at));
    }
    let (last, at) = appended.last().unwrap();
    assert_eq!(time_of(&database.pool, last + 1_000).await.unwrap(), Some(*at));
    database.close().await;
}
