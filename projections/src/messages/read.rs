//! What people see of a message. The phone comes from the erasable tables: frozen where the message was queued, the
//! contact's present one where it was skipped, and none where the contact was erased.

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::ids::{ContactId, MessageId, RunId, SenderId, TenantId};
use domain::message::MessageStatus;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use super::timeline::{self, TimelineEntry};
use crate::stored::named;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MessageRow {
    pub id: MessageId,
    pub run_id: RunId,
    pub contact_id: ContactId,
    /// E.164 with the leading +.
    pub phone: Option<String>,
    pub template_name: Option<String>,
    pub language: Option<String>,
    pub sender_id: SenderId,
    pub sender_phone_number_id: Option<String>,
    pub status: MessageStatus,
    /// The number of the latest attempt; 0 before the first.
    pub attempts: i32,
    /// Why it was skipped, failed, deferred, released or is in doubt.
    pub reason: Option<String>,
    /// The provider's code, where a refusal is the reason.
    pub error_code: Option<i32>,
    pub queued_at: DateTime<Utc>,
    pub sent_at: Option<DateTime<Utc>>,
    pub delivered_at: Option<DateTime<Utc>>,
    pub read_at: Option<DateTime<Utc>>,
    /// The last position that changed the message.
    pub position: Position,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MessageWithTimeline {
    #[serde(flatten)]
    pub message: MessageRow,
    /// Up to the message's position.
    pub timeline: Vec<TimelineEntry>,
}

pub(super) struct Record {
    id: Uuid,
    run_id: Uuid,
    contact_id: Uuid,
    phone: Option<String>,
    template_name: Option<String>,
    language: Option<String>,
    sender_id: Uuid,
    sender_phone_number_id: Option<String>,
    status: String,
    attempts: i32,
    reason: Option<String>,
    error_code: Option<i32>,
    queued_at: DateTime<Utc>,
    sent_at: Option<DateTime<Utc>>,
    delivered_at: Option<DateTime<Utc>>,
    read_at: Option<DateTime<Utc>>,
    position: Position,
}

macro_rules! select {
    ($condition:literal, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            Record,
            r#"SELECT m.id, m.run_id, m.contact_id, coalesce(nullif(p.phone, ''), c.phone) AS phone,
                      r.template_name AS "template_name?", r.language AS "language?", m.sender_id,
                      s.phone_number_id AS "sender_phone_number_id?", m.status, m.attempts, m.reason, m.error_code,
                      m.queued_at, m.sent_at, m.delivered_at, m.read_at, m.position
               FROM read_model.messages m
               LEFT JOIN message_recipients p ON p.message_id = m.id AND p.tenant_id = m.tenant_id
               LEFT JOIN contacts c ON c.id = m.contact_id AND c.tenant_id = m.tenant_id
               LEFT JOIN read_model.runs r ON r.id = m.run_id
               LEFT JOIN senders s ON s.id = m.sender_id AND s.tenant_id = m.tenant_id "#
                + $condition,
            $($argument),+
        )
    };
}

/// A page of a run's messages by id, after the message `cursor`, which is the last one of the page before. There is
/// no index on the status, which changes too often: a rare one is looked for along the run.
pub async fn list_of_run(
    pool: &PgPool,
    tenant: TenantId,
    run: RunId,
    status: Option<MessageStatus>,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Vec<MessageRow>, sqlx::Error> {
    let records = select!(
        "WHERE m.tenant_id = $1 AND m.run_id = $2 AND m.id > $3 AND ($4::text IS NULL OR m.status = $4)
         ORDER BY m.id LIMIT $5",
        tenant.0,
        run.0,
        cursor.map_or(Uuid::nil(), Uuid::from),
        status.map(MessageStatus::name),
        i64::from(limit),
    )
    .fetch_all(pool)
    .await?;
    records.into_iter().map(Record::into_row).collect()
}

/// A message of this tenant with its timeline; another tenant's is not found.
pub async fn find(pool: &PgPool, tenant: TenantId, id: MessageId) -> Result<Option<MessageWithTimeline>, sqlx::Error> {
    let record = select!("WHERE m.tenant_id = $1 AND m.id = $2", tenant.0, id.0).fetch_optional(pool).await?;
    let Some(record) = record else { return Ok(None) };
    let message = record.into_row()?;
    let timeline = timeline::of(pool, tenant, id, message.position).await?;
    Ok(Some(MessageWithTimeline { message, timeline }))
}

impl Record {
    /// In the order of the ids.
    pub(super) async fn rows_of(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<MessageRow>, sqlx::Error> {
        let records = select!(
            "JOIN unnest($1::uuid[]) WITH ORDINALITY AS wanted(id, number) ON wanted.id = m.id ORDER BY wanted.number",
            ids,
        )
        .fetch_all(pool)
        .await?;
        records.into_iter().map(Self::into_row).collect()
    }

    fn into_row(self) -> Result<MessageRow, sqlx::Error> {
        Ok(MessageRow {
            id: MessageId(self.id),
            run_id: RunId(self.run_id),
            contact_id: ContactId(self.contact_id),
            phone: self.phone,
            template_name: self.template_name,
            language: self.language,
            sender_id: SenderId(self.sender_id),
            sender_phone_number_id: self.sender_phone_number_id,
            status: named(self.status)?,
            attempts: self.attempts,
            reason: self.reason,
            error_code: self.error_code,
            queued_at: self.queued_at,
            sent_at: self.sent_at,
            delivered_at: self.delivered_at,
            read_at: self.read_at,
            position: self.position,
        })
    }
}
