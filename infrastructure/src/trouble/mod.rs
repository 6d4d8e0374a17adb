//! Trouble that a person has to look at: WhatsApp refuses a template, a number, an account or a whole business.
//!
//! The dispatcher stalls the run that met the refusal at once. Here the log is followed, so that every other run that
//! would meet the same is stalled too, however the refusal came, and so that a notice says what happened and what to
//! do. Nothing here is ever lifted by itself: a person resumes the campaign.

mod notices;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use domain::aggregate::{CommandEnvelope, Position};
use domain::campaign_run::{CampaignRunCommand, CampaignRunEvent, StallReason};
use domain::event::{Event, RecordedEvent};
use domain::ids::{RunId, TenantId};
use domain::message::{Acceptance, MessageEvent, MessageStatus};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

pub use self::notices::{Notice, NoticeScope, finish, list};
use crate::clock::Clock;
use crate::event_feed::{ActError, TableEffect};
use crate::event_store::{Actor, Addressed, CampaignRunStore, CommandError};
use crate::sagas::log_run_event;
use crate::whatsapp::{Channel, PauseScope, reaction};

/// WhatsApp's code for messages that were held and then dropped; as a code of other messages it says little.
const HELD_DROPPED: i32 = 135_000;

pub struct TroubleEffect {
    pub pool: PgPool,
    pub clock: Clock,
    pub runs: CampaignRunStore,
}

/// One reason for one thing to stand still, met by a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Trouble {
    run_id: Uuid,
    tenant_id: Uuid,
    scope: PauseScope,
    code: i32,
}

/// What a run uses.
struct Uses {
    run_id: Uuid,
    sender_id: Uuid,
    waba_id: String,
    template_id: String,
    campaign_id: Option<Uuid>,
}

impl Uses {
    fn key(&self, scope: NoticeScope, tenant_id: Uuid) -> String {
        match scope {
            NoticeScope::Template => self.template_id.clone(),
            NoticeScope::Sender => self.sender_id.to_string(),
            NoticeScope::Account => self.waba_id.clone(),
            NoticeScope::Portfolio => tenant_id.to_string(),
            NoticeScope::Campaign => self.campaign_id.unwrap_or(self.run_id).to_string(),
        }
    }
}

/// The reason that a stalled run shows.
pub fn stall_reason(scope: PauseScope, code: i32) -> StallReason {
    match scope {
        PauseScope::Template => StallReason::TemplateRefused { code },
        PauseScope::Sender => StallReason::SenderRefused { code },
        PauseScope::Account => StallReason::AccountRefused { code },
        PauseScope::Portfolio => StallReason::PortfolioRefused { code },
    }
}

/// What a refusal pauses beyond its message. How it came decides, and the event tells: a message that had been accepted
/// was reported as failed by a status.
fn paused_by(message: &MessageEvent) -> Option<(PauseScope, i32)> {
    let (transition, code, has_failed) = match message {
        MessageEvent::Failed { transition, code, .. } => (transition, *code, true),
        MessageEvent::Deferred { transition, code, after_acceptance: false, .. } => (transition, *code, false),
        _ => return None,
    };
    let answered = transition.from == Some(MessageStatus::Dispatching);
    let scope = reaction(code, if answered { Channel::Answer } else { Channel::Status }).pause()?;
    // Code 0 is also what a failure carries of which WhatsApp gave none.
    (!has_failed || code != 0).then_some((scope, code))
}

