//! Each message counts once, where WhatsApp first speaks of its price. It may do so with the delivery and again when
//! the message is read, in either order; whether an event is the first is seen in the batch or else in the log, by the
//! message's key, so it does not depend on where a batch begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::event::{Event, RecordedEvent};
use domain::message::{MessageEvent, MessageStatus, Milestone, Pricing};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projection::Projection;
use crate::stored::quarter_of;

pub struct Billing;

#[async_trait]
impl Projection for Billing {
    fn name(&self) -> &'static str {
        "billing"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["billing"]
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        match &event.event {
            Event::Message(message) => pricing_of(message).is_some(),
            Event::Campaign(_) | Event::CampaignRun(_) | Event::Consent(_) => false,
        }
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let mut priced: BTreeSet<Uuid> = BTreeSet::new();
        let mut first: Vec<&RecordedEvent> = Vec::new();
        let mut doubtful: Vec<&RecordedEvent> = Vec::new();
        for event in events {
            // What comes later in the batch is not the first, whichever the first is.
            if !priced.insert(event.aggregate_id) {
                continue;
            }
            if may_have_been_priced(event) { doubtful.push(event) } else { first.push(event) }
        }
        let before = priced_before(connection, &doubtful).await?;
        first.extend(doubtful.into_iter().filter(|event| !before.contains(&event.aggregate_id)));
        write(connection, &first).await
    }
}

fn pricing_of(event: &MessageEvent) -> Option<&Pricing> {
    match event {
        MessageEvent::Delivered { pricing, .. } | MessageEvent::Read { pricing, .. } => pricing.as_ref(),
        MessageEvent::Queued { .. }
        | MessageEvent::Skipped { .. }
        | MessageEvent::DispatchStarted { .. }
        | MessageEvent::DispatchReleased { .. }
        | MessageEvent::Sent { .. }
        | MessageEvent::Failed { .. }
        | MessageEvent::Deferred { .. }
        | MessageEvent::OutcomeUnknown { .. }
        | MessageEvent::Unconfirmed { .. }
        | MessageEvent::Settled { .. }
        | MessageEvent::Expired { .. }
        | MessageEvent::Cancelled { .. } => None,
    }
}

/// A message whose delivery this very event is the first to tell of was spoken of before by nothing.
fn may_have_been_priced(event: &RecordedEvent) -> bool {
    match &event.event {
        Event::Message(message) => {
            let transition = message.transition();
            transition.from == Some(MessageStatus::Read) || !transition.reached.contains(&Milestone::Delivered)
        }
        Event::Campaign(_) | Event::CampaignRun(_) | Event::Consent(_) => false,
    }
}

async fn priced_before(
    connection: &mut PgConnection,
    events: &[&RecordedEvent],
) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    if events.is_empty() {
        return Ok(BTreeSet::new());
    }
    let messages: Vec<String> = events.iter().map(|event| event.aggregate_id.to_string()).collect();
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    let found = sqlx::query_scalar!(
        r#"SELECT n.message_id::uuid AS "id!"
           FROM unnest($1::text[], $2::bigint[]) AS n(message_id, sequence)
           CROSS JOIN LATERAL (
               SELECT FROM events e
               WHERE e.aggregate_type = 'Message' AND e.aggregate_id = n.message_id AND e.sequence < n.sequence
                 AND e.event_type IN ('MessageDelivered', 'MessageRead')
                 AND e.payload -> e.event_type -> 'pricing' IS NOT NULL
               LIMIT 1
           ) before"#,
        &messages,
        &sequences,
    )
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().collect())
}

type Key = (Uuid, DateTime<Utc>, String, String, &'static str);

async fn write(connection: &mut PgConnection, events: &[&RecordedEvent]) -> Result<(), sqlx::Error> {
    let mut counts: BTreeMap<Key, (Uuid, i64)> = BTreeMap::new();
    for event in events {
        let Event::Message(message) = &event.event else { continue };
        let Some(pricing) = pricing_of(message) else { continue };
        let billable = match pricing.billable {
            Some(true) => "yes",
            Some(false) => "no",
            None => "unknown",
        };
        let word = |word: &Option<String>| word.clone().unwrap_or_default();
        let run = Uuid::from(message.transition().run_id);
        let key = (run, quarter_of(event.at), word(&pricing.category), word(&pricing.pricing_type), billable);
        counts.entry(key).or_insert((event.tenant_id.into(), 0)).1 += 1;
    }
    if counts.is_empty() {
        return Ok(());
    }
    let (mut runs, mut quarters, mut categories, mut types) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut billable, mut tenants, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for ((run, quarter, category, pricing_type, is_billable), (tenant, count)) in counts {
        runs.push(run);
        quarters.push(quarter);
        categories.push(category);
        types.push(pricing_type);
        billable.push(is_billable);
        tenants.push(tenant);
        numbers.push(count);
    }
    sqlx::query!(
        "INSERT INTO billing AS b (run_id, quarter, category, pricing_type, billable, tenant_id, count)
         SELECT n.run_id, n.quarter, n.category, n.pricing_type, n.billable, n.tenant_id, n.count
         FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::bigint[])
             AS n(run_id, quarter, category, pricing_type, billable, tenant_id, count)
         ON CONFLICT (run_id, quarter, category, pricing_type, billable) DO UPDATE SET count = b.count + excluded.count",
        &runs,
        &quarters,
        &categories,
        &types,
        &billable as &[&str],
        &tenants,
        &numbers,
    )
    .execute(connection)
    .await?;
    Ok(())
}
