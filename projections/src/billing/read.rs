//! Messages per day of a zone and campaign, by what WhatsApp says of their price.

use chrono::NaiveDate;
use domain::ids::{CampaignId, TenantId};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::activity::read::Span;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BillingRow {
    pub day: NaiveDate,
    /// `None` for test messages.
    pub campaign_id: Option<Uuid>,
    pub campaign_name: Option<String>,
    /// WhatsApp's word; `None` where it gave none.
    pub category: Option<String>,
    pub pricing_type: Option<String>,
    /// `None`: WhatsApp did not say.
    pub billable: Option<bool>,
    pub messages: i64,
}

/// Newest day first.
pub async fn days(
    pool: &PgPool,
    tenant: TenantId,
    zone: &str,
    campaign: Option<CampaignId>,
    span: Span,
) -> Result<Vec<BillingRow>, sqlx::Error> {
    sqlx::query_as!(
        BillingRow,
        r#"SELECT (b.quarter AT TIME ZONE $3)::date AS "day!", c.id AS "campaign_id?", c.name AS "campaign_name?",
                  nullif(b.category, '') AS category, nullif(b.pricing_type, '') AS pricing_type,
                  CASE b.billable WHEN 'yes' THEN true WHEN 'no' THEN false END AS billable,
                  sum(b.count)::bigint AS "messages!"
           FROM read_model.billing b
           LEFT JOIN read_model.runs r ON r.id = b.run_id
           LEFT JOIN read_model.campaigns c ON c.id = r.campaign_id
           WHERE b.tenant_id = $1 AND b.quarter >= $4 AND b.quarter < $5 AND ($2::uuid IS NULL OR r.campaign_id = $2)
           GROUP BY 1, c.id, c.name, b.category, b.pricing_type, b.billable
           ORDER BY 1 DESC, c.name NULLS LAST, c.id, b.category, b.pricing_type, b.billable"#,
        tenant.0,
        campaign.map(Uuid::from),
        zone,
        span.from,
        span.until,
    )
    .fetch_all(pool)
    .await
}
