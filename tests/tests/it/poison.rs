//! A message whose history cannot be read: it is put before a person, and the others of its parcel are sent.

use std::collections::BTreeSet;
use std::time::Duration;

use api::app::Role;
use serde_json::{Value, json};
use test_kit::wait;
use uuid::Uuid;

use crate::dead_letters::dead_letters;
use crate::engine::{Engine, Options, Queue};
use crate::process::Process;

const CONTACTS: u32 = 40;

/// Adds an event to the history of a message that no release can read. It stands in the past of the log, so that nobody
/// follows it and only a load of the message meets it.
async fn spoil(engine: &Engine, message: Uuid, position: i64) {
    sqlx::query!(
        r#"INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, position)
           OVERRIDING SYSTEM VALUE
           SELECT aggregate_type, aggregate_id, 2, 'MessageCancelled', '1', '{"MessageCancelled": "spoilt"}', metadata, $2
           FROM events WHERE aggregate_type = 'Message' AND aggregate_id = $1 AND sequence = 1"#,
        message.to_string(),
        position,
    )
    .execute(&engine.database.owner)
    .await
    .unwrap();
}

/// Takes the event away again, which nobody but the owner of the database can.
async fn repair(engine: &Engine, message: Uuid) {
    let mut tx = engine.database.owner.begin().await.unwrap();
    sqlx::query!("ALTER TABLE events DISABLE TRIGGER events_refuse_change").execute(&mut *tx).await.unwrap();
    sqlx::query!("DELETE FROM events WHERE aggregate_id = $1 AND sequence = 2", message.to_string())
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query!("ALTER TABLE events ENABLE ALWAYS TRIGGER events_refuse_change").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
}

async fn letters(engine: &Engine) -> Vec<Value> {
    let listed = dead_letters(engine, &["list", "--json"]).await.json();
    listed["letters"].as_array().unwrap().clone()
}

fn letter_of(letters: &[Value], message: Uuid) -> &Value {
    letters.iter().find(|letter| letter["reference"] == message.to_string()).expect("the message has a letter")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_cannot_be_read_is_parked_and_the_others_of_its_parcel_are_sent() {
    let mut roles: BTreeSet<Role> = Role::all();
    roles.remove(&Role::Dispatcher);
    // Ten messages a parcel.
    let options = Options { queue: Queue::Rabbitmq, rate: 400, roles, ..Options::default() };
    let engine = Engine::start_with(options).await;
    engine.contacts("gold", CONTACTS).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    let messages = wait::until(Duration::from_secs(20), "all messages wait to be sent", async || {
        let ids = sqlx::query_scalar!("SELECT message_id FROM ready_list ORDER BY position")
            .fetch_all(&engine.database.owner)
            .await
            .unwrap();
        (ids.len() == usize::try_from(CONTACTS).unwrap()).then_some(ids)
    })
    .await;
    let (mended, lost) = (messages[3], messages[5]);
    spoil(&engine, mended, -1).await;
    spoil(&engine, lost, -2).await;

    let data = tempfile::tempdir().unwrap();
    let dispatcher = Process::start(&engine, "dispatcher", data.path(), &[]).await;
    let sent = CONTACTS - 2;
    engine.run_when(&run, "the others are read", |run| run["counts"]["read"] == sent).await;
    let parked = wait::until(Duration::from_secs(20), "both are parked", async || {
        let parked = letters(&engine).await;
        (parked.len() == 2).then_some(parked)
    })
    .await;
    for message in [mended, lost] {
        let letter = letter_of(&parked, message);
        assert_eq!(letter["source"], "dispatch", "{letter}");
        let reason = letter["reason"].as_str().unwrap();
        assert_eq!(reason, format!("the stored history of {message} cannot be read"));
    }
    assert_eq!(engine.ledger().await["accepted"], sent);

    // Mended and given back, it goes its way. The other one stays where it is as long as it cannot be read, and says so.
    repair(&engine, mended).await;
    let id = |message| letter_of(&parked, message)["id"].to_string();
    let retried = dead_letters(&engine, &["retry", &id(mended), &id(lost), "--json"]).await;
    let handled = retried.json();
    let outcome = |message| &letter_of(handled["letters"].as_array().unwrap(), message)["outcome"];
    assert_eq!((outcome(mended), outcome(lost)), (&json!("ready"), &json!("kept")), "{handled}");
    assert_eq!(retried.code, 1, "{}", retried.stderr);
    engine.run_when(&run, "the mended one is read", |run| run["counts"]["read"] == sent + 1).await;
    let id = id(lost);
    let discarded = dead_letters(&engine, &["discard", &id]).await;
    assert_eq!(discarded.code, 1, "{} {}", discarded.stdout, discarded.stderr);
    assert!(discarded.stdout.contains("its history cannot be read"), "{}", discarded.stdout);
    let left = letters(&engine).await;
    assert_eq!((left.len(), &letter_of(&left, lost)["attempts"]), (1, &json!(1)), "{left:?}");
    repair(&engine, lost).await;
    let discarded = dead_letters(&engine, &["discard", &id, "--json"]).await;
    let outcome = &discarded.json()["letters"][0]["outcome"];
    assert_eq!((discarded.code, outcome), (0, &json!("cancelled")), "{}", discarded.stderr);
    let run = engine.settled(&run).await;
    assert_eq!((&run["counts"]["read"], &run["counts"]["cancelled"]), (&json!(sent + 1), &json!(1)), "{run}");
    let ledger = engine.ledger().await;
    assert_eq!((&ledger["accepted"], &ledger["doubled"]), (&json!(sent + 1), &json!(0)));
    let strikes = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM dispatch_strikes"#)
        .fetch_one(&engine.database.owner)
        .await
        .unwrap();
    assert_eq!(strikes, 0);
    dispatcher.stop().await;
    engine.stop().await;
}
