//! A contact's consent as people ask for it: what holds, and every word that led there.

use chrono::{DateTime, Utc};
use domain::aggregate::{Decider as _, Position};
use domain::consent::{Consent, ConsentEvent, ConsentSource};
use domain::ids::{ContactId, TenantId};
use sqlx::PgPool;

use super::{StandingError, standings};

/// A contact changes its mind less often than this.
const STATEMENTS_MAX: i64 = 1000;

#[derive(Debug, Clone, PartialEq)]
pub struct ConsentRecord {
    pub consent: Consent,
    /// What the uploads say, and when the last of them said it.
    pub uploaded_opt_in: Option<bool>,
    pub uploaded_at: Option<DateTime<Utc>>,
    pub undeliverable_at: Option<DateTime<Utc>>,
    pub cooling_at: Option<DateTime<Utc>>,
    pub statements: Vec<ConsentStatement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentStatement {
    pub position: Position,
    /// When it was said.
    pub at: DateTime<Utc>,
    /// The event's stored name.
    pub event: String,
    /// `None` where the event has none.
    pub source: Option<ConsentSource>,
    /// What the contact was shown.
    pub wording: Option<String>,
}

/// `None` if the tenant has no such contact.
pub async fn record_of(
    pool: &PgPool,
    tenant: TenantId,
    contact: ContactId,
) -> Result<Option<ConsentRecord>, StandingError> {
    let known = sqlx::query!(
        "SELECT opt_in, coalesce(opt_in_at, created_at) AS at FROM contacts WHERE tenant_id = $1 AND id = $2",
        tenant.0,
        contact.0,
    )
    .fetch_optional(pool)
    .await?;
    let Some(known) = known else { return Ok(None) };
    let rows = sqlx::query!(
        "SELECT position, event_type, payload FROM events
         WHERE aggregate_type = 'Consent' AND aggregate_id = $1 AND tenant_id = $2 ORDER BY sequence LIMIT $3",
        contact.to_string(),
        tenant.0,
        STATEMENTS_MAX,
    )
    .fetch_all(pool)
    .await?;
    let mut consent = Consent::default();
    let mut statements = Vec::with_capacity(rows.len());
    for row in rows {
        let event: ConsentEvent =
            serde_json::from_value(row.payload).map_err(|source| StandingError::Unreadable { contact, source })?;
        consent.evolve(&event);
        let (source, wording, at) = match event {
            ConsentEvent::OptedIn { source, wording, at, .. } => (Some(source), wording, at),
            ConsentEvent::OptedOut { source, at, .. }
            | ConsentEvent::MarketingStopped { source, at, .. }
            | ConsentEvent::MarketingResumed { source, at, .. } => (Some(source), None, at),
            ConsentEvent::Erased { at, .. } => (None, None, at),
        };
        statements.push(ConsentStatement { position: row.position, at, event: row.event_type, source, wording });
    }
    let standing = standings(pool, &[contact]).await?.remove(&contact).unwrap_or_default();
    Ok(Some(ConsentRecord {
        consent,
        uploaded_opt_in: known.opt_in,
        uploaded_at: known.at.filter(|_| known.opt_in.is_some()),
        undeliverable_at: standing.undeliverable_at,
        cooling_at: standing.cooling_at,
        statements,
    }))
}
