//! What can be asked of the contacts as they are now.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use domain::ids::{ContactId, TenantId};
use domain::phone::Phone;
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::position::next_position_in_tx;

#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Contact {
    pub id: ContactId,
    /// E.164 with the leading `+`.
    pub phone: String,
    pub attributes: BTreeMap<String, String>,
    /// In the order of their names.
    pub segments: Vec<String>,
    pub created_at: DateTime<Utc>,
}

/// Only the id, since debug output ends up in logs.
impl std::fmt::Debug for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contact").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Which contacts to list; what is not given does not restrict.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContactFilter {
    pub segment: Option<String>,
    pub phone: Option<Phone>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPage {
    pub items: Vec<Contact>,
    /// Where the next page begins; none if this is the last.
    pub next_cursor: Option<ContactId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SegmentCount {
    pub name: String,
    pub contacts: i64,
}

/// A page of at most `limit` contacts in the order of their ids, beginning after `cursor`.
pub async fn list_contacts(
    pool: &PgPool,
    tenant: TenantId,
    filter: &ContactFilter,
    cursor: Option<ContactId>,
    limit: u32,
) -> Result<ContactPage, sqlx::Error> {
    let after = cursor.map_or(Uuid::nil(), |cursor| cursor.0);
    // One more than asked for tells whether there is a next page.
    let wanted = i64::from(limit) + 1;
    let mut ids = match filter {
        ContactFilter { phone: Some(phone), segment } => {
            ids_by_phone(pool, tenant, phone, segment.as_deref(), after).await?
        }
        ContactFilter { phone: None, segment: Some(segment) } => {
            ids_by_segment(pool, tenant, segment, after, wanted).await?
        }
        ContactFilter { phone: None, segment: None } => ids_of_all(pool, tenant, after, wanted).await?,
    };
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = ids.len() > size;
    ids.truncate(size);
    let next_cursor = ids.last().copied().filter(|_| more).map(ContactId);
    Ok(ContactPage { items: contacts_by_id(pool, &ids).await?, next_cursor })
}

/// The contact of a tenant with this number.
pub async fn find_by_phone(pool: &PgPool, tenant: TenantId, phone: &Phone) -> Result<Option<Contact>, sqlx::Error> {
    let ids = ids_by_phone(pool, tenant, phone, None, Uuid::nil()).await?;
    Ok(contacts_by_id(pool, &ids).await?.pop())
}

/// A contact of this tenant; another tenant's is not found.
pub async fn find_contact(pool: &PgPool, tenant: TenantId, id: ContactId) -> Result<Option<Contact>, sqlx::Error> {
    let known = sqlx::query_scalar!("SELECT id FROM contacts WHERE tenant_id = $1 AND id = $2", tenant.0, id.0);
    match known.fetch_optional(pool).await? {
        Some(id) => Ok(contacts_by_id(pool, &[id]).await?.pop()),
        None => Ok(None),
    }
}

/// The segments that at least one contact carries, in the order of their names.
pub async fn list_segments(pool: &PgPool, tenant: TenantId) -> Result<Vec<SegmentCount>, sqlx::Error> {
    sqlx::query_as!(
        SegmentCount,
        r#"SELECT segment AS name, count(*) AS "contacts!"
        FROM contact_segments
        WHERE tenant_id = $1 AND to_position IS NULL
        GROUP BY segment
        ORDER BY segment"#,
        tenant.0,
    )
    .fetch_all(pool)
    .await
}

/// Does any contact carry this segment?
pub async fn segment_exists(pool: &PgPool, tenant: TenantId, segment: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
            SELECT FROM contact_segments WHERE tenant_id = $1 AND segment = $2 AND to_position IS NULL
        ) AS "exists!""#,
        tenant.0,
        segment,
    )
    .fetch_one(pool)
    .await
}

