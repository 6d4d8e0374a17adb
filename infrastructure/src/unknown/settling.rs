use chrono::{DateTime, Utc};
use domain::aggregate::{CommandEnvelope, Position};
use domain::ids::{ContactId, MessageId, RunId, TenantId};
use domain::message::{MessageCommand, MessageError, MessageStatus, Resolution};
use sqlx::PgPool;
use uuid::Uuid;

use crate::event_store::{Actor, Addressed, CommandError, MessageStore};

/// A call that WhatsApp may or may not have accepted.
#[derive(Debug, Clone)]
pub struct UnknownOutcome {
    pub message_id: MessageId,
    pub tenant_id: TenantId,
    pub run_id: RunId,
    pub campaign_id: Option<Uuid>,
    pub contact_id: Option<ContactId>,
    /// The attempt whose outcome is not known, counted from 1.
    pub attempt: i32,
    pub unknown_since: DateTime<Utc>,
    /// `None`: a word from WhatsApp is still waited for.
    pub unconfirmed_at: Option<DateTime<Utc>>,
}

impl UnknownOutcome {
    pub fn status(&self) -> MessageStatus {
        if self.unconfirmed_at.is_some() { MessageStatus::Unconfirmed } else { MessageStatus::Unknown }
    }
}

/// What a person's word led to.
#[derive(Debug, Clone, Copy)]
pub struct Settled {
    /// The message's status now.
    pub status: MessageStatus,
    /// `None`: nothing had to be done; a webhook or somebody else was faster.
    pub position: Option<Position>,
}

#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// There is no such message of this tenant.
    #[error("there is no such message")]
    NotFound,
    /// Its outcome is not in doubt, or the campaign does not allow a second call.
    #[error("a message that is {} cannot be settled so", .status.name())]
    NotAllowed { status: MessageStatus },
    /// Its run has ended, so that it would not be sent.
    #[error("there is no open run with such a message in doubt; what has ended is not sent again")]
    RunEnded,
    #[error("the doubts could not be read")]
    Database(#[from] sqlx::Error),
    #[error("the message could not be changed")]
    Store(#[source] CommandError<MessageError>),
}

/// The oldest doubts of a tenant, or of all; of one run if it is given. `after` is the last one of the page before.
pub async fn list(
    pool: &PgPool,
    tenant: Option<TenantId>,
    run: Option<RunId>,
    after: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<UnknownOutcome>, sqlx::Error> {
    let (after_at, after_id) = after.unzip();
    let rows = sqlx::query!(
        r#"SELECT u.message_id, u.tenant_id, u.run_id, u.attempt, u.unknown_since, u.unconfirmed_at,
                  g.campaign_id AS "campaign_id?", r.contact_id AS "contact_id?"
           FROM unknown_outcomes u
           LEFT JOIN run_gates g ON g.run_id = u.run_id
           LEFT JOIN message_recipients r ON r.message_id = u.message_id
           WHERE ($1::uuid IS NULL OR u.tenant_id = $1) AND ($2::uuid IS NULL OR u.run_id = $2)
             AND ($3::timestamptz IS NULL OR (u.unknown_since, u.message_id) > ($3, $4))
           ORDER BY u.unknown_since, u.message_id LIMIT $5"#,
        tenant.map(|tenant| tenant.0),
        run.map(|run| run.0),
        after_at,
        after_id,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| UnknownOutcome {
            message_id: MessageId(row.message_id),
            tenant_id: TenantId(row.tenant_id),
            run_id: RunId(row.run_id),
            campaign_id: row.campaign_id,
            contact_id: row.contact_id.map(ContactId),
            attempt: row.attempt,
            unknown_since: row.unknown_since,
            unconfirmed_at: row.unconfirmed_at,
        })
        .collect())
}

/// Carries out a person's word about a doubt. Given again, it does nothing.
pub async fn settle(
    pool: &PgPool,
    messages: &MessageStore,
    tenant: TenantId,
    message: MessageId,
    resolution: Resolution,
    actor: Actor,
    now: DateTime<Utc>,
) -> Result<Settled, SettleError> {
    if resolution == Resolution::Resend && !may_be_sent_again(pool, tenant, message).await? {
        return Err(SettleError::RunEnded);
    }
    let envelope = CommandEnvelope::new(tenant, now, MessageCommand::Settle { resolution });
    match messages.execute(Addressed::new(message, envelope, actor)).await {
        Ok(committed) => {
            let position = committed.position();
            committed.state.status().map(|status| Settled { status, position }).ok_or(SettleError::NotFound)
        }
        Err(CommandError::Refused(MessageError::NotAllowed { status })) => Err(SettleError::NotAllowed { status }),
        Err(CommandError::Refused(_)) => Err(SettleError::NotFound),
        Err(error) => Err(SettleError::Store(error)),
    }
}

async fn may_be_sent_again(pool: &PgPool, tenant: TenantId, message: MessageId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM unknown_outcomes u JOIN run_gates g ON g.run_id = u.run_id
               WHERE u.message_id = $1 AND u.tenant_id = $2 AND g.state IN ('open', 'paused')
           ) AS "open!""#,
        message.0,
        tenant.0,
    )
    .fetch_one(pool)
    .await
}
