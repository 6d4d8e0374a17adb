//! The sweeper: what becomes of claims whose process has died.
//!
//! The journal tells: a claim of this machine without a mark was never called and is released at once; one with a mark
//! was truly in flight and becomes unknown, to be settled by a webhook. A claim of another machine's journal cannot be
//! looked up: it becomes unknown when its deadline, the call's time-out and a margin have passed.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::CommandEnvelope;
use domain::ids::{MessageId, TenantId};
use domain::message::{MessageCommand, ReleaseReason};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::claim::InFlight;
use super::journal::{CallJournal, Recovered};
use crate::clock::Clock;
use crate::event_store::{Actor, Addressed, CommandError, MessageStore};

/// Claims looked at in one go.
const PAGE: i64 = 500;
const POLL: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Sweeper {
    pub pool: PgPool,
    pub clock: Clock,
    pub messages: MessageStore,
    pub journal: CallJournal,
    pub in_flight: InFlight,
    /// The call's time-out and a margin: added to the deadline of claims of other journals.
    pub grace: Duration,
}

/// On whom a verdict is carried out.
struct Verdict {
    message_id: MessageId,
    attempt: u32,
    tenant_id: TenantId,
}

struct OpenClaim {
    message_id: MessageId,
    attempt: u32,
    tenant_id: TenantId,
    journal_id: Uuid,
    deadline: DateTime<Utc>,
}

impl Sweeper {
    /// Runs until `shutdown`. `recovered` are the marks that the journal held when it was opened.
    pub async fn run(self, mut recovered: Recovered, shutdown: CancellationToken) {
        loop {
            if !recovered.marks.is_empty() {
                match self.settle_recovered(&recovered).await {
                    Ok(()) => recovered.marks.clear(),
                    Err(error) => tracing::warn!(%error, "the call journal could not be settled; trying again"),
                }
            }
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "open claims could not be looked at; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// Calls that were under way when the last process of this journal ended: unknown, unless the log says otherwise.
    async fn settle_recovered(&self, recovered: &Recovered) -> Result<(), sqlx::Error> {
        let ids: Vec<String> = recovered.marks.iter().map(|(message, _)| message.to_string()).collect();
        let tenants: HashMap<Uuid, Uuid> = sqlx::query!(
            r#"SELECT aggregate_id::uuid AS "id!", tenant_id AS "tenant_id!" FROM events
               WHERE aggregate_type = 'Message' AND aggregate_id = ANY($1) AND sequence = 1"#,
            &ids,
        )
        .fetch_all(&self.pool)
        .await?
        .into_iter()
        .map(|row| (row.id, row.tenant_id))
        .collect();
        let verdicts = recovered
            .marks
            .iter()
            .filter_map(|(message_id, attempt)| {
                let Some(tenant_id) = tenants.get(&message_id.0).copied().map(TenantId) else {
                    // A message of another log: the journal was kept while the database was not.
                    self.journal.forget(*message_id, *attempt);
                    return None;
                };
                let verdict = MessageCommand::MarkOutcomeUnknown { attempt: *attempt };
                Some((Verdict { message_id: *message_id, attempt: *attempt, tenant_id }, verdict))
            })
            .collect();
        self.carry_out(verdicts).await;
        Ok(())
    }

    async fn sweep(&self) -> Result<(), sqlx::Error> {
        let now = self.clock.now();
        let overdue = now - TimeDelta::from_std(self.grace).unwrap_or(TimeDelta::MAX);
        let rows = sqlx::query!(
            "SELECT message_id, attempt, tenant_id, journal_id, deadline FROM open_claims
             WHERE journal_id = $1 OR deadline < $2 ORDER BY deadline LIMIT $3",
            self.journal.id(),
            overdue,
            PAGE,
        )
        .fetch_all(&self.pool)
        .await?;
        let claims: Vec<OpenClaim> = rows
            .into_iter()
            .map(|row| OpenClaim {
                message_id: MessageId(row.message_id),
                attempt: u32::try_from(row.attempt).unwrap_or_default(),
                tenant_id: TenantId(row.tenant_id),
                journal_id: row.journal_id,
                deadline: row.deadline,
            })
            .collect();
        let verdicts = claims
            .into_iter()
            .filter_map(|claim| {
                let OpenClaim { message_id, attempt, tenant_id, .. } = claim;
                self.verdict(&claim, overdue).map(|verdict| (Verdict { message_id, attempt, tenant_id }, verdict))
            })
            .collect();
        self.carry_out(verdicts).await;
        Ok(())
    }

    async fn carry_out(&self, verdicts: Vec<(Verdict, MessageCommand)>) {
        let now = self.clock.now();
        let commands = verdicts
            .iter()
            .map(|(claim, verdict)| {
                let envelope = CommandEnvelope::new(claim.tenant_id, now, verdict.clone());
                Addressed::new(claim.message_id, envelope, Actor::Engine("sweeper"))
            })
            .collect();
        let answers = self.messages.execute_many(commands).await;
        let (mut released, mut unknown) = (0_usize, 0_usize);
        for ((claim, verdict), answer) in verdicts.into_iter().zip(answers) {
            match answer {
                Ok(committed) => {
                    self.journal.forget(claim.message_id, claim.attempt);
                    match verdict {
                        _ if committed.events.is_empty() => {}
                        MessageCommand::ReleaseDispatch { .. } => released += 1,
                        _ => unknown += 1,
                    }
                }
                Err(CommandError::Refused(_)) => self.journal.forget(claim.message_id, claim.attempt),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "an open claim is looked at again later");
                }
            }
        }
        if released + unknown > 0 {
            tracing::info!(released, unknown, "claims of a process that ended were closed");
        }
    }

    fn verdict(&self, claim: &OpenClaim, overdue: DateTime<Utc>) -> Option<MessageCommand> {
        let attempt = claim.attempt;
        let unknown = MessageCommand::MarkOutcomeUnknown { attempt };
        if claim.journal_id != self.journal.id() {
            return (claim.deadline < overdue).then_some(unknown);
        }
        if self.in_flight.contains(claim.message_id, attempt) {
            return None;
        }
        // The journal is held by one process at a time, so whoever made this claim has ended.
        Some(if self.journal.rules_out(claim.journal_id, claim.message_id, attempt) {
            MessageCommand::ReleaseDispatch { attempt, reason: ReleaseReason::NeverCalled }
        } else {
            unknown
        })
    }
}
