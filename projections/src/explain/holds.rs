//! What holds a message that waits to be sent.

use chrono::{DateTime, Utc};
use domain::campaign_run::CampaignRunEvent;
use domain::ids::MessageId;
use domain::message::MessageEvent;
use infrastructure::whatsapp::reactions::meaning;
use sqlx::PgPool;

use super::ExplainError;
use super::facts::Facts;

/// Messages before it are counted so far.
pub(super) const AHEAD_SHOWN: i64 = 10_000;

/// The list is open: whatever else holds messages later gets a place here.
pub(super) enum Hold {
    RunPaused {
        since: DateTime<Utc>,
    },
    RunStalled {
        since: DateTime<Utc>,
        reason: &'static str,
    },
    /// WhatsApp refused it for now.
    Deferred {
        until: DateTime<Utc>,
        code: i32,
        meaning: Option<&'static str>,
    },
    /// The contact had a message a moment ago.
    PairLimit {
        until: DateTime<Utc>,
    },
    /// Set aside for a person.
    Parked,
    /// It waits for its turn.
    Pacing {
        ahead: i64,
        rate_per_s: i32,
    },
    /// In the dispatch queue, or on its way into it.
    Queued,
}

impl Hold {
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::RunPaused { .. } => "run_paused",
            Self::RunStalled { .. } => "run_stalled",
            Self::Deferred { .. } => "deferred",
            Self::PairLimit { .. } => "pair_limit",
            Self::Parked => "parked",
            Self::Pacing { .. } => "pacing",
            Self::Queued => "queued",
        }
    }
}

pub(super) async fn of(
    pool: &PgPool,
    facts: &Facts,
    message: MessageId,
    now: DateTime<Utc>,
) -> Result<Option<Hold>, ExplainError> {
    let Some(run) = &facts.run else { return Ok(None) };
    let stopped = run.later.iter().rev().find_map(|told| match &told.event {
        CampaignRunEvent::Paused { .. } => Some(Some(Hold::RunPaused { since: told.link.time })),
        CampaignRunEvent::Stalled { reason } => {
            Some(Some(Hold::RunStalled { since: told.link.time, reason: reason.name() }))
        }
        CampaignRunEvent::Resumed { .. } => Some(None),
        CampaignRunEvent::Started { .. }
        | CampaignRunEvent::AudienceResolved { .. }
        | CampaignRunEvent::Cancelled { .. }
        | CampaignRunEvent::Expired { .. }
        | CampaignRunEvent::Completed { .. } => None,
    });
    if let Some(hold) = stopped.flatten() {
        return Ok(Some(hold));
    }
    if let Some(MessageEvent::Deferred { until, code, .. }) = facts.message.last().map(|told| &told.event)
        && *until > now
    {
        return Ok(Some(Hold::Deferred { until: *until, code: *code, meaning: meaning(*code) }));
    }
    Ok(Some(in_line(pool, facts, message, now).await?))
}

async fn in_line(pool: &PgPool, facts: &Facts, message: MessageId, now: DateTime<Utc>) -> Result<Hold, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT run_id, position, coalesce(due_at = 'infinity', false) AS "parked!",
                  CASE WHEN due_at < 'infinity' THEN due_at END AS due_at
           FROM ready_list WHERE message_id = $1"#,
        message.0,
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(Hold::Queued) };
    if row.parked {
        return Ok(Hold::Parked);
    }
    if let Some(until) = row.due_at.filter(|due| *due > now) {
        return Ok(Hold::PairLimit { until });
    }
    let sender = facts.run.as_ref().map(|run| run.definition.sender_id.0);
    let counted = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM (SELECT FROM ready_list
                                         WHERE run_id = $1 AND due_at IS NULL AND position < $2
                                         ORDER BY position LIMIT $4) before) AS "ahead!",
                  (SELECT rate_per_s FROM senders WHERE id = $3) AS rate"#,
        row.run_id,
        row.position,
        sender,
        AHEAD_SHOWN,
    )
    .fetch_one(pool)
    .await?;
    Ok(Hold::Pacing { ahead: counted.ahead, rate_per_s: counted.rate.unwrap_or(0) })
}
