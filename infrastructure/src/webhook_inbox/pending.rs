//! The bodies that wait to be interpreted, taken and ended in steps.
//!
//! A pending row is written once and deleted once. Who may take it is said by a lease for all of them, and which are
//! being worked on by one row of `webhook_steps` for many of them, which is written when the step is taken and goes when
//! it ends. So a step row that outlives its process names the bodies of which one may have ended it; whoever has the
//! lease next counts an attempt for each of these. What has failed once is taken alone from then on, so that of all the
//! bodies of a step the innocent ones pass at once, and only the one that fails alone, again and again, is parked.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::SenderId;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::reading::Located;
use super::unknown::Unknown;
use crate::dead_letters::{self, Parked, Source};
use crate::pacing;

/// A body that failed alone is tried again after this, times its attempts.
const FAILED_PAUSE: Duration = Duration::from_millis(250);

/// What one step takes at most. A single body may be larger.
#[derive(Debug, Clone, Copy)]
pub(super) struct StepLimits {
    pub(super) bodies: i64,
    pub(super) bytes: i64,
}

pub(super) struct Body {
    pub(super) id: i64,
    pub(super) body: Vec<u8>,
    pub(super) verified_senders: Vec<Uuid>,
    /// The items that are meant; `None`: all.
    pub(super) items: Option<Vec<i32>>,
    /// How often it has failed.
    pub(super) attempts: i32,
}

/// Bodies that are being worked on.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) id: Uuid,
    /// In order.
    pub(super) body_ids: Vec<i64>,
    /// Those of which only some items are meant.
    partial: Vec<(i64, Vec<i32>)>,
}

impl Step {
    fn of(id: Uuid, bodies: &[Body]) -> Self {
        let partial = bodies.iter().filter_map(|body| Some((body.id, body.items.clone()?)));
        Self { id, body_ids: bodies.iter().map(|body| body.id).collect(), partial: partial.collect() }
    }

    fn whole(&self) -> Vec<i64> {
        let is_partial = |id: &i64| self.partial.iter().any(|(partial, _)| partial == id);
        self.body_ids.iter().copied().filter(|id| !is_partial(id)).collect()
    }
}

/// What of a step's bodies could not be applied.
#[derive(Default)]
pub(super) struct Rest {
    pub(super) parked: Vec<Parked>,
    /// Statuses whose message is not known yet.
    pub(super) waiting: Vec<Located>,
    /// Messages from users and when they were sent.
    pub(super) inbound: Vec<(SenderId, DateTime<Utc>)>,
    /// What is not interpreted.
    pub(super) unknown: Unknown,
}

pub(super) struct Pending {
    pub(super) pool: PgPool,
    /// This process, as the holder of the lease.
    pub(super) holder: Uuid,
    pub(super) lease: &'static str,
    pub(super) attempts_max: i32,
}

