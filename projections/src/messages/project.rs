use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::event::{Event, RecordedEvent};
use domain::ids::{ContactId, SenderId};
use domain::message::{MessageEvent, MessageStatus, Transition};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::projection::Projection;
use crate::stored::integer;

pub struct Messages;

#[async_trait]
impl Projection for Messages {
    fn name(&self) -> &'static str {
        "messages"
    }

    fn version(&self) -> u32 {
        1
    }

    fn tables(&self) -> &'static [&'static str] {
        &["messages"]
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        match &event.event {
            Event::Message(_) => true,
            Event::Campaign(_) | Event::CampaignRun(_) | Event::Consent(_) => false,
        }
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let mut messages: BTreeMap<Uuid, Folded> = BTreeMap::new();
        for event in events {
            match &event.event {
                Event::Message(message) => match messages.get_mut(&event.aggregate_id) {
                    Some(folded) => folded.fold(event, message),
                    None => {
                        messages.insert(event.aggregate_id, Folded::first(event, message));
                    }
                },
                Event::Campaign(_) | Event::CampaignRun(_) | Event::Consent(_) => {}
            }
        }
        let mut created = Columns::default();
        let mut changed = Columns::default();
        for (id, folded) in messages {
            let columns = if folded.origin.is_some() { &mut created } else { &mut changed };
            columns.push(id, folded);
        }
        created.insert(connection).await?;
        changed.update(connection).await
    }
}

/// What the events of a batch mean for one message; `None` leaves the column as it is.
struct Folded {
    /// Only if its first event is in the batch.
    origin: Option<Origin>,
    status: MessageStatus,
    attempts: Option<u32>,
    explanation: Option<Explanation>,
    sent_at: Option<DateTime<Utc>>,
    delivered_at: Option<DateTime<Utc>>,
    read_at: Option<DateTime<Utc>>,
    position: Position,
}

struct Origin {
    tenant: Uuid,
    run: Uuid,
    contact: Uuid,
    sender: Uuid,
    queued_at: DateTime<Utc>,
}

/// Why the message has the status it has.
#[derive(Clone, Copy)]
struct Explanation {
    reason: Option<&'static str>,
    code: Option<i32>,
}

impl Explanation {
    const NONE: Self = Self { reason: None, code: None };

    fn reason(reason: &'static str) -> Self {
        Self { reason: Some(reason), code: None }
    }

    fn refusal(reason: &'static str, code: i32) -> Self {
        Self { reason: Some(reason), code: Some(code) }
    }
}

impl Folded {
    fn first(recorded: &RecordedEvent, event: &MessageEvent) -> Self {
        let mut folded = Self {
            origin: None,
            status: event.transition().to,
            attempts: None,
            explanation: None,
            sent_at: None,
            delivered_at: None,
            read_at: None,
            position: recorded.position,
        };
        folded.fold(recorded, event);
        folded
    }

    fn fold(&mut self, recorded: &RecordedEvent, event: &MessageEvent) {
        let transition = event.transition();
        self.status = transition.to;
        self.position = recorded.position;
        match event {
            MessageEvent::Queued { contact_id, sender_id, .. } => {
                self.begin(recorded, transition, *contact_id, *sender_id);
            }
            MessageEvent::Skipped { contact_id, sender_id, reason, .. } => {
                self.begin(recorded, transition, *contact_id, *sender_id);
                self.explanation = Some(Explanation::reason(reason.name()));
            }
            MessageEvent::DispatchStarted { attempt, .. } => {
                self.attempts = Some(*attempt);
                self.explanation = Some(Explanation::NONE);
            }
            MessageEvent::DispatchReleased { reason, .. } => {
                self.explanation = Some(Explanation::reason(reason.name()));
            }
            MessageEvent::Sent { at, .. } => {
                self.sent_at = Some(*at);
                self.explain_unless_failed(transition);
            }
            MessageEvent::Delivered { at, .. } => {
                self.delivered_at = Some(*at);
                self.explain_unless_failed(transition);
            }
            MessageEvent::Read { at, .. } => {
                self.read_at = Some(*at);
                self.explain_unless_failed(transition);
            }
            MessageEvent::Failed { code, class, .. } => {
                // A failure reported after the delivery changes nothing that people see.
                if transition.to == MessageStatus::Failed {
                    self.explanation = Some(Explanation::refusal(class.name(), *code));
                }
            }
            MessageEvent::Deferred { code, .. } => {
                self.explanation = Some(Explanation::refusal("deferred", *code));
            }
            MessageEvent::OutcomeUnknown { .. } => self.explanation = Some(Explanation::reason("unknown")),
            MessageEvent::Settled { .. } => {
                self.explanation = Some(match transition.to {
                    MessageStatus::Sent => Explanation::NONE,
                    _ => Explanation::reason("settled"),
                });
            }
            // What was last said of the message still explains why it got no further.
            MessageEvent::Unconfirmed { .. } | MessageEvent::Expired { .. } | MessageEvent::Cancelled { .. } => {}
        }
    }

