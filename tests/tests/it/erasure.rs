//! A contact is erased: nothing of it is left anywhere, and everything else stays as it was.

use std::path::Path;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use test_kit::wait;

use crate::consent::{body, change, text_of};
use crate::engine::{APP_SECRET, Engine, Options, PHONE_NUMBER_ID};
use crate::process::ektola;
use crate::webhooks::{deliver, interpreted};

const SOON: Duration = Duration::from_secs(60);
const NUMBER: &str = "919825000007";
const NAME: &str = "Zubeida Quraishi";
const ATTRIBUTE: &str = "ornament-of-her-mother";
const USER_ID: &str = "IN.1234567890123456";
const WORDS: &str = "is-my-chain-still-safe";
/// Where the values are before the erasure, so that the search for them afterwards means something.
const HELD_IN: [&str; 8] = [
    "public.contacts:",
    "public.contact_versions:",
    "public.contact_identities:",
    "public.dead_letters:",
    "public.inbound_messages:",
    "public.message_recipients:",
    "public.provider_messages:",
    "webhook_bodies:",
];

/// Every row of every table, as text, with raw bytes read as text.
async fn dump(engine: &Engine) -> Vec<String> {
    let tables = sqlx::query!(
        r#"SELECT n.nspname AS "schema!", c.relname AS "name!" FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2"#
    )
    .fetch_all(&engine.database.owner)
    .await
    .unwrap();
    let mut lines = Vec::new();
    for table in tables {
        let statement = format!("SELECT to_jsonb(t)::text FROM {}.{} t", table.schema, table.name);
        let rows = sqlx::Executor::fetch_all(&engine.database.owner, statement.as_str()).await.unwrap();
        for row in rows {
            let text: String = sqlx::Row::try_get(&row, 0).unwrap();
            lines.push(format!("{}.{}: {text}", table.schema, table.name));
        }
    }
    let bodies =
        sqlx::query_scalar!("SELECT body FROM webhook_bodies").fetch_all(&engine.database.owner).await.unwrap();
    lines.extend(bodies.into_iter().map(|body| format!("webhook_bodies: {}", String::from_utf8_lossy(&body))));
    lines
}

fn files_below(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push(format!("{}: {}", path.display(), String::from_utf8_lossy(&bytes)));
        }
    }
}

