//! A read model that is folded anew beside the live one.

use std::cell::Cell;

use domain::campaign::{CampaignCommand, Trigger};
use domain::ids::RunId;
use domain::message::MessageCommand;
use projections::generation::{self, GenerationState};
use projections::rebuild::{BuildReports, Direction, Pace, RebuildError, Rebuilder, Step, cancel, switch, verify};
use projections::registry;
use sqlx::PgPool;
use test_kit::wait::until;
use uuid::Uuid;

use crate::script::{DEADLINE, Engine, dump, last_position};
use crate::world::World;

const PACE: u32 = 100;

impl World {
    async fn rebuilder(&self) -> Rebuilder {
        Rebuilder::connect(&self.database.url, self.pool()).await.unwrap()
    }

    async fn build_all(&self) -> BuildReports {
        self.rebuilder().await.build(&registry::all(), Pace::new(PACE), |_| {}).await.unwrap()
    }

    async fn generation(&self, projection: &str, state: GenerationState) -> Option<generation::Generation> {
        generation::find(self.pool(), projection, state).await.unwrap()
    }

    async fn switch_all(&self, direction: Direction) {
        let mut rebuilder = self.rebuilder().await;
        for projection in registry::all() {
            let report = switch(&mut rebuilder, &projection, direction).await.unwrap();
            assert!(report.seconds < 1.0, "{report:?}");
        }
    }
}

async fn events_in_log(pool: &PgPool) -> i64 {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events"#).fetch_one(pool).await.unwrap()
}

/// What a table consists of, without the name of its schema.
async fn form_of(pool: &PgPool, schema: &str, table: &str) -> Vec<String> {
    let lines = sqlx::query_scalar!(
        r#"SELECT line AS "line!" FROM (
               SELECT 'column ' || a.attname || ' ' || format_type(a.atttypid, a.atttypmod) || ' ' || a.attnotnull
                      || ' ' || coalesce(pg_get_expr(d.adbin, d.adrelid), '') AS line, 1 AS kind, a.attnum::integer AS number
               FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
               WHERE a.attrelid = ($1::text || '.' || $2::text)::regclass AND a.attnum > 0 AND NOT a.attisdropped
               UNION ALL
               SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid), 2, 0
               FROM pg_constraint WHERE conrelid = ($1::text || '.' || $2::text)::regclass
               UNION ALL
               SELECT 'index ' || replace(indexdef, $1::text || '.', ''), 3, 0
               FROM pg_indexes WHERE schemaname = $1 AND tablename = $2
               UNION ALL
               SELECT 'options ' || coalesce(array_to_string(reloptions, ','), ''), 4, 0
               FROM pg_class WHERE oid = ($1::text || '.' || $2::text)::regclass
               UNION ALL
               SELECT 'grant ' || privilege_type, 5, 0
               FROM information_schema.role_table_grants
               WHERE table_schema = $1 AND table_name = $2 AND grantee = 'ektola_engine'
           ) lines ORDER BY kind, number, line"#,
        schema,
        table,
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(lines.len() > 5, "{schema}.{table}: {lines:?}");
    lines
}

#[tokio::test]
async fn a_rebuild_gives_the_very_rows_that_were_there_and_the_live_ones_stay_meanwhile() {
    let mut world = World::create().await;
    world.stop_engine().await;
    let live = dump(world.pool()).await;
    assert!(live.lines().count() > 12, "there is something to compare");
    let reports = world.build_all().await;
    let (last, in_log) = (last_position(world.pool()).await, events_in_log(world.pool()).await);
    assert_eq!(reports.projections.len(), registry::all().len());
    for report in &reports.projections {
        assert_eq!((report.position, report.events, report.resumed_from, report.parked), (last, in_log, 0, 0));
    }
    assert_eq!(dump(world.pool()).await, live);
    let mut rebuilder = world.rebuilder().await;
    for projection in registry::all() {
        let report = verify(&mut rebuilder, &projection).await.unwrap();
        assert!(report.is_equal() && report.versions_agree(), "{report:?}");
        assert_eq!((report.position, report.state), (last, GenerationState::Ready));
        let ready = world.generation(projection.name(), GenerationState::Ready).await.expect("it is ready");
        for table in projection.tables() {
            let (live, built) =
                (form_of(world.pool(), "read_model", table).await, form_of(world.pool(), &ready.schema, table).await);
            assert_eq!(live, built);
        }
    }
    drop(rebuilder);
    world.switch_all(Direction::Forward).await;
    assert_eq!(dump(world.pool()).await, live);
    world.close().await;
}

