//! What people see of a run. The row and its counters are read by one statement, so they belong together.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::campaign_run::RunStatus;
use domain::ids::{CampaignId, RunId, SenderId, TenantId};
use domain::message::{MessageStatus, Milestone};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use crate::stored::named;

/// How many open runs are listed at once.
const OPEN_RUNS_MAX: i64 = 1000;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    pub id: RunId,
    /// `None` for a test message.
    pub campaign_id: Option<CampaignId>,
    pub campaign_name: Option<String>,
    pub status: RunStatus,
    pub stall_reason: Option<String>,
    pub trigger: RunTrigger,
    /// The time that the schedule names, or that of the request.
    pub nominal_at: DateTime<Utc>,
    pub template_name: String,
    pub language: String,
    /// `None` for a test message.
    pub target_segment: Option<String>,
    pub sender_id: SenderId,
    pub sender_phone_number_id: Option<String>,
    /// The messages of the run so far: the sum of `counts`.
    pub audience: i64,
    /// Each message under its present status; every status is listed.
    pub counts: BTreeMap<MessageStatus, i64>,
    pub funnel: Funnel,
    pub skipped_by_reason: BTreeMap<String, i64>,
    /// The messages that are failed now, by the provider's code; `none` where a person settled an unknown outcome so.
    pub failed_by_code: BTreeMap<String, i64>,
    pub started_at: DateTime<Utc>,
    /// `None` while the audience is still being resolved.
    pub audience_resolved_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// The last position that changed the run or its counts.
    pub position: Position,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunTrigger {
    Schedule,
    Manual,
    Test,
}

/// How many messages ever came this far; none is larger than the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Funnel {
    pub attempted: i64,
    pub sent: i64,
    pub delivered: i64,
    pub read: i64,
}

struct Record {
    id: Uuid,
    campaign_id: Option<Uuid>,
    campaign_name: Option<String>,
    status: String,
    stall_reason: Option<String>,
    scheduled: bool,
    nominal_at: DateTime<Utc>,
    template_name: String,
    language: String,
    segment: Option<String>,
    sender_id: Uuid,
    sender_phone_number_id: Option<String>,
    started_at: DateTime<Utc>,
    resolved_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    position: Position,
    counts: Json<Vec<Count>>,
}

#[derive(Deserialize)]
struct Count {
    kind: String,
    key: String,
    count: i64,
}

macro_rules! select {
    ($condition:literal, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            Record,
            r#"SELECT r.id, r.campaign_id, g.name AS "campaign_name?", r.status, r.stall_reason, r.scheduled,
                      r.nominal_at, r.template_name, r.language, nullif(r.segment, '') AS segment, r.sender_id,
                      s.phone_number_id AS "sender_phone_number_id?", r.started_at, r.resolved_at, r.ended_at,
                      r.position,
                      (SELECT coalesce(jsonb_agg(jsonb_build_object('kind', c.kind, 'key', c.key, 'count', c.count)), '[]')
                       FROM read_model.run_counts c WHERE c.run_id = r.id) AS "counts!: Json<Vec<Count>>"
               FROM read_model.runs r
               LEFT JOIN read_model.campaigns g ON g.id = r.campaign_id
               LEFT JOIN senders s ON s.id = r.sender_id AND s.tenant_id = r.tenant_id "#
                + $condition,
            $($argument),+
        )
    };
}

/// A run of this tenant; another tenant's is not found.
pub async fn find(pool: &PgPool, tenant: TenantId, id: RunId) -> Result<Option<RunRow>, sqlx::Error> {
    let record = select!("WHERE r.tenant_id = $1 AND r.id = $2", tenant.0, id.0).fetch_optional(pool).await?;
    record.map(Record::into_row).transpose()
}

/// A page by id, after the run `cursor`, which is the last one of the page before. The ids of scheduled runs follow
/// their nominal times.
pub async fn list_of_campaign(
    pool: &PgPool,
    tenant: TenantId,
    campaign: CampaignId,
    cursor: Option<RunId>,
    limit: u32,
) -> Result<Vec<RunRow>, sqlx::Error> {
    let records = select!(
        "WHERE r.tenant_id = $1 AND r.campaign_id = $2
           AND ($3::uuid IS NULL
                OR (r.started_at, r.id) > (SELECT c.started_at, c.id FROM read_model.runs c WHERE c.id = $3))
         ORDER BY r.started_at, r.id LIMIT $4",
        tenant.0,
        campaign.0,
        cursor.map(Uuid::from),
        i64::from(limit),
    )
    .fetch_all(pool)
    .await?;
    records.into_iter().map(Record::into_row).collect()
}

/// The runs that have not ended, the oldest first; of one tenant, or for the operator of all.
pub async fn list_open(pool: &PgPool, tenant: Option<TenantId>) -> Result<Vec<RunRow>, sqlx::Error> {
    let records = select!(
        "WHERE r.status IN ('running', 'paused', 'stalled') AND ($1::uuid IS NULL OR r.tenant_id = $1)
         ORDER BY r.started_at, r.id LIMIT $2",
        tenant.map(Uuid::from),
        OPEN_RUNS_MAX,
    )
    .fetch_all(pool)
    .await?;
    records.into_iter().map(Record::into_row).collect()
}

impl Record {
    fn into_row(self) -> Result<RunRow, sqlx::Error> {
        let mut row = RunRow {
            id: RunId(self.id),
            campaign_id: self.campaign_id.map(CampaignId),
            campaign_name: self.campaign_name,
            status: named(self.status)?,
            stall_reason: self.stall_reason,
            trigger: match (self.campaign_id, self.scheduled) {
                (None, _) => RunTrigger::Test,
                (Some(_), true) => RunTrigger::Schedule,
                (Some(_), false) => RunTrigger::Manual,
            },
            nominal_at: self.nominal_at,
            template_name: self.template_name,
            language: self.language,
            target_segment: self.segment,
            sender_id: SenderId(self.sender_id),
            sender_phone_number_id: self.sender_phone_number_id,
            audience: 0,
            counts: MessageStatus::ALL.into_iter().map(|status| (status, 0)).collect(),
            funnel: Funnel::default(),
            skipped_by_reason: BTreeMap::new(),
            failed_by_code: BTreeMap::new(),
            started_at: self.started_at,
            audience_resolved_at: self.resolved_at,
            ended_at: self.ended_at,
            position: self.position,
        };
        for count in self.counts.0 {
            row.take(count)?;
        }
        row.audience = row.counts.values().sum();
        Ok(row)
    }
}

impl RunRow {
    fn take(&mut self, Count { kind, key, count }: Count) -> Result<(), sqlx::Error> {
        match kind.as_str() {
            "status" => {
                self.counts.insert(named(key)?, count);
            }
            "reached" => *self.funnel.of(named(key)?) = count,
            // A reason or a code that no message has now is not listed.
            _ if count == 0 => {}
            "skipped" => {
                self.skipped_by_reason.insert(key, count);
            }
            "failed" => {
                self.failed_by_code.insert(key, count);
            }
            unknown => return Err(sqlx::Error::Decode(format!("a counter has the unknown kind {unknown}").into())),
        }
        Ok(())
    }
}

impl Funnel {
    fn of(&mut self, milestone: Milestone) -> &mut i64 {
        match milestone {
            Milestone::Attempted => &mut self.attempted,
            Milestone::Sent => &mut self.sent,
            Milestone::Delivered => &mut self.delivered,
            Milestone::Read => &mut self.read,
        }
    }
}
