//! The permit of a number holds in every second, whatever happens to the process that sends for it: its rate is changed,
//! it is stopped, it dies, it is frozen and comes back. Judged by the provider's own times.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use api::app::Role;
use infrastructure::senders;
use nix::sys::signal::Signal;
use serde_json::json;
use test_kit::wait;

use crate::engine::{Engine, Options, PHONE_NUMBER_ID, Queue};
use crate::ledger::{Call, calls, longest_pause_ms, now_ms, worst_second};
use crate::process::Process;

/// `dispatch.lease_ttl_s` as it comes.
const LEASE_TTL_MS: f64 = 5_000.0;

/// An engine without a dispatcher, with a run that is not sent yet.
async fn waiting_run(rate: u32, contacts: u32) -> (Engine, String) {
    let mut roles: BTreeSet<Role> = Role::all();
    roles.remove(&Role::Dispatcher);
    let options = Options { queue: Queue::Rabbitmq, rate, roles, alone: true, ..Options::default() };
    let engine = Engine::start_with(options).await;
    engine.contacts("gold", contacts).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    (engine, run)
}

/// What the dead had claimed is settled soon, though nobody can read their journal: it lies in a folder of their own.
const SETTLED_SOON: &[(&str, &str)] = &[
    ("EKTOLA_DISPATCH__CLAIM_TTL_S", "4"),
    ("EKTOLA_DISPATCH__CALL_TIMEOUT_S", "6"),
    ("EKTOLA_DISPATCH__SWEEP_MARGIN_S", "1"),
];

async fn dispatcher(engine: &Engine, data: &Path) -> Process {
    Process::start(engine, "dispatcher", data, SETTLED_SOON).await
}

async fn called(engine: &Engine, count: usize) {
    wait::until(Duration::from_secs(60), &format!("{count} calls"), async || {
        (calls(engine).len() >= count).then_some(())
    })
    .await;
}

fn times(calls: &[Call]) -> Vec<f64> {
    calls.iter().map(|call| call.read_at_ms).collect()
}

/// Nothing is sent any more, and nobody was sent anything twice.
async fn end(engine: Engine, run: &str, processes: Vec<Process>) {
    engine.run_when(run, "the run is completed", |run| run["status"] == "completed").await;
    engine.quiet().await;
    assert_eq!(engine.ledger().await["doubled"], json!(0));
    for process in processes {
        process.stop().await;
    }
    engine.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_rate_holds_within_a_second() {
    let (engine, run) = waiting_run(80, 700).await;
    let data = tempfile::tempdir().unwrap();
    let process = dispatcher(&engine, data.path()).await;
    called(&engine, 160).await;
    let mut changes = vec![(now_ms(&engine) - 1e9, 80)];
    for (rate, more) in [(20, 80), (100, 200)] {
        let before = calls(&engine).len();
        senders::set_rate(&engine.database.pool, PHONE_NUMBER_ID, rate).await.unwrap();
        changes.push((now_ms(&engine), rate));
        called(&engine, before + more).await;
    }
    let times = times(&calls(&engine));
    let ends = changes.iter().skip(1).map(|(at, _)| *at).chain([f64::INFINITY]);
    for ((began, rate), ended) in changes.iter().zip(ends) {
        // A change takes effect within a second.
        let stretch: Vec<f64> = times.iter().copied().filter(|at| *at >= began + 1000.0 && *at < ended).collect();
        let worst = worst_second(&stretch);
        assert!(worst <= usize::try_from(*rate).unwrap(), "{worst} calls in a second at {rate}/s");
        assert!(stretch.len() > 30, "only {} calls at {rate}/s", stretch.len());
    }
    // No second that lies across a change exceeds the higher of both.
    assert!(worst_second(&times) <= 100);
    senders::set_rate(&engine.database.pool, PHONE_NUMBER_ID, 1000).await.unwrap();
    end(engine, &run, vec![process]).await;
}

/// What happens to the process that holds the sender's lease while another one waits for it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Stopped,
    Killed,
    /// For longer than its lease, then it goes on.
    Frozen,
}

async fn hand_over(rate: u32, fate: Fate) {
    let permit = usize::try_from(rate).unwrap();
    let (engine, run) = waiting_run(rate, rate * 10).await;
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = dispatcher(&engine, one.path()).await;
    called(&engine, permit * 2).await;
    let mut processes = vec![dispatcher(&engine, other.path()).await];
    called(&engine, permit * 3).await;
    let before = calls(&engine).len();
    match fate {
        Fate::Stopped => first.stop().await,
        Fate::Killed => first.kill().await,
        Fate::Frozen => {
            first.signal(Signal::SIGSTOP);
            let standing = calls(&engine).len();
            called(&engine, standing + permit).await;
            first.signal(Signal::SIGCONT);
            processes.push(first);
        }
    }
    called(&engine, before + permit * 4).await;
    let times = times(&calls(&engine));
    let worst = worst_second(&times);
    assert!(worst <= permit, "{worst} calls in a second at {rate}/s; the sender was {fate:?}");
    let pause = longest_pause_ms(&times);
    if fate == Fate::Stopped {
        assert!(pause < LEASE_TTL_MS, "a lease that was given back was waited out: {pause:.0} ms");
    } else {
        assert!(pause > 1000.0, "nobody took over: {pause:.0} ms");
    }
    senders::set_rate(&engine.database.pool, PHONE_NUMBER_ID, 1000).await.unwrap();
    end(engine, &run, processes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_handed_over_stays_within_its_permit() {
    hand_over(80, Fate::Stopped).await;
    hand_over(300, Fate::Stopped).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_taken_over_from_the_dead_stays_within_its_permit() {
    hand_over(80, Fate::Killed).await;
    hand_over(300, Fate::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_process_that_comes_back_sends_nothing_beside_its_successor() {
    hand_over(80, Fate::Frozen).await;
    hand_over(300, Fate::Frozen).await;
}
