//! Occurrences in their time, on a clock that the test owns.

use std::time::Duration;

use chrono::{DateTime, Utc};
use infrastructure::clock::Clock;
use serde_json::json;
use test_kit::wait;

use crate::engine::{Engine, Options};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

async fn daily(start: &str, change: impl FnOnce(&mut serde_json::Value)) -> (Engine, String) {
    let engine = Engine::start_with(Options { clock: Clock::manual(at(start)), ..Options::default() }).await;
    engine.contacts("gold", 3).await;
    let campaign = engine
        .campaign(|campaign| {
            campaign["recurrence_type"] = json!("daily");
            campaign["start_date"] = json!("2026-12-01T10:00");
            change(campaign);
        })
        .await;
    engine.activate(&campaign).await;
    (engine, campaign)
}

/// Messages are due in the engine's time, which stands still unless the test moves it.
async fn settle(engine: &Engine, campaign: &str, runs: usize) {
    let ids = engine.runs(campaign, runs).await;
    let settled = engine.settled(ids[runs - 1]["id"].as_str().unwrap()).await;
    assert_eq!(settled["counts"]["read"], 3, "{settled}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daily_campaign_runs_each_day_until_its_end_and_completes() {
    // 10:00 in Kolkata is 04:30 UTC.
    let (engine, campaign) = daily("2026-12-01T04:29:50Z", |campaign| campaign["end_date"] = json!("2026-12-03")).await;
    let shown = engine.get(&format!("/v1/campaigns/{campaign}")).await;
    assert!(shown["next_runs"].as_array().unwrap().len() == 3, "{shown}");
    for day in 1..=3 {
        engine.clock.advance(Duration::from_secs(11));
        settle(&engine, &campaign, day).await;
        engine.clock.advance(DAY - Duration::from_secs(11));
    }
    wait::until(Duration::from_secs(10), "the campaign is completed", async || {
        let campaign = engine.get(&format!("/v1/campaigns/{campaign}")).await;
        (campaign["status"] == "completed").then_some(())
    })
    .await;
    engine.clock.advance(DAY);
    assert_eq!(engine.runs(&campaign, 3).await.len(), 3);
    assert_eq!(engine.ledger().await["accepted"], 9);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_that_were_missed_are_recorded_and_the_latest_is_made_up_for() {
    let (engine, campaign) = daily("2026-12-01T04:29:50Z", |_| {}).await;
    engine.clock.advance(DAY * 3 + Duration::from_secs(3600));
    settle(&engine, &campaign, 1).await;
    assert_eq!(engine.events_of("OccurrenceSkipped").await, 3);
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weekly_and_monthly_campaigns_keep_their_days() {
    let start = "2027-01-31T04:29:50Z";
    for (recurrence, next) in [("weekly", "2027-02-07T04:30:00Z"), ("monthly", "2027-02-28T04:30:00Z")] {
        let (engine, campaign) = daily(start, |campaign| {
            campaign["recurrence_type"] = json!(recurrence);
            campaign["start_date"] = json!("2027-01-31T10:00");
        })
        .await;
        engine.clock.advance(Duration::from_secs(11));
        settle(&engine, &campaign, 1).await;
        let shown = wait::until(Duration::from_secs(10), "the next occurrence is shown", async || {
            let shown = engine.get(&format!("/v1/campaigns/{campaign}")).await;
            (shown["next_run_at"].as_str().and_then(|text| text.parse().ok()) == Some(at(next))).then_some(shown)
        })
        .await;
        assert_eq!(shown["next_runs"].as_array().unwrap().len(), 5);
        engine.clock.advance((at(next) - at(start)).to_std().unwrap());
        settle(&engine, &campaign, 2).await;
        engine.stop().await;
    }
}
