//! Takes what is about erased people out of stored webhooks, and leaves the rest of them as it is.

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

/// Bodies of one go.
const PAGE: i64 = 100;
/// The fields by which WhatsApp says whom an item is about.
const NAMES: [&str; 6] = ["recipient_id", "from", "wa_id", "recipient_user_id", "from_user_id", "user_id"];

/// Replaces every item of a list that is about such a person by an empty object, so that the others keep their places;
/// `false` if there was none.
pub(super) fn scrub(value: &mut Value, is_erased: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::Array(items) => {
            let mut changed = false;
            for item in items {
                let names = NAMES.iter().filter_map(|name| item.get(name)).filter_map(Value::as_str);
                if names.into_iter().any(is_erased) {
                    *item = Value::Object(serde_json::Map::new());
                    changed = true;
                } else {
                    changed |= scrub(item, is_erased);
                }
            }
            changed
        }
        Value::Object(fields) => fields.values_mut().fold(false, |changed, field| scrub(field, is_erased) | changed),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

pub(super) struct StoredBody {
    pub(super) id: i64,
    pub(super) body: Vec<u8>,
    /// Of the senders whose secret has signed it.
    pub(super) tenants: Vec<Uuid>,
}

/// The interpreted bodies behind an id that hold these bytes somewhere.
pub(super) async fn holding(pool: &PgPool, after: i64, needle: &str) -> Result<Vec<StoredBody>, sqlx::Error> {
    sqlx::query_as!(
        StoredBody,
        r#"SELECT b.id, b.body,
                  ARRAY(SELECT s.tenant_id FROM senders s WHERE s.id = ANY(b.verified_senders)) AS "tenants!"
           FROM webhook_bodies b
           WHERE b.id > $1 AND position($2::bytea IN b.body) > 0
             AND NOT EXISTS (SELECT FROM webhook_pending p WHERE p.body_id = b.id)
           ORDER BY b.id LIMIT $3"#,
        after,
        needle.as_bytes(),
        PAGE,
    )
    .fetch_all(pool)
    .await
}

/// The bodies behind an id, up to the first that is still to be interpreted.
pub(super) async fn interpreted(pool: &PgPool, after: i64) -> Result<Vec<StoredBody>, sqlx::Error> {
    sqlx::query_as!(
        StoredBody,
        r#"SELECT b.id, b.body,
                  ARRAY(SELECT s.tenant_id FROM senders s WHERE s.id = ANY(b.verified_senders)) AS "tenants!"
           FROM webhook_bodies b
           WHERE b.id > $1 AND b.id < coalesce((SELECT min(p.body_id) FROM webhook_pending p), 9223372036854775807)
           ORDER BY b.id LIMIT $2"#,
        after,
        PAGE,
    )
    .fetch_all(pool)
    .await
}

/// Stores what is left of a body. Statuses that wait for their message are read from it again: those that are no longer
/// in it wait no more.
pub(super) async fn replace(pool: &PgPool, id: i64, left: &Value) -> Result<(), sqlx::Error> {
    let text = left.to_string();
    let mut tx = pool.begin().await?;
    sqlx::query!("UPDATE webhook_bodies SET body = $2 WHERE id = $1", id, text.as_bytes()).execute(&mut *tx).await?;
    sqlx::query!("DELETE FROM webhook_waiting WHERE body_id = $1 AND position(wamid IN $2) = 0", id, text)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

/// A body that nobody can read is dropped as a whole, with what was parked of it.
pub(super) async fn drop_unreadable(pool: &PgPool, id: i64) -> Result<(), sqlx::Error> {
    let mut tx = pool.begin().await?;
    sqlx::query!("UPDATE webhook_bodies SET body = '{}' WHERE id = $1", id).execute(&mut *tx).await?;
    sqlx::query!("DELETE FROM dead_letters WHERE source = 'webhook' AND reference = $1", id.to_string())
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_about_others_stays_in_its_place() {
        let mut body = json!({"entry": [{"changes": [{"value": {
            "contacts": [{"wa_id": "91", "profile": {"name": "Asha"}}, {"wa_id": "92"}],
            "statuses": [{"recipient_id": "92", "id": "a"}, {"recipient_id": "91", "id": "b"}, {"recipient_id": "93"}],
            "messages": [{"from": "91", "text": {"body": "hello"}}],
        }}]}]});
        let erased = |name: &str| name == "91";
        assert!(scrub(&mut body, &erased));
        assert_eq!(
            body["entry"][0]["changes"][0]["value"],
            json!({
                "contacts": [{}, {"wa_id": "92"}],
                "statuses": [{"recipient_id": "92", "id": "a"}, {}, {"recipient_id": "93"}],
                "messages": [{}],
            })
        );
        assert!(!scrub(&mut body, &erased));
    }
}
