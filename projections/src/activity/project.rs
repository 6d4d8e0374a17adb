use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::event::{Event, RecordedEvent};
use domain::message::{MessageEvent, MessageStatus, Milestone, Transition};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projection::Projection;
use crate::stored::quarter_of;

pub struct Activity;

type Key = (Uuid, DateTime<Utc>, &'static str);

#[async_trait]
impl Projection for Activity {
    fn name(&self) -> &'static str {
        "activity"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["activity"]
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        match &event.event {
            Event::Message(_) => true,
            Event::Campaign(_) | Event::CampaignRun(_) | Event::Consent(_) => false,
        }
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let mut counts: BTreeMap<Key, (Uuid, i64)> = BTreeMap::new();
        for event in events {
            match &event.event {
                Event::Message(message) => {
                    let (run, quarter) = (Uuid::from(message.transition().run_id), quarter_of(event.at));
                    for kind in kinds_of(message) {
                        counts.entry((run, quarter, kind)).or_insert((event.tenant_id.into(), 0)).1 += 1;
                    }
                }
                Event::Campaign(_) | Event::CampaignRun(_) | Event::Consent(_) => {}
            }
        }
        write(connection, counts).await
    }
}

/// What an event counts as. A message counts once for each milestone, and for each attempt, release and deferral.
fn kinds_of(event: &MessageEvent) -> impl Iterator<Item = &'static str> {
    let transition = event.transition();
    let own = match event {
        MessageEvent::Queued { .. } => Some("queued"),
        MessageEvent::Skipped { .. } => Some("skipped"),
        MessageEvent::DispatchStarted { .. } => Some("attempted"),
        MessageEvent::DispatchReleased { .. } => Some("released"),
        MessageEvent::Deferred { .. } => Some("deferred"),
        MessageEvent::OutcomeUnknown { .. } => Some("unknown"),
        MessageEvent::Unconfirmed { .. } => Some("unconfirmed"),
        MessageEvent::Expired { .. } => Some("expired"),
        MessageEvent::Cancelled { .. } => Some("cancelled"),
        MessageEvent::Sent { .. }
        | MessageEvent::Delivered { .. }
        | MessageEvent::Read { .. }
        | MessageEvent::Failed { .. }
        | MessageEvent::Settled { .. } => None,
    };
    let reached = transition.reached.iter().filter_map(|milestone| match milestone {
        Milestone::Attempted => None,
        Milestone::Sent => Some("sent"),
        Milestone::Delivered => Some("delivered"),
        Milestone::Read => Some("read"),
    });
    own.into_iter().chain(became_failed(transition).then_some("failed")).chain(reached)
}

fn became_failed(transition: &Transition) -> bool {
    transition.from != Some(MessageStatus::Failed) && transition.to == MessageStatus::Failed
}

async fn write(connection: &mut PgConnection, counts: BTreeMap<Key, (Uuid, i64)>) -> Result<(), sqlx::Error> {
    if counts.is_empty() {
        return Ok(());
    }
    let (mut runs, mut quarters, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
    let (mut tenants, mut numbers) = (Vec::new(), Vec::new());
    for ((run, quarter, kind), (tenant, count)) in counts {
        runs.push(run);
        quarters.push(quarter);
        kinds.push(kind);
        tenants.push(tenant);
        numbers.push(count);
    }
    sqlx::query!(
        "INSERT INTO activity AS a (run_id, quarter, kind, tenant_id, count)
         SELECT n.run_id, n.quarter, n.kind, n.tenant_id, n.count
         FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::uuid[], $5::bigint[])
             AS n(run_id, quarter, kind, tenant_id, count)
         ON CONFLICT (run_id, quarter, kind) DO UPDATE SET count = a.count + excluded.count",
        &runs,
        &quarters,
        &kinds as &[&str],
        &tenants,
        &numbers,
    )
    .execute(connection)
    .await?;
    Ok(())
}
