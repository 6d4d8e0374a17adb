//! The one statement of the batch path: events, and the erasable rows that belong to them, in one round trip.
//!
//! The append is the last statement before the commit, or the whole transaction; everything in it happens under the
//! shared lock that the table's trigger takes first, so the lock is held for the statement and the commit alone.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

/// Erasable data of a message, written in the transaction of its event.
#[derive(Debug, Clone)]
pub enum Attachment {
    /// With `MessageQueued`: to whom it goes, with which values.
    Recipient(RecipientRow),
    /// With the first word on a call: the id that WhatsApp gave it.
    ProviderMessage {
        sender_id: Uuid,
        wamid: String,
        /// Whose call it answers; `None` if that is for the message to say.
        attempt: Option<u32>,
        at: DateTime<Utc>,
    },
}

#[derive(Debug, Clone)]
pub struct RecipientRow {
    pub tenant_id: Uuid,
    pub contact_id: Uuid,
    /// E.164 with the leading +.
    pub phone: String,
    /// The frozen values of the template's variables.
    pub variables: Value,
}

/// The rows of one append, as columns.
#[derive(Default)]
pub(super) struct AppendRows {
    aggregate_ids: Vec<String>,
    sequences: Vec<i64>,
    event_types: Vec<String>,
    event_versions: Vec<String>,
    payloads: Vec<String>,
    metadata: Vec<String>,
    attachments: Vec<(Uuid, Attachment)>,
}

impl AppendRows {
    pub(super) fn push(&mut self, id: Uuid, sequence: i64, event: &impl cqrs_es::DomainEvent, metadata: String) {
        self.aggregate_ids.push(id.to_string());
        self.sequences.push(sequence);
        self.event_types.push(event.event_type());
        self.event_versions.push(event.event_version());
        // Our events are plain structs with string keys, which always have a JSON form.
        self.payloads.push(serde_json::to_string(event).expect("an event has a JSON form"));
        self.metadata.push(metadata);
    }

    /// `latest`: the attempt that an id of WhatsApp's belongs to which does not say so, if that is certain.
    pub(super) fn attach(&mut self, id: Uuid, mut attachment: Attachment, latest: Option<u32>) {
        if let Attachment::ProviderMessage { attempt, .. } = &mut attachment {
            *attempt = attempt.or(latest);
        }
        self.attachments.push((id, attachment));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }
}

/// Appends all rows that do not exist yet and answers which these were, with their positions. The caller decides
/// whether an aggregate of which only a part came back may stand (it may not).
pub(super) async fn append(
    connection: &mut PgConnection,
    aggregate_type: &str,
    rows: &AppendRows,
) -> Result<HashMap<(Uuid, i64), Position>, sqlx::Error> {
    let mut recipients = RecipientColumns::default();
    let mut provider = ProviderColumns::default();
    for (message, attachment) in &rows.attachments {
        match attachment {
            Attachment::Recipient(row) => recipients.push(*message, row),
            Attachment::ProviderMessage { sender_id, wamid, attempt, at } => {
                provider.message_ids.push(*message);
                provider.sender_ids.push(*sender_id);
                provider.wamids.push(wamid.clone());
                provider.attempts.push(attempt.map(|attempt| i32::try_from(attempt).unwrap_or(i32::MAX)));
                provider.created_at.push(*at);
            }
        }
    }
    // Sorted by key, so that two batches that overlap meet in the same order and cannot deadlock. The positions of
    // one aggregate follow its sequence for the same reason. An attachment is true whoever wins the race for its
    // aggregate, since ids are derived and a wamid names one message, so it need not ask. Several statuses of one message name the same row, which a statement may touch only once.
    // The upsert of provider_messages fills in the message of a row that a status, which came first, has created.
    let appended = sqlx::query!(
        r#"
        WITH input AS (
            SELECT * FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
                AS t(aggregate_id, sequence, event_type, event_version, payload, metadata)
        ), appended AS (
            INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
            SELECT $1, i.aggregate_id, i.sequence, i.event_type, i.event_version, i.payload::jsonb, i.metadata::jsonb
            FROM input i ORDER BY i.aggregate_id COLLATE "C", i.sequence
            ON CONFLICT (aggregate_type, aggregate_id, sequence) DO NOTHING
            RETURNING aggregate_id, sequence, position
        ), recipients AS (
            INSERT INTO message_recipients (message_id, tenant_id, contact_id, phone, variables)
            SELECT r.message_id, r.tenant_id, r.contact_id, r.phone, r.variables
            FROM unnest($8::uuid[], $9::uuid[], $10::uuid[], $11::text[], $12::jsonb[])
                AS r(message_id, tenant_id, contact_id, phone, variables)
            ON CONFLICT (message_id) DO NOTHING
        ), provider AS (
            INSERT INTO provider_messages (sender_id, wamid, message_id, created_at, attempt)
            SELECT DISTINCT ON (p.sender_id, p.wamid) p.sender_id, p.wamid, p.message_id, p.created_at, p.attempt
            FROM unnest($13::uuid[], $14::uuid[], $15::text[], $16::timestamptz[], $17::integer[])
                AS p(message_id, sender_id, wamid, created_at, attempt)
            ORDER BY p.sender_id, p.wamid, p.attempt
            ON CONFLICT (sender_id, wamid) DO UPDATE
            SET message_id = excluded.message_id, attempt = coalesce(provider_messages.attempt, excluded.attempt)
            WHERE provider_messages.message_id IS DISTINCT FROM excluded.message_id
               OR (provider_messages.attempt IS NULL AND excluded.attempt IS NOT NULL)
        )
        SELECT aggregate_id AS "aggregate_id!", sequence AS "sequence!", position AS "position!" FROM appended
        "#,
        aggregate_type,
        &rows.aggregate_ids,
        &rows.sequences,
        &rows.event_types,
        &rows.event_versions,
        &rows.payloads,
        &rows.metadata,
        &recipients.message_ids,
        &recipients.tenant_ids,
        &recipients.contact_ids,
        &recipients.phones,
        &recipients.variables,
        &provider.message_ids,
        &provider.sender_ids,
        &provider.wamids,
        &provider.created_at,
        &provider.attempts as &[Option<i32>],
    )
    .fetch_all(connection)
    .await?;
    Ok(appended
        .into_iter()
        .filter_map(|row| Some(((row.aggregate_id.parse().ok()?, row.sequence), row.position)))
        .collect())
}

#[derive(Default)]
struct RecipientColumns {
    message_ids: Vec<Uuid>,
    tenant_ids: Vec<Uuid>,
    contact_ids: Vec<Uuid>,
    phones: Vec<String>,
    variables: Vec<Value>,
}

impl RecipientColumns {
    fn push(&mut self, message: Uuid, row: &RecipientRow) {
        self.message_ids.push(message);
        self.tenant_ids.push(row.tenant_id);
        self.contact_ids.push(row.contact_id);
        self.phones.push(row.phone.clone());
        self.variables.push(row.variables.clone());
    }
}

#[derive(Default)]
struct ProviderColumns {
    message_ids: Vec<Uuid>,
    sender_ids: Vec<Uuid>,
    wamids: Vec<String>,
    attempts: Vec<Option<i32>>,
    created_at: Vec<DateTime<Utc>>,
}
