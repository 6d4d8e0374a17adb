//! Which messages are fed next: the runs of a queue take turns.

use std::collections::HashMap;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::aggregate::Position;
use domain::ids::{ContactId, MessageId, RunId, TenantId};
use sqlx::PgPool;
use uuid::Uuid;

use crate::dispatch_queue::DispatchItem;

/// How often runs that have more to offer are asked again in one go.
const ROUNDS_MAX: usize = 4;

struct Row {
    message_id: Uuid,
    attempt: i32,
    tenant_id: Uuid,
    run_id: Uuid,
    contact_id: Uuid,
    position: Position,
}

impl Row {
    fn item(&self) -> DispatchItem {
        DispatchItem {
            message_id: MessageId(self.message_id),
            attempt: u32::try_from(self.attempt).unwrap_or(u32::MAX),
            tenant_id: TenantId(self.tenant_id),
            run_id: RunId(self.run_id),
            contact_id: ContactId(self.contact_id),
        }
    }
}

/// How far each run has been fed: everything at or below the position is in the queue or beyond.
pub(super) type Cursors = HashMap<Uuid, Position>;

/// The next messages of these runs that may be sent at once, about `room` of them; the cursors move behind them. The
/// first of every run come before the second of any, and what one run leaves is the others'.
pub(super) async fn at_once(
    pool: &PgPool,
    runs: &[Uuid],
    cursors: &mut Cursors,
    room: usize,
) -> Result<Vec<DispatchItem>, sqlx::Error> {
    let mut items = Vec::new();
    let mut open = runs.to_vec();
    for _ in 0..ROUNDS_MAX {
        let missing = room.saturating_sub(items.len());
        if missing == 0 || open.is_empty() {
            break;
        }
        let share = missing.div_ceil(open.len());
        let after: Vec<Position> = open.iter().map(|run| cursors.get(run).copied().unwrap_or_default()).collect();
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT r.message_id, r.attempt, r.tenant_id, r.run_id, r.contact_id, r.position
               FROM unnest($1::uuid[], $2::bigint[]) AS run (id, after)
               CROSS JOIN LATERAL (
                   SELECT message_id, attempt, tenant_id, run_id, contact_id, position,
                          row_number() OVER (ORDER BY position) AS turn
                   FROM ready_list
                   WHERE run_id = run.id AND due_at IS NULL AND position > run.after
                   ORDER BY position LIMIT $3
               ) r
               ORDER BY r.turn, r.run_id"#,
            &open,
            &after,
            i64::try_from(share).unwrap_or(i64::MAX),
        )
        .fetch_all(pool)
        .await?;
        let mut taken: HashMap<Uuid, usize> = HashMap::new();
        for row in &rows {
            *taken.entry(row.run_id).or_default() += 1;
            cursors.insert(row.run_id, row.position);
        }
        items.extend(rows.iter().map(Row::item));
        open.retain(|run| taken.get(run).copied().unwrap_or_default() >= share);
    }
    Ok(items)
}

/// Messages of these runs that had to wait and are due now, at most `limit`.
pub(super) async fn due(
    pool: &PgPool,
    runs: &[Uuid],
    now: DateTime<Utc>,
    limit: usize,
) -> Result<Vec<DispatchItem>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT r.message_id, r.attempt, r.tenant_id, r.run_id, r.contact_id, r.position
           FROM unnest($1::uuid[]) AS run (id)
           CROSS JOIN LATERAL (
               SELECT message_id, attempt, tenant_id, run_id, contact_id, position, due_at FROM ready_list
               WHERE run_id = run.id AND due_at IS NOT NULL AND due_at <= $2
               ORDER BY due_at LIMIT $3
           ) r
           ORDER BY r.due_at, r.message_id LIMIT $3"#,
        runs,
        now,
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().map(Row::item).collect())
}

/// Those of these messages that still wait to be sent at once.
pub(super) async fn still_ready(pool: &PgPool, messages: &[Uuid]) -> Result<Vec<DispatchItem>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT message_id, attempt, tenant_id, run_id, contact_id, position FROM ready_list
         WHERE message_id = ANY($1) AND due_at IS NULL",
        messages,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.iter().map(Row::item).collect())
}

/// These were due and have been published: from now on they are like those that may be sent at once. Rows that are being
/// changed at this moment are passed over; whoever changes them knows better.
pub(super) async fn no_longer_later(pool: &PgPool, items: &[DispatchItem]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = items.iter().map(|item| item.message_id.0).collect();
    let attempts: Vec<i32> = items.iter().map(|item| i32::try_from(item.attempt).unwrap_or(i32::MAX)).collect();
    sqlx::query!(
        "UPDATE ready_list SET due_at = NULL WHERE message_id IN (
             SELECT r.message_id FROM ready_list r
             JOIN unnest($1::uuid[], $2::integer[]) AS t(message_id, attempt)
               ON r.message_id = t.message_id AND r.attempt = t.attempt
             FOR UPDATE OF r SKIP LOCKED)",
        &ids,
        &attempts,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// These wait for so long, by the engine's clock, before they are fed again.
pub(crate) async fn postpone(
    pool: &PgPool,
    items: &[(DispatchItem, Duration)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (mut ids, mut attempts, mut due_at) = (Vec::new(), Vec::new(), Vec::new());
    for (item, wait) in items {
        ids.push(item.message_id.0);
        attempts.push(i32::try_from(item.attempt).unwrap_or(i32::MAX));
        due_at.push(now + TimeDelta::from_std(*wait).unwrap_or(TimeDelta::MAX));
    }
    sqlx::query!(
        "UPDATE ready_list r SET due_at = t.due_at
         FROM (
             SELECT l.message_id, u.due_at
             FROM unnest($1::uuid[], $2::integer[], $3::timestamptz[]) AS u(message_id, attempt, due_at)
             JOIN ready_list l ON l.message_id = u.message_id AND l.attempt = u.attempt
             WHERE l.due_at IS DISTINCT FROM 'infinity'
             FOR UPDATE OF l SKIP LOCKED
         ) t
         WHERE r.message_id = t.message_id",
        &ids,
        &attempts,
        &due_at,
    )
    .execute(pool)
    .await?;
    Ok(())
}
