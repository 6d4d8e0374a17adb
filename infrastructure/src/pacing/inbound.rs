//! Messages from users on their way from the webhooks to the process that paces their number.
//!
//! The interpreter adds them to a counter in the transaction that ends its step, so that none is counted twice. The holder
//! of the sender's lease reads the counter with the sender's other settings and hands what has been added since to
//! [`super::Departures::inbound`]. It counts from the moment of learning, so no times have to be kept; the counter begins
//! anywhere, since the holder compares it only with what it read before.

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::SenderId;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A message that is older counts no more: webhooks come again for days, and WhatsApp has counted it long ago.
const AGE_MAX: TimeDelta = TimeDelta::seconds(10);

/// Adds messages: the sender that they reached, when, and how many. All calls lock in the same order.
pub async fn record_in_tx(
    connection: &mut PgConnection,
    messages: &[(SenderId, DateTime<Utc>, i64)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let fresh = messages.iter().filter(|(_, at, count)| *count > 0 && *at >= now - AGE_MAX);
    let (senders, counts): (Vec<Uuid>, Vec<i64>) = fresh.map(|(sender, _, count)| (sender.0, *count)).unzip();
    if senders.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO sender_inbound AS known (sender_id, received)
         SELECT t.sender_id, sum(t.received)::bigint FROM unnest($1::uuid[], $2::bigint[]) AS t(sender_id, received)
         GROUP BY t.sender_id ORDER BY t.sender_id
         ON CONFLICT (sender_id) DO UPDATE SET received = known.received + excluded.received",
        &senders,
        &counts,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// How many messages the sender has received in all.
pub async fn received(pool: &PgPool, sender: SenderId) -> Result<i64, sqlx::Error> {
    let received =
        sqlx::query_scalar!("SELECT received FROM sender_inbound WHERE sender_id = $1", sender.0).fetch_optional(pool);
    Ok(received.await?.unwrap_or_default())
}
