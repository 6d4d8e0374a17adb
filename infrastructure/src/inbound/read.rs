//! What users said, for whoever asks for a message or a contact.

use chrono::{DateTime, Utc};
use domain::ids::{ContactId, MessageId, TenantId};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

/// The newest of them are shown.
const SHOWN_MAX: i64 = 100;

#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct InboundMessage {
    pub at: DateTime<Utc>,
    /// WhatsApp's name of the kind.
    pub kind: String,
    /// What was written, or the title of what was tapped.
    pub text: Option<String>,
    /// The payload or id of what was tapped.
    pub payload: Option<String>,
    /// Our message that it answers.
    pub message_id: Option<Uuid>,
}

/// Without the text and the payload, since debug output ends up in logs.
impl std::fmt::Debug for InboundMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InboundMessage").field("at", &self.at).field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// What answers a message, the oldest first.
pub async fn of_message(
    pool: &PgPool,
    tenant: TenantId,
    message: MessageId,
) -> Result<Vec<InboundMessage>, sqlx::Error> {
    let mut newest = sqlx::query_as!(
        InboundMessage,
        "SELECT at, kind, text, payload, message_id FROM inbound_messages
         WHERE message_id = $2 AND tenant_id = $1 ORDER BY at DESC, wamid DESC LIMIT $3",
        tenant.0,
        message.0,
        SHOWN_MAX,
    )
    .fetch_all(pool)
    .await?;
    newest.reverse();
    Ok(newest)
}

/// What a contact said, the oldest first.
pub async fn of_contact(
    pool: &PgPool,
    tenant: TenantId,
    contact: ContactId,
) -> Result<Vec<InboundMessage>, sqlx::Error> {
    let mut newest = sqlx::query_as!(
        InboundMessage,
        "SELECT at, kind, text, payload, message_id FROM inbound_messages
         WHERE contact_id = $2 AND tenant_id = $1 ORDER BY at DESC, wamid DESC LIMIT $3",
        tenant.0,
        contact.0,
        SHOWN_MAX,
    )
    .fetch_all(pool)
    .await?;
    newest.reverse();
    Ok(newest)
}
