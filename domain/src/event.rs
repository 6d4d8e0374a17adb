//! Any event of the log, decoded, with where and when it was recorded.

use chrono::{DateTime, Utc};
use serde_json::Value;

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

/// The aggregates as they are stored.
pub const AGGREGATE_TYPES: [&str; 4] = ["Campaign", "CampaignRun", "Message", "Consent"];

/// Why a stored event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("unknown aggregate type {0:?}")]
    UnknownAggregate(String),
    #[error("{aggregate_type} has no event {event_type:?}")]
    UnknownType { aggregate_type: String, event_type: String },
    #[error("the payload of {event_type} does not have the shape of its version")]
    Payload {
        event_type: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("the payload of {event_type} is that of {found}")]
    OtherPayload { event_type: String, found: &'static str },
    #[error("{event_type} has version {version:?}, which this release does not know")]
    UnknownVersion { event_type: String, version: String },
    #[error("{event_type} could not be brought from version {version:?} to the present one: {reason}")]
    Upcast { event_type: String, version: String, reason: String },
}

/// Brings the payload of an older version of an event to the next.
#[derive(Debug, Clone, Copy)]
pub struct Upcaster {
    pub event_type: &'static str,
    pub from: &'static str,
    pub to: &'static str,
    /// The whole payload, with the event's name around its fields. Whatever it cannot bring over is an error.
    pub upcast: fn(Value) -> Result<Value, String>,
}

/// Every step from an older version. A new version of an event adds one; none is ever removed.
pub const UPCASTERS: &[Upcaster] = &[];

impl Event {
    /// `payload` is the stored JSON text. What is not exactly known is an error, never a default.
    pub fn decode(aggregate_type: &str, event_type: &str, version: &str, payload: &str) -> Result<Self, DecodeError> {
        Self::decode_with(UPCASTERS, aggregate_type, event_type, version, payload)
    }

    /// The same with other steps.
    pub fn decode_with(
        upcasters: &[Upcaster],
        aggregate_type: &str,
        event_type: &str,
        version: &str,
        payload: &str,
    ) -> Result<Self, DecodeError> {
        let known = Self::stored_versions(aggregate_type)
            .ok_or_else(|| DecodeError::UnknownAggregate(aggregate_type.to_owned()))?;
        let Some((name, present)) = known.iter().find(|(name, _)| *name == event_type) else {
            let (aggregate_type, event_type) = (aggregate_type.to_owned(), event_type.to_owned());
            return Err(DecodeError::UnknownType { aggregate_type, event_type });
        };
        // Nearly all events have the present version, and are read without a detour.
        if version == *present {
            return Self::read(aggregate_type, name, payload);
        }
        let upcast = upcast(upcasters, name, version, present, payload)?;
        Self::read(aggregate_type, name, &upcast.to_string())
    }

    fn read(aggregate_type: &str, event_type: &'static str, payload: &str) -> Result<Self, DecodeError> {
        let decoded = match aggregate_type {
            "Campaign" => serde_json::from_str(payload).map(Self::Campaign),
            "CampaignRun" => serde_json::from_str(payload).map(Self::CampaignRun),
            "Message" => serde_json::from_str(payload).map(Self::Message),
            _ => serde_json::from_str(payload).map(Self::Consent),
        };
        let event = decoded.map_err(|source| DecodeError::Payload { event_type: event_type.to_owned(), source })?;
        let found = event.stored_name();
        if found == event_type {
            Ok(event)
        } else {
            Err(DecodeError::OtherPayload { event_type: event_type.to_owned(), found })
        }
    }

    /// The stored names of an aggregate's events, each with its present version; `None`: there is no such aggregate.
    pub fn stored_versions(aggregate_type: &str) -> Option<&'static [(&'static str, &'static str)]> {
        match aggregate_type {
            "Campaign" => Some(CampaignEvent::STORED_VERSIONS),
            "CampaignRun" => Some(CampaignRunEvent::STORED_VERSIONS),
            "Message" => Some(MessageEvent::STORED_VERSIONS),
            "Consent" => Some(ConsentEvent::STORED_VERSIONS),
            _ => None,
        }
    }

    /// The stored name of this event.
    pub fn stored_name(&self) -> &'static str {
        match self {
            Self::Campaign(event) => event.stored_name(),
            Self::CampaignRun(event) => event.stored_name(),
            Self::Message(event) => event.stored_name(),
            Self::Consent(event) => event.stored_name(),
        }
    }
}