    fn begin(&mut self, recorded: &RecordedEvent, transition: &Transition, contact: ContactId, sender: SenderId) {
        self.origin = Some(Origin {
            tenant: recorded.tenant_id.into(),
            run: transition.run_id.into(),
            contact: contact.into(),
            sender: sender.into(),
            queued_at: recorded.at,
        });
    }

    /// Nothing is to be explained any more, unless a failure stands in spite of what came now.
    fn explain_unless_failed(&mut self, transition: &Transition) {
        if transition.to != MessageStatus::Failed {
            self.explanation = Some(Explanation::NONE);
        }
    }
}

/// The columns of new rows are empty where only known rows change.
#[derive(Default)]
struct Columns {
    ids: Vec<Uuid>,
    tenants: Vec<Uuid>,
    runs: Vec<Uuid>,
    contacts: Vec<Uuid>,
    senders: Vec<Uuid>,
    queued_at: Vec<DateTime<Utc>>,
    statuses: Vec<&'static str>,
    attempts: Vec<Option<i32>>,
    explained: Vec<bool>,
    reasons: Vec<Option<&'static str>>,
    codes: Vec<Option<i32>>,
    sent_at: Vec<Option<DateTime<Utc>>>,
    delivered_at: Vec<Option<DateTime<Utc>>>,
    read_at: Vec<Option<DateTime<Utc>>>,
    positions: Vec<Position>,
}

impl Columns {
    fn push(&mut self, id: Uuid, folded: Folded) {
        if let Some(origin) = folded.origin {
            self.tenants.push(origin.tenant);
            self.runs.push(origin.run);
            self.contacts.push(origin.contact);
            self.senders.push(origin.sender);
            self.queued_at.push(origin.queued_at);
        }
        let explanation = folded.explanation.unwrap_or(Explanation::NONE);
        self.ids.push(id);
        self.statuses.push(folded.status.name());
        self.attempts.push(folded.attempts.map(integer));
        self.explained.push(folded.explanation.is_some());
        self.reasons.push(explanation.reason);
        self.codes.push(explanation.code);
        self.sent_at.push(folded.sent_at);
        self.delivered_at.push(folded.delivered_at);
        self.read_at.push(folded.read_at);
        self.positions.push(folded.position);
    }

    async fn insert(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "INSERT INTO messages (id, tenant_id, run_id, contact_id, sender_id, queued_at, status, attempts,
                                              reason, error_code, sent_at, delivered_at, read_at, position)
             SELECT n.id, n.tenant_id, n.run_id, n.contact_id, n.sender_id, n.queued_at, n.status,
                    coalesce(n.attempts, 0), n.reason, n.error_code, n.sent_at, n.delivered_at, n.read_at, n.position
             FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[], $6::timestamptz[], $7::text[],
                         $8::integer[], $9::text[], $10::integer[], $11::timestamptz[], $12::timestamptz[],
                         $13::timestamptz[], $14::bigint[])
                 AS n(id, tenant_id, run_id, contact_id, sender_id, queued_at, status, attempts,
                      reason, error_code, sent_at, delivered_at, read_at, position)",
            &self.ids,
            &self.tenants,
            &self.runs,
            &self.contacts,
            &self.senders,
            &self.queued_at,
            &self.statuses as &[&str],
            &self.attempts as &[Option<i32>],
            &self.reasons as &[Option<&str>],
            &self.codes as &[Option<i32>],
            &self.sent_at as &[Option<DateTime<Utc>>],
            &self.delivered_at as &[Option<DateTime<Utc>>],
            &self.read_at as &[Option<DateTime<Utc>>],
            &self.positions,
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn update(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "UPDATE messages m
             SET status = n.status,
                 attempts = coalesce(n.attempts, m.attempts),
                 reason = CASE WHEN n.explained THEN n.reason ELSE m.reason END,
                 error_code = CASE WHEN n.explained THEN n.error_code ELSE m.error_code END,
                 sent_at = coalesce(n.sent_at, m.sent_at),
                 delivered_at = coalesce(n.delivered_at, m.delivered_at),
                 read_at = coalesce(n.read_at, m.read_at),
                 position = n.position
             FROM unnest($1::uuid[], $2::text[], $3::integer[], $4::boolean[], $5::text[], $6::integer[],
                         $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $10::bigint[])
                 AS n(id, status, attempts, explained, reason, error_code, sent_at, delivered_at, read_at, position)
             WHERE m.id = n.id",
            &self.ids,
            &self.statuses as &[&str],
            &self.attempts as &[Option<i32>],
            &self.explained,
            &self.reasons as &[Option<&str>],
            &self.codes as &[Option<i32>],
            &self.sent_at as &[Option<DateTime<Utc>>],
            &self.delivered_at as &[Option<DateTime<Utc>>],
            &self.read_at as &[Option<DateTime<Utc>>],
            &self.positions,
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
