//! Dispatcher and interpreter meet on one row for each id of WhatsApp's, which either may create: whoever comes first,
//! no status is lost and none waits for ever.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

mod inbox_kit;

use std::time::Duration;

use domain::aggregate::CommandEnvelope;
use domain::ids::MessageId;
use domain::message::{Acceptance, MessageCommand};
use infrastructure::event_store::{Actor, Addressed, Attachment};
use serde_json::{Value, json};
use test_kit::wait;

use self::inbox_kit::{Kit, config, now, status, status_of};

const MESSAGES: u128 = 1_500;
/// Messages that are answered, and statuses that come, in one go; neither divides the other.
const ANSWERED_AT_ONCE: usize = 23;
const STATUSES_AT_ONCE: usize = 37;

fn wamid_of(message: MessageId) -> String {
    format!("wamid.{message}")
}

/// Every item once, in an order far from the given one; both sides go through the messages in an order of their own.
fn scattered<T: Clone>(items: &[T], step: usize) -> Vec<T> {
    (0..items.len()).map(|place| items[place * step % items.len()].clone()).collect()
}

/// As the dispatcher stores answers.
async fn answer(kit: &Kit, messages: &[MessageId]) {
    let commands = messages.iter().map(|message| {
        let answered = MessageCommand::MarkSent { attempt: Some(1), acceptance: Acceptance::Accepted, at: now() };
        let envelope = CommandEnvelope::new(kit.tenant_id, now(), answered);
        let (sender_id, wamid) = (kit.sender_id.0, wamid_of(*message));
        let known_by = Attachment::ProviderMessage { sender_id, wamid, attempt: Some(1), at: now() };
        Addressed::new(*message, envelope, Actor::Engine("dispatcher")).with(known_by)
    });
    for answer in kit.messages.execute_many(commands.collect()).await {
        answer.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_status_is_lost_between_the_dispatcher_and_the_interpreter() {
    let kit = Kit::start().await;
    let messages = kit.claimed(MESSAGES).await;
    let interpreter = kit.interpret(config());
    let answers = async {
        for some in scattered(&messages, 7).chunks(ANSWERED_AT_ONCE) {
            answer(&kit, some).await;
        }
    };
    let statuses: Vec<Value> = messages
        .iter()
        .flat_map(|message| ["delivered", "read"].map(|name| status_of(&wamid_of(*message), name)))
        .collect();
    let webhooks = async {
        for some in scattered(&statuses, 11).chunks(STATUSES_AT_ONCE) {
            kit.receive(some).await;
        }
    };
    tokio::join!(answers, webhooks);
    kit.interpreted().await;
    let waiting = async || {
        sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM webhook_waiting"#)
            .fetch_one(&kit.database.pool)
            .await
            .unwrap()
    };
    wait::until(Duration::from_secs(30), "no status waits any more", async || (waiting().await == 0).then_some(()))
        .await;
    kit.interpreted().await;
    let all = messages.len();
    for event in ["MessageSent", "MessageRead"] {
        assert_eq!(kit.with_event(event).await.len(), all, "{event}");
    }
    assert_eq!(kit.parked().await, []);
    let known = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM provider_messages WHERE attempt = 1"#);
    assert_eq!(known.fetch_one(&kit.database.pool).await.unwrap(), i64::try_from(all).unwrap());
    interpreter.stop().await;
    kit.database.close().await;
}

/// WhatsApp gives up what it had accepted: the failure, the acceptance and the answer to the call come in any order, and
/// each message waits to be sent again, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_is_retried_may_come_before_between_or_after_the_words_of_acceptance() {
    let kit = Kit::start().await;
    let messages = kit.claimed(600).await;
    let interpreter = kit.interpret(config());
    let answers = async {
        for some in scattered(&messages, 7).chunks(ANSWERED_AT_ONCE) {
            answer(&kit, some).await;
        }
    };
    let statuses: Vec<Value> = messages
        .iter()
        .flat_map(|message| {
            ["sent", "failed", "failed"].map(|name| {
                let mut status = status(*message, name);
                if name == "failed" {
                    status["errors"] = json!([{"code": 131_000}]);
                }
                status
            })
        })
        .collect();
    let webhooks = async {
        for some in scattered(&statuses, 11).chunks(STATUSES_AT_ONCE) {
            kit.receive(some).await;
        }
    };
    tokio::join!(answers, webhooks);
    kit.interpreted().await;
    assert_eq!(kit.with_event("MessageDeferred").await.len(), messages.len());
    assert_eq!(kit.with_event("MessageFailed").await, []);
    let waits = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM (
               SELECT DISTINCT ON (aggregate_id) payload -> event_type -> 'transition' ->> 'to' AS status
               FROM events WHERE aggregate_type = 'Message' ORDER BY aggregate_id, sequence DESC
           ) last WHERE status = 'pending'"#
    );
    assert_eq!(waits.fetch_one(&kit.database.pool).await.unwrap(), i64::try_from(messages.len()).unwrap());
    assert_eq!(kit.parked().await, []);
    interpreter.stop().await;
    kit.database.close().await;
}