async fn events(engine: &Engine) -> Vec<String> {
    sqlx::query_scalar!(r#"SELECT to_jsonb(e)::text AS "row!" FROM events e ORDER BY position"#)
        .fetch_all(&engine.database.owner)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_erased_contact_is_left_and_everything_else_stays() {
    let engine = Engine::start_with(Options { rate: 80, ..Options::default() }).await;
    let mut file = String::from("phone,name,keepsake,segment\n");
    for number in 0..20 {
        let (name, keepsake) = if number == 7 { (NAME, ATTRIBUTE) } else { ("Somebody", "ring") };
        file.push_str(&format!("98250{number:05},{name},{keepsake},gold\n"));
    }
    engine.upload(file).await;
    let campaign = engine.campaign(|_| {}).await;
    engine.activate(&campaign).await;
    let run = engine.runs(&campaign, 1).await[0]["id"].as_str().unwrap().to_owned();
    engine.settled(&run).await;
    engine.quiet().await;
    let contact = engine.get(&format!("/v1/messages?phone={NUMBER}")).await["items"][0].clone();
    let (id, message) =
        (contact["contact_id"].as_str().unwrap().to_owned(), contact["id"].as_str().unwrap().to_owned());
    let wamid = sqlx::query_scalar!("SELECT wamid FROM provider_messages WHERE message_id = $1::text::uuid", message)
        .fetch_one(&engine.database.owner)
        .await
        .unwrap();
    // A webhook that nobody can read holds the number as well.
    let unreadable = format!("not json, {NUMBER}").into_bytes();
    sqlx::query!(
        "INSERT INTO webhook_bodies (received_at, body, verified_senders) VALUES (now(), $1, '{}')",
        unreadable,
    )
    .execute(&engine.database.owner)
    .await
    .unwrap();
    // She writes, by her number and by the name that WhatsApp has for her; and an item is parked with her number.
    let mut text = text_of(NUMBER, WORDS);
    text["from_user_id"] = json!(USER_ID);
    let profile = json!({"wa_id": NUMBER, "user_id": USER_ID, "profile": {"name": NAME}});
    let said = json!({"contacts": [profile], "messages": [text]});
    let said = body(&[change("messages", PHONE_NUMBER_ID, &said)]);
    assert_eq!(deliver(&engine, said, APP_SECRET).await, StatusCode::OK);
    interpreted(&engine).await;
    let reason = format!("nothing can be made of what +{NUMBER} sent");
    sqlx::query!(
        "INSERT INTO dead_letters (source, reference, reason, parked_at) VALUES ('webhook', '0', $1, now())",
        reason,
    )
    .execute(&engine.database.owner)
    .await
    .unwrap();
    let values = [NUMBER, "9825000007", NAME, ATTRIBUTE, WORDS, USER_ID, wamid.as_str()];
    let left = async || {
        let mut lines = dump(&engine).await;
        lines.retain(|line| values.iter().any(|value| line.contains(value)));
        lines
    };
    let held = left().await;
    for value in values {
        assert!(held.iter().any(|line| line.contains(value)), "{value} is there to be erased");
    }
    for table in HELD_IN {
        assert!(held.iter().any(|line| line.starts_with(table)), "{table} nothing there to be erased");
    }
    let (before, counts) = (events(&engine).await, engine.get(&format!("/v1/runs/{run}")).await["counts"].clone());

    let (status, answer) = engine.request(Method::DELETE, &format!("/v1/contacts/{id}"), None).await;
    assert!(status == StatusCode::OK || status == StatusCode::ACCEPTED, "{status}: {answer}");
    wait::until(SOON, "the erasure is complete", async || {
        let (status, again) = engine.request(Method::DELETE, &format!("/v1/contacts/{id}"), None).await;
        (status == StatusCode::OK && again["complete"] == true).then_some(())
    })
    .await;
    wait::until(SOON, "nothing of the contact is left in the database", async || left().await.is_empty().then_some(()))
        .await;
    let mut files = Vec::new();
    files_below(engine.data(), &mut files);
    for value in values {
        assert!(!files.iter().any(|text| text.contains(value)), "{value} is left in a file");
    }

    // The log has one event more and is otherwise what it was; the run counts as before; others are untouched.
    let after = events(&engine).await;
    assert_eq!(after[..before.len()], before[..]);
    assert!(after[before.len()..].iter().any(|row| row.contains("ContactErased")));
    assert_eq!(engine.get(&format!("/v1/runs/{run}")).await["counts"], counts);
    assert!(dump(&engine).await.iter().any(|line| line.contains("919825000008")));
    let (status, _) = engine.request(Method::GET, &format!("/v1/contacts/{id}"), None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(engine.get(&format!("/v1/messages/{message}")).await["phone"], json!(null));
    let told = engine.get(&format!("/v1/explain?contact={id}&campaign={campaign}")).await;
    assert_eq!(told["outcome"], contact["status"], "{told}");

    // The number is not taken up again, until the person agrees anew.
    let again = format!("phone,name,segment\n{NUMBER},{NAME},gold\n9825000099,New,gold\n");
    let (_, report) = engine.upload(again.clone()).await;
    assert_eq!((&report["rejected"], &report["created"]), (&json!(1), &json!(1)), "{report}");
    assert!(report["errors"][0]["reason"].as_str().unwrap().contains("erased"), "{report}");
    let data = engine.data().to_str().unwrap();
    let readmitted = ektola(&engine, &["contacts", "readmit", "--phone", NUMBER, "--data", data]).await;
    assert_eq!(readmitted.code, 0, "{}", readmitted.stderr);
    let (_, report) = engine.upload(again).await;
    assert_eq!(report["created"], json!(1), "{report}");
    let stranger = engine.stranger().await;
    let foreign = engine.raw(Method::DELETE, &format!("/v1/contacts/{id}")).bearer_auth(&stranger);
    assert_eq!(foreign.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    engine.stop().await;
}
