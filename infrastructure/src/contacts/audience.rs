//! The audience of a run, as it was at the position at which the run started.

use std::collections::BTreeMap;

use domain::ids::{ContactId, TenantId};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use super::position::lock_for_reading_in_tx;

/// A contact with what was known of it at the position asked for.
#[derive(Clone, PartialEq, Eq)]
pub struct AudienceMember {
    pub contact_id: ContactId,
    /// E.164 with the leading `+`.
    pub phone: String,
    pub attributes: BTreeMap<String, String>,
    /// Do the uploads say that the contact agreed to messages? As they say it now, whatever the position.
    pub opt_in: Option<bool>,
}

/// Without the phone and the attributes, since debug output ends up in logs.
impl std::fmt::Debug for AudienceMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AudienceMember").field("contact_id", &self.contact_id).finish_non_exhaustive()
    }
}

struct MemberRow {
    contact_id: Uuid,
    phone: String,
    attributes: Json<BTreeMap<String, String>>,
    opt_in: Option<bool>,
}

impl From<MemberRow> for AudienceMember {
    fn from(row: MemberRow) -> Self {
        Self {
            contact_id: ContactId(row.contact_id),
            phone: row.phone,
            attributes: row.attributes.0,
            opt_in: row.opt_in,
        }
    }
}

/// The members of a segment after a contact, in the order of their ids. Fewer than `limit` means that these are the
/// last. Waits while an import of the tenant is being written (see `position`).
pub async fn audience_page(
    pool: &PgPool,
    tenant: TenantId,
    segment: &str,
    as_of: i64,
    after: ContactId,
    limit: i64,
) -> Result<Vec<AudienceMember>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    lock_for_reading_in_tx(&mut transaction, tenant).await?;
    // The page is cut first, in the order of the primary key of contact_segments, and its details are looked up one by
    // one: left to itself the planner may join the whole tables for every page.
    let rows = sqlx::query_as!(
        MemberRow,
        r#"WITH page AS MATERIALIZED (
            SELECT s.contact_id
            FROM contact_segments s
            WHERE s.tenant_id = $1 AND s.segment = $2 AND s.contact_id > $3
              AND s.from_position <= $4 AND (s.to_position IS NULL OR s.to_position > $4)
            ORDER BY s.contact_id
            LIMIT $5
        )
        SELECT p.contact_id AS "contact_id!",
               c.phone AS "phone!",
               c.opt_in AS "opt_in?",
               coalesce(
                   (SELECT v.attributes FROM contact_versions v
                    WHERE v.contact_id = p.contact_id
                      AND v.from_position <= $4 AND (v.to_position IS NULL OR v.to_position > $4)
                    ORDER BY v.from_position DESC
                    LIMIT 1),
                   '{}'
               ) AS "attributes!: Json<BTreeMap<String, String>>"
        FROM page p
        LEFT JOIN LATERAL (SELECT phone, opt_in FROM contacts WHERE id = p.contact_id OFFSET 0) c ON true
        ORDER BY p.contact_id"#,
        tenant.0,
        segment,
        after.0,
        as_of,
        limit,
    )
    .fetch_all(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(rows.into_iter().map(AudienceMember::from).collect())
}

/// One contact, whatever its segments: the audience of a test message. None if the tenant had no such contact then.
pub async fn audience_member(
    pool: &PgPool,
    tenant: TenantId,
    contact: ContactId,
    as_of: i64,
) -> Result<Option<AudienceMember>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    lock_for_reading_in_tx(&mut transaction, tenant).await?;
    let row = sqlx::query_as!(
        MemberRow,
        r#"SELECT c.id AS contact_id, c.phone, c.opt_in, v.attributes AS "attributes: Json<BTreeMap<String, String>>"
        FROM contacts c
        JOIN contact_versions v ON v.contact_id = c.id
            AND v.from_position <= $3 AND (v.to_position IS NULL OR v.to_position > $3)
        WHERE c.tenant_id = $1 AND c.id = $2"#,
        tenant.0,
        contact.0,
        as_of,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(row.map(AudienceMember::from))
}