/// Step by step to the present version. Each step must lead to another version, so there are at most as many as steps.
fn upcast(
    upcasters: &[Upcaster],
    event_type: &str,
    version: &str,
    present: &str,
    payload: &str,
) -> Result<Value, DecodeError> {
    let unreadable = |source| DecodeError::Payload { event_type: event_type.to_owned(), source };
    let mut value: Value = serde_json::from_str(payload).map_err(unreadable)?;
    let mut at = version;
    for _ in 0..upcasters.len() {
        let step = upcasters.iter().find(|step| step.event_type == event_type && step.from == at);
        let Some(step) = step else { break };
        value = (step.upcast)(value).map_err(|reason| DecodeError::Upcast {
            event_type: event_type.to_owned(),
            version: at.to_owned(),
            reason,
        })?;
        at = step.to;
        if at == present {
            return Ok(value);
        }
    }
    Err(DecodeError::UnknownVersion { event_type: event_type.to_owned(), version: version.to_owned() })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As if offers were once stopped without a word about when.
    const STEPS: [Upcaster; 3] = [
        Upcaster { event_type: "MarketingStopped", from: "0.1", to: "0.2", upcast: rename_source },
        Upcaster { event_type: "MarketingStopped", from: "0.2", to: "1", upcast: add_time },
        Upcaster { event_type: "OptedOut", from: "0.1", to: "0.2", upcast: rename_source },
    ];

    fn fields(value: &mut Value) -> Result<&mut serde_json::Map<String, Value>, String> {
        let fields = value.get_mut("MarketingStopped").and_then(Value::as_object_mut);
        fields.ok_or_else(|| "it has no fields".to_owned())
    }

    fn rename_source(mut value: Value) -> Result<Value, String> {
        let by = fields(&mut value)?.remove("by").ok_or("by is missing")?;
        fields(&mut value)?.insert("source".to_owned(), by);
        Ok(value)
    }

    fn add_time(mut value: Value) -> Result<Value, String> {
        fields(&mut value)?.insert("at".to_owned(), json!("1970-01-01T00:00:00Z"));
        Ok(value)
    }

    fn decode(event_type: &str, version: &str, payload: &Value) -> Result<Event, DecodeError> {
        Event::decode_with(&STEPS, "Consent", event_type, version, &payload.to_string())
    }

    #[test]
    fn an_old_version_is_read_step_by_step() {
        let tenant = "00000000-0000-0000-0000-000000000001";
        let first = json!({"MarketingStopped": {"tenant_id": tenant, "by": "keyword"}});
        let second = json!({"MarketingStopped": {"tenant_id": tenant, "source": "keyword"}});
        let expected = decode("MarketingStopped", "0.2", &second).unwrap();
        assert_eq!(decode("MarketingStopped", "0.1", &first).unwrap(), expected);
        assert_eq!(expected.stored_name(), "MarketingStopped");
    }

    #[test]
    fn whatever_is_not_exactly_known_is_an_error() {
        let tenant = "00000000-0000-0000-0000-000000000001";
        let stopped =
            json!({"MarketingStopped": {"tenant_id": tenant, "source": "keyword", "at": "1970-01-01T00:00:00Z"}});
        assert!(decode("MarketingStopped", "1", &stopped).is_ok());
        let broken = json!({"MarketingStopped": {"tenant_id": tenant}});
        for (event_type, version, payload, expected) in [
            ("MarketingStopped", "2", &stopped, "which this release does not know"),
            ("MarketingStopped", "0.1", &broken, "by is missing"),
            ("MarketingStopped", "0.2", &broken, "does not have the shape"),
            ("OptedOut", "2", &stopped, "which this release does not know"),
            ("OptedOut", "1", &stopped, "is that of MarketingStopped"),
            ("MessageSent", "1", &stopped, "has no event"),
        ] {
            let error = decode(event_type, version, payload).map_err(|error| error.to_string());
            assert!(error.as_ref().is_err_and(|error| error.contains(expected)), "{event_type} {version}: {error:?}");
        }
        assert!(matches!(Event::decode("Order", "X", "1", "{}"), Err(DecodeError::UnknownAggregate(_))));
    }
}