#[tokio::test]
async fn rows_that_were_changed_by_hand_are_found_and_gone_with_the_switch() {
    let mut world = World::create().await;
    world.stop_engine().await;
    let live = dump(world.pool()).await;
    sqlx::query!("UPDATE read_model.run_counts SET count = count + 1 WHERE key = 'sent'")
        .execute(world.pool())
        .await
        .unwrap();
    sqlx::query!("DELETE FROM read_model.messages WHERE status = 'read'").execute(world.pool()).await.unwrap();
    sqlx::query!("UPDATE read_model.campaigns SET name = 'other'").execute(world.pool()).await.unwrap();
    world.build_all().await;
    let mut rebuilder = world.rebuilder().await;
    let mut differences = Vec::new();
    for projection in registry::all() {
        let report = verify(&mut rebuilder, &projection).await.unwrap();
        for table in report.tables {
            if let Some(difference) = table.difference {
                assert!(!difference.examples.is_empty());
                differences.push((table.table, difference.only_live, difference.only_other));
            }
        }
    }
    differences.sort_unstable();
    assert_eq!(differences, [("campaigns", 1, 1), ("messages", 0, 2), ("run_counts", 2, 2)]);
    drop(rebuilder);
    world.switch_all(Direction::Forward).await;
    assert_eq!(dump(world.pool()).await, live);
    world.close().await;
}

#[tokio::test]
async fn a_rebuild_beside_a_running_engine_loses_and_doubles_nothing() {
    let world = World::create().await;
    let busy = RunId::of_trigger(world.script.campaign, "busy");
    world.script.start_run(busy, 60, Trigger::Manual).await;
    let write = async {
        for number in 0..120 {
            let message = world.script.queue(busy, &format!("+9198767{number:05}"), 61).await;
            world.script.begin_attempt(message, 62, 1).await;
        }
    };
    let rebuild_and_switch_again_and_again = async {
        for _ in 0..3 {
            world.build_all().await;
            let mut rebuilder = world.rebuilder().await;
            for projection in registry::all() {
                let report = verify(&mut rebuilder, &projection).await.unwrap();
                assert!(report.is_equal(), "{report:?}");
            }
            drop(rebuilder);
            world.switch_all(Direction::Forward).await;
        }
    };
    tokio::join!(write, rebuild_and_switch_again_and_again);
    world.script.campaign(70, CampaignCommand::Pause).await;
    world.settle().await;
    let last = last_position(world.pool()).await;
    until(DEADLINE, "every generation at the end of the log", async || {
        let generations = generation::list(world.pool(), None).await.unwrap();
        assert_eq!(generations.len(), 2 * registry::all().len(), "the live one and the one before it");
        generations.iter().all(|generation| generation.position >= last).then_some(())
    })
    .await;
    assert_eq!(world.run_row(busy).await.audience, 120);
    let live = dump(world.pool()).await;
    world.switch_all(Direction::Back).await;
    assert_eq!(dump(world.pool()).await, live, "the previous generation was fed all the while");
    world.close().await;
}

#[tokio::test]
async fn after_a_switch_the_engine_feeds_what_is_live_now_and_readers_see_their_own_writes() {
    let world = World::create().await;
    world.settle().await;
    world.build_all().await;
    world.switch_all(Direction::Forward).await;
    let position = world.script.message(world.ways.pending, 72, MessageCommand::Expire).await;
    world.settle().await;
    assert_eq!(world.message_row(world.ways.pending).await.message.position, position);
    world.switch_all(Direction::Back).await;
    world.settle().await;
    assert_eq!(world.message_row(world.ways.pending).await.message.position, position);
    world.close().await;
}

/// What is killed loses its connections and its memory, and commits nothing more.
#[tokio::test]
async fn a_rebuild_that_is_killed_in_the_middle_goes_on_where_it_stopped() {
    let mut world = World::create().await;
    world.stop_engine().await;
    let live = dump(world.pool()).await;
    let projection = registry::find("messages").expect("the messages");
    world.rebuilder().await.build(std::slice::from_ref(&projection), Pace::new(PACE), |_| {}).await.unwrap();
    // As a kill between two batches leaves it: the second half of the log is still to be read.
    let ready = world.generation("messages", GenerationState::Ready).await.expect("it is ready");
    let half = ready.position / 2;
    let read = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM events WHERE position <= $1"#, half)
        .fetch_one(world.pool())
        .await
        .unwrap();
    rewind(&world, &ready, half, read).await;
    let first_step = Cell::new(None);
    let mut rebuilder = world.rebuilder().await;
    let reports = rebuilder
        .build(std::slice::from_ref(&projection), Pace::new(PACE), |step| {
            if let (Step::Loading { done, .. }, None) = (step, first_step.get()) {
                first_step.set(Some(done));
            }
        })
        .await
        .unwrap();
    assert_eq!(first_step.get(), Some(half));
    let [report] = reports.projections.as_slice() else { panic!("one report") };
    assert_eq!((report.resumed_from, report.events), (half, events_in_log(world.pool()).await));
    assert!(verify(&mut rebuilder, &projection).await.unwrap().is_equal());
    switch(&mut rebuilder, &projection, Direction::Forward).await.unwrap();
    assert_eq!(dump(world.pool()).await, live);
    world.close().await;
}