impl Pending {
    /// The next bodies in order, except for those of the step that is under way. Nothing unless the lease is held.
    pub(super) async fn take(
        &self,
        limits: StepLimits,
        under_way: Option<&Step>,
    ) -> Result<(Step, Vec<Body>), sqlx::Error> {
        let id = Uuid::new_v4();
        let ids = under_way.map_or(&[][..], |step| &step.body_ids);
        let (first, last) = (ids.first().copied().unwrap_or(0), ids.last().copied().unwrap_or(0));
        // The lateral join fetches each body by its key, whatever the planner knows of two tables that fill and empty
        // all the time: any other plan reads bodies that were interpreted long ago.
        let rows = sqlx::query!(
            r#"WITH due AS (
                   SELECT p.body_id, p.items, b.body, b.verified_senders,
                          sum(octet_length(b.body)) OVER (ORDER BY p.body_id) - octet_length(b.body) AS bytes_before
                   FROM (
                       SELECT body_id, items FROM webhook_pending
                       WHERE attempts = 0 AND NOT body_id BETWEEN $3 AND $4
                         AND EXISTS (SELECT FROM leases WHERE name = $5 AND holder = $6
                                     AND expires_at > clock_timestamp())
                       ORDER BY body_id LIMIT $1
                   ) p
                   CROSS JOIN LATERAL (
                       SELECT body, verified_senders FROM webhook_bodies WHERE id = p.body_id OFFSET 0
                   ) b
               ), taken AS (
                   SELECT body_id, items, body, verified_senders FROM due WHERE bytes_before < $2
               ), step AS (
                   INSERT INTO webhook_steps (id, holder, body_ids)
                   SELECT $7, $6, array_agg(body_id) FROM taken HAVING count(*) > 0
               )
               SELECT body_id AS "body_id!", items AS "items?", body AS "body!",
                      verified_senders AS "verified_senders!"
               FROM taken ORDER BY body_id"#,
            limits.bodies,
            limits.bytes,
            first,
            last,
            self.lease,
            self.holder,
            id,
        )
        .fetch_all(&self.pool)
        .await?;
        let bodies: Vec<Body> = rows
            .into_iter()
            .map(|row| Body {
                id: row.body_id,
                body: row.body,
                verified_senders: row.verified_senders,
                items: row.items,
                attempts: 0,
            })
            .collect();
        Ok((Step::of(id, &bodies), bodies))
    }

    /// A body that has failed before and may be tried again, alone. Nothing unless the lease is held.
    pub(super) async fn take_failed(&self) -> Result<Option<(Step, Body)>, sqlx::Error> {
        let id = Uuid::new_v4();
        let row = sqlx::query!(
            r#"WITH taken AS (
                   SELECT body_id, items, attempts FROM webhook_pending
                   WHERE attempts > 0 AND not_before <= clock_timestamp()
                     AND EXISTS (SELECT FROM leases WHERE name = $1 AND holder = $2
                                 AND expires_at > clock_timestamp())
                   ORDER BY not_before, body_id LIMIT 1
               ), step AS (
                   INSERT INTO webhook_steps (id, holder, body_ids) SELECT $3, $2, ARRAY[body_id] FROM taken
               )
               SELECT t.body_id, t.items AS "items?", t.attempts, b.body, b.verified_senders
               FROM taken t JOIN webhook_bodies b ON b.id = t.body_id"#,
            self.lease,
            self.holder,
            id,
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(row.map(|row| {
            let body = Body {
                id: row.body_id,
                body: row.body,
                verified_senders: row.verified_senders,
                items: row.items,
                attempts: row.attempts,
            };
            (Step::of(id, std::slice::from_ref(&body)), body)
        }))
    }

    /// The step is done: its bodies are not pending any more, and what is left of them lies where it belongs, together.
    /// A status that waits is visible only when its body is not pending any more: whoever takes it up makes it pending
    /// again.
    pub(super) async fn end(&self, step: &Step, rest: Rest, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        if !rest.waiting.is_empty() {
            insert_waiting(&mut tx, rest.waiting, now).await?;
        }
        if !rest.parked.is_empty() {
            dead_letters::park_in_tx(&mut tx, &rest.parked, now).await?;
        }
        let inbound: Vec<_> = rest.inbound.iter().map(|(sender, at)| (*sender, *at, 1)).collect();
        pacing::inbound::record_in_tx(&mut tx, &inbound, now).await?;
        rest.unknown.record_in_tx(&mut tx, now).await?;
        // Items that were given back while the step was under way are still to be interpreted.
        for (body_id, items) in &step.partial {
            sqlx::query!("DELETE FROM webhook_pending WHERE body_id = $1 AND items = $2", body_id, items)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query!(
            "WITH interpreted AS (DELETE FROM webhook_pending WHERE body_id = ANY($1) AND items IS NULL)
             DELETE FROM webhook_steps WHERE id = $2",
            &step.whole(),
            step.id,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await
    }

    /// The step comes again as it is: the surroundings were in trouble, not the bodies.
    pub(super) async fn give_back(&self, step: &Step) -> Result<(), sqlx::Error> {
        sqlx::query!("DELETE FROM webhook_steps WHERE id = $1", step.id).execute(&self.pool).await?;
        Ok(())
    }

    /// Something about one of the bodies made the step fail.
    pub(super) async fn fail(&self, step: &Step, reason: &str, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        self.count_attempt_in_tx(&mut tx, &step.body_ids, reason, now).await?;
        sqlx::query!("DELETE FROM webhook_steps WHERE id = $1", step.id).execute(&mut *tx).await?;
        tx.commit().await
    }

    /// Counts an attempt for the bodies of every step that did not end: their processes have died, or are so late that
    /// they lost the lease. This process' own were only put off. To be called with the lease, before a step is taken.
    pub(super) async fn recover(&self, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        let steps = sqlx::query!("DELETE FROM webhook_steps RETURNING holder, body_ids").fetch_all(&mut *tx).await?;
        for step in steps.iter().filter(|step| step.holder != self.holder) {
            let reason = "the process ended while it was interpreted";
            self.count_attempt_in_tx(&mut tx, &step.body_ids, reason, now).await?;
        }
        tx.commit().await
    }

    /// Bodies that failed together are tried alone next, at once: most of them have nothing to do with it. Only one that
    /// failed alone can be parked.
    async fn count_attempt_in_tx(
        &self,
        connection: &mut PgConnection,
        body_ids: &[i64],
        reason: &str,
        now: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        let pause_s = if body_ids.len() > 1 { 0.0 } else { FAILED_PAUSE.as_secs_f64() };
        let counted = sqlx::query!(
            "UPDATE webhook_pending
             SET attempts = attempts + 1,
                 not_before = clock_timestamp() + make_interval(secs => $2::double precision * (attempts + 1))
             WHERE body_id = ANY($1) RETURNING body_id, items, attempts",
            body_ids,
            pause_s,
        )
        .fetch_all(&mut *connection)
        .await?;
        tracing::warn!(webhooks = counted.len(), reason, "webhooks failed to be interpreted; each is tried alone");
        let [only] = &counted[..] else { return Ok(()) };
        if body_ids.len() > 1 || only.attempts < self.attempts_max {
            return Ok(());
        }
        let references = match &only.items {
            None => vec![only.body_id.to_string()],
            Some(items) => items.iter().map(|item| format!("{}/{item}", only.body_id)).collect(),
        };
        let parked: Vec<Parked> = references
            .into_iter()
            .map(|reference| Parked {
                source: Source::Webhook,
                reference,
                tenant_id: None,
                reason: format!("could not be interpreted: {reason}"),
                attempts: u32::try_from(only.attempts).unwrap_or_default(),
            })
            .collect();
        dead_letters::park_in_tx(&mut *connection, &parked, now).await?;
        sqlx::query!("DELETE FROM webhook_pending WHERE body_id = $1", only.body_id).execute(connection).await?;
        Ok(())
    }

    /// Makes statuses pending again whose message is known by now, and gives up those that waited since before
    /// `since_min`: nobody will ever name their message. `true` if there may be more.
    pub(super) async fn take_up_waiting(&self, since_min: DateTime<Utc>, page: i64) -> Result<bool, sqlx::Error> {
        sqlx::query!(
            "WITH given_up AS (
                 DELETE FROM webhook_waiting WHERE waiting_since < $1 RETURNING sender_id, wamid
             )
             DELETE FROM provider_messages p USING given_up g
             WHERE p.sender_id = g.sender_id AND p.wamid = g.wamid AND p.message_id IS NULL",
            since_min,
        )
        .execute(&self.pool)
        .await?;
        let taken_up = sqlx::query_scalar!(
            r#"WITH known AS (
                   SELECT w.sender_id, w.wamid, w.body_id, w.item
                   FROM webhook_waiting w
                   JOIN provider_messages p ON p.sender_id = w.sender_id AND p.wamid = w.wamid
                   WHERE p.message_id IS NOT NULL
                   ORDER BY w.body_id, w.item LIMIT $1 FOR UPDATE OF w SKIP LOCKED
               ), taken_up AS (
                   DELETE FROM webhook_waiting w USING known k
                   WHERE w.sender_id = k.sender_id AND w.wamid = k.wamid AND w.body_id = k.body_id AND w.item = k.item
                   RETURNING w.body_id, w.item
               ), pending AS (
                   INSERT INTO webhook_pending (body_id, items)
                   SELECT body_id, array_agg(item ORDER BY item) FROM taken_up GROUP BY body_id
                   ON CONFLICT (body_id) DO UPDATE
                   SET items = CASE WHEN webhook_pending.items IS NOT NULL
                                    THEN webhook_pending.items || excluded.items END
               )
               SELECT count(*) AS "count!" FROM taken_up"#,
            page,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(taken_up >= page)
    }
}

