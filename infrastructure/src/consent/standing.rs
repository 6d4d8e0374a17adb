//! What contacts have said, from their streams, and what WhatsApp has said of them; most have neither.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::aggregate::Decider as _;
use domain::consent::{Consent, ConsentEvent};
use domain::ids::ContactId;
use domain::message::{Lane, SkipReason};
use sqlx::PgPool;

#[derive(Debug, thiserror::Error)]
pub enum StandingError {
    #[error("the consents of contacts could not be read")]
    Database(#[from] sqlx::Error),
    #[error("the stored consent of contact {contact} cannot be read")]
    Unreadable {
        contact: ContactId,
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Standing {
    pub consent: Consent,
    /// When a message to the contact could not be delivered.
    pub undeliverable_at: Option<DateTime<Utc>>,
    /// When WhatsApp withheld an offer to the contact.
    pub cooling_at: Option<DateTime<Utc>>,
    /// Some of what the contact said cannot be read by this release, so that it may have been a stop.
    pub(super) unreadable: bool,
}

impl Standing {
    /// Why a message of this lane may not be sent, as far as the contact's word goes.
    pub fn refusal(&self, lane: Lane) -> Option<SkipReason> {
        if self.unreadable { Some(SkipReason::OptedOut) } else { self.consent.refusal(lane) }
    }
}

/// One query, however many contacts. Whoever is not in the answer has the default standing.
pub async fn standings(pool: &PgPool, contacts: &[ContactId]) -> Result<HashMap<ContactId, Standing>, StandingError> {
    let texts: Vec<String> = contacts.iter().map(ContactId::to_string).collect();
    let ids: Vec<uuid::Uuid> = contacts.iter().map(|contact| contact.0).collect();
    let rows = sqlx::query!(
        r#"SELECT e.aggregate_id::uuid AS "id!", e.payload AS "payload?", NULL::text AS kind,
                  NULL::timestamptz AS flagged_at
           FROM unnest($1::text[]) AS wanted (id)
           CROSS JOIN LATERAL (
               SELECT aggregate_id, payload FROM events
               WHERE aggregate_type = 'Consent' AND aggregate_id = wanted.id ORDER BY sequence
           ) e
           UNION ALL
           SELECT f.contact_id, NULL, f.kind, f.flagged_at
           FROM unnest($2::uuid[]) AS wanted (id) JOIN contact_flags f ON f.contact_id = wanted.id"#,
        &texts,
        &ids,
    )
    .fetch_all(pool)
    .await?;
    let mut standings: HashMap<ContactId, Standing> = HashMap::new();
    for row in rows {
        let contact = ContactId(row.id);
        let standing = standings.entry(contact).or_default();
        if let Some(payload) = row.payload {
            match serde_json::from_value::<ConsentEvent>(payload) {
                Ok(event) => standing.consent.evolve(&event),
                Err(error) => {
                    tracing::error!(contact.id = %contact, %error, "a stored consent cannot be read; nothing is sent to this contact");
                    standing.unreadable = true;
                }
            }
        } else if row.kind.as_deref() == Some(super::flags::UNDELIVERABLE) {
            standing.undeliverable_at = row.flagged_at;
        } else {
            standing.cooling_at = row.flagged_at;
        }
    }
    Ok(standings)
}
