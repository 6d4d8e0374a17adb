//! What people see of a campaign. Names of templates and senders are joined in as they are now.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::campaign::{CampaignDefinition, CampaignStatus, CampaignType, ParameterMapping};
use domain::ids::{CampaignId, SenderId, TemplateId, TenantId};
use domain::message::OnUnknown;
use domain::schedule::{Occurrence, Recurrence, Schedule};
use jiff::civil;
use serde::Serialize;
use sqlx::PgPool;
use sqlx::types::Json;
use uuid::Uuid;

use crate::stored::named;

/// How many coming occurrences a campaign shows.
const NEXT_RUNS: usize = 5;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CampaignRow {
    pub id: CampaignId,
    pub name: String,
    pub status: CampaignStatus,
    pub campaign_type: CampaignType,
    pub recurrence_type: Recurrence,
    /// Local time of the zone.
    pub start_date: String,
    /// Local time of the zone; a date alone includes that day.
    pub end_date: Option<String>,
    pub zone: String,
    pub template_id: TemplateId,
    pub template_name: Option<String>,
    pub language: Option<String>,
    pub target_segment: String,
    pub parameters: ParameterMapping,
    /// `None`: the tenant's default sender at the time of each run.
    pub sender_id: Option<SenderId>,
    pub sender_phone_number_id: Option<String>,
    pub on_unknown: OnUnknown,
    pub revision: i32,
    /// How many runs were triggered.
    pub runs: i64,
    /// The last occurrence that was run or skipped, in local time of the zone.
    pub last_occurrence: Option<String>,
    pub created_at: DateTime<Utc>,
    pub activated_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// The last position that changed the campaign.
    pub position: Position,
    pub next_run_at: Option<DateTime<Utc>>,
    pub next_runs: Vec<NextRun>,
}

/// A coming occurrence. A draft's counts from its activation, a paused campaign's only if it is resumed before.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NextRun {
    pub local: String,
    pub zone: String,
    pub at: DateTime<Utc>,
}

struct Record {
    id: Uuid,
    status: String,
    definition: Json<CampaignDefinition>,
    revision: i32,
    runs: i64,
    last_occurrence: Option<String>,
    created_at: DateTime<Utc>,
    activated_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    position: Position,
    template_name: Option<String>,
    language: Option<String>,
    sender_phone_number_id: Option<String>,
}

macro_rules! select {
    ($condition:literal, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            Record,
            r#"SELECT c.id, c.status, c.definition AS "definition: Json<CampaignDefinition>", c.revision, c.runs,
                      c.last_occurrence, c.created_at, c.activated_at, c.ended_at, c.position,
                      t.name AS "template_name?", t.language AS "language?",
                      s.phone_number_id AS "sender_phone_number_id?"
               FROM read_model.campaigns c
               LEFT JOIN templates t ON t.id = (c.definition ->> 'template_id')::uuid AND t.tenant_id = c.tenant_id
               LEFT JOIN senders s ON s.id = (c.definition ->> 'sender_id')::uuid AND s.tenant_id = c.tenant_id "#
                + $condition,
            $($argument),+
        )
    };
}

/// A campaign of this tenant; another tenant's is not found.
pub async fn find(
    pool: &PgPool,
    tenant: TenantId,
    id: CampaignId,
    now: DateTime<Utc>,
) -> Result<Option<CampaignRow>, sqlx::Error> {
    let record = select!("WHERE c.tenant_id = $1 AND c.id = $2", tenant.0, id.0).fetch_optional(pool).await?;
    record.map(|record| record.into_row(now)).transpose()
}

/// A page by id, after the campaign `cursor`, which is the last one of the page before.
pub async fn list(
    pool: &PgPool,
    tenant: TenantId,
    cursor: Option<CampaignId>,
    limit: u32,
    now: DateTime<Utc>,
) -> Result<Vec<CampaignRow>, sqlx::Error> {
    let records = select!(
        "WHERE c.tenant_id = $1 AND c.id > $2 ORDER BY c.id LIMIT $3",
        tenant.0,
        cursor.map_or(Uuid::nil(), Uuid::from),
        i64::from(limit),
    )
    .fetch_all(pool)
    .await?;
    records.into_iter().map(|record| record.into_row(now)).collect()
}

/// All runs of a campaign added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CampaignTotals {
    /// The messages of all runs: the sum of `counts`.
    pub audience: i64,
    /// Each message under its present status; a status that none has is not listed.
    pub counts: BTreeMap<String, i64>,
    /// How many messages ever came this far: `attempted`, `sent`, `delivered`, `read`.
    pub funnel: BTreeMap<String, i64>,
}