/// Empties the generation and folds the log up to a position by the same code, then forgets that it was complete.
async fn rewind(world: &World, ready: &generation::Generation, position: i64, read: i64) {
    let owner = &world.database.owner;
    sqlx::query!(
        "UPDATE projection_builds SET state = 'building', built_up_to = NULL, events_read = $1 WHERE state = 'ready'",
        read
    )
    .execute(owner)
    .await
    .unwrap();
    sqlx::query!("UPDATE subscriptions SET position = $2 WHERE name = $1", ready.subscription, position)
        .execute(owner)
        .await
        .unwrap();
    let schema = &ready.schema;
    // Rows that only later events made are gone, and those that later events changed are as the log had them then.
    let statement = format!("TRUNCATE {schema}.messages");
    sqlx::Executor::execute(owner, statement.as_str()).await.unwrap();
    let projection = registry::find("messages").expect("the messages");
    let events = infrastructure::event_feed::read_events(world.pool(), 0, position, 100_000).await.unwrap();
    let concerning: Vec<_> =
        events.into_iter().filter(|event| projection.concerns(event)).map(std::sync::Arc::new).collect();
    let mut tx = owner.begin().await.unwrap();
    let path = format!("SET LOCAL search_path = {schema}, public");
    sqlx::Executor::execute(&mut *tx, path.as_str()).await.unwrap();
    projection.apply(&mut tx, &concerning).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_rebuild_that_has_not_read_the_whole_log_never_becomes_ready() {
    let mut world = World::create().await;
    world.stop_engine().await;
    let projection = registry::find("runs").expect("the runs");
    let mut rebuilder = world.rebuilder().await;
    rebuilder.build(std::slice::from_ref(&projection), Pace::new(PACE), |_| {}).await.unwrap();
    sqlx::query!(
        "UPDATE projection_builds SET state = 'building', events_read = events_read - 1 WHERE state = 'ready'"
    )
    .execute(&world.database.owner)
    .await
    .unwrap();
    let again = rebuilder.build(std::slice::from_ref(&projection), Pace::new(PACE), |_| {}).await;
    let in_log = events_in_log(world.pool()).await;
    assert!(
        matches!(&again, Err(RebuildError::Incomplete { read, in_log: counted, .. })
            if *read == in_log - 1 && *counted == in_log),
        "{again:?}"
    );
    assert!(world.generation("runs", GenerationState::Ready).await.is_none());
    world.close().await;
}

#[tokio::test]
async fn two_do_not_rebuild_the_same_and_what_is_given_up_leaves_nothing() {
    let world = World::create().await;
    world.settle().await;
    let projection = registry::find("runs").expect("the runs");
    let mut first = world.rebuilder().await;
    first.build(std::slice::from_ref(&projection), Pace::new(PACE), |_| {}).await.unwrap();
    let mut second = world.rebuilder().await;
    let busy = second.build(std::slice::from_ref(&projection), Pace::new(PACE), |_| {}).await;
    assert!(matches!(busy, Err(RebuildError::Busy { .. })), "{busy:?}");
    let ready = cancel(&mut first, &projection).await.unwrap();
    assert_eq!(ready.state, GenerationState::Ready);
    let left = sqlx::query_scalar!(
        r#"SELECT (SELECT count(*) FROM projection_builds WHERE projection = 'runs')
                + (SELECT count(*) FROM subscriptions WHERE name LIKE '%runs%')
                + (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'read_model%') AS "left!""#
    )
    .fetch_one(world.pool())
    .await
    .unwrap();
    assert_eq!(left, 3, "the live build, its checkpoint and its schema");
    let none = cancel(&mut first, &projection).await;
    assert!(matches!(none, Err(RebuildError::None { .. })), "{none:?}");
    let none = switch(&mut first, &projection, Direction::Back).await;
    assert!(matches!(none, Err(RebuildError::None { .. })), "{none:?}");
    world.close().await;
}

#[tokio::test]
async fn an_empty_read_model_is_filled_by_the_engine_from_the_beginning_of_the_log() {
    let mut world = World::create().await;
    world.stop_engine().await;
    let live = dump(world.pool()).await;
    for projection in registry::all() {
        for table in projection.tables() {
            let statement = format!("TRUNCATE read_model.{table}");
            sqlx::Executor::execute(world.pool(), statement.as_str()).await.unwrap();
        }
        let live = world.generation(projection.name(), GenerationState::Live).await.expect("the live one");
        sqlx::query!("UPDATE subscriptions SET position = 0 WHERE name = $1", live.subscription)
            .execute(world.pool())
            .await
            .unwrap();
    }
    assert_eq!(dump(world.pool()).await, "");
    world.engine = Some(Engine::start(world.pool(), 5).await);
    world.settle().await;
    assert_eq!(dump(world.pool()).await, live);
    world.close().await;
}

#[tokio::test]
async fn a_rebuild_without_a_database_is_an_error() {
    let mut world = World::create().await;
    world.stop_engine().await;
    let projection = registry::find("runs").expect("the runs");
    let mut rebuilder = world.rebuilder().await;
    world.pool().close().await;
    assert!(rebuilder.build(&[projection], Pace::new(PACE), |_| {}).await.is_err());
    let unreachable = format!("postgres://127.0.0.1:1/{}", Uuid::new_v4().simple());
    assert!(Rebuilder::connect(&unreachable, world.pool()).await.is_err());
    world.close().await;
}
