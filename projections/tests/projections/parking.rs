//! What a projection cannot take in is set aside, alone.

use std::time::Duration;

use domain::message::{MessageCommand, MessageStatus};
use projections::parking::{self, Settled};
use projections::registry;
use serde_json::json;
use test_kit::wait::until;

use crate::script::{DEADLINE, dump, last_position};
use crate::world::World;

async fn as_owner(world: &World, statement: &str) {
    sqlx::Executor::execute(&world.database.owner, statement).await.unwrap();
}

async fn parked(world: &World, projection: &str) -> Vec<parking::ParkedRow> {
    parking::list(world.pool(), Some(projection)).await.unwrap()
}

#[tokio::test]
async fn an_event_that_is_refused_parks_its_message_and_nothing_else_until_it_is_given_back() {
    let world = World::create().await;
    world.settle().await;
    let (message, other) = (world.ways.pending, world.ways.unknown);
    as_owner(
        &world,
        &format!(
            "ALTER TABLE read_model.messages ADD CONSTRAINT spoilt CHECK (id <> '{message}' OR status = 'pending')"
        ),
    )
    .await;
    world.script.begin_attempt(message, 70, 1).await;
    let begun = last_position(world.pool()).await;
    let expired = world.script.message(message, 71, MessageCommand::MarkOutcomeUnknown { attempt: 1 }).await;
    world.script.message(other, 72, MessageCommand::MarkDelivered { at: crate::script::at(72), pricing: None }).await;
    world.settle().await;
    assert_eq!(world.message_row(message).await.message.status, MessageStatus::Pending);
    assert_eq!(world.message_row(other).await.message.status, MessageStatus::Delivered);
    let rows = parked(&world, "messages").await;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.aggregate_type.as_str(), row.aggregate_id.clone()), ("Message", message.to_string()));
    assert_eq!((row.from_position, row.class.as_str(), row.attempts), (begun, "refused", 1));
    assert!(row.error.contains("spoilt"), "{}", row.error);
    assert_eq!(parked(&world, "runs").await, []);

    let projection = registry::find("messages").expect("the messages");
    let key = (row.aggregate_type.clone(), row.aggregate_id.clone());
    let again = parking::retry(world.pool(), &projection, &key).await.unwrap();
    assert!(matches!(again, Settled::ParkedAgain { from_position, .. } if from_position == begun), "{again:?}");
    let rows = parked(&world, "messages").await;
    assert_eq!((rows[0].attempts, rows[0].parked_at), (2, row.parked_at));

    as_owner(&world, "ALTER TABLE read_model.messages DROP CONSTRAINT spoilt").await;
    let settled = parking::retry(world.pool(), &projection, &key).await.unwrap();
    assert_eq!(settled, Settled::Applied { events: 2 });
    assert_eq!(parked(&world, "messages").await, []);
    let row = world.message_row(message).await.message;
    assert_eq!((row.status, row.position), (MessageStatus::Unknown, expired));
    assert_eq!(parking::retry(world.pool(), &projection, &key).await.unwrap(), Settled::NotParked);
    world.close().await;
}

#[tokio::test]
async fn a_parked_run_takes_its_place_again_with_every_count() {
    let mut world = World::create().await;
    world.settle().await;
    let expected = dump(world.pool()).await;
    world.stop_engine().await;
    as_owner(&world, "TRUNCATE read_model.runs, read_model.run_counts").await;
    as_owner(&world, "UPDATE subscriptions SET position = 0 WHERE name = 'projection:runs'").await;
    as_owner(&world, "ALTER TABLE read_model.runs ADD CONSTRAINT spoilt CHECK (false)").await;
    world.engine = Some(crate::script::Engine::start(world.pool(), 4).await);
    world.settle().await;
    assert!(dump(world.pool()).await != expected);
    as_owner(&world, "ALTER TABLE read_model.runs DROP CONSTRAINT spoilt").await;
    let projection = registry::find("runs").expect("the runs");
    for row in parked(&world, "runs").await {
        let settled = parking::retry(world.pool(), &projection, &(row.aggregate_type, row.aggregate_id)).await.unwrap();
        assert!(matches!(settled, Settled::Applied { .. }), "{settled:?}");
    }
    // The last position that changed the run is the only thing that its messages, which came before it, cannot tell.
    let without_positions = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.rsplit_once(',').map_or(line, |(start, _)| start).to_owned()).collect()
    };
    assert_eq!(without_positions(&dump(world.pool()).await), without_positions(&expected));
    world.close().await;
}

#[tokio::test]
async fn an_event_of_a_later_release_parks_its_message_and_the_event_can_be_given_up() {
    let world = World::create().await;
    world.settle().await;
    let message = world.ways.pending;
    let sequence = sqlx::query_scalar!(
        r#"SELECT max(sequence) + 1 AS "next!" FROM events WHERE aggregate_type = 'Message' AND aggregate_id = $1"#,
        message.to_string()
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    let position = sqlx::query_scalar!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
         VALUES ('Message', $1, $2, 'MessageDelivered', '99', '{}', $3) RETURNING position",
        message.to_string(),
        sequence,
        json!({"tenant_id": world.script.tenant}),
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    let other = world
        .script
        .message(world.ways.unknown, 72, MessageCommand::MarkDelivered { at: crate::script::at(72), pricing: None })
        .await;
    until(DEADLINE, "the projections behind the event", async || {
        (world.message_row(world.ways.unknown).await.message.position >= other).then_some(())
    })
    .await;
    for projection in ["messages", "runs", "campaigns"] {
        let rows = until(DEADLINE, "the event to be parked", async || parked(&world, projection).await.pop()).await;
        assert_eq!((rows.from_position, rows.class.as_str()), (position, "unreadable"));
        assert!(rows.error.contains("99"), "{}", rows.error);
        let key = (rows.aggregate_type, rows.aggregate_id);
        let found = registry::find(projection).expect("a projection");
        let again = parking::retry(world.pool(), &found, &key).await.unwrap();
        assert!(matches!(again, Settled::ParkedAgain { .. }), "{again:?}");
        let settled = parking::discard(world.pool(), &found, &key).await.unwrap();
        assert_eq!(settled, Settled::Applied { events: 0 });
    }
    let progress = &world.engine.as_ref().expect("the engine").progress;
    assert!(progress.wait_for(last_position(world.pool()).await, Duration::from_secs(20)).await);
    world.close().await;
}
