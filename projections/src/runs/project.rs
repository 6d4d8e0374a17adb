use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::campaign::Trigger;
use domain::campaign_run::{Audience, CampaignRunEvent, RunDefinition, RunStatus};
use domain::event::{Event, RecordedEvent};
use sqlx::PgConnection;
use uuid::Uuid;

use super::counts::CountChanges;
use crate::projection::Projection;

pub struct Runs;

#[async_trait]
impl Projection for Runs {
    fn name(&self) -> &'static str {
        "runs"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["runs", "run_counts"]
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        match &event.event {
            Event::CampaignRun(_) | Event::Message(_) => true,
            Event::Campaign(_) | Event::Consent(_) => false,
        }
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let mut started = StartedColumns::default();
        let mut changes: BTreeMap<Uuid, Change> = BTreeMap::new();
        let mut counts = CountChanges::default();
        for event in events {
            match &event.event {
                Event::CampaignRun(run) => {
                    if let CampaignRunEvent::Started { definition, .. } = run {
                        started.push(event, definition);
                    }
                    changes.entry(event.aggregate_id).or_default().fold(event, run);
                }
                Event::Message(message) => {
                    let run = Uuid::from(message.transition().run_id);
                    changes.entry(run).or_default().position = event.position;
                    counts.fold(event, message);
                }
                Event::Campaign(_) | Event::Consent(_) => {}
            }
        }
        started.insert(connection).await?;
        ChangeColumns::from(changes).update(connection).await?;
        counts.write(connection).await
    }
}

/// What the events of a batch change in one row; `None` leaves the column as it is.
#[derive(Default)]
struct Change {
    status: Option<RunStatus>,
    /// Written whenever the status is.
    stall_reason: Option<&'static str>,
    resolved_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    position: Position,
}

impl Change {
    fn fold(&mut self, recorded: &RecordedEvent, event: &CampaignRunEvent) {
        self.position = recorded.position;
        match event {
            CampaignRunEvent::Started { .. } | CampaignRunEvent::Resumed { .. } => {
                self.become_status(RunStatus::Running);
            }
            CampaignRunEvent::AudienceResolved { .. } => self.resolved_at = Some(recorded.at),
            CampaignRunEvent::Paused { .. } => self.become_status(RunStatus::Paused),
            CampaignRunEvent::Stalled { reason } => {
                self.become_status(RunStatus::Stalled);
                self.stall_reason = Some(reason.name());
            }
            CampaignRunEvent::Cancelled { at, .. } => self.end(RunStatus::Cancelled, *at),
            CampaignRunEvent::Expired { at, .. } => self.end(RunStatus::Expired, *at),
            CampaignRunEvent::Completed { at, .. } => self.end(RunStatus::Completed, *at),
        }
    }

    fn become_status(&mut self, status: RunStatus) {
        self.status = Some(status);
        self.stall_reason = None;
    }

    fn end(&mut self, status: RunStatus, at: DateTime<Utc>) {
        self.become_status(status);
        self.ended_at = Some(at);
    }
}

#[derive(Default)]
struct StartedColumns {
    ids: Vec<Uuid>,
    tenants: Vec<Uuid>,
    campaigns: Vec<Option<Uuid>>,
    nominal_at: Vec<DateTime<Utc>>,
    scheduled: Vec<bool>,
    template_names: Vec<String>,
    languages: Vec<String>,
    segments: Vec<String>,
    senders: Vec<Uuid>,
    started_at: Vec<DateTime<Utc>>,
    positions: Vec<Position>,
}

impl StartedColumns {
    fn push(&mut self, recorded: &RecordedEvent, definition: &RunDefinition) {
        self.ids.push(recorded.aggregate_id);
        self.tenants.push(recorded.tenant_id.into());
        self.campaigns.push(definition.campaign_id.map(Uuid::from));
        self.nominal_at.push(definition.nominal_at);
        self.scheduled.push(match definition.trigger {
            Trigger::Schedule { .. } => true,
            Trigger::Manual | Trigger::Test => false,
        });
        self.template_names.push(definition.template.name.clone());
        self.languages.push(definition.template.language.clone());
        self.segments.push(match &definition.audience {
            Audience::Segment { name } => name.clone(),
            Audience::Contact { .. } => String::new(),
        });
        self.senders.push(definition.sender_id.into());
        self.started_at.push(recorded.at);
        self.positions.push(recorded.position);
    }

    async fn insert(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "INSERT INTO runs (id, tenant_id, campaign_id, status, nominal_at, scheduled, template_name,
                                          language, segment, sender_id, started_at, position)
             SELECT n.id, n.tenant_id, n.campaign_id, $12, n.nominal_at, n.scheduled, n.template_name,
                    n.language, n.segment, n.sender_id, n.started_at, n.position
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::boolean[], $6::text[],
                         $7::text[], $8::text[], $9::uuid[], $10::timestamptz[], $11::bigint[])
                 AS n(id, tenant_id, campaign_id, nominal_at, scheduled, template_name,
                      language, segment, sender_id, started_at, position)",
            &self.ids,
            &self.tenants,
            &self.campaigns as &[Option<Uuid>],
            &self.nominal_at,
            &self.scheduled,
            &self.template_names,
            &self.languages,
            &self.segments,
            &self.senders,
            &self.started_at,
            &self.positions,
            RunStatus::Running.name(),
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

#[derive(Default)]
struct ChangeColumns {
    ids: Vec<Uuid>,
    statuses: Vec<Option<&'static str>>,
    stall_reasons: Vec<Option<&'static str>>,
    resolved_at: Vec<Option<DateTime<Utc>>>,
    ended_at: Vec<Option<DateTime<Utc>>>,
    positions: Vec<Position>,
}

impl From<BTreeMap<Uuid, Change>> for ChangeColumns {
    fn from(changes: BTreeMap<Uuid, Change>) -> Self {
        let mut columns = Self::default();
        for (id, change) in changes {
            columns.ids.push(id);
            columns.statuses.push(change.status.map(RunStatus::name));
            columns.stall_reasons.push(change.stall_reason);
            columns.resolved_at.push(change.resolved_at);
            columns.ended_at.push(change.ended_at);
            columns.positions.push(change.position);
        }
        columns
    }
}

impl ChangeColumns {
    async fn update(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "UPDATE runs r
             SET status = coalesce(n.status, r.status),
                 stall_reason = CASE WHEN n.status IS NULL THEN r.stall_reason ELSE n.stall_reason END,
                 resolved_at = coalesce(n.resolved_at, r.resolved_at),
                 ended_at = coalesce(n.ended_at, r.ended_at),
                 position = greatest(r.position, n.position)
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
                 AS n(id, status, stall_reason, resolved_at, ended_at, position)
             WHERE r.id = n.id",
            &self.ids,
            &self.statuses as &[Option<&str>],
            &self.stall_reasons as &[Option<&str>],
            &self.resolved_at as &[Option<DateTime<Utc>>],
            &self.ended_at as &[Option<DateTime<Utc>>],
            &self.positions,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
