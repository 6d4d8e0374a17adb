//! Everything that is known of one contact in one run.

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::campaign_run::{Audience, CampaignRunEvent, RunDefinition};
use domain::consent::ConsentEvent;
use domain::event::Event;
use domain::ids::{CampaignId, ContactId, MessageId, RunId};
use domain::message::{MessageEvent, MessageStatus};
use infrastructure::event_feed::time_of;
use infrastructure::tenants::Tenant;
use sqlx::PgPool;

use super::{ContactRef, ExplainError, Link, Missing};
use crate::audit::log::{self, LoggedEvent};
use crate::audit::texts::text_of;

/// An event with what is told of it.
pub(super) struct Told<E> {
    pub(super) event: E,
    pub(super) link: Link,
}

/// When a contact carried the segment of the run.
pub(super) struct Membership {
    pub(super) from: Position,
    pub(super) to: Option<Position>,
    pub(super) added_at: Option<DateTime<Utc>>,
    pub(super) removed_at: Option<DateTime<Utc>>,
}

impl Membership {
    pub(super) fn holds_at(&self, position: Position) -> bool {
        self.from <= position && self.to.is_none_or(|to| to > position)
    }
}

pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) definition: RunDefinition,
    pub(super) started: Link,
    /// What triggered it.
    pub(super) trigger: Option<Link>,
    /// All behind its start.
    pub(super) later: Vec<Told<CampaignRunEvent>>,
}

pub(super) struct Facts {
    pub(super) contact: ContactId,
    /// `None`: the contact was erased.
    pub(super) contact_created_at: Option<DateTime<Utc>>,
    pub(super) campaign: CampaignId,
    pub(super) campaign_name: String,
    pub(super) run: Option<Run>,
    pub(super) message_id: Option<MessageId>,
    pub(super) message: Vec<Told<MessageEvent>>,
    pub(super) consent: Vec<Told<ConsentEvent>>,
    /// By their positions.
    pub(super) memberships: Vec<Membership>,
}

impl Facts {
    pub(super) async fn gather(
        pool: &PgPool,
        tenant: &Tenant,
        contact: &ContactRef,
        campaign: CampaignId,
        run: Option<RunId>,
    ) -> Result<Self, ExplainError> {
        let (contact, contact_created_at) = find_contact(pool, tenant, contact).await?;
        let campaign_name = sqlx::query_scalar!(
            "SELECT name FROM read_model.campaigns WHERE tenant_id = $1 AND id = $2",
            tenant.id.0,
            campaign.0,
        )
        .fetch_optional(pool)
        .await?
        .ok_or(ExplainError::Missing(Missing::Campaign))?;
        let run = match find_run(pool, tenant, campaign, run).await? {
            Some(id) => read_run(pool, id).await?,
            None => None,
        };
        let consent = told(pool, "Consent", &contact.to_string(), |event| match event {
            Event::Consent(event) => Some(event),
            _ => None,
        })
        .await?;
        let mut facts = Self {
            contact,
            contact_created_at,
            campaign,
            campaign_name,
            run,
            message_id: None,
            message: Vec::new(),
            consent,
            memberships: Vec::new(),
        };
        if let Some(run) = &facts.run {
            let message = MessageId::of(run.id, contact, run.definition.nominal_at);
            facts.message = told(pool, "Message", &message.to_string(), |event| match event {
                Event::Message(event) => Some(event),
                _ => None,
            })
            .await?;
            facts.message_id = (!facts.message.is_empty()).then_some(message);
            if let Audience::Segment { name } = &run.definition.audience {
                facts.memberships = memberships(pool, tenant, name, contact).await?;
            }
        }
        Ok(facts)
    }

    /// The status that the message has now.
    pub(super) fn status(&self) -> Option<MessageStatus> {
        self.message.last().map(|told| told.event.transition().to)
    }

    /// The message, if it waits to be sent.
    pub(super) fn pending(&self) -> Option<MessageId> {
        self.message_id.filter(|_| self.status() == Some(MessageStatus::Pending))
    }

    pub(super) fn erased_at(&self) -> Option<DateTime<Utc>> {
        self.consent.iter().rev().find_map(|told| match &told.event {
            ConsentEvent::Erased { at, .. } => Some(*at),
            _ => None,
        })
    }
}

