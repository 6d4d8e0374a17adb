//! Every column that could hold a personal value is one that an erasure empties, or is said to hold none. A new column
//! fails this test until somebody has decided.

#![expect(clippy::unwrap_used, reason = "what a test needs and does not get is its failure")]

use std::collections::BTreeSet;

use test_kit::postgres::TestDatabase;

/// What `DELETE /v1/contacts/{id}` deletes, empties or replaces: `docs/erasure.md` says how, table by table.
const PERSONAL: &[(&str, &[&str])] = &[
    ("consent_waiting", &["user_id", "word", "source"]),
    ("contact_flags", &["kind"]),
    ("contact_identities", &["kind", "value"]),
    ("contact_segments", &["segment"]),
    ("contact_versions", &["attributes"]),
    ("contacts", &["phone"]),
    ("dead_letters", &["reason"]),
    ("erasures", &["phone"]),
    ("inbound_messages", &["wamid", "wa_id", "user_id", "kind", "text", "payload", "context_wamid", "raw"]),
    ("message_recipients", &["phone", "variables"]),
    ("provider_messages", &["wamid"]),
    ("webhook_bodies", &["body"]),
    ("webhook_waiting", &["wamid", "status"]),
];

/// Names of things, states, ids, hashes, secrets of numbers and what the business itself wrote.
const IMPERSONAL: &[(&str, &[&str])] = &[
    ("activity", &["kind"]),
    ("api_tokens", &["id", "secret_hash"]),
    ("billing", &["category", "pricing_type", "billable"]),
    ("campaigns", &["name", "status", "definition", "last_occurrence"]),
    ("dead_letters", &["source", "reference"]),
    // Ids of messages.
    ("dispatch_parcels", &["lane", "items"]),
    // Events carry ids only: `tests/tests/it/erasure.rs` looks for a number in all of them.
    ("events", &["aggregate_type", "aggregate_id", "event_type", "event_version", "payload", "metadata"]),
    ("leases", &["name"]),
    ("log_seals", &["root", "previous", "public_key", "signature", "hints"]),
    ("messages", &["status", "reason"]),
    ("notices", &["scope", "key"]),
    ("projection_builds", &["projection", "schema_name", "subscription", "state"]),
    // What is wrong with an event, which holds nothing personal.
    ("projection_parked", &["projection", "aggregate_type", "aggregate_id", "class", "error"]),
    ("run_counts", &["kind", "key"]),
    ("run_gates", &["lane", "state"]),
    ("runs", &["status", "stall_reason", "template_name", "language", "segment"]),
    ("saga_states", &["saga", "key", "state"]),
    ("saga_timers", &["saga", "key"]),
    (
        "senders",
        &[
            "phone_number_id",
            "waba_id",
            "base_url",
            "access_token",
            "app_secret",
            "verify_token",
            "api_version",
            "product_policy",
            "previous_app_secret",
        ],
    ),
    ("subscriptions", &["name"]),
    ("suppression_state", &["key_check"]),
    // A keyed hash, which stays on purpose.
    ("suppressions", &["hash", "kind"]),
    ("template_changes", &["what", "from_value", "to_value", "source", "detail"]),
    ("template_runs", &["state"]),
    ("template_syncs", &["waba_id", "error"]),
    (
        "templates",
        &[
            "name",
            "language",
            "category",
            "status",
            "components",
            "variables",
            "waba_id",
            "provider_id",
            "parameter_format",
            "quality_score",
        ],
    ),
    ("tenants", &["name", "zone"]),
    ("webhook_unknown", &["kind", "name"]),
];

fn named(tables: &[(&str, &[&str])]) -> BTreeSet<String> {
    tables.iter().flat_map(|(table, columns)| columns.iter().map(move |column| format!("{table}.{column}"))).collect()
}

/// All columns but ids, numbers, times and the like, which hold nothing of a person once the contact is gone.
async fn stored(database: &TestDatabase) -> BTreeSet<String> {
    sqlx::query_scalar!(
        r#"SELECT c.relname || '.' || a.attname AS "column!"
           FROM pg_attribute a
           JOIN pg_class c ON c.oid = a.attrelid
           JOIN pg_namespace n ON n.oid = c.relnamespace
           JOIN pg_type t ON t.oid = a.atttypid
           WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
             AND a.attnum > 0 AND NOT a.attisdropped AND c.relname <> '_sqlx_migrations'
             AND t.typname NOT IN ('uuid', 'int2', 'int4', 'int8', 'float8', 'numeric', 'bool', 'timestamptz', 'date',
                                   'time', 'interval', '_uuid', '_int4', '_int8')"#
    )
    .fetch_all(&database.owner)
    .await
    .unwrap()
    .into_iter()
    .collect()
}

#[tokio::test]
async fn every_column_is_erased_or_said_to_hold_nothing_personal() {
    let database = TestDatabase::create().await;
    let (personal, impersonal) = (named(PERSONAL), named(IMPERSONAL));
    assert_eq!(personal.intersection(&impersonal).next(), None, "a column is in one list");
    let decided: BTreeSet<String> = personal.union(&impersonal).cloned().collect();
    let stored = stored(&database).await;
    let undecided: Vec<&String> = stored.difference(&decided).collect();
    assert!(undecided.is_empty(), "may these columns hold something personal? Then erase it too: {undecided:?}");
    let gone: Vec<&String> = decided.difference(&stored).collect();
    assert!(gone.is_empty(), "there are no such columns: {gone:?}");
    let described = include_str!("../../docs/erasure.md");
    for (table, _) in PERSONAL {
        assert!(described.contains(&format!("`{table}`")), "docs/erasure.md does not say what becomes of {table}");
    }
    database.close().await;
}
