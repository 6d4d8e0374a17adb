//! Who is left out when an audience is resolved, and why.

use chrono::{DateTime, TimeDelta, Utc};
use domain::message::{Lane, SkipReason};

use super::Standing;

/// Which messages need that the contact agreed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptInRequired {
    Never,
    ForMarketing,
    Always,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentPolicy {
    pub opt_in_required: OptInRequired,
    /// How long a contact is left out to whom a message could not be delivered.
    pub undeliverable_for: TimeDelta,
    /// How long a contact gets no offers after WhatsApp withheld one.
    pub cooling_for: TimeDelta,
}

impl Default for ConsentPolicy {
    fn default() -> Self {
        Self {
            opt_in_required: OptInRequired::ForMarketing,
            undeliverable_for: TimeDelta::days(30),
            cooling_for: TimeDelta::hours(24),
        }
    }
}

impl ConsentPolicy {
    /// `uploaded` is what the uploads say about the contact's agreement.
    pub fn refusal(
        &self,
        standing: &Standing,
        uploaded: Option<bool>,
        lane: Lane,
        now: DateTime<Utc>,
    ) -> Option<SkipReason> {
        let required = match self.opt_in_required {
            OptInRequired::Never => false,
            OptInRequired::ForMarketing => lane == Lane::Marketing,
            OptInRequired::Always => true,
        };
        let within = |since: Option<DateTime<Utc>>, span| since.is_some_and(|since| now < since + span);
        if let Some(refusal) = standing.refusal(lane) {
            Some(refusal)
        } else if required && uploaded != Some(true) && !standing.consent.opted_in() {
            Some(SkipReason::NoOptIn)
        } else if within(standing.undeliverable_at, self.undeliverable_for) {
            Some(SkipReason::Undeliverable)
        } else if lane == Lane::Marketing && within(standing.cooling_at, self.cooling_for) {
            Some(SkipReason::Cooling)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::aggregate::Decider as _;
    use domain::consent::{Consent, ConsentEvent, ConsentSource};
    use domain::ids::TenantId;
    use uuid::Uuid;

    use super::*;

    fn at(hours: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::hours(hours)
    }

    fn standing(event: impl Fn(TenantId, ConsentSource, DateTime<Utc>) -> ConsentEvent) -> Standing {
        let mut consent = Consent::default();
        consent.evolve(&event(TenantId(Uuid::nil()), ConsentSource::Keyword, at(0)));
        Standing { consent, ..Standing::default() }
    }

    /// Reminders, offers.
    fn refusals(policy: &ConsentPolicy, standing: &Standing, uploaded: Option<bool>) -> [Option<SkipReason>; 2] {
        [Lane::Utility, Lane::Marketing].map(|lane| policy.refusal(standing, uploaded, lane, at(30 * 24)))
    }

    #[test]
    fn an_opt_in_is_needed_where_it_is_asked_for() {
        let no = Some(SkipReason::NoOptIn);
        let agreed = standing(|tenant_id, source, at| ConsentEvent::OptedIn { tenant_id, source, wording: None, at });
        for (opt_in_required, refused) in [
            (OptInRequired::Never, [None, None]),
            (OptInRequired::ForMarketing, [None, no]),
            (OptInRequired::Always, [no, no]),
        ] {
            let policy = ConsentPolicy { opt_in_required, ..ConsentPolicy::default() };
            for uploaded in [None, Some(false)] {
                assert_eq!(refusals(&policy, &Standing::default(), uploaded), refused, "{opt_in_required:?}");
                assert_eq!(refusals(&policy, &agreed, uploaded), [None, None]);
            }
            assert_eq!(refusals(&policy, &Standing::default(), Some(true)), [None, None]);
        }
    }

    #[test]
    fn the_contacts_word_goes_before_everything() {
        let out = standing(|tenant_id, source, at| ConsentEvent::OptedOut { tenant_id, source, at });
        let stopped = standing(|tenant_id, source, at| ConsentEvent::MarketingStopped { tenant_id, source, at });
        let policy = ConsentPolicy::default();
        assert_eq!(refusals(&policy, &out, Some(true)), [Some(SkipReason::OptedOut); 2]);
        assert_eq!(refusals(&policy, &stopped, Some(true)), [None, Some(SkipReason::MarketingStopped)]);
    }

    #[test]
    fn what_whatsapp_said_ages_out() {
        let policy = ConsentPolicy::default();
        let undeliverable = |hours| Standing { undeliverable_at: Some(at(hours)), ..Standing::default() };
        let cooling = |hours| Standing { cooling_at: Some(at(hours)), ..Standing::default() };
        assert_eq!(refusals(&policy, &undeliverable(1), Some(true)), [Some(SkipReason::Undeliverable); 2]);
        assert_eq!(refusals(&policy, &undeliverable(0), Some(true)), [None, None]);
        assert_eq!(refusals(&policy, &cooling(30 * 24 - 23), Some(true)), [None, Some(SkipReason::Cooling)]);
        assert_eq!(refusals(&policy, &cooling(30 * 24 - 24), Some(true)), [None, None]);
    }
}
