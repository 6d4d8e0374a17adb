//! Bodies of webhooks hold phone numbers and texts: they are kept for a while, so that they can be interpreted again, and
//! then go for good.

use std::time::Duration;

use chrono::TimeDelta;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// Bodies deleted in one go: short, for the table is written to all the time.
const PAGE: i64 = 1000;
const POLL: Duration = Duration::from_secs(60);
/// While there is more to delete.
const PAGE_PAUSE: Duration = Duration::from_millis(100);

pub struct BodyPurge {
    pub pool: PgPool,
    pub clock: Clock,
    pub kept_days: u32,
}

impl BodyPurge {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.page().await {
                Ok(true) => PAGE_PAUSE,
                Ok(false) => POLL,
                Err(error) => {
                    tracing::warn!(%error, "old webhooks could not be deleted; trying again");
                    POLL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    /// `true` if there may be more. What is not interpreted yet stays, however old it is.
    async fn page(&self) -> Result<bool, sqlx::Error> {
        let before = self.clock.now() - TimeDelta::days(i64::from(self.kept_days));
        let deleted = sqlx::query!(
            // The oldest have the lowest ids, so that this reads from one end of the primary key and stops.
            "DELETE FROM webhook_bodies WHERE id IN (
                 SELECT b.id FROM (SELECT id, received_at FROM webhook_bodies ORDER BY id LIMIT $2) b
                 WHERE b.received_at < $1
                   AND NOT EXISTS (SELECT FROM webhook_pending p WHERE p.body_id = b.id)
             )",
            before,
            PAGE,
        )
        .execute(&self.pool)
        .await?;
        Ok(deleted.rows_affected() >= PAGE.unsigned_abs())
    }
}
