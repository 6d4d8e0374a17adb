//! The counters of runs. Each is a sum over the log: a message's event says from which status to which it moves the
//! message and which milestones it reaches.
//!
//! `failed` counts the messages whose present status is failed, by the provider's code. Such a message leaves again
//! when WhatsApp reports after all that it was delivered, and that event does not carry the code. The log does: the
//! code is that of the event that made the message failed, found by the message's key. That is exact wherever a batch
//! begins or ends, needs no second copy of the code beside the counter, depends on no other projection, and costs
//! nothing where it does not happen.

use std::collections::BTreeMap;

use domain::event::RecordedEvent;
use domain::message::{MessageEvent, MessageStatus, Transition};
use sqlx::PgConnection;
use uuid::Uuid;

/// The key of messages that failed without a word of the provider: an operator settled them so.
const NO_CODE: &str = "none";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Failed,
    Reached,
    Skipped,
    Status,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Reached => "reached",
            Self::Skipped => "skipped",
            Self::Status => "status",
        }
    }
}

/// What a batch adds to counters. A counter that is touched is written even if the batch adds nothing to it: whether
/// its row exists must not depend on how events were cut into batches.
#[derive(Default)]
pub(super) struct CountChanges {
    by_key: BTreeMap<(Uuid, Kind, String), i64>,
    recovered: Vec<Recovered>,
}

/// A message that is failed no more.
struct Recovered {
    run: Uuid,
    message: Uuid,
    /// Of the event that says so.
    sequence: i64,
}

impl CountChanges {
    pub(super) fn fold(&mut self, recorded: &RecordedEvent, event: &MessageEvent) {
        let transition = event.transition();
        let run = Uuid::from(transition.run_id);
        if let Some(from) = transition.from {
            self.add(run, Kind::Status, from.name(), -1);
        }
        self.add(run, Kind::Status, transition.to.name(), 1);
        for milestone in &transition.reached {
            self.add(run, Kind::Reached, milestone.name(), 1);
        }
        if became_failed(transition) {
            match code_of(event) {
                Some(code) => self.add(run, Kind::Failed, &code.to_string(), 1),
                None => self.add(run, Kind::Failed, NO_CODE, 1),
            }
        } else if transition.from == Some(MessageStatus::Failed) && transition.to != MessageStatus::Failed {
            self.recovered.push(Recovered { run, message: recorded.aggregate_id, sequence: recorded.sequence });
        }
        if let MessageEvent::Skipped { reason, .. } = event {
            self.add(run, Kind::Skipped, reason.name(), 1);
        }
    }

    fn add(&mut self, run: Uuid, kind: Kind, key: &str, count: i64) {
        *self.by_key.entry((run, kind, key.to_owned())).or_default() += count;
    }

    pub(super) async fn write(mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.uncount_recovered(connection).await?;
        if self.by_key.is_empty() {
            return Ok(());
        }
        let (mut runs, mut kinds, mut keys, mut counts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ((run, kind, key), count) in self.by_key {
            runs.push(run);
            kinds.push(kind.name().to_owned());
            keys.push(key);
            counts.push(count);
        }
        sqlx::query!(
            "INSERT INTO run_counts AS c (run_id, kind, key, count)
             SELECT n.run_id, n.kind, n.key, n.count
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[]) AS n(run_id, kind, key, count)
             ON CONFLICT (run_id, kind, key) DO UPDATE SET count = c.count + excluded.count",
            &runs,
            &kinds,
            &keys,
            &counts,
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn uncount_recovered(&mut self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let recovered = std::mem::take(&mut self.recovered);
        if recovered.is_empty() {
            return Ok(());
        }
        let messages: Vec<String> = recovered.iter().map(|message| message.message.to_string()).collect();
        let sequences: Vec<i64> = recovered.iter().map(|message| message.sequence).collect();
        // A payload is an object with one field, named by the type, around the event's own fields.
        let codes = sqlx::query_scalar!(
            r#"SELECT failure.code AS "code?"
               FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY AS n(message_id, sequence, number)
               LEFT JOIN LATERAL (
                   SELECT e.payload -> e.event_type ->> 'code' AS code
                   FROM events e
                   WHERE e.aggregate_type = 'Message' AND e.aggregate_id = n.message_id AND e.sequence < n.sequence
                     AND e.payload -> e.event_type -> 'transition' ->> 'to' = 'failed'
                     AND e.payload -> e.event_type -> 'transition' ->> 'from' IS DISTINCT FROM 'failed'
                   ORDER BY e.sequence DESC LIMIT 1
               ) failure ON true
               ORDER BY n.number"#,
            &messages,
            &sequences,
        )
        .fetch_all(connection)
        .await?;
        for (message, code) in recovered.iter().zip(codes) {
            self.add(message.run, Kind::Failed, code.as_deref().unwrap_or(NO_CODE), -1);
        }
        Ok(())
    }
}

fn became_failed(transition: &Transition) -> bool {
    transition.from != Some(MessageStatus::Failed) && transition.to == MessageStatus::Failed
}

/// The provider's code of an event that made a message failed.
fn code_of(event: &MessageEvent) -> Option<i32> {
    match event {
        MessageEvent::Failed { code, .. } | MessageEvent::Deferred { code, .. } => Some(*code),
        MessageEvent::Queued { .. }
        | MessageEvent::Skipped { .. }
        | MessageEvent::DispatchStarted { .. }
        | MessageEvent::DispatchReleased { .. }
        | MessageEvent::Sent { .. }
        | MessageEvent::Delivered { .. }
        | MessageEvent::Read { .. }
        | MessageEvent::OutcomeUnknown { .. }
        | MessageEvent::Unconfirmed { .. }
        | MessageEvent::Settled { .. }
        | MessageEvent::Expired { .. }
        | MessageEvent::Cancelled { .. } => None,
    }
}
