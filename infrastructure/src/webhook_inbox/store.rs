use chrono::{DateTime, Utc};
use domain::ids::SenderId;
use sqlx::PgPool;
use uuid::Uuid;

/// Stores a raw body and the note that it has to be interpreted, together. `verified_senders` are those whose app
/// secret verified the signature: nobody else's statuses in it will be believed.
pub async fn store(
    pool: &PgPool,
    body: &[u8],
    verified_senders: &[SenderId],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let senders: Vec<Uuid> = verified_senders.iter().map(|sender| sender.0).collect();
    sqlx::query!(
        "WITH stored AS (
             INSERT INTO webhook_bodies (received_at, body, verified_senders) VALUES ($1, $2, $3) RETURNING id
         )
         INSERT INTO webhook_pending (body_id, not_before) SELECT id, '-infinity' FROM stored",
        now,
        body,
        &senders,
    )
    .execute(pool)
    .await?;
    Ok(())
}
