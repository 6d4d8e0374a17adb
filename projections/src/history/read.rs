use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::event::Event;
use domain::ids::{ContactId, TenantId};
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::audit::texts::text_of;

/// The newest so many of each kind are looked at.
const ENTRIES_MAX: i64 = 500;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HistoryEntry {
    pub position: Position,
    /// The engine's time.
    pub at: DateTime<Utc>,
    /// `consent` or `message`.
    pub kind: &'static str,
    pub text: String,
    pub message_id: Option<Uuid>,
    pub run_id: Option<Uuid>,
    pub campaign_name: Option<String>,
    /// Of a message.
    pub status: Option<String>,
    pub reason: Option<String>,
}

/// At most 1,000, the newest first; of one that was erased too.
pub async fn of_contact(pool: &PgPool, tenant: TenantId, contact: ContactId) -> Result<Vec<HistoryEntry>, sqlx::Error> {
    let messages = sqlx::query!(
        r#"SELECT m.id, m.run_id, m.status, m.reason, m.position, c.name AS "campaign_name?", r.template_name AS "template?",
                  coalesce(m.read_at, m.delivered_at, m.sent_at, m.queued_at) AS "at!"
           FROM read_model.messages m
           LEFT JOIN read_model.runs r ON r.id = m.run_id
           LEFT JOIN read_model.campaigns c ON c.id = r.campaign_id
           WHERE m.contact_id = $1 AND m.tenant_id = $2 ORDER BY m.position DESC LIMIT $3"#,
        contact.0,
        tenant.0,
        ENTRIES_MAX,
    )
    .fetch_all(pool)
    .await?;
    let words = sqlx::query!(
        r#"SELECT position, event_type, event_version, payload AS "payload: Value",
                  coalesce((metadata ->> 'at')::timestamptz, recorded_at) AS "at!"
           FROM events WHERE aggregate_type = 'Consent' AND aggregate_id = $1 AND tenant_id = $2
           ORDER BY sequence DESC LIMIT $3"#,
        contact.to_string(),
        tenant.0,
        ENTRIES_MAX,
    )
    .fetch_all(pool)
    .await?;
    let mut entries: Vec<HistoryEntry> = messages
        .into_iter()
        .map(|row| HistoryEntry {
            position: row.position,
            at: row.at,
            kind: "message",
            text: format!("{}: {}", row.template.as_deref().unwrap_or("message"), row.status),
            message_id: Some(row.id),
            run_id: Some(row.run_id),
            campaign_name: row.campaign_name,
            status: Some(row.status),
            reason: row.reason,
        })
        .collect();
    for row in words {
        let event = Event::decode("Consent", &row.event_type, &row.event_version, &row.payload.to_string())
            .map_err(|source| sqlx::Error::Decode(Box::new(source)))?;
        entries.push(HistoryEntry {
            position: row.position,
            at: row.at,
            kind: "consent",
            text: text_of(&event),
            message_id: None,
            run_id: None,
            campaign_name: None,
            status: None,
            reason: None,
        });
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.position));
    Ok(entries)
}
