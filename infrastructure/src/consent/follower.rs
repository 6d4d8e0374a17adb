//! What follows from a stop: a refusal by WhatsApp becomes one, and what is queued for whoever stopped is cancelled.
//!
//! A batch may be seen twice, by two processes even. That is harmless: a stop that is known changes nothing, and before
//! anything is cancelled the contact's streams are asked what holds now. What is queued after the look is met by the last
//! look before the call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::aggregate::{CommandEnvelope, Position};
use domain::consent::{ConsentCommand, ConsentError, ConsentEvent, ConsentSource};
use domain::event::{Event, RecordedEvent};
use domain::ids::{ContactId, TenantId};
use domain::message::{FailureClass, Lane, MessageCommand, MessageError, MessageEvent};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{StandingError, standings};
use crate::clock::Clock;
use crate::event_feed::{ActError, TableEffect};
use crate::event_store::{Actor, Addressed, CommandError, ConsentStore, MessageStore};

const NAME: &str = "consent";
/// Contacts whose queued messages are looked for in one go.
const CONTACTS_PAGE: usize = 200;

pub struct ConsentFollower {
    pub pool: PgPool,
    pub clock: Clock,
    pub messages: MessageStore,
    pub consents: ConsentStore,
}

#[derive(Debug, thiserror::Error)]
enum FollowerError {
    #[error("the messages of a contact could not be read")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Standing(#[from] StandingError),
    #[error("a stop could not be recorded")]
    Stop(#[source] CommandError<ConsentError>),
    #[error("a queued message could not be cancelled")]
    Cancel(#[source] CommandError<MessageError>),
}

/// What an event asks for.
enum Asked {
    /// WhatsApp refused this message because its contact stopped offers.
    Stop { said_at: DateTime<Utc> },
    /// The contact may have messages in the queue that it does not want any more.
    Look,
}

fn asked(event: &RecordedEvent) -> Option<Asked> {
    match &event.event {
        Event::Message(MessageEvent::Failed { class: FailureClass::Stopped, at, .. }) => {
            Some(Asked::Stop { said_at: *at })
        }
        Event::Consent(consent) => match consent {
            ConsentEvent::OptedOut { .. } | ConsentEvent::MarketingStopped { .. } | ConsentEvent::Erased { .. } => {
                Some(Asked::Look)
            }
            ConsentEvent::OptedIn { .. } | ConsentEvent::MarketingResumed { .. } => None,
        },
        Event::Message(_) | Event::Campaign(_) | Event::CampaignRun(_) => None,
    }
}

#[async_trait]
impl TableEffect for ConsentFollower {
    fn name(&self) -> &'static str {
        NAME
    }

    fn concerns(&self, event: &RecordedEvent) -> bool {
        asked(event).is_some()
    }

    async fn act(&self, events: &[Arc<RecordedEvent>]) -> Result<(), ActError> {
        Ok(self.react(events).await?)
    }

    /// There are no rows: what follows from a stop is commands alone.
    async fn apply(&self, _: &mut PgConnection, _: &[Arc<RecordedEvent>]) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

impl ConsentFollower {
    async fn react(&self, events: &[Arc<RecordedEvent>]) -> Result<(), FollowerError> {
        let mut refused: BTreeMap<Uuid, (TenantId, Position, DateTime<Utc>)> = BTreeMap::new();
        let mut stopped: BTreeMap<ContactId, TenantId> = BTreeMap::new();
        for event in events {
            match asked(event) {
                Some(Asked::Stop { said_at }) => {
                    refused.insert(event.aggregate_id, (event.tenant_id, event.position, said_at));
                }
                Some(Asked::Look) => {
                    stopped.insert(ContactId(event.aggregate_id), event.tenant_id);
                }
                None => {}
            }
        }
        self.stop(&refused).await?;
        let contacts: Vec<(ContactId, TenantId)> = stopped.into_iter().collect();
        for page in contacts.chunks(CONTACTS_PAGE) {
            self.cancel_queued(page).await?;
        }
        Ok(())
    }

    /// Whoever WhatsApp says stopped offers has stopped them. The event of it comes round here again and cancels.
    async fn stop(&self, refused: &BTreeMap<Uuid, (TenantId, Position, DateTime<Utc>)>) -> Result<(), FollowerError> {
        if refused.is_empty() {
            return Ok(());
        }
        let messages: Vec<Uuid> = refused.keys().copied().collect();
        let rows = sqlx::query!(
            "SELECT message_id, contact_id FROM message_recipients WHERE message_id = ANY($1) ORDER BY message_id",
            &messages,
        )
        .fetch_all(&self.pool)
        .await?;
        let source = ConsentSource::ProviderRefusal;
        let commands = rows.iter().filter_map(|row| {
            let (tenant_id, position, said_at) = *refused.get(&row.message_id)?;
            let command = ConsentCommand::StopMarketing { source, said_at };
            let envelope = CommandEnvelope::new(tenant_id, self.clock.now(), command).caused_by(position);
            Some(Addressed::new(ContactId(row.contact_id), envelope, Actor::Engine(NAME)))
        });
        for answer in self.consents.execute_many(commands.collect()).await {
            match answer {
                Ok(_) => {}
                Err(error) if error.is_transient() => return Err(FollowerError::Stop(error)),
                Err(error) => tracing::error!(%error, "a stop that WhatsApp reports is not recorded"),
            }
        }
        Ok(())
    }

    async fn cancel_queued(&self, contacts: &[(ContactId, TenantId)]) -> Result<(), FollowerError> {
        let ids: Vec<ContactId> = contacts.iter().map(|(contact, _)| *contact).collect();
        let standings = standings(&self.pool, &ids).await?;
        let refuses = |contact: &ContactId, lane: Lane| {
            standings.get(contact).is_some_and(|standing| standing.refusal(lane).is_some())
        };
        let tenants: BTreeMap<ContactId, TenantId> = contacts.iter().copied().collect();
        let mut doomed = BTreeSet::new();
        for Queued { message_id, contact_id, lane } in self.queued(&ids).await? {
            if refuses(&contact_id, lane) {
                doomed.extend(tenants.get(&contact_id).map(|tenant| (message_id, *tenant)));
            }
        }
        let commands = doomed.into_iter().map(|(message, tenant)| {
            let envelope = CommandEnvelope::new(tenant, self.clock.now(), MessageCommand::Cancel);
            Addressed::new(message, envelope, Actor::Engine(NAME))
        });
        for answer in self.messages.execute_many(commands.collect()).await {
            match answer {
                // What is under way is beyond recall, or met by the last look.
                Ok(_) | Err(CommandError::Refused(_)) => {}
                Err(error) if error.is_transient() => return Err(FollowerError::Cancel(error)),
                Err(error) => tracing::error!(%error, "a message that its contact does not want is not cancelled"),
            }
        }
        Ok(())
    }

    /// The messages of contacts that may still be sent, from the log itself: the recipients are written with the events.
    async fn queued(&self, contacts: &[ContactId]) -> Result<Vec<Queued>, sqlx::Error> {
        let ids: Vec<Uuid> = contacts.iter().map(|contact| contact.0).collect();
        let rows = sqlx::query!(
            r#"SELECT r.message_id AS "message_id!", r.contact_id AS "contact_id!",
                      first.payload #>> '{MessageQueued,lane}' AS lane
               FROM unnest($1::uuid[]) AS contact (id)
               JOIN message_recipients r ON r.contact_id = contact.id
               CROSS JOIN LATERAL (
                   SELECT event_type FROM events
                   WHERE aggregate_type = 'Message' AND aggregate_id = r.message_id::text
                   ORDER BY sequence DESC LIMIT 1
               ) latest
               CROSS JOIN LATERAL (
                   SELECT payload FROM events
                   WHERE aggregate_type = 'Message' AND aggregate_id = r.message_id::text AND sequence = 1
               ) first
               WHERE latest.event_type IN ('MessageQueued', 'DispatchReleased', 'MessageDeferred', 'MessageSettled')"#,
            &ids,
        )
        .fetch_all(&self.pool)
        .await?;
        let queued = rows.into_iter().filter_map(|row| {
            let lane = row.lane.as_deref().and_then(Lane::parse)?;
            Some(Queued { message_id: row.message_id, contact_id: ContactId(row.contact_id), lane })
        });
        Ok(queued.collect())
    }
}

struct Queued {
    message_id: Uuid,
    contact_id: ContactId,
    lane: Lane,
}
