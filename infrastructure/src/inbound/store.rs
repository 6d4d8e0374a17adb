//! The rows of what users said.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::identities::Found;
use super::words::Heard;

/// Of each whether it is heard for the first time; what stands there twice is new once.
pub(super) async fn new_ones(pool: &PgPool, heard: &[Heard]) -> Result<Vec<bool>, sqlx::Error> {
    if heard.is_empty() {
        return Ok(Vec::new());
    }
    let senders: Vec<Uuid> = heard.iter().map(|heard| heard.sender_id.0).collect();
    let wamids: Vec<&str> = heard.iter().map(|heard| heard.wamid.as_str()).collect();
    let rows = sqlx::query!(
        "SELECT i.sender_id, i.wamid FROM unnest($1::uuid[], $2::text[]) AS t(sender_id, wamid)
         JOIN inbound_messages i ON i.sender_id = t.sender_id AND i.wamid = t.wamid",
        &senders,
        &wamids as _,
    )
    .fetch_all(pool)
    .await?;
    let mut known: HashSet<(Uuid, String)> = rows.into_iter().map(|row| (row.sender_id, row.wamid)).collect();
    Ok(heard.iter().map(|heard| known.insert((heard.sender_id.0, heard.wamid.clone()))).collect())
}

#[derive(Default)]
struct Columns<'a> {
    senders: Vec<Uuid>,
    wamids: Vec<&'a str>,
    tenants: Vec<Uuid>,
    contacts: Vec<Option<Uuid>>,
    wa_ids: Vec<Option<&'a str>>,
    user_ids: Vec<Option<&'a str>>,
    kinds: Vec<&'a str>,
    texts: Vec<Option<&'a str>>,
    payloads: Vec<Option<&'a str>>,
    contexts: Vec<Option<&'a str>>,
    messages: Vec<Option<Uuid>>,
    at: Vec<DateTime<Utc>>,
    raw: Vec<&'a Value>,
}

pub(super) async fn insert<'a>(
    pool: &PgPool,
    rows: impl Iterator<Item = (&'a Heard, &'a Found)>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let mut columns = Columns::default();
    for (heard, found) in rows {
        columns.senders.push(heard.sender_id.0);
        columns.wamids.push(&heard.wamid);
        columns.tenants.push(heard.tenant_id.0);
        columns.contacts.push(found.contact.as_ref().map(|contact| contact.id.0));
        columns.wa_ids.push(heard.from.wa_id.as_deref());
        columns.user_ids.push(heard.from.user_id.as_deref());
        columns.kinds.push(&heard.kind);
        columns.texts.push(heard.text.as_deref());
        columns.payloads.push(heard.payload.as_deref());
        columns.contexts.push(heard.context_wamid.as_deref());
        columns.messages.push(found.message_id);
        columns.at.push(heard.at.unwrap_or(now));
        columns.raw.push(&heard.raw);
    }
    if columns.senders.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO inbound_messages (sender_id, wamid, tenant_id, contact_id, wa_id, user_id, kind, text, payload,
                                       context_wamid, message_id, at, received_at, raw)
         SELECT t.sender_id, t.wamid, t.tenant_id, t.contact_id, t.wa_id, t.user_id, t.kind, t.text, t.payload,
                t.context_wamid, t.message_id, t.at, $14, t.raw
         FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[],
                     $9::text[], $10::text[], $11::uuid[], $12::timestamptz[], $13::jsonb[])
             AS t(sender_id, wamid, tenant_id, contact_id, wa_id, user_id, kind, text, payload, context_wamid,
                  message_id, at, raw)
         ORDER BY t.sender_id, t.wamid
         ON CONFLICT (sender_id, wamid) DO NOTHING",
        &columns.senders,
        &columns.wamids as _,
        &columns.tenants,
        &columns.contacts as &[Option<Uuid>],
        &columns.wa_ids as _,
        &columns.user_ids as _,
        &columns.kinds as _,
        &columns.texts as _,
        &columns.payloads as _,
        &columns.contexts as _,
        &columns.messages as &[Option<Uuid>],
        &columns.at,
        &columns.raw as _,
        now,
    )
    .execute(pool)
    .await?;
    Ok(())
}
