use std::time::Duration;

use chrono::TimeDelta;
use domain::aggregate::CommandEnvelope;
use domain::ids::TenantId;
use domain::message::{MessageCommand, Resolution};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::event_store::{Actor, Addressed, CommandError, MessageStore};

#[derive(Debug, Clone)]
pub struct UnknownConfig {
    /// After this without a word from WhatsApp an unknown outcome is unconfirmed.
    pub unconfirmed_after: Duration,
    /// After this a message is sent again whose campaign asks for that.
    pub resend_after: Duration,
    /// No message is sent again that was attempted so often.
    pub attempts_max: u32,
    /// How often it is looked.
    pub poll: Duration,
}

/// Ends the waiting for a word from WhatsApp.
pub struct UnknownWindow {
    pub pool: PgPool,
    pub clock: Clock,
    pub messages: MessageStore,
    pub config: UnknownConfig,
}

/// Outcomes handled in one go.
const PAGE: i64 = 500;

impl UnknownWindow {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            if let Err(error) = self.turn().await {
                tracing::warn!(%error, "unknown outcomes could not be looked at; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(self.config.poll) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    async fn turn(&self) -> Result<(), sqlx::Error> {
        let now = self.clock.now();
        let before = |window| now - TimeDelta::from_std(window).unwrap_or(TimeDelta::MAX);
        // A message of a run that has ended is not sent any more.
        let due = sqlx::query!(
            r#"(SELECT u.message_id AS "message_id!", u.tenant_id AS "tenant_id!", true AS "resend!"
                FROM unknown_outcomes u JOIN run_gates g ON g.run_id = u.run_id
                WHERE u.unconfirmed_at IS NULL AND u.resend AND u.unknown_since <= $2
                  AND u.attempt < $3 AND g.state IN ('open', 'paused')
                ORDER BY u.unknown_since LIMIT $4)
               UNION ALL
               (SELECT u.message_id, u.tenant_id, false
                FROM unknown_outcomes u LEFT JOIN run_gates g ON g.run_id = u.run_id
                WHERE u.unconfirmed_at IS NULL AND u.unknown_since <= $1
                  AND NOT (u.resend AND u.attempt < $3 AND coalesce(g.state IN ('open', 'paused'), false))
                ORDER BY u.unknown_since LIMIT $4)"#,
            before(self.config.unconfirmed_after),
            before(self.config.resend_after),
            i32::try_from(self.config.attempts_max).unwrap_or(i32::MAX),
            PAGE,
        )
        .fetch_all(&self.pool)
        .await?;
        if due.is_empty() {
            return Ok(());
        }
        let commands = due
            .iter()
            .map(|row| {
                let resolution = if row.resend { Resolution::Resend } else { Resolution::Unconfirmed };
                let settle = MessageCommand::Settle { resolution };
                let envelope = CommandEnvelope::new(TenantId(row.tenant_id), now, settle);
                Addressed::new(row.message_id, envelope, Actor::Engine("unknown"))
            })
            .collect();
        let (mut resent, mut unconfirmed) = (0_usize, 0_usize);
        for (row, answer) in due.iter().zip(self.messages.execute_many(commands).await) {
            match answer {
                Ok(committed) if committed.events.is_empty() => {}
                Ok(_) if row.resend => resent += 1,
                Ok(_) => unconfirmed += 1,
                // A webhook was faster.
                Err(CommandError::Refused(_)) => {}
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "an unknown outcome is looked at again later"
                    );
                }
            }
        }
        if resent + unconfirmed > 0 {
            tracing::info!(resent, unconfirmed, "unknown outcomes have waited long enough");
        }
        Ok(())
    }
}