/// Leaves statuses at the row where their message will be known; the row is created here if the dispatcher has not
/// created it yet.
async fn insert_waiting(
    connection: &mut PgConnection,
    mut waiting: Vec<Located>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    // In the order in which appends write the same rows, so that the two cannot deadlock.
    waiting.sort_by(|a, b| (a.sender_id, &a.status.wamid).cmp(&(b.sender_id, &b.status.wamid)));
    let mut senders = Vec::with_capacity(waiting.len());
    let mut wamids = Vec::with_capacity(waiting.len());
    let mut body_ids = Vec::with_capacity(waiting.len());
    let mut items = Vec::with_capacity(waiting.len());
    for status in waiting {
        senders.push(status.sender_id.0);
        wamids.push(status.status.wamid);
        body_ids.push(status.place.body_id);
        items.push(status.place.item);
    }
    sqlx::query!(
        "INSERT INTO provider_messages (sender_id, wamid, created_at)
         SELECT t.sender_id, t.wamid, $3 FROM unnest($1::uuid[], $2::text[]) AS t(sender_id, wamid)
         ON CONFLICT (sender_id, wamid) DO NOTHING",
        &senders,
        &wamids,
        now,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO webhook_waiting (sender_id, wamid, body_id, item, waiting_since)
         SELECT t.sender_id, t.wamid, t.body_id, t.item, $5
         FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::integer[]) AS t(sender_id, wamid, body_id, item)
         ON CONFLICT DO NOTHING",
        &senders,
        &wamids,
        &body_ids,
        &items,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}
