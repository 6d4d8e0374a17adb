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

/// What a run was stalled for, if it is not the run alone. An answer that leaves its message in doubt may still say it.
fn paused_with(reason: &StallReason) -> Option<(PauseScope, i32)> {
    match reason {
        StallReason::TemplateRefused { code } => Some((PauseScope::Template, *code)),
        StallReason::SenderRefused { code } => Some((PauseScope::Sender, *code)),
        StallReason::AccountRefused { code } => Some((PauseScope::Account, *code)),
        StallReason::PortfolioRefused { code } => Some((PauseScope::Portfolio, *code)),
        StallReason::MessagesRefused { .. }
        | StallReason::TemplateNotApproved { .. }
        | StallReason::TemplateIsOffer
        | StallReason::SetupUnfit
        | StallReason::SetupMissing => None,
    }
}

/// One event that says that something stands still.
struct Sign {
    run_id: Uuid,
    tenant_id: Uuid,
    scope: NoticeScope,
    /// `None`: the run alone.
    pause: Option<PauseScope>,
    code: i32,
    position: Position,
    /// Of a message; a stalled run counts no second time.
    refusals: i64,
}

/// Messages of which it has to be known whether they had been held.
fn dropped_messages(events: &[Arc<RecordedEvent>]) -> Vec<String> {
    let is_dropped = |event: &&Arc<RecordedEvent>| {
        matches!(&event.event, Event::Message(MessageEvent::Failed { code: HELD_DROPPED, .. }))
    };
    events.iter().filter(is_dropped).map(|event| event.aggregate_id.to_string()).collect()
}

fn signs(events: &[Arc<RecordedEvent>], held: &BTreeSet<Uuid>) -> Vec<Sign> {
    let sign = |event: &RecordedEvent, run_id, scope, pause, code, refusals| Sign {
        run_id,
        tenant_id: event.tenant_id.0,
        scope,
        pause,
        code,
        position: event.position,
        refusals,
    };
    events
        .iter()
        .filter_map(|event| match &event.event {
            Event::Message(message) => {
                let (pause, code) = paused_by(message)?;
                let says_so = code != HELD_DROPPED || held.contains(&event.aggregate_id);
                let run_id = message.transition().run_id.0;
                says_so.then(|| sign(event, run_id, pause.into(), Some(pause), code, 1))
            }
            Event::CampaignRun(CampaignRunEvent::Stalled { reason: StallReason::MessagesRefused { code } }) => {
                Some(sign(event, event.aggregate_id, NoticeScope::Campaign, None, *code, 0))
            }
            Event::CampaignRun(CampaignRunEvent::Stalled { reason }) => {
                let (pause, code) = paused_with(reason)?;
                Some(sign(event, event.aggregate_id, pause.into(), Some(pause), code, 0))
            }
            Event::CampaignRun(_) | Event::Campaign(_) | Event::Consent(_) => None,
        })
        .collect()
}

/// Of messages that were held, and of no others, the code says that the business is stopped.
async fn held_among(connection: &mut PgConnection, messages: &[String]) -> Result<BTreeSet<Uuid>, sqlx::Error> {
    if messages.is_empty() {
        return Ok(BTreeSet::new());
    }
    let held = sqlx::query_scalar!(
        r#"SELECT aggregate_id::uuid AS "id!" FROM events
           WHERE aggregate_type = 'Message' AND aggregate_id = ANY($1) AND event_type = 'MessageSent'
             AND payload -> 'MessageSent' -> 'acceptance' = $2"#,
        messages,
        serde_json::to_value(Acceptance::Held).unwrap_or_default(),
    )
    .fetch_all(connection)
    .await?;
    Ok(held.into_iter().collect())
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
                 -- Whoever has resumed it since knows of the trouble, or has ended it.
                 AND NOT EXISTS (
                     SELECT FROM events resumed
                     WHERE resumed.aggregate_type = 'CampaignRun' AND resumed.aggregate_id = g.run_id::text
                       AND resumed.event_type = 'RunResumed' AND resumed.position > $6
                 )
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
            cause,
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
                matches!(reason, StallReason::MessagesRefused { .. }) || paused_with(reason).is_some()
            }
            Event::CampaignRun(_) | Event::Campaign(_) | Event::Consent(_) => false,
        }
    }

    async fn act(&self, events: &[Arc<RecordedEvent>]) -> Result<(), ActError> {
        let held = held_among(&mut *self.pool.acquire().await?, &dropped_messages(events)).await?;
        let mut met: BTreeMap<Trouble, Position> = BTreeMap::new();
        for Sign { run_id, tenant_id, pause, code, position, .. } in signs(events, &held) {
            let Some(scope) = pause else { continue };
            met.insert(Trouble { run_id, tenant_id, scope, code }, position);
        }
        for (trouble, cause) in met {
            self.stall_all(trouble, cause).await?;
        }
        Ok(())
    }

    async fn apply(&self, connection: &mut PgConnection, events: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        let held = held_among(connection, &dropped_messages(events)).await?;
        let signs = signs(events, &held);
        let runs: BTreeSet<Uuid> = signs.iter().map(|sign| sign.run_id).collect();
        let uses = uses_of(connection, &runs.into_iter().collect::<Vec<_>>()).await?;
        let mut counted: BTreeMap<(Uuid, NoticeScope, String, i32), i64> = BTreeMap::new();
        for Sign { run_id, tenant_id, scope, code, refusals, .. } in signs {
            let Some(uses) = uses.iter().find(|uses| uses.run_id == run_id) else { continue };
            *counted.entry((tenant_id, scope, uses.key(scope, tenant_id), code)).or_default() += refusals;
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
