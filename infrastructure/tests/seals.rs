//! Evidence of tampering, against the real log: whatever is changed by hand is found and named.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use domain::aggregate::Position;
use infrastructure::clock::Clock;
use infrastructure::seals::{
    DifferenceKind, Head, Proof, ProofError, PublicKey, SealKey, Sealer, SealerConfig, VerifyReport, check, last_seal,
    prove, verify,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sqlx::{Executor, PgPool};
use test_kit::postgres::TestDatabase;
use uuid::Uuid;

const TENANT: Uuid = Uuid::from_u128(1);
const SEGMENT: u32 = 8;

struct World {
    database: TestDatabase,
    sealer: Sealer,
}

impl World {
    /// Five whole segments of eight rows, and five rows that are not sealed.
    async fn create() -> Self {
        let database = TestDatabase::create().await;
        let world = Self { sealer: sealer(&database.pool), database };
        world.append(40).await;
        while world.seal().await.is_some() {}
        world.append(5).await;
        world
    }

    async fn append(&self, events: usize) {
        for number in 0..events {
            sqlx::query!(
                "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
                 VALUES ('Message', $1, 1, 'MessageExpired', '1', $2, $3)",
                Uuid::new_v4().to_string(),
                json!({"MessageExpired": {"number": number, "share": 0.1}}),
                json!({"tenant_id": TENANT, "actor": "engine:test"}),
            )
            .execute(&self.database.pool)
            .await
            .unwrap();
        }
    }

    async fn seal(&self) -> Option<u32> {
        let mark = sqlx::query_scalar!(r#"SELECT max(position) AS "max!" FROM events"#)
            .fetch_one(&self.database.pool)
            .await
            .unwrap();
        self.sealer.seal_next(mark).await.unwrap()
    }

    async fn verify(&self) -> VerifyReport {
        verify(&self.database.pool, &[self.sealer.key.public()], None, |_| {}).await.unwrap()
    }

    async fn found(&self) -> (DifferenceKind, Option<Position>, Option<i64>) {
        let report = self.verify().await;
        let difference = report.difference.unwrap();
        (difference.kind, difference.position, difference.seal)
    }

    /// What only somebody with the owner's rights can do.
    async fn tamper(&self, statement: &str) {
        let statement = format!(
            "ALTER TABLE events DISABLE TRIGGER events_refuse_change;
             ALTER TABLE log_seals DISABLE TRIGGER log_seals_refuse_change;
             {statement};
             ALTER TABLE log_seals ENABLE ALWAYS TRIGGER log_seals_refuse_change;
             ALTER TABLE events ENABLE ALWAYS TRIGGER events_refuse_change;"
        );
        self.database.owner.execute(statement.as_str()).await.unwrap();
    }

    async fn close(self) {
        self.database.close().await;
    }
}

fn sealer(pool: &PgPool) -> Sealer {
    Sealer {
        pool: pool.clone(),
        clock: Clock::system(),
        key: SealKey::generate().unwrap(),
        config: SealerConfig { every: Duration::from_millis(10), segment_max: SEGMENT },
    }
}

#[tokio::test]
async fn an_untouched_log_holds_and_names_what_is_not_sealed_yet() {
    let world = World::create().await;
    let report = world.verify().await;
    assert_eq!((report.seals, report.events, report.up_to_position, &report.difference), (5, 40, 40, &None));
    assert_eq!(report.keys.into_iter().collect::<Vec<_>>(), [world.sealer.key.public().to_string()]);
    let unsealed = report.unsealed;
    assert_eq!((unsealed.events, unsealed.first_position, unsealed.last_position), (5, Some(41), Some(45)));
    assert!(unsealed.oldest_age_s >= 0.0 && unsealed.oldest_age_s < 60.0);
    assert_eq!(world.seal().await, Some(5));
    assert_eq!(world.seal().await, None);
    assert_eq!(world.verify().await.unsealed.events, 0);
    world.close().await;
}

#[tokio::test]
async fn the_canonical_bytes_cover_every_column() {
    let database = TestDatabase::create().await;
    let columns = sqlx::query_scalar!(
        r#"SELECT column_name::text AS "name!" FROM information_schema.columns
           WHERE table_schema = 'public' AND table_name = 'events' ORDER BY 1"#
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let row = infrastructure::seals::SealedRow {
        aggregate_type: String::new(),
        aggregate_id: String::new(),
        sequence: 1,
        event_type: String::new(),
        event_version: String::new(),
        payload: "{}".to_owned(),
        metadata: "{}".to_owned(),
        position: 1,
        tenant_id: TENANT,
        recorded_at: chrono::DateTime::UNIX_EPOCH,
    };
    let document: Value = serde_json::from_slice(&row.canonical()).unwrap();
    let sealed: Vec<&String> = document.as_object().unwrap().keys().collect();
    assert_eq!(sealed, columns.iter().collect::<Vec<_>>());
    database.close().await;
}

#[tokio::test]
async fn a_change_of_any_column_is_found_and_its_row_named() {
    for change in [
        "aggregate_type = 'Consent'",
        "aggregate_id = 'another'",
        "sequence = 7",
        "event_type = 'MessageRead'",
        "event_version = '2'",
        "payload = jsonb_set(payload, '{MessageExpired,share}', '0.10')",
        "metadata = metadata || '{\"actor\": \"operator\"}'",
        "metadata = metadata || '{\"tenant_id\": \"00000000-0000-0000-0000-000000000002\"}'",
        "recorded_at = recorded_at + interval '1 microsecond'",
    ] {
        let world = World::create().await;
        world.tamper(&format!("UPDATE events SET {change} WHERE position = 21")).await;
        assert_eq!(world.found().await, (DifferenceKind::RowChanged, Some(21), Some(3)), "{change}");
        world.close().await;
    }
}

#[tokio::test]
async fn rows_that_are_removed_inserted_or_moved_are_found_and_named() {
    use DifferenceKind::{RowChanged, RowInserted, RowRemoved};
    let moved = |from: i64, to: i64| {
        format!(
            "ALTER TABLE events ALTER COLUMN position DROP IDENTITY;
             UPDATE events SET position = {to} WHERE position = {from}"
        )
    };
    let insert = |position: i64| {
        format!(
            "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                 position) OVERRIDING SYSTEM VALUE
             VALUES ('Message', 'forged', 1, 'MessageRead', '1', '{{}}', '{{\"tenant_id\": \"{TENANT}\"}}', {position})"
        )
    };
    let swap = "ALTER TABLE events ALTER COLUMN position DROP IDENTITY;
                UPDATE events SET position = -1 WHERE position = 10;
                UPDATE events SET position = 10 WHERE position = 30;
                UPDATE events SET position = 30 WHERE position = -1";
    for (statement, expected) in [
        ("DELETE FROM events WHERE position = 17".to_owned(), (RowRemoved, Some(17), Some(3))),
        ("DELETE FROM events WHERE position = 24".to_owned(), (RowRemoved, Some(24), Some(3))),
        ("DELETE FROM events WHERE position <= 40".to_owned(), (RowRemoved, Some(1), Some(1))),
        (insert(-3), (RowInserted, Some(-3), None)),
        (format!("DELETE FROM events WHERE position = 20; {}", insert(20)), (RowChanged, Some(20), Some(3))),
        (swap.to_owned(), (RowChanged, Some(10), Some(2))),
        (moved(33, 100), (RowRemoved, Some(33), Some(5))),
        (moved(44, 0), (RowInserted, Some(0), None)),
    ] {
        let world = World::create().await;
        world.tamper(&statement).await;
        assert_eq!(world.found().await, expected, "{statement}");
        world.close().await;
    }
    // A gap that was sealed as one may not be filled later.
    let world = World::create().await;
    world.tamper("SELECT setval('events_position_seq', 60)").await;
    world.append(3).await;
    while world.seal().await.is_some() {}
    assert_eq!(world.verify().await.difference, None);
    world.tamper(&insert(50)).await;
    assert_eq!(world.found().await, (RowInserted, Some(50), Some(6)));
    world.close().await;
}

#[tokio::test]
async fn seals_that_are_changed_removed_or_made_by_another_key_are_found() {
    use DifferenceKind::{SealChanged, SealMissing};
    for (statement, expected) in [
        ("UPDATE log_seals SET events = 7 WHERE number = 2", (SealChanged, None, Some(2))),
        ("UPDATE log_seals SET root = sha256('x') WHERE number = 2", (SealChanged, None, Some(2))),
        ("UPDATE log_seals SET root = 'x' WHERE number = 2", (SealChanged, None, Some(2))),
        ("UPDATE log_seals SET sealed_at = now() WHERE number = 4", (SealChanged, None, Some(4))),
        ("UPDATE log_seals SET signature = 'x' WHERE number = 1", (SealChanged, None, Some(1))),
        ("UPDATE log_seals SET up_to_position = 23 WHERE number = 3", (SealChanged, None, Some(3))),
        ("DELETE FROM log_seals WHERE number = 3", (SealMissing, None, Some(3))),
        ("DELETE FROM log_seals WHERE number = 1", (SealMissing, None, Some(1))),
    ] {
        let world = World::create().await;
        world.tamper(statement).await;
        assert_eq!(world.found().await, expected, "{statement}");
        world.close().await;
    }
    // Hints are not signed. Without them the segment is named.
    let world = World::create().await;
    world.tamper("UPDATE log_seals SET hints = '' WHERE number = 3").await;
    assert_eq!(world.verify().await.difference, None);
    world.close().await;

    // Everything is sealed anew, by somebody who has another key.
    let world = World::create().await;
    world.tamper("DELETE FROM log_seals; UPDATE events SET event_type = 'MessageRead' WHERE position = 3").await;
    let forger = sealer(&world.database.pool);
    while forger.seal_next(45).await.unwrap().is_some() {}
    assert_eq!(world.found().await, (DifferenceKind::UnknownKey, None, Some(1)));
    let anybody = verify(&world.database.pool, &[], None, |_| {}).await.unwrap();
    assert_eq!(anybody.keys.into_iter().collect::<Vec<_>>(), [forger.key.public().to_string()]);
    world.close().await;
}

#[tokio::test]
async fn a_kept_head_finds_a_log_that_was_cut_short_or_rewritten_with_the_same_key() {
    let world = World::create().await;
    let seal = last_seal(&world.database.pool).await.unwrap().unwrap();
    let text = serde_json::to_string(&Head::of(&seal)).unwrap();
    let head: Head = serde_json::from_str(&text).unwrap();
    let header = head.check().unwrap();
    let trusted = [world.sealer.key.public()];
    let against = async || verify(&world.database.pool, &trusted, Some(&header), |_| {}).await.unwrap().difference;
    assert_eq!(against().await, None);
    assert_eq!(world.seal().await, Some(5));
    assert_eq!(against().await, None, "later seals change nothing");

    world.tamper("DELETE FROM log_seals WHERE number >= 4; DELETE FROM events WHERE position > 24").await;
    assert_eq!(world.verify().await.difference, None, "nothing in the database tells");
    let cut = against().await.unwrap();
    assert_eq!((cut.kind, cut.seal), (DifferenceKind::CutShort, Some(5)));

    world.append(40).await;
    while world.seal().await.is_some() {}
    assert_eq!(world.verify().await.difference, None);
    let rewritten = against().await.unwrap();
    assert_eq!((rewritten.kind, rewritten.seal), (DifferenceKind::Rewritten, Some(5)));

    let mut forged = head.clone();
    forged.header.up_to_position = "24".to_owned();
    assert!(forged.check().is_err());
    world.close().await;
}

#[tokio::test]
async fn a_proof_of_a_message_is_checked_without_the_database_and_a_forged_one_is_refused() {
    let world = World::create().await;
    let id = sqlx::query_scalar!("SELECT aggregate_id FROM events WHERE position = 13")
        .fetch_one(&world.database.pool)
        .await
        .unwrap();
    let proof = prove(&world.database.pool, "Message", &id).await.unwrap().unwrap();
    let text = serde_json::to_string(&proof).unwrap();
    let key = world.sealer.key.public();
    let fresh = sqlx::query_scalar!("SELECT aggregate_id FROM events WHERE position = 45")
        .fetch_one(&world.database.pool)
        .await
        .unwrap();
    let unsealed = prove(&world.database.pool, "Message", &fresh).await.unwrap().unwrap();
    assert_eq!(
        (unsealed.not_yet_sealed.as_slice(), check(&unsealed, None)),
        (["45".to_owned()].as_slice(), Err(ProofError::Empty))
    );
    assert!(prove(&world.database.pool, "Message", "nobody").await.unwrap().is_none());
    world.close().await;

    let proof: Proof = serde_json::from_str(&text).unwrap();
    let checked = check(&proof, Some(&key)).unwrap();
    assert_eq!((checked.aggregate_id.as_str(), checked.events, checked.public_key), (id.as_str(), 1, key.to_string()));
    let other = SealKey::generate().unwrap().public();
    assert!(matches!(check(&proof, Some(&other)), Err(ProofError::Key { number: 1, .. })));
    let change = |change: &dyn Fn(&mut Proof)| {
        let mut forged = proof.clone();
        change(&mut forged);
        check(&forged, Some(&key)).unwrap_err()
    };
    let forged = change(&|proof| proof.events[0].event = proof.events[0].event.replace("0.1", "0.2"));
    assert_eq!(forged, ProofError::Root { number: 1 });
    let forged = change(&|proof| proof.events[0].header.sealed_at = "2026-01-01T00:00:00.000000Z".to_owned());
    assert_eq!(forged, ProofError::Signature { number: 1 });
    let forged = change(&|proof| proof.aggregate_id = "another".to_owned());
    assert!(matches!(forged, ProofError::Stranger { number: 1, .. }));
    let forged = change(&|proof| proof.events[0].path[0].side = "above".to_owned());
    assert!(matches!(forged, ProofError::Malformed { number: 1, .. }));
    assert_eq!(change(&|proof| proof.format = "another".to_owned()), ProofError::Format);
    assert!(PublicKey::parse("not a key").is_none());
}

/// Reads `docs/example-proof.json` as `docs/seals.md` says, with nothing of the engine: what anybody else would write.
#[test]
fn the_example_of_the_documentation_is_checked_by_a_reader_written_from_its_text() {
    let described = include_str!("../../docs/seals.md");
    let example = include_str!("../../docs/example-proof.json");
    let proof: Value = serde_json::from_str(example).unwrap();
    let hash = |prefix: u8, parts: &[&[u8]]| {
        let start = Sha256::new().chain_update([prefix]);
        parts.iter().fold(start, |hash, part| hash.chain_update(part)).finalize().to_vec()
    };
    let bytes = |value: &Value| -> Vec<u8> {
        let digits = value.as_str().unwrap();
        (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
    };
    let events = proof["events"].as_array().unwrap();
    assert_eq!(events.len(), 5);
    let mut headers: BTreeMap<u32, (String, Value)> = BTreeMap::new();
    for event in events {
        let text = event["event"].as_str().unwrap();
        let start = hash(0, &[text.as_bytes()]);
        let root = event["path"].as_array().unwrap().iter().fold(start, |below, step| match step["side"].as_str() {
            Some("left") => hash(1, &[&bytes(&step["hash"]), &below]),
            Some("right") => hash(1, &[&below, &bytes(&step["hash"])]),
            _ => panic!("{step}"),
        });
        assert_eq!(root, bytes(&event["header"]["root"]), "{text}");
        // An object of ASCII texts alone, by the order of their names and without spaces, is in its canonical form.
        let fields: BTreeMap<String, String> = serde_json::from_value(event["header"].clone()).unwrap();
        let header = serde_json::to_string(&fields).unwrap();
        let key = UnparsedPublicKey::new(&ED25519, bytes(&event["header"]["public_key"]));
        key.verify(header.as_bytes(), &bytes(&event["signature"])).unwrap();
        let row: Value = serde_json::from_str(text).unwrap();
        assert_eq!((&row["aggregate_type"], &row["aggregate_id"]), (&proof["aggregate_type"], &proof["aggregate_id"]));
        let hexadecimal = |hash: Vec<u8>| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let [leaf, root, hashed] = [hash(0, &[text.as_bytes()]), root, hash(2, &[header.as_bytes()])].map(hexadecimal);
        if row["event_type"] == "MessageQueued" {
            for shown in [&leaf, &root, &hashed] {
                assert!(described.contains(shown), "docs/seals.md does not show {shown}");
            }
        }
        let number = fields["number"].parse().unwrap();
        headers.insert(number, (hashed, event["header"]["previous"].clone()));
    }
    assert_eq!(headers[&2].1, json!(headers[&1].0), "the second seal names the first");
    let key = PublicKey::parse(events[0]["header"]["public_key"].as_str().unwrap()).unwrap();
    assert_eq!(check(&serde_json::from_str(example).unwrap(), Some(&key)).unwrap().events, 5);
}

#[tokio::test]
async fn nobody_of_the_engine_can_change_a_seal() {
    let world = World::create().await;
    for statement in ["UPDATE log_seals SET events = 1", "DELETE FROM log_seals", "TRUNCATE log_seals"] {
        assert!(world.database.pool.execute(statement).await.is_err(), "{statement}");
        assert!(world.database.owner.execute(statement).await.is_err(), "{statement}");
    }
    world.close().await;
}
