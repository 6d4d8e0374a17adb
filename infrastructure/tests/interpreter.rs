//! Interpreting webhooks: a step is one transaction, and what cannot be got through is found, tried alone and parked
//! alone, whatever it does to the process.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod inbox_kit;

use std::time::Duration;

use domain::aggregate::CommandEnvelope;
use domain::message::{Acceptance, MessageCommand};
use infrastructure::event_store::{Actor, Addressed, Attachment};
use infrastructure::webhook_inbox::InterpreterConfig;
use serde_json::Value;
use sqlx::Executor;
use test_kit::wait;
use uuid::Uuid;

use self::inbox_kit::{Kit, config, now, status, status_of};

async fn transactions_of(kit: &Kit, event_type: &str) -> i64 {
    let transactions = sqlx::query_scalar!(
        r#"SELECT count(DISTINCT xmin::text) AS "count!" FROM events WHERE event_type = $1"#,
        event_type
    );
    transactions.fetch_one(&kit.database.owner).await.unwrap()
}

/// From now on the database refuses every event of this type of a message.
async fn refuse(kit: &Kit, message: Uuid, event_type: &str) {
    let statement = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW
             WHEN (NEW.aggregate_id = '{message}' AND NEW.event_type = '{event_type}') EXECUTE FUNCTION refuse()"
    );
    kit.database.owner.execute(statement.as_str()).await.unwrap();
}