impl TroubleEffect {
    async fn stall_all(&self, trouble: Trouble, cause: Position) -> Result<(), ActError> {
        let uses = uses_of(&mut *self.pool.acquire().await?, &[trouble.run_id]).await?;
        let Some(uses) = uses.first() else { return Ok(()) };
        let runs = sqlx::query_scalar!(
            r#"SELECT g.run_id FROM run_gates g
               JOIN senders s ON s.id = g.sender_id
               CROSS JOIN LATERAL (
                   SELECT payload FROM events
                   WHERE aggregate_type = 'CampaignRun' AND aggregate_id = g.run_id::text AND sequence = 1
               ) started
               WHERE g.state = 'open' AND g.tenant_id = $1
                 AND CASE $2
                         WHEN 'template' THEN started.payload -> 'RunStarted' -> 'definition' -> 'template' ->> 'template_id' = $3
                         WHEN 'sender' THEN g.sender_id = $4
                         WHEN 'account' THEN s.waba_id = $5
                         ELSE true
                     END"#,
            trouble.tenant_id,
            NoticeScope::from(trouble.scope).name(),
            uses.template_id,
            uses.sender_id,
            uses.waba_id,
        )
        .fetch_all(&self.pool)
        .await?;
        for run_id in runs {
            let stall = CampaignRunCommand::Stall { reason: stall_reason(trouble.scope, trouble.code) };
            let envelope = CommandEnvelope::new(TenantId(trouble.tenant_id), self.clock.now(), stall).caused_by(cause);
            match self.runs.execute(Addressed::new(RunId(run_id), envelope, Actor::Engine("trouble"))).await {
                Ok(stalled) => stalled.events.iter().for_each(|(_, event)| log_run_event(RunId(run_id), event)),
                Err(CommandError::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Of messages that were held, and of no others, the code says that the business is stopped.
    async fn was_held(&self, message: Uuid) -> Result<bool, sqlx::Error> {
        let held = serde_json::to_value(Acceptance::Held).unwrap_or_default();
        sqlx::query_scalar!(
            r#"SELECT EXISTS (
                   SELECT FROM events WHERE aggregate_type = 'Message' AND aggregate_id = $1
                     AND event_type = 'MessageSent' AND payload -> 'MessageSent' -> 'acceptance' = $2
               ) AS "held!""#,
            message.to_string(),
            held,
        )
        .fetch_one(&self.pool)
        .await
    }
}

#[async_trait]
impl TableEffect for TroubleEffect {
    fn name(&self) -> &'static str {
        "trouble"
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        match &event.event {
            Event::Message(message) => paused_by(message).is_some(),
            Event::CampaignRun(CampaignRunEvent::Stalled { reason }) => {
                matches!(reason, StallReason::MessagesRefused { .. })
            }
            Event::CampaignRun(_) | Event::Campaign(_) | Event::Consent(_) => false,
        }
    }

    async fn act(&self, events: &[Arc<RecordedEvent>]) -> Result<(), ActError> {
        let mut met: BTreeMap<Trouble, Position> = BTreeMap::new();
        for event in events {
            let Event::Message(message) = &event.event else { continue };
            let Some((scope, code)) = paused_by(message) else { continue };
            if code == HELD_DROPPED && !self.was_held(event.aggregate_id).await? {
                continue;
            }
            let (run_id, tenant_id) = (message.transition().run_id.0, event.tenant_id.0);
            met.insert(Trouble { run_id, tenant_id, scope, code }, event.position);
        }
        for (trouble, cause) in met {
            self.stall_all(trouble, cause).await?;
        }
        Ok(())
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let mut met: Vec<(Uuid, NoticeScope, i32, &RecordedEvent)> = Vec::new();
        for event in events {
            match &event.event {
                Event::Message(message) => {
                    let Some((scope, code)) = paused_by(message) else { continue };
                    if code == HELD_DROPPED && !self.was_held(event.aggregate_id).await? {
                        continue;
                    }
                    met.push((message.transition().run_id.0, scope.into(), code, event));
                }
                Event::CampaignRun(CampaignRunEvent::Stalled { reason: StallReason::MessagesRefused { code } }) => {
                    met.push((event.aggregate_id, NoticeScope::Campaign, *code, event));
                }
                Event::CampaignRun(_) | Event::Campaign(_) | Event::Consent(_) => {}
            }
        }
        let runs: BTreeSet<Uuid> = met.iter().map(|(run, ..)| *run).collect();
        let uses = uses_of(connection, &runs.into_iter().collect::<Vec<_>>()).await?;
        let mut counted: BTreeMap<(Uuid, NoticeScope, String, i32), i64> = BTreeMap::new();
        for (run_id, scope, code, event) in met {
            let Some(uses) = uses.iter().find(|uses| uses.run_id == run_id) else { continue };
            let tenant_id = event.tenant_id.0;
            *counted.entry((tenant_id, scope, uses.key(scope, tenant_id), code)).or_default() += 1;
        }
        notices::raise_in_tx(connection, &counted, self.clock.now()).await
    }
}

async fn uses_of(connection: &mut PgConnection, runs: &[Uuid]) -> Result<Vec<Uses>, sqlx::Error> {
    sqlx::query_as!(
        Uses,
        r#"SELECT started.aggregate_id::uuid AS "run_id!", s.id AS sender_id, s.waba_id,
                  coalesce(started.definition -> 'template' ->> 'template_id', '') AS "template_id!",
                  (started.definition ->> 'campaign_id')::uuid AS campaign_id
           FROM (
               SELECT aggregate_id, payload -> 'RunStarted' -> 'definition' AS definition FROM events
               WHERE aggregate_type = 'CampaignRun' AND aggregate_id = ANY($1) AND sequence = 1
           ) started
           JOIN senders s ON s.id = (started.definition ->> 'sender_id')::uuid"#,
        &runs.iter().map(Uuid::to_string).collect::<Vec<_>>(),
    )
    .fetch_all(connection)
    .await
}
