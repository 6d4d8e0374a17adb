//! What `ektola status` shows.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::campaign::CampaignStatus;
use domain::ids::TenantId;
use domain::message::MessageStatus;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

/// Names that are shown of what is not interpreted.
const UNKNOWN_SHOWN_MAX: i64 = 100;
/// The statuses in which somebody or something still has to act.
const OPEN: [MessageStatus; 3] = [MessageStatus::Pending, MessageStatus::Dispatching, MessageStatus::Unknown];

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    pub active_campaigns: i64,
    /// By status; a status that no run has is not listed.
    pub runs: BTreeMap<String, i64>,
    /// By status: pending, dispatching and unknown are always listed.
    pub open_messages: BTreeMap<MessageStatus, i64>,
    /// Messages that may be sent as soon as it is their turn; the next few seconds of them lie in the dispatch queue.
    pub ready: i64,
    /// Messages that are sent later: retries, and contacts that had a message a moment ago.
    pub later: i64,
    /// When the first of those is due.
    pub next_due_at: Option<DateTime<Utc>>,
    /// Messages that wait for a person; see the dead letters.
    pub parked: i64,
    /// The last position of the log.
    pub log_position: Position,
    /// What WhatsApp has sent that this release does not interpret: of all tenants, the most frequent first.
    pub unknown_webhooks: Vec<UnknownWebhookRow>,
    pub subscriptions: Vec<SubscriptionRow>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownWebhookRow {
    /// `field`, `status` or `message`.
    pub kind: String,
    pub name: String,
    pub count: i64,
    /// The newest stored webhook that has it.
    pub last_body_id: i64,
    pub last_seen_at: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubscriptionRow {
    pub name: String,
    /// Everything at or below this has taken effect.
    pub position: Position,
    /// Positions up to the end of the log. A subscription that is up to date stores its checkpoint once a second while
    /// nothing concerns it, so this may be some thousands without anything being late.
    pub lag: Position,
    /// How long the first event behind the checkpoint has waited, in seconds; 0 if there is none.
    pub lag_seconds: f64,
}

/// Of one tenant, or for the operator of all. The log and its subscriptions serve all tenants together.
pub async fn overview(pool: &PgPool, tenant: Option<TenantId>) -> Result<Overview, sqlx::Error> {
    let tenant = tenant.map(Uuid::from);
    let active_campaigns = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM read_model.campaigns
           WHERE status = $2 AND ($1::uuid IS NULL OR tenant_id = $1)"#,
        tenant,
        CampaignStatus::Active.name(),
    )
    .fetch_one(pool)
    .await?;
    let runs = sqlx::query!(
        r#"SELECT status, count(*) AS "count!" FROM read_model.runs
           WHERE $1::uuid IS NULL OR tenant_id = $1 GROUP BY status"#,
        tenant,
    )
    .fetch_all(pool)
    .await?;
    let queue = sqlx::query!(
        r#"SELECT count(*) FILTER (WHERE due_at IS NULL) AS "ready!",
                  count(*) FILTER (WHERE due_at < 'infinity') AS "later!",
                  min(due_at) FILTER (WHERE due_at < 'infinity') AS next_due_at,
                  count(*) FILTER (WHERE due_at = 'infinity') AS "parked!"
           FROM ready_list WHERE $1::uuid IS NULL OR tenant_id = $1"#,
        tenant,
    )
    .fetch_one(pool)
    .await?;
    let (log_position, subscriptions) = subscriptions(pool).await?;
    Ok(Overview {
        active_campaigns,
        runs: runs.into_iter().map(|row| (row.status, row.count)).collect(),
        open_messages: open_messages(pool, tenant).await?,
        ready: queue.ready,
        later: queue.later,
        next_due_at: queue.next_due_at,
        parked: queue.parked,
        log_position,
        unknown_webhooks: unknown_webhooks(pool).await?,
        subscriptions,
    })
}

async fn open_messages(pool: &PgPool, tenant: Option<Uuid>) -> Result<BTreeMap<MessageStatus, i64>, sqlx::Error> {
    let names = OPEN.map(|status| status.name().to_owned());
    let rows = sqlx::query!(
        r#"SELECT c.key, sum(c.count)::bigint AS "count!"
           FROM read_model.runs r JOIN read_model.run_counts c ON c.run_id = r.id
           WHERE c.kind = 'status' AND c.key = ANY($2) AND ($1::uuid IS NULL OR r.tenant_id = $1)
           GROUP BY c.key"#,
        tenant,
        &names,
    )
    .fetch_all(pool)
    .await?;
    let counts: BTreeMap<String, i64> = rows.into_iter().map(|row| (row.key, row.count)).collect();
    Ok(OPEN.into_iter().map(|status| (status, counts.get(status.name()).copied().unwrap_or(0))).collect())
}

async fn unknown_webhooks(pool: &PgPool) -> Result<Vec<UnknownWebhookRow>, sqlx::Error> {
    sqlx::query_as!(
        UnknownWebhookRow,
        "SELECT kind, name, count, last_body_id, last_seen_at FROM webhook_unknown ORDER BY count DESC, kind, name
         LIMIT $1",
        UNKNOWN_SHOWN_MAX,
    )
    .fetch_all(pool)
    .await
}

/// Every subscription with its lag, and the last position of the log.
pub async fn subscriptions(pool: &PgPool) -> Result<(Position, Vec<SubscriptionRow>), sqlx::Error> {
    // The checkpoints first: a log that has grown meanwhile shows as lag, never as a checkpoint ahead of the log. Times
    // are those of the database on both sides.
    let checkpoints = sqlx::query!(
        r#"SELECT s.name, s.position,
                  extract(epoch FROM clock_timestamp() - next.recorded_at)::float8 AS waited
           FROM subscriptions s
           LEFT JOIN LATERAL (
               SELECT e.recorded_at FROM events e WHERE e.position > s.position ORDER BY e.position LIMIT 1
           ) next ON true
           ORDER BY s.name"#
    )
    .fetch_all(pool)
    .await?;
    let last = sqlx::query_scalar!("SELECT max(position) FROM events").fetch_one(pool).await?.unwrap_or(0);
    // Positions that were lost to a rollback lie behind the last event, and a checkpoint may stand there.
    let lag = |position: Position| (last - position).max(0);
    let rows = checkpoints.into_iter().map(|row| SubscriptionRow {
        lag: lag(row.position),
        lag_seconds: row.waited.unwrap_or(0.0).max(0.0),
        name: row.name,
        position: row.position,
    });
    Ok((last, rows.collect()))
}
