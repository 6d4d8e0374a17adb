//! Looking for messages. A status changes too often to be indexed, so they are looked for along runs: first the runs
//! that may hold any, newest first, and then run after run, until the page is full.

use chrono::{DateTime, Utc};
use domain::ids::{CampaignId, ContactId, MessageId, RunId, TenantId};
use domain::message::MessageStatus;
use domain::phone::Phone;
use sqlx::PgPool;
use uuid::Uuid;

use super::read::{MessageRow, Record};

/// Everything that is given has to fit.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    /// The present number of the contact, or the one that the message went to.
    pub phone: Option<Phone>,
    pub contact: Option<ContactId>,
    pub campaign: Option<CampaignId>,
    pub run: Option<RunId>,
    pub status: Option<MessageStatus>,
    pub reason: Option<String>,
    pub error_code: Option<i32>,
    /// Queued at or after this,
    pub from: Option<DateTime<Utc>>,
    /// and before this.
    pub until: Option<DateTime<Utc>>,
}

/// A page, newest run first, after the message `cursor`, which is the last one of the page before.
pub async fn search(
    pool: &PgPool,
    tenant: TenantId,
    filter: &MessageFilter,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Vec<MessageRow>, sqlx::Error> {
    let contacts = match contacts_of(pool, tenant, filter).await? {
        Some(contacts) if contacts.is_empty() => return Ok(Vec::new()),
        contacts => contacts,
    };
    let ids = match contacts {
        Some(contacts) => of_contacts(pool, tenant, &contacts, filter, cursor, limit).await?,
        None => along_runs(pool, tenant, filter, cursor, limit).await?,
    };
    Record::rows_of(pool, &ids).await
}

/// `None`: any contact will do.
async fn contacts_of(
    pool: &PgPool,
    tenant: TenantId,
    filter: &MessageFilter,
) -> Result<Option<Vec<Uuid>>, sqlx::Error> {
    let by_phone = match &filter.phone {
        None => None,
        Some(phone) => Some(
            sqlx::query_scalar!(
                "SELECT id FROM contacts WHERE tenant_id = $1 AND phone = $2",
                tenant.0,
                phone.as_str()
            )
            .fetch_all(pool)
            .await?,
        ),
    };
    Ok(match (by_phone, filter.contact) {
        (None, None) => None,
        (Some(ids), None) => Some(ids),
        (None, Some(contact)) => Some(vec![contact.0]),
        (Some(ids), Some(contact)) => Some(ids.into_iter().filter(|id| *id == contact.0).collect()),
    })
}

/// A contact has few messages: all of them are looked at.
async fn of_contacts(
    pool: &PgPool,
    tenant: TenantId,
    contacts: &[Uuid],
    filter: &MessageFilter,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT m.id
           FROM read_model.messages m LEFT JOIN read_model.runs r ON r.id = m.run_id
           WHERE m.tenant_id = $1 AND m.contact_id = ANY($2)
             AND ($3::uuid IS NULL OR r.campaign_id = $3)
             AND ($4::uuid IS NULL OR m.run_id = $4)
             AND ($5::text IS NULL OR m.status = $5)
             AND ($6::text IS NULL OR m.reason = $6)
             AND ($7::integer IS NULL OR m.error_code = $7)
             AND ($8::timestamptz IS NULL OR m.queued_at >= $8)
             AND ($9::timestamptz IS NULL OR m.queued_at < $9)
             AND ($10::uuid IS NULL OR (m.queued_at, m.id) < (SELECT c.queued_at, c.id FROM read_model.messages c
                                                              WHERE c.id = $10))
           ORDER BY m.queued_at DESC, m.id DESC LIMIT $11"#,
        tenant.0,
        contacts,
        filter.campaign.map(Uuid::from),
        filter.run.map(Uuid::from),
        filter.status.map(MessageStatus::name),
        filter.reason,
        filter.error_code,
        filter.from,
        filter.until,
        cursor.map(Uuid::from),
        i64::from(limit),
    )
    .fetch_all(pool)
    .await
}

/// The order is that of the runs, newest first, and of the ids within a run. A run that has never counted a message of
/// the status is passed over, and so is one that began after the time that is asked for or had queued everything before.
async fn along_runs(
    pool: &PgPool,
    tenant: TenantId,
    filter: &MessageFilter,
    cursor: Option<MessageId>,
    limit: u32,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH seen AS (
               SELECT r.nominal_at, r.id AS run_id, m.id
               FROM read_model.messages m JOIN read_model.runs r ON r.id = m.run_id WHERE m.id = $9
           ), runs AS MATERIALIZED (
               SELECT r.nominal_at, r.id
               FROM read_model.runs r
               WHERE r.tenant_id = $1
                 AND ($2::uuid IS NULL OR r.campaign_id = $2)
                 AND ($3::uuid IS NULL OR r.id = $3)
                 AND ($7::timestamptz IS NULL OR r.resolved_at IS NULL OR r.resolved_at >= $7)
                 AND ($8::timestamptz IS NULL OR r.started_at < $8)
                 AND ($9::uuid IS NULL
                      OR (r.nominal_at, r.id) <= (SELECT s.nominal_at, s.run_id FROM seen s))
                 AND ($4::text IS NULL
                      OR EXISTS (SELECT FROM read_model.run_counts c
                                 WHERE c.run_id = r.id AND c.kind = 'status' AND c.key = $4 AND c.count > 0))
               ORDER BY r.nominal_at DESC, r.id DESC
           )
           SELECT found.id AS "id!"
           FROM runs r
           CROSS JOIN LATERAL (
               SELECT m.id FROM read_model.messages m
               WHERE m.run_id = r.id
                 AND ($9::uuid IS NULL OR r.id <> (SELECT s.run_id FROM seen s) OR m.id > $9)
                 AND ($4::text IS NULL OR m.status = $4)
                 AND ($5::text IS NULL OR m.reason = $5)
                 AND ($6::integer IS NULL OR m.error_code = $6)
                 AND ($7::timestamptz IS NULL OR m.queued_at >= $7)
                 AND ($8::timestamptz IS NULL OR m.queued_at < $8)
               ORDER BY m.id LIMIT $10
           ) found
           LIMIT $10"#,
        tenant.0,
        filter.campaign.map(Uuid::from),
        filter.run.map(Uuid::from),
        filter.status.map(MessageStatus::name),
        filter.reason,
        filter.error_code,
        filter.from,
        filter.until,
        cursor.map(Uuid::from),
        i64::from(limit),
    )
    .fetch_all(pool)
    .await
}
