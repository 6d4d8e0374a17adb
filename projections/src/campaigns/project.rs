use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::campaign::{CampaignDefinition, CampaignEvent, CampaignStatus, Trigger};
use domain::event::{Event, RecordedEvent};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projection::Projection;
use crate::stored::integer;

pub struct Campaigns;

#[async_trait]
impl Projection for Campaigns {
    fn name(&self) -> &'static str {
        "campaigns"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["campaigns"]
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        match &event.event {
            Event::Campaign(_) => true,
            Event::CampaignRun(_) | Event::Message(_) | Event::Consent(_) => false,
        }
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let mut created = CreatedColumns::default();
        let mut changes: BTreeMap<Uuid, Change> = BTreeMap::new();
        for event in events {
            match &event.event {
                Event::Campaign(campaign) => {
                    if let CampaignEvent::Created { definition, .. } = campaign {
                        created.push(event, definition)?;
                    }
                    changes.entry(event.aggregate_id).or_default().fold(event, campaign)?;
                }
                Event::CampaignRun(_) | Event::Message(_) | Event::Consent(_) => {}
            }
        }
        created.insert(connection).await?;
        ChangeColumns::from(changes).update(connection).await
    }
}

/// What the events of a batch change in one row; `None` leaves the column as it is.
#[derive(Default)]
struct Change {
    status: Option<CampaignStatus>,
    definition: Option<(Value, u32)>,
    last_occurrence: Option<String>,
    runs: i64,
    activated_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    position: Position,
}

impl Change {
    fn fold(&mut self, recorded: &RecordedEvent, event: &CampaignEvent) -> Result<(), sqlx::Error> {
        self.position = recorded.position;
        match event {
            CampaignEvent::Created { .. } => self.status = Some(CampaignStatus::Draft),
            CampaignEvent::Revised { revision, definition } => self.definition = Some((json(definition)?, *revision)),
            CampaignEvent::Activated { .. } => {
                self.status = Some(CampaignStatus::Active);
                self.activated_at = Some(recorded.at);
            }
            CampaignEvent::Paused { .. } => self.status = Some(CampaignStatus::Paused),
            CampaignEvent::Resumed { .. } => self.status = Some(CampaignStatus::Active),
            CampaignEvent::Cancelled { .. } => self.end(CampaignStatus::Cancelled, recorded.at),
            CampaignEvent::Completed { .. } => self.end(CampaignStatus::Completed, recorded.at),
            CampaignEvent::RunTriggered { trigger, .. } => {
                self.runs += 1;
                match trigger {
                    Trigger::Schedule { local, .. } => self.last_occurrence = Some(local.to_string()),
                    Trigger::Manual | Trigger::Test => {}
                }
            }
            CampaignEvent::OccurrenceSkipped { local, .. } => self.last_occurrence = Some(local.to_string()),
        }
        Ok(())
    }

    fn end(&mut self, status: CampaignStatus, at: DateTime<Utc>) {
        self.status = Some(status);
        self.ended_at = Some(at);
    }
}

fn json(definition: &CampaignDefinition) -> Result<Value, sqlx::Error> {
    serde_json::to_value(definition).map_err(|source| sqlx::Error::Encode(Box::new(source)))
}

#[derive(Default)]
struct CreatedColumns {
    ids: Vec<Uuid>,
    tenants: Vec<Uuid>,
    names: Vec<String>,
    definitions: Vec<Value>,
    created_at: Vec<DateTime<Utc>>,
    positions: Vec<Position>,
}

impl CreatedColumns {
    fn push(&mut self, recorded: &RecordedEvent, definition: &CampaignDefinition) -> Result<(), sqlx::Error> {
        self.ids.push(recorded.aggregate_id);
        self.tenants.push(recorded.tenant_id.into());
        self.names.push(definition.name.clone());
        self.definitions.push(json(definition)?);
        self.created_at.push(recorded.at);
        self.positions.push(recorded.position);
        Ok(())
    }

    async fn insert(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "INSERT INTO campaigns (id, tenant_id, name, status, definition, revision, created_at, position)
             SELECT n.id, n.tenant_id, n.name, $7, n.definition, 1, n.created_at, n.position
             FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::jsonb[], $5::timestamptz[], $6::bigint[])
                 AS n(id, tenant_id, name, definition, created_at, position)",
            &self.ids,
            &self.tenants,
            &self.names,
            &self.definitions,
            &self.created_at,
            &self.positions,
            CampaignStatus::Draft.name(),
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
    definitions: Vec<Option<Value>>,
    revisions: Vec<Option<i32>>,
    last_occurrences: Vec<Option<String>>,
    runs: Vec<i64>,
    activated_at: Vec<Option<DateTime<Utc>>>,
    ended_at: Vec<Option<DateTime<Utc>>>,
    positions: Vec<Position>,
}

impl From<BTreeMap<Uuid, Change>> for ChangeColumns {
    fn from(changes: BTreeMap<Uuid, Change>) -> Self {
        let mut columns = Self::default();
        for (id, change) in changes {
            let (definition, revision) = change.definition.unzip();
            columns.ids.push(id);
            columns.statuses.push(change.status.map(CampaignStatus::name));
            columns.definitions.push(definition);
            columns.revisions.push(revision.map(integer));
            columns.last_occurrences.push(change.last_occurrence);
            columns.runs.push(change.runs);
            columns.activated_at.push(change.activated_at);
            columns.ended_at.push(change.ended_at);
            columns.positions.push(change.position);
        }
        columns
    }
}

impl ChangeColumns {
    async fn update(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "UPDATE campaigns c
             SET status = coalesce(n.status, c.status),
                 name = coalesce(n.definition ->> 'name', c.name),
                 definition = coalesce(n.definition, c.definition),
                 revision = coalesce(n.revision, c.revision),
                 last_occurrence = coalesce(n.last_occurrence, c.last_occurrence),
                 runs = c.runs + n.runs,
                 activated_at = coalesce(n.activated_at, c.activated_at),
                 ended_at = coalesce(n.ended_at, c.ended_at),
                 position = greatest(c.position, n.position)
             FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::integer[], $5::text[], $6::bigint[],
                         $7::timestamptz[], $8::timestamptz[], $9::bigint[])
                 AS n(id, status, definition, revision, last_occurrence, runs, activated_at, ended_at, position)
             WHERE c.id = n.id",
            &self.ids,
            &self.statuses as &[Option<&str>],
            &self.definitions as &[Option<Value>],
            &self.revisions as &[Option<i32>],
            &self.last_occurrences as &[Option<String>],
            &self.runs,
            &self.activated_at as &[Option<DateTime<Utc>>],
            &self.ended_at as &[Option<DateTime<Utc>>],
            &self.positions,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
