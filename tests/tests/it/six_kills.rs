//! A dispatcher that dies again and again with as much in its hands as it may hold: a redelivery counts against a healthy
//! message nowhere, neither at the broker nor in Postgres, and nobody is sent anything twice.

use std::collections::BTreeSet;
use std::time::Duration;

use api::app::Role;
use domain::message::Lane;
use serde_json::json;
use test_kit::wait;

use crate::dead_letters::dead_letters;
use crate::engine::{Engine, Options, Queue};
use crate::process::Process;
use crate::queue::{self, Queues};

const CONTACTS: u32 = 3_000;
const KILLS: u64 = 6;
/// Calls that were under way in the instant of one kill, at 200 a second to a sandbox that answers at once.
const CALLS_OPEN_MAX: u64 = 8;
const TAKEN_OVER_SOON: &[(&str, &str)] = &[("EKTOLA_DISPATCH__LEASE_TTL_S", "1")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_kills_at_full_prefetch_dead_letter_nothing_healthy() {
    let mut roles: BTreeSet<Role> = Role::all();
    roles.remove(&Role::Dispatcher);
    let engine = Engine::start_with(Options { queue: Queue::Rabbitmq, rate: 200, roles, ..Options::default() }).await;
    engine.contacts("gold", CONTACTS).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let queues = Queues::of(&engine).await;
    let lane = queue::name(engine.sender().await, Lane::Utility);

    let data = tempfile::tempdir().unwrap();
    let mut sent = 0;
    for _ in 0..KILLS {
        let process = Process::start(&engine, "dispatcher", data.path(), TAKEN_OVER_SOON).await;
        sent = wait::until(Duration::from_secs(60), "calls while the dispatcher holds all it may", async || {
            let accepted = engine.ledger().await["accepted"].as_u64().unwrap();
            if accepted < sent + 100 {
                return None;
            }
            // The broker keeps back only what the prefetch does not allow.
            let state = queues.state(&lane).await;
            (state.consumers == 1 && state.ready > 0).then_some(accepted)
        })
        .await;
        process.kill().await;
    }
    assert!(sent < u64::from(CONTACTS), "the kills came too late to show anything");

    let process = Process::start(&engine, "dispatcher", data.path(), TAKEN_OVER_SOON).await;
    let settled = engine.settled(&run).await;
    let count = |status: &str| settled["counts"][status].as_u64().unwrap();
    // What was marked and never left stays in doubt; nobody can tell it from an accepted call that nobody reports.
    assert_eq!(count("read") + count("unknown"), u64::from(CONTACTS), "{settled}");
    assert!(count("unknown") <= KILLS * CALLS_OPEN_MAX, "{settled}");
    let ledger = engine.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(count("read")), &json!(0)));
    queues.assert_nothing_dead().await;
    queues.close().await;
    let letters = dead_letters(&engine, &["list", "--json"]).await.json();
    assert_eq!(letters["letters"], json!([]));
    process.stop().await;
    engine.stop().await;
}