async fn find_contact(
    pool: &PgPool,
    tenant: &Tenant,
    contact: &ContactRef,
) -> Result<(ContactId, Option<DateTime<Utc>>), ExplainError> {
    let found = match contact {
        ContactRef::Phone(phone) => sqlx::query!(
            "SELECT id, created_at FROM contacts WHERE tenant_id = $1 AND phone = $2",
            tenant.id.0,
            phone.as_str(),
        )
        .fetch_optional(pool)
        .await?
        .map(|row| (ContactId(row.id), Some(row.created_at))),
        ContactRef::Id(id) => {
            sqlx::query!("SELECT id, created_at FROM contacts WHERE tenant_id = $1 AND id = $2", tenant.id.0, id.0,)
                .fetch_optional(pool)
                .await?
                .map(|row| (ContactId(row.id), Some(row.created_at)))
        }
    };
    match (found, contact) {
        (Some(found), _) => Ok(found),
        // One that was erased has left its id in the log.
        (None, ContactRef::Id(id)) if is_in_log(pool, tenant, *id).await? => Ok((*id, None)),
        (None, _) => Err(ExplainError::Missing(Missing::Contact)),
    }
}

async fn is_in_log(pool: &PgPool, tenant: &Tenant, contact: ContactId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM events WHERE aggregate_type = 'Consent' AND aggregate_id = $1 AND tenant_id = $2
           ) AS "is!""#,
        contact.to_string(),
        tenant.id.0,
    )
    .fetch_one(pool)
    .await
}

async fn find_run(
    pool: &PgPool,
    tenant: &Tenant,
    campaign: CampaignId,
    run: Option<RunId>,
) -> Result<Option<RunId>, ExplainError> {
    let Some(run) = run else {
        let latest = sqlx::query_scalar!(
            "SELECT id FROM read_model.runs WHERE campaign_id = $1 ORDER BY started_at DESC, id DESC LIMIT 1",
            campaign.0,
        )
        .fetch_optional(pool)
        .await?;
        return Ok(latest.map(RunId));
    };
    let found = sqlx::query_scalar!(
        "SELECT campaign_id FROM read_model.runs WHERE tenant_id = $1 AND id = $2",
        tenant.id.0,
        run.0
    )
    .fetch_optional(pool)
    .await?;
    match found {
        None => Err(ExplainError::Missing(Missing::Run)),
        Some(of) if of == Some(campaign.0) => Ok(Some(run)),
        Some(_) => Err(ExplainError::OtherCampaign),
    }
}

async fn read_run(pool: &PgPool, id: RunId) -> Result<Option<Run>, ExplainError> {
    let rows = log::of_aggregate(pool, "CampaignRun", &id.to_string(), Position::MAX).await?;
    let cause = rows.first().and_then(LoggedEvent::cause);
    let mut events = decoded(rows, |event| match event {
        Event::CampaignRun(event) => Some(event),
        _ => None,
    })?
    .into_iter();
    let Some(Told { event: CampaignRunEvent::Started { definition, .. }, link }) = events.next() else {
        return Ok(None);
    };
    let trigger = match cause {
        Some(position) => log::at(pool, position).await?.map(link_of).transpose()?.map(|(_, link)| link),
        None => None,
    };
    Ok(Some(Run { id, definition, started: link, trigger, later: events.collect() }))
}

async fn told<E>(
    pool: &PgPool,
    aggregate_type: &str,
    id: &str,
    own: impl Fn(Event) -> Option<E>,
) -> Result<Vec<Told<E>>, ExplainError> {
    decoded(log::of_aggregate(pool, aggregate_type, id, Position::MAX).await?, own)
}

fn decoded<E>(rows: Vec<LoggedEvent>, own: impl Fn(Event) -> Option<E>) -> Result<Vec<Told<E>>, ExplainError> {
    let mut events = Vec::with_capacity(rows.len());
    for row in rows {
        let (event, link) = link_of(row)?;
        if let Some(event) = own(event) {
            events.push(Told { event, link });
        }
    }
    Ok(events)
}

fn link_of(row: LoggedEvent) -> Result<(Event, Link), ExplainError> {
    let position = row.position;
    let event = Event::decode(&row.aggregate_type, &row.event_type, &row.event_version, &row.payload.to_string())
        .map_err(|source| ExplainError::Undecodable { position, source })?;
    let link = Link { position, time: row.at(), text: text_of(&event), event: row.event_type };
    Ok((event, link))
}

async fn memberships(
    pool: &PgPool,
    tenant: &Tenant,
    segment: &str,
    contact: ContactId,
) -> Result<Vec<Membership>, sqlx::Error> {
    let mut found = sqlx::query_as!(
        Membership,
        r#"SELECT from_position AS "from", to_position AS "to", added_at, removed_at
           FROM contact_segments WHERE tenant_id = $1 AND segment = $2 AND contact_id = $3 ORDER BY from_position"#,
        tenant.id.0,
        segment,
        contact.0,
    )
    .fetch_all(pool)
    .await?;
    for membership in &mut found {
        // Where the clock was not kept, the log says when it was there.
        if membership.added_at.is_none() {
            membership.added_at = time_of(pool, membership.from).await?;
        }
        if let (None, Some(to)) = (membership.removed_at, membership.to) {
            membership.removed_at = time_of(pool, to).await?;
        }
    }
    Ok(found)
}