/// As a process that was killed in the middle of a step leaves it.
async fn step_of_a_dead_process(kit: &Kit, body_ids: &[i64]) {
    sqlx::query!(
        "INSERT INTO webhook_steps (id, holder, body_ids) VALUES ($1, $2, $3)",
        Uuid::new_v4(),
        Uuid::new_v4(),
        body_ids,
    )
    .execute(&kit.database.owner)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_body_of_a_thousand_statuses_is_one_transaction() {
    let kit = Kit::start().await;
    let messages = kit.claimed(1000).await;
    let statuses: Vec<Value> = messages.iter().map(|message| status(*message, "delivered")).collect();
    kit.receive(&statuses).await;
    let interpreter = kit.interpret(config());
    kit.interpreted().await;
    assert_eq!(kit.with_event("MessageDelivered").await.len(), 1000);
    assert_eq!(transactions_of(&kit, "MessageDelivered").await, 1);
    interpreter.stop().await;
    kit.database.close().await;
}

#[tokio::test]
async fn many_bodies_are_interpreted_in_few_steps_within_the_bounds() {
    let kit = Kit::start().await;
    let messages = kit.claimed(60).await;
    for message in &messages {
        kit.receive(&[status(*message, "delivered")]).await;
    }
    let bytes = sqlx::query_scalar!(r#"SELECT max(octet_length(body)) AS "bytes!" FROM webhook_bodies"#);
    let bytes = u32::try_from(bytes.fetch_one(&kit.database.pool).await.unwrap()).unwrap();
    // Ten bodies have all the bytes of a step.
    let interpreter = kit.interpret(InterpreterConfig { batch_bytes_max: 10 * bytes - 5, ..config() });
    kit.interpreted().await;
    assert_eq!(kit.with_event("MessageDelivered").await, messages, "in the order in which they came");
    assert_eq!(transactions_of(&kit, "MessageDelivered").await, 6);
    interpreter.stop().await;

    for message in &messages {
        kit.receive(&[status(*message, "read")]).await;
    }
    let interpreter = kit.interpret(InterpreterConfig { batch_max: 30, ..config() });
    kit.interpreted().await;
    assert_eq!(transactions_of(&kit, "MessageRead").await, 2);
    interpreter.stop().await;
    kit.database.close().await;
}

#[tokio::test]
async fn what_is_known_already_appends_nothing_and_is_not_pending_any_more() {
    let kit = Kit::start().await;
    let messages = kit.claimed(3).await;
    let statuses: Vec<Value> = ["sent", "delivered", "sent", "delivered"]
        .iter()
        .flat_map(|name| messages.iter().map(|id| status(*id, name)))
        .collect();
    let interpreter = kit.interpret(config());
    for _ in 0..3 {
        kit.receive(&statuses).await;
    }
    kit.interpreted().await;
    assert_eq!(kit.with_event("MessageSent").await.len(), 3);
    assert_eq!(kit.with_event("MessageDelivered").await.len(), 3);
    assert_eq!(kit.parked().await, []);
    interpreter.stop().await;
    kit.database.close().await;
}

#[tokio::test]
async fn a_body_that_fails_again_and_again_is_parked_alone() {
    let kit = Kit::start().await;
    let messages = kit.claimed(8).await;
    refuse(&kit, messages[4].0, "MessageDelivered").await;
    let mut bodies = Vec::new();
    for message in &messages {
        bodies.push(kit.receive(&[status(*message, "delivered")]).await);
    }
    let interpreter = kit.interpret(config());
    kit.interpreted().await;
    let parked = kit.parked().await;
    let [(_, reference, attempts, reason)] = &parked[..] else { panic!("{parked:?}") };
    assert_eq!((reference, *attempts), (&bodies[4].to_string(), 3));
    assert!(reason.contains("refused by the test"), "{reason}");
    let mut delivered = kit.with_event("MessageDelivered").await;
    delivered.sort();
    let expected: Vec<_> = messages.iter().copied().filter(|message| *message != messages[4]).collect();
    assert_eq!(delivered, expected);
    interpreter.stop().await;
    kit.database.close().await;
}

#[tokio::test]
async fn bodies_that_were_interpreted_when_a_process_died_are_tried_alone_and_count_an_attempt() {
    let kit = Kit::start().await;
    let messages = kit.claimed(4).await;
    let mut bodies = Vec::new();
    for message in &messages {
        bodies.push(kit.receive(&[status(*message, "delivered")]).await);
    }
    // The third one has ended two processes by itself.
    sqlx::query!("UPDATE webhook_pending SET attempts = 2 WHERE body_id = $1", bodies[2])
        .execute(&kit.database.owner)
        .await
        .unwrap();
    step_of_a_dead_process(&kit, &bodies[..2]).await;
    step_of_a_dead_process(&kit, &bodies[2..3]).await;
    let interpreter = kit.interpret(config());
    kit.interpreted().await;
    let parked = kit.parked().await;
    let [(_, reference, attempts, reason)] = &parked[..] else { panic!("{parked:?}") };
    assert_eq!((reference, *attempts), (&bodies[2].to_string(), 3));
    assert!(reason.contains("the process ended"), "{reason}");
    let mut delivered = kit.with_event("MessageDelivered").await;
    delivered.sort();
    assert_eq!(delivered, [messages[0], messages[1], messages[3]]);
    assert_eq!(transactions_of(&kit, "MessageDelivered").await, 3, "the suspects were not tried alone");
    interpreter.stop().await;
    kit.database.close().await;
}

/// The attempts are counted by whoever comes next, so nothing that ends a process can end them for ever.
#[tokio::test]
async fn a_body_that_ends_every_process_is_parked_by_the_last() {
    let kit = Kit::start().await;
    let messages = kit.claimed(6).await;
    // Events of the third message wait here, and there the process is killed.
    kit.database
        .owner
        .execute(
            "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$;
             CREATE TRIGGER hang BEFORE INSERT ON events FOR EACH ROW
                 WHEN (NEW.aggregate_id = '00000000-0000-0000-0000-000000000003') EXECUTE FUNCTION hang()",
        )
        .await
        .unwrap();
    let mut held = kit.database.owner.begin().await.unwrap();
    sqlx::query!("SELECT pg_advisory_xact_lock(4711)").execute(&mut *held).await.unwrap();
    let mut bodies = Vec::new();
    for message in &messages {
        bodies.push(kit.receive(&[status(*message, "delivered")]).await);
    }
    for killed in 1..=config().attempts_max {
        let interpreter = kit.interpret(config());
        wait::until(Duration::from_secs(20), "the interpreter hangs at the body", async || {
            let attempts = sqlx::query_scalar!("SELECT attempts FROM webhook_pending WHERE body_id = $1", bodies[2]);
            let attempts = attempts.fetch_optional(&kit.database.owner).await.unwrap()?;
            let at_work = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM webhook_steps WHERE $1 = ANY(body_ids))
                      AND EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted
                          AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS "at_work!""#,
                bodies[2]
            );
            let at_work = at_work.fetch_one(&kit.database.owner).await.unwrap();
            (at_work && i64::from(attempts) == i64::from(killed) - 1).then_some(())
        })
        .await;
        // Ended where it stands: it says goodbye to nobody, and neither does its connection.
        interpreter.task.abort();
        sqlx::query!(
            r#"SELECT count(pg_terminate_backend(pid)) AS "ended!" FROM pg_locks
               WHERE locktype = 'advisory' AND objid = 4711 AND NOT granted
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"#
        )
        .fetch_one(&kit.database.owner)
        .await
        .unwrap();
        // The lease of a process that was killed runs out by itself; the test does not wait for that.
        sqlx::query!("DELETE FROM leases").execute(&kit.database.owner).await.unwrap();
    }
    let interpreter = kit.interpret(config());
    wait::until(Duration::from_secs(20), "the body is parked", async || (kit.parked().await.len() == 1).then_some(()))
        .await;
    held.rollback().await.unwrap();
    kit.interpreted().await;
    let parked = kit.parked().await;
    assert_eq!((parked.len(), &parked[0].1, parked[0].2), (1, &bodies[2].to_string(), 3), "{parked:?}");
    interpreter.stop().await;
    kit.database.close().await;
}

