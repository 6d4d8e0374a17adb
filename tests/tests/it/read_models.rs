//! Read models are folded anew by the command line while messages flow, also when it is killed in the middle.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Postgres, Transaction};
use test_kit::wait;
use tokio::process::Command;

use crate::engine::{Engine, Options};
use crate::kill::binary;
use crate::process::ektola;

const CONTACTS: u32 = 400;
const SOON: Duration = Duration::from_secs(30);

/// Holds the checkpoint of the first generation that is being built, so that its next batch cannot be committed.
async fn hold_building(engine: &Engine) -> (Transaction<'static, Postgres>, i32) {
    let held = wait::until(SOON, "a generation is being built", async || {
        let mut tx = engine.database.owner.begin().await.unwrap();
        let held = sqlx::query_scalar!(
            "SELECT s.name FROM subscriptions s JOIN projection_builds b ON b.subscription = s.name
             WHERE b.state = 'building' AND b.projection = 'messages' FOR UPDATE OF s"
        )
        .fetch_optional(&mut *tx)
        .await
        .unwrap();
        held.map(|_| tx)
    })
    .await;
    let waits = wait::until(SOON, "the rebuild wants to commit a batch", async || {
        sqlx::query_scalar!(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'UPDATE subscriptions SET%'"
        )
        .fetch_optional(&engine.database.owner)
        .await
        .unwrap()
        .flatten()
    })
    .await;
    (held, waits)
}

async fn generations(engine: &Engine, state: &str) -> Vec<String> {
    let listed = ektola(engine, &["projections", "list", "--json"]).await.json();
    let rows = listed.as_array().unwrap().iter().filter(|row| row["state"] == state);
    rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_models_are_rebuilt_beside_sending_and_after_a_kill_and_switched_there_and_back() {
    let engine = Engine::start_with(Options { rate: 80, ..Options::default() }).await;
    engine.contacts("gold", CONTACTS).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.run_when(&run, "some are sent", |run| run["funnel"]["sent"].as_u64() > Some(20)).await;

    // Killed while its batch waits, it has committed nothing of it.
    let mut rebuild = Command::new(binary())
        .args(["projections", "rebuild", "--all", "--json"])
        .env("DATABASE_URL", &engine.database.url)
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (held, waits) = hold_building(&engine).await;
    rebuild.kill().await.unwrap();
    sqlx::query!(r#"SELECT pg_terminate_backend($1, 5000) AS "ended!""#, waits)
        .fetch_one(&engine.database.owner)
        .await
        .unwrap();
    held.rollback().await.unwrap();
    assert!(generations(&engine, "building").await.contains(&"messages".to_owned()));

    let names = generations(&engine, "live").await;
    let rebuilt = wait::until(SOON, "nobody rebuilds any more", async || {
        let answer = ektola(&engine, &["projections", "rebuild", "--all", "--json"]).await;
        // The connection of the killed one may hold its locks for a moment.
        (!answer.stderr.contains("by somebody else")).then_some(answer)
    })
    .await;
    assert_eq!(rebuilt.code, 0, "{}", rebuilt.stderr);
    let rebuilt = rebuilt.json();
    for projection in rebuilt["projections"].as_array().unwrap() {
        assert_eq!(projection["verification"]["equal"], true, "{projection}");
        assert!(projection["switch"]["seconds"].as_f64().unwrap() < 1.0, "{projection}");
        assert_eq!(projection["parked"], 0, "{projection}");
    }
    assert_eq!(rebuilt["projections"].as_array().unwrap().len(), names.len());

    let settled = engine.settled(&run).await;
    assert_eq!(settled["audience"], json!(CONTACTS), "{settled}");
    engine.quiet().await;
    let before: Value = engine.get(&format!("/v1/runs/{run}")).await;
    for subcommand in ["verify", "switch-back", "verify", "switch"] {
        let answer = ektola(&engine, &["projections", subcommand, "runs", "--json"]).await;
        assert_eq!(answer.code, 0, "{subcommand}: {}", answer.stderr);
        assert_eq!(engine.get(&format!("/v1/runs/{run}")).await, before, "{subcommand}");
    }
    for name in &names {
        let answer = ektola(&engine, &["projections", "cancel", name]).await;
        assert_eq!(answer.code, 0, "{}", answer.stderr);
    }
    assert_eq!(generations(&engine, "live").await, names);
    assert_eq!(generations(&engine, "previous").await, Vec::<String>::new());
    let nothing = ektola(&engine, &["projections", "switch-back", "runs"]).await;
    assert_eq!(nothing.code, 1);
    assert!(nothing.stderr.contains("ektola projections rebuild runs"), "{}", nothing.stderr);
    engine.stop().await;
}