/// The contact with this number, made without segments and attributes if the tenant has none.
pub async fn ensure_contact(
    pool: &PgPool,
    tenant: TenantId,
    phone: &Phone,
    now: DateTime<Utc>,
) -> Result<ContactId, sqlx::Error> {
    if let Some(id) = id_by_phone(&mut *pool.acquire().await?, tenant, phone).await? {
        return Ok(id);
    }
    let mut transaction = pool.begin().await?;
    let created = sqlx::query_scalar!(
        "INSERT INTO contacts (id, tenant_id, phone, created_at) VALUES (gen_random_uuid(), $1, $2, $3)
        ON CONFLICT (tenant_id, phone) DO NOTHING
        RETURNING id",
        tenant.0,
        phone.as_str(),
        now,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let Some(id) = created else {
        // Somebody else was quicker; a new statement sees what they committed.
        return id_by_phone(&mut transaction, tenant, phone).await?.ok_or(sqlx::Error::RowNotFound);
    };
    let from_position = next_position_in_tx(&mut transaction).await?;
    sqlx::query!(
        "INSERT INTO contact_versions (contact_id, from_position, attributes) VALUES ($1, $2, '{}')",
        id,
        from_position,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(ContactId(id))
}

/// The contacts with these numbers, made without segments and attributes where a tenant has none.
pub async fn ensure_contacts(
    pool: &PgPool,
    phones: &[(TenantId, Phone)],
    now: DateTime<Utc>,
) -> Result<HashMap<(TenantId, Phone), ContactId>, sqlx::Error> {
    let tenants: Vec<Uuid> = phones.iter().map(|(tenant, _)| tenant.0).collect();
    let texts: Vec<&str> = phones.iter().map(|(_, phone)| phone.as_str()).collect();
    let mut transaction = pool.begin().await?;
    let from_position = next_position_in_tx(&mut transaction).await?;
    // Sorted, as an import is, so that the two cannot deadlock.
    sqlx::query!(
        "WITH made AS (
             INSERT INTO contacts (id, tenant_id, phone, created_at)
             SELECT gen_random_uuid(), t.tenant_id, t.phone, $3
             FROM (SELECT DISTINCT * FROM unnest($1::uuid[], $2::text[]) AS t(tenant_id, phone)) t
             ORDER BY t.tenant_id, t.phone
             ON CONFLICT (tenant_id, phone) DO NOTHING
             RETURNING id
         )
         INSERT INTO contact_versions (contact_id, from_position, attributes) SELECT id, $4, '{}' FROM made",
        &tenants,
        &texts as _,
        now,
        from_position,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    // A new statement sees what somebody quicker committed.
    let rows = sqlx::query!(
        r#"SELECT t.number AS "number!", c.id FROM unnest($1::uuid[], $2::text[])
               WITH ORDINALITY AS t(tenant_id, phone, number)
           JOIN contacts c ON c.tenant_id = t.tenant_id AND c.phone = t.phone"#,
        &tenants,
        &texts as _,
    )
    .fetch_all(pool)
    .await?;
    let named = rows.into_iter().filter_map(|row| {
        let place = usize::try_from(row.number - 1).ok()?;
        Some((phones.get(place)?.clone(), ContactId(row.id)))
    });
    Ok(named.collect())
}

async fn id_by_phone(
    connection: &mut PgConnection,
    tenant: TenantId,
    phone: &Phone,
) -> Result<Option<ContactId>, sqlx::Error> {
    let id =
        sqlx::query_scalar!("SELECT id FROM contacts WHERE tenant_id = $1 AND phone = $2", tenant.0, phone.as_str())
            .fetch_optional(connection)
            .await?;
    Ok(id.map(ContactId))
}

async fn ids_by_phone(
    pool: &PgPool,
    tenant: TenantId,
    phone: &Phone,
    segment: Option<&str>,
    after: Uuid,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT c.id FROM contacts c
        WHERE c.tenant_id = $1 AND c.phone = $2 AND c.id > $3
          AND ($4::text IS NULL OR EXISTS (
              SELECT FROM contact_segments s
              WHERE s.contact_id = c.id AND s.segment = $4 AND s.to_position IS NULL
          ))",
        tenant.0,
        phone.as_str(),
        after,
        segment,
    )
    .fetch_all(pool)
    .await
}

async fn ids_by_segment(
    pool: &PgPool,
    tenant: TenantId,
    segment: &str,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT contact_id FROM contact_segments
        WHERE tenant_id = $1 AND segment = $2 AND contact_id > $3 AND to_position IS NULL
        ORDER BY contact_id
        LIMIT $4",
        tenant.0,
        segment,
        after,
        limit,
    )
    .fetch_all(pool)
    .await
}

async fn ids_of_all(pool: &PgPool, tenant: TenantId, after: Uuid, limit: i64) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT id FROM contacts WHERE tenant_id = $1 AND id > $2 ORDER BY id LIMIT $3",
        tenant.0,
        after,
        limit,
    )
    .fetch_all(pool)
    .await
}

async fn contacts_by_id(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Contact>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT c.id, c.phone, c.created_at,
               coalesce(
                   (SELECT v.attributes FROM contact_versions v WHERE v.contact_id = c.id AND v.to_position IS NULL),
                   '{}'
               ) AS "attributes!: Json<BTreeMap<String, String>>",
               ARRAY(
                   SELECT s.segment FROM contact_segments s
                   WHERE s.contact_id = c.id AND s.to_position IS NULL
                   ORDER BY s.segment
               ) AS "segments!"
        FROM contacts c
        WHERE c.id = ANY ($1)
        ORDER BY c.id"#,
        ids,
    )
    .fetch_all(pool)
    .await?;
    let contacts = rows.into_iter().map(|row| Contact {
        id: ContactId(row.id),
        phone: row.phone,
        attributes: row.attributes.0,
        segments: row.segments,
        created_at: row.created_at,
    });
    Ok(contacts.collect())
}
