//! Why: what a campaign's run did about one contact, and what led to it, told from the log.
//!
//! Everything is found by key: the run's events, the message's (its id follows from run and contact), the contact's
//! consent, and its versions of the segment that the run froze. So an answer takes a handful of lookups, however long
//! the log is.

mod facts;
mod holds;
mod story;

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::event::DecodeError;
use domain::ids::{CampaignId, ContactId, RunId};
use domain::phone::Phone;
use infrastructure::tenants::Tenant;
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use self::facts::Facts;

/// The contact asked about.
#[derive(Clone)]
pub enum ContactRef {
    Id(ContactId),
    Phone(Phone),
}

/// What of the question does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    Contact,
    Campaign,
    Run,
}

impl Missing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Contact => "contact",
            Self::Campaign => "campaign",
            Self::Run => "run",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    #[error("there is no such {}", .0.name())]
    Missing(Missing),
    #[error("the run is one of another campaign")]
    OtherCampaign,
    #[error("the log could not be read")]
    Database(#[from] sqlx::Error),
    #[error("the event at position {position} cannot be read")]
    Undecodable {
        position: Position,
        #[source]
        source: DecodeError,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    pub contact_id: Uuid,
    pub campaign_id: Uuid,
    pub campaign_name: String,
    /// `None`: the campaign has not run.
    pub run_id: Option<Uuid>,
    /// `None`: there is no message.
    pub message_id: Option<Uuid>,
    /// The status of the message, or `not_run`, `resolving`, `not_in_audience`, `not_reached`.
    pub outcome: &'static str,
    /// One word for why. The list is open: later releases add reasons.
    pub reason: Option<String>,
    /// For people, with times in the tenant's zone.
    pub sentence: String,
    /// What led to it, in the order of the log.
    pub chain: Vec<Link>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    pub position: Position,
    /// The engine's time.
    pub time: DateTime<Utc>,
    /// The stored name of the event.
    pub event: String,
    pub text: String,
}

/// `run`: the campaign's latest if none is named. `now`: the engine's time, by which waits are judged.
pub async fn explain(
    pool: &PgPool,
    tenant: &Tenant,
    contact: &ContactRef,
    campaign: CampaignId,
    run: Option<RunId>,
    now: DateTime<Utc>,
) -> Result<Explanation, ExplainError> {
    let facts = Facts::gather(pool, tenant, contact, campaign, run).await?;
    let held = match facts.pending() {
        Some(message) => holds::of(pool, &facts, message, now).await?,
        None => None,
    };
    Ok(story::tell(&facts, held, &tenant.zone))
}
