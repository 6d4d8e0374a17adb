//! Words of people of whom only a business-scoped id is known. They wait until that id is seen together with a contact.

use chrono::{DateTime, Utc};
use domain::consent::{ConsentSource, Word};
use domain::ids::{ContactId, TenantId};
use sqlx::PgPool;
use uuid::Uuid;

use super::identities::{Clue, Found};

pub(super) struct Words<'a> {
    pub(super) tenant_id: TenantId,
    pub(super) user_id: &'a str,
    pub(super) word: Word,
    pub(super) source: ConsentSource,
    pub(super) said_at: DateTime<Utc>,
}

/// A word whose speaker is known by now.
pub(super) struct Due {
    pub(super) tenant_id: TenantId,
    user_id: String,
    pub(super) contact_id: ContactId,
    pub(super) opt_in: Option<bool>,
    pub(super) word: Word,
    pub(super) source: ConsentSource,
    pub(super) said_at: DateTime<Utc>,
}

const WORDS: [(&str, Word); 3] =
    [("opt_out", Word::OptOut), ("stop_marketing", Word::StopMarketing), ("resume_marketing", Word::ResumeMarketing)];

fn name_of(word: Word) -> &'static str {
    WORDS.iter().find(|(_, known)| *known == word).map_or("stop_marketing", |(name, _)| name)
}

/// Keeps the last word of each. A stop of everything stays over a later stop of offers.
pub(super) async fn keep(pool: &PgPool, words: &[Words<'_>]) -> Result<(), sqlx::Error> {
    for word in words {
        sqlx::query!(
            "INSERT INTO consent_waiting AS known (tenant_id, user_id, word, source, said_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (tenant_id, user_id) DO UPDATE
             SET word = CASE WHEN known.word = 'opt_out' AND excluded.word = 'stop_marketing' THEN known.word
                             ELSE excluded.word END,
                 source = excluded.source, said_at = excluded.said_at
             WHERE known.said_at <= excluded.said_at",
            word.tenant_id.0,
            word.user_id,
            name_of(word.word),
            word.source.name(),
            word.said_at,
        )
        .execute(pool)
        .await?;
    }
    Ok(())
}

/// What waits of those who have been found by now.
pub(super) async fn due(pool: &PgPool, clues: &[Clue], found: &[Found]) -> Result<Vec<Due>, sqlx::Error> {
    let (mut tenants, mut users, mut contacts): (Vec<Uuid>, Vec<&str>, Vec<Uuid>) = Default::default();
    for (clue, found) in clues.iter().zip(found) {
        if let (Some(user_id), Some(contact)) = (&clue.identity.user_id, &found.contact) {
            tenants.push(clue.tenant_id.0);
            users.push(user_id);
            contacts.push(contact.id.0);
        }
    }
    if tenants.is_empty() {
        return Ok(Vec::new());
    }
    let rows = sqlx::query!(
        r#"SELECT w.tenant_id, w.user_id, w.word, w.source, w.said_at, c.id AS "contact_id!", c.opt_in
           FROM (SELECT DISTINCT * FROM unnest($1::uuid[], $2::text[], $3::uuid[]) AS t(tenant_id, user_id, contact_id)) t
           JOIN consent_waiting w ON w.tenant_id = t.tenant_id AND w.user_id = t.user_id
           JOIN contacts c ON c.id = t.contact_id"#,
        &tenants,
        &users as _,
        &contacts,
    )
    .fetch_all(pool)
    .await?;
    let due = rows.into_iter().map(|row| Due {
        tenant_id: TenantId(row.tenant_id),
        user_id: row.user_id,
        contact_id: ContactId(row.contact_id),
        opt_in: row.opt_in,
        // Checks of the table keep both to what is known here.
        word: WORDS.iter().find(|(name, _)| *name == row.word).map_or(Word::StopMarketing, |(_, word)| *word),
        source: if row.source == ConsentSource::Keyword.name() {
            ConsentSource::Keyword
        } else {
            ConsentSource::UserPreferences
        },
        said_at: row.said_at,
    });
    Ok(due.collect())
}

/// These have been heeded; whoever has said something else meanwhile waits on.
pub(super) async fn done(pool: &PgPool, due: &[Due]) -> Result<(), sqlx::Error> {
    if due.is_empty() {
        return Ok(());
    }
    let (mut tenants, mut users, mut times): (Vec<Uuid>, Vec<&str>, Vec<DateTime<Utc>>) = Default::default();
    for due in due {
        tenants.push(due.tenant_id.0);
        users.push(&due.user_id);
        times.push(due.said_at);
    }
    sqlx::query!(
        "DELETE FROM consent_waiting w
         USING unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS t(tenant_id, user_id, said_at)
         WHERE w.tenant_id = t.tenant_id AND w.user_id = t.user_id AND w.said_at = t.said_at",
        &tenants,
        &users as _,
        &times,
    )
    .execute(pool)
    .await?;
    Ok(())
}