#[tokio::test]
async fn one_process_at_a_time_interprets_and_the_next_goes_on() {
    let kit = Kit::start().await;
    let messages = kit.claimed(2).await;
    let first = kit.interpret(config());
    kit.receive(&[status(messages[0], "delivered")]).await;
    kit.interpreted().await;
    let second = kit.interpret(config());
    let holder = sqlx::query_scalar!("SELECT holder FROM leases WHERE name = 'webhook-interpreter'");
    let before = holder.fetch_one(&kit.database.pool).await.unwrap();
    first.stop().await;
    kit.receive(&[status(messages[1], "delivered")]).await;
    kit.interpreted().await;
    let holder = sqlx::query_scalar!("SELECT holder FROM leases WHERE name = 'webhook-interpreter'");
    assert_ne!(holder.fetch_one(&kit.database.pool).await.unwrap(), before);
    assert_eq!(kit.with_event("MessageDelivered").await, messages);
    second.stop().await;
    kit.database.close().await;
}

/// The statuses of one body wait for their messages together and are taken up together.
#[tokio::test]
async fn statuses_that_come_early_wait_and_are_applied_once_their_message_is_known() {
    let kit = Kit::start().await;
    let messages = kit.claimed(2).await;
    let statuses = [
        status_of("wamid.early.1", "delivered"),
        status_of("wamid.early.2", "delivered"),
        status_of("wamid.never", "delivered"),
        status(messages[0], "sent"),
    ];
    kit.receive(&statuses).await;
    let interpreter = kit.interpret(config());
    kit.interpreted().await;
    assert_eq!(kit.with_event("MessageSent").await, [messages[0]]);
    assert_eq!(kit.with_event("MessageDelivered").await, []);
    for (message, wamid) in messages.iter().zip(["wamid.early.1", "wamid.early.2"]) {
        let answered = MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at: now() };
        // The first has been sent according to its status, so its answer changes nothing and names no id.
        let envelope = CommandEnvelope::new(kit.tenant_id, now(), answered);
        let (sender_id, wamid) = (kit.sender_id.0, wamid.to_owned());
        let known_by = Attachment::ProviderMessage { sender_id, wamid, attempt: None, at: now() };
        let command = Addressed::new(*message, envelope, Actor::Engine("test")).with(known_by);
        kit.messages.execute(command).await.unwrap();
    }
    wait::until(Duration::from_secs(20), "the status is applied", async || {
        (kit.with_event("MessageDelivered").await == [messages[1]]).then_some(())
    })
    .await;
    kit.interpreted().await;
    let waiting = sqlx::query_scalar!("SELECT wamid FROM webhook_waiting ORDER BY wamid");
    assert_eq!(waiting.fetch_all(&kit.database.pool).await.unwrap(), ["wamid.early.1", "wamid.never"]);
    interpreter.stop().await;
    kit.database.close().await;
}
