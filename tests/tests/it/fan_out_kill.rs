//! The process that turns an audience into messages is killed at several pages: no message is missing or double.

use std::collections::BTreeSet;
use std::time::Duration;

use api::app::Role;
use serde_json::json;
use sqlx::{Postgres, Transaction};
use test_kit::wait;

use crate::engine::{Engine, Options};
use crate::process::Process;

const CONTACTS: u32 = 2_000;
/// Contacts whom the template does not fit: they are skipped, and counted as such.
const NAMELESS: u32 = 40;
const PAGES_OF: &[(&str, &str)] = &[("EKTOLA_FAN_OUT__PAGE_SIZE", "50"), ("EKTOLA_FAN_OUT__LEASE_S", "2")];

const PAGE_MAX: Duration = Duration::from_secs(3);
const HOLDS_MAX: u32 = 10;

/// Messages that exist, queued or skipped.
async fn made(engine: &Engine) -> i64 {
    engine.events_of("MessageQueued").await + engine.events_of("MessageSkipped").await
}

async fn made_at_least(engine: &Engine, count: i64) {
    wait::until(Duration::from_secs(30), "more of the audience is turned into messages", async || {
        (made(engine).await >= count).then_some(())
    })
    .await;
}

/// Lets a page's messages be committed and the process die before it has moved the cursor behind them.
async fn kill_between_page_and_cursor(engine: &Engine, process: Process) {
    let (cursor, at, waits) = hold_cursor(engine).await;
    assert!(made(engine).await > at, "the messages of the page are not there");
    process.kill().await;
    // Or the server would move the cursor for the dead.
    sqlx::query!(r#"SELECT pg_terminate_backend($1, 5000) AS "ended!""#, waits)
        .fetch_one(&engine.database.owner)
        .await
        .unwrap();
    cursor.rollback().await.unwrap();
}

/// Holds the task of the fan-out until a process that has worked a page off waits to move its cursor. Answers the hold,
/// the contacts before that page, and the connection that waits.
async fn hold_cursor(engine: &Engine) -> (Transaction<'static, Postgres>, i64, i32) {
    let waiting = async || {
        sqlx::query_scalar!(
            "SELECT pid FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'UPDATE fan_out_tasks SET cursor%'"
        )
        .fetch_optional(&engine.database.owner)
        .await
        .unwrap()
        .flatten()
    };
    for _ in 0..HOLDS_MAX {
        let mut tx = engine.database.owner.begin().await.unwrap();
        let at = sqlx::query_scalar!(r#"SELECT queued + skipped AS "at!" FROM fan_out_tasks FOR UPDATE"#)
            .fetch_one(&mut *tx)
            .await
            .unwrap();
        let page = wait::until(PAGE_MAX * 2, "the process wants to move the cursor", waiting);
        if let Ok(waits) = tokio::time::timeout(PAGE_MAX, page).await {
            return (tx, at, waits);
        }
        // Taken between two pages, so that the process found nothing to do. It has to be in the middle of one.
        tx.rollback().await.unwrap();
        made_at_least(engine, at + 1).await;
    }
    panic!("no page was caught between its messages and its cursor");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_that_is_killed_at_several_pages_leaves_no_message_missing_or_double() {
    let mut roles: BTreeSet<Role> = Role::all();
    roles.remove(&Role::Sagas);
    let engine = Engine::start_with(Options { roles, ..Options::default() }).await;
    let mut file = String::from("phone,name,segment\n");
    for number in 0..CONTACTS {
        let name = if number < NAMELESS { String::new() } else { format!("Customer {number}") };
        file.push_str(&format!("98250{number:05},{name},gold\n"));
    }
    let (_, report) = engine.upload(file).await;
    assert_eq!(report["created"], json!(CONTACTS), "{report}");
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;

    let data = tempfile::tempdir().unwrap();
    let mut kills = 0;
    for (count, between) in [(50, false), (300, true), (700, false), (1100, true), (1600, false)] {
        let process = Process::start(&engine, "sagas", data.path(), PAGES_OF).await;
        made_at_least(&engine, count).await;
        if between {
            kill_between_page_and_cursor(&engine, process).await;
        } else {
            process.kill().await;
        }
        assert!(made(&engine).await < i64::from(CONTACTS), "the kill came too late to show anything");
        kills += 1;
    }
    assert_eq!(kills, 5);
    let process = Process::start(&engine, "sagas", data.path(), PAGES_OF).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let run = engine.settled(&run).await;

    let messages = sqlx::query!(
        r#"SELECT count(DISTINCT aggregate_id) AS "messages!", count(*) FILTER (WHERE sequence = 1) AS "first!",
                  count(*) FILTER (WHERE event_type IN ('MessageQueued', 'MessageSkipped')) AS "made!",
                  count(DISTINCT payload -> event_type ->> 'contact_id')
                      FILTER (WHERE event_type IN ('MessageQueued', 'MessageSkipped')) AS "contacts!"
           FROM events WHERE aggregate_type = 'Message'"#
    )
    .fetch_one(&engine.database.owner)
    .await
    .unwrap();
    let contacts = i64::from(CONTACTS);
    assert_eq!(
        (messages.messages, messages.first, messages.made, messages.contacts),
        (contacts, contacts, contacts, contacts)
    );
    let resolved = sqlx::query_scalar!(
        r#"SELECT payload -> 'AudienceResolved' AS "counts!" FROM events WHERE event_type = 'AudienceResolved'"#
    )
    .fetch_all(&engine.database.owner)
    .await
    .unwrap();
    assert_eq!(resolved.len(), 1, "{resolved:?}");
    let counts = (&resolved[0]["queued"], &resolved[0]["skipped"]);
    assert_eq!(counts, (&json!(CONTACTS - NAMELESS), &json!(NAMELESS)), "{resolved:?}");
    assert_eq!(run["audience"], CONTACTS, "{run}");
    assert_eq!(run["counts"]["read"], CONTACTS - NAMELESS, "{run}");
    assert_eq!(run["counts"]["skipped"], NAMELESS, "{run}");
    let ledger = engine.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(CONTACTS - NAMELESS), &json!(0)));
    process.stop().await;
    engine.stop().await;
}