/// Of each of these campaigns that has messages.
pub async fn totals(
    pool: &PgPool,
    campaigns: &[CampaignId],
) -> Result<BTreeMap<CampaignId, CampaignTotals>, sqlx::Error> {
    let ids: Vec<Uuid> = campaigns.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        r#"SELECT r.campaign_id AS "campaign_id!", c.kind, c.key, sum(c.count)::bigint AS "count!"
           FROM read_model.runs r JOIN read_model.run_counts c ON c.run_id = r.id
           WHERE r.campaign_id = ANY($1) AND c.kind IN ('status', 'reached') AND c.count <> 0
           GROUP BY r.campaign_id, c.kind, c.key"#,
        &ids,
    )
    .fetch_all(pool)
    .await?;
    let mut found: BTreeMap<CampaignId, CampaignTotals> = BTreeMap::new();
    for row in rows {
        let totals = found.entry(CampaignId(row.campaign_id)).or_default();
        if row.kind == "status" {
            totals.audience += row.count;
            totals.counts.insert(row.key, row.count);
        } else {
            totals.funnel.insert(row.key, row.count);
        }
    }
    Ok(found)
}

impl Record {
    fn into_row(self, now: DateTime<Utc>) -> Result<CampaignRow, sqlx::Error> {
        let Json(definition) = self.definition;
        let status = named(self.status)?;
        let next_runs = next_runs(&definition.schedule, status, self.last_occurrence.as_deref(), now);
        let schedule = definition.schedule;
        Ok(CampaignRow {
            id: CampaignId(self.id),
            name: definition.name,
            status,
            campaign_type: definition.campaign_type,
            recurrence_type: schedule.recurrence,
            start_date: schedule.start.to_string(),
            end_date: schedule.end.map(end_text),
            zone: schedule.zone,
            template_id: definition.template_id,
            template_name: self.template_name,
            language: self.language,
            target_segment: definition.segment,
            parameters: definition.parameters,
            sender_id: definition.sender_id,
            sender_phone_number_id: self.sender_phone_number_id,
            on_unknown: definition.on_unknown,
            revision: self.revision,
            runs: self.runs,
            last_occurrence: self.last_occurrence,
            created_at: self.created_at,
            activated_at: self.activated_at,
            ended_at: self.ended_at,
            position: self.position,
            next_run_at: next_runs.first().map(|next| next.at),
            next_runs,
        })
    }
}

/// As a person would write it: the end of a day is that day.
fn end_text(end: civil::DateTime) -> String {
    if end.time() == civil::Time::MAX { end.date().to_string() } else { end.to_string() }
}

fn next_runs(
    schedule: &Schedule,
    status: CampaignStatus,
    last_occurrence: Option<&str>,
    now: DateTime<Utc>,
) -> Vec<NextRun> {
    let shown = |occurrence: Occurrence| NextRun {
        local: occurrence.local.to_string(),
        zone: schedule.zone.clone(),
        at: occurrence.at,
    };
    match status {
        CampaignStatus::Completed | CampaignStatus::Cancelled => Vec::new(),
        CampaignStatus::Draft | CampaignStatus::Active | CampaignStatus::Paused => match schedule.recurrence {
            // Its only occurrence is run even if its time has passed, but not twice.
            Recurrence::Once if last_occurrence.is_some() => Vec::new(),
            Recurrence::Once => vec![shown(schedule.first())],
            Recurrence::Daily | Recurrence::Weekly | Recurrence::Monthly => {
                schedule.occurrences_after(now).take(NEXT_RUNS).map(shown).collect()
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn schedule(recurrence: Recurrence) -> Schedule {
        let end = date(2026, 12, 4).to_datetime(civil::Time::MAX);
        Schedule::try_new(recurrence, date(2026, 12, 1).at(10, 0, 0, 0), Some(end), "Asia/Kolkata").unwrap()
    }

    fn locals(next: &[NextRun]) -> Vec<&str> {
        next.iter().map(|next| next.local.as_str()).collect()
    }

    #[test]
    fn a_recurring_campaign_shows_what_comes_after_now_up_to_its_end() {
        let daily = schedule(Recurrence::Daily);
        let next = next_runs(&daily, CampaignStatus::Active, None, time("2026-12-02T04:30:00Z"));
        assert_eq!(locals(&next), ["2026-12-03T10:00:00", "2026-12-04T10:00:00"]);
        assert_eq!((next[0].at, next[0].zone.as_str()), (time("2026-12-03T04:30:00Z"), "Asia/Kolkata"));
        let endless = Schedule { end: None, ..daily };
        assert_eq!(next_runs(&endless, CampaignStatus::Draft, None, time("2026-11-01T00:00:00Z")).len(), NEXT_RUNS);
        assert!(next_runs(&endless, CampaignStatus::Cancelled, None, time("2026-11-01T00:00:00Z")).is_empty());
    }

    #[test]
    fn a_single_occurrence_is_shown_until_it_was_run() {
        let once = schedule(Recurrence::Once);
        let late = time("2027-01-01T00:00:00Z");
        let next = next_runs(&once, CampaignStatus::Draft, None, late);
        assert_eq!(locals(&next), ["2026-12-01T10:00:00"]);
        assert!(next_runs(&once, CampaignStatus::Active, Some("2026-12-01T10:00:00"), late).is_empty());
    }

    #[test]
    fn the_end_of_a_day_reads_as_the_day() {
        assert_eq!(end_text(date(2026, 12, 31).to_datetime(civil::Time::MAX)), "2026-12-31");
        assert_eq!(end_text(date(2026, 12, 31).at(18, 30, 0, 0)), "2026-12-31T18:30:00");
    }
}
