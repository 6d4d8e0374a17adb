//! Any event of the log, decoded, with where and when it was recorded.

use chrono::{DateTime, Utc};

use crate::aggregate::Position;
use crate::campaign::CampaignEvent;
use crate::campaign_run::CampaignRunEvent;
use crate::consent::ConsentEvent;
use crate::ids::TenantId;
use crate::message::MessageEvent;

/// One event with its coordinates. The order of everything is `position`.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    pub position: Position,
    pub tenant_id: TenantId,
    /// The aggregate's id as stored; which type it is follows from the event.
    pub aggregate_id: uuid::Uuid,
    /// Counts from 1 within the aggregate.
    pub sequence: i64,
    /// The engine's time of the command that led to it.
    pub at: DateTime<Utc>,
    pub event: Event,
}

/// The events of all aggregates.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    Campaign(CampaignEvent),
    CampaignRun(CampaignRunEvent),
    Message(MessageEvent),
    Consent(ConsentEvent),
}

/// Why a stored event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("unknown aggregate type {0:?}")]
    UnknownAggregate(String),
    #[error("the payload of {event_type} does not have the shape of its version")]
    Payload {
        event_type: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{event_type} has version {version:?}, which this release does not know")]
    UnknownVersion { event_type: String, version: String },
}

impl Event {
    /// `payload` is the stored JSON text.
    pub fn decode(aggregate_type: &str, event_type: &str, version: &str, payload: &str) -> Result<Self, DecodeError> {
        if version != "1" {
            return Err(DecodeError::UnknownVersion { event_type: event_type.to_owned(), version: version.to_owned() });
        }
        let decoded = match aggregate_type {
            "Campaign" => serde_json::from_str(payload).map(Self::Campaign),
            "CampaignRun" => serde_json::from_str(payload).map(Self::CampaignRun),
            "Message" => serde_json::from_str(payload).map(Self::Message),
            "Consent" => serde_json::from_str(payload).map(Self::Consent),
            other => return Err(DecodeError::UnknownAggregate(other.to_owned())),
        };
        decoded.map_err(|source| DecodeError::Payload { event_type: event_type.to_owned(), source })
    }
}
