//! The ids of the product, each a type of its own, and how ids that must not double are derived.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

id!(/// A business that uses the engine.
    TenantId);
id!(/// A person's request to send to a segment, once or repeatedly.
    CampaignId);
id!(/// One occurrence of a campaign.
    RunId);
id!(/// One template sent to one contact in one run.
    MessageId);
id!(/// Somebody whom a tenant may write to. Random, never derived from the phone.
    ContactId);
id!(/// A WhatsApp template in one language.
    TemplateId);
id!(/// A WhatsApp number that sends.
    SenderId);

impl RunId {
    /// The run of an occurrence: the same campaign, schedule revision and local time always give the same run, so
    /// that a period is run once whatever is restarted.
    pub fn of_occurrence(
        campaign: CampaignId,
        revision: u32,
        local: jiff::civil::DateTime,
        nominal: DateTime<Utc>,
    ) -> Self {
        Self(time_ordered(
            nominal,
            &[b"occurrence", campaign.0.as_bytes(), &revision.to_be_bytes(), local.to_string().as_bytes()],
        ))
    }

    /// The run of a person's trigger: the same key always gives the same run. The time is not part of the id, since
    /// a repeated request comes at another time.
    pub fn of_trigger(campaign: CampaignId, key: &str) -> Self {
        Self(time_ordered(DateTime::UNIX_EPOCH, &[b"trigger", campaign.0.as_bytes(), key.as_bytes()]))
    }

    /// The run that carries one test message of a template.
    pub fn of_test(template: TemplateId, key: Uuid, at: DateTime<Utc>) -> Self {
        Self(time_ordered(at, &[b"test", template.0.as_bytes(), key.as_bytes()]))
    }
}

impl MessageId {
    /// The message of a contact in a run. The run's nominal time comes first, so that the keys of one run lie
    /// together in every index.
    pub fn of(run: RunId, contact: ContactId, nominal: DateTime<Utc>) -> Self {
        Self(time_ordered(nominal, &[b"message", run.0.as_bytes(), contact.0.as_bytes()]))
    }
}

/// UUIDv8: 48 bits of milliseconds, then a hash of the parts. Each part is hashed with its length, so that no two
/// lists of parts run together.
fn time_ordered(time: DateTime<Utc>, parts: &[&[u8]]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&time.timestamp_millis().to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&digest[..10]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).expect("a valid time")
    }

    #[test]
    fn the_same_occurrence_gives_the_same_run_and_any_difference_another() {
        let campaign = CampaignId(Uuid::from_u128(7));
        let local = jiff::civil::date(2026, 12, 1).at(10, 0, 0, 0);
        let run = RunId::of_occurrence(campaign, 1, local, time(1_764_563_400));
        assert_eq!(run, RunId::of_occurrence(campaign, 1, local, time(1_764_563_400)));
        assert_ne!(run, RunId::of_occurrence(campaign, 2, local, time(1_764_563_400)));
        assert_ne!(run, RunId::of_occurrence(CampaignId(Uuid::from_u128(8)), 1, local, time(1_764_563_400)));
        assert_ne!(run, RunId::of_occurrence(campaign, 1, local.tomorrow().expect("a next day"), time(1_764_563_400)));
    }

    #[test]
    fn messages_sort_by_the_time_of_their_run() {
        let contact = ContactId(Uuid::from_u128(1));
        let earlier = MessageId::of(RunId(Uuid::from_u128(2)), contact, time(1_000));
        let later = MessageId::of(RunId(Uuid::from_u128(1)), contact, time(2_000));
        assert!(earlier < later);
        assert_eq!(earlier.0.get_version_num(), 8);
    }

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(time_ordered(time(0), &[b"ab", b"c"]), time_ordered(time(0), &[b"a", b"bc"]));
    }
}
