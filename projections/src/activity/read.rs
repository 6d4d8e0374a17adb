//! Sums over the quarters of an hour: days of a zone, of a tenant or of one sender.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use domain::ids::{SenderId, TenantId};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

/// One day of a zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DayRow {
    pub day: NaiveDate,
    /// `utility` or `marketing`; test messages count as what their lane is.
    pub campaign_type: Option<String>,
    /// By kind: `queued`, `skipped`, `attempted`, `sent`, `delivered`, `read`, `failed` and so on. What did not happen is
    /// not listed.
    pub counts: BTreeMap<String, i64>,
}

/// What of the quarters is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub from: DateTime<Utc>,
    /// Not included.
    pub until: DateTime<Utc>,
}

/// The days of a span, newest first, by campaign type. `sender`: only what went from this number.
pub async fn days(
    pool: &PgPool,
    tenant: TenantId,
    zone: &str,
    sender: Option<SenderId>,
    span: Span,
) -> Result<Vec<DayRow>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT (a.quarter AT TIME ZONE $3)::date AS "day!", c.definition ->> 'campaign_type' AS campaign_type, a.kind,
                  sum(a.count)::bigint AS "count!"
           FROM read_model.activity a
           LEFT JOIN read_model.runs r ON r.id = a.run_id
           LEFT JOIN read_model.campaigns c ON c.id = r.campaign_id
           WHERE a.tenant_id = $1 AND a.quarter >= $4 AND a.quarter < $5 AND ($2::uuid IS NULL OR r.sender_id = $2)
           GROUP BY 1, 2, a.kind ORDER BY 1 DESC, 2 NULLS LAST"#,
        tenant.0,
        sender.map(Uuid::from),
        zone,
        span.from,
        span.until,
    )
    .fetch_all(pool)
    .await?;
    let mut days: Vec<DayRow> = Vec::new();
    for row in rows {
        let is_new = days.last().is_none_or(|last| last.day != row.day || last.campaign_type != row.campaign_type);
        if is_new {
            days.push(DayRow { day: row.day, campaign_type: row.campaign_type, counts: BTreeMap::new() });
        }
        if let Some(last) = days.last_mut() {
            last.counts.insert(row.kind, row.count);
        }
    }
    Ok(days)
}
