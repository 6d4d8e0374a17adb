//! How long to wait before a message is tried again: the numbers behind the table of reactions.

use std::time::Duration;

use super::reactions::RetryScope;

/// Why a wait is asked for. The table of reactions names one for each code that may be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// The app or the account called too often: 4, 613, 80007, 80008.
    AccountRate,
    /// The sender called too often: 130429.
    SenderRate,
    /// One contact got too many messages: 131056.
    PairRate,
    /// The sender's account is in maintenance: 131057.
    Maintenance,
    /// The template is being synchronised: 134101.
    TemplateSync,
    /// Trouble at WhatsApp that a status reports.
    Trouble,
}

/// The waits of each rung and how they grow. Of the defaults, Meta gives the powers of four after 1 s for `pair_rate`,
/// the ten minutes of `template_sync` and the minute of `maintenance`; the others are this project's proposals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryLadder {
    /// The first wait of all senders of an account. Default 60 s.
    pub account_rate: Duration,
    /// The first wait of a sender; its rate is lowered as well. Default 1 s.
    pub sender_rate: Duration,
    /// The first wait of one contact. Default 1 s.
    pub pair_rate: Duration,
    /// The first wait of a sender in maintenance. Default 90 s.
    pub maintenance: Duration,
    /// The first wait of all messages with a template. Default 600 s.
    pub template_sync: Duration,
    /// The first wait of a message that failed after it was accepted. Default 120 s.
    pub trouble: Duration,
    /// The first wait of a sender when WhatsApp is out of order. Default 30 s.
    pub outage: Duration,
    /// The longest of these waits. Default 600 s.
    pub outage_max: Duration,
    /// When a message that met a stalled sender falls due again. Short, because what holds it back is the stall, which
    /// ends when a person ends it; a long wait would go on after that. Default 60 s.
    pub stalled: Duration,
    /// By how much each further wait of a single contact is longer. Default 4 times.
    pub contact_growth: u32,
    /// By how much each further wait of a template, a sender or an account is longer. Default 2 times.
    pub shared_growth: u32,
    /// The longest wait that a refusal can ask for, whatever WhatsApp advises. Default 3,600 s.
    pub wait_max: Duration,
}

impl Default for RetryLadder {
    fn default() -> Self {
        Self {
            account_rate: Duration::from_secs(60),
            sender_rate: Duration::from_secs(1),
            pair_rate: Duration::from_secs(1),
            maintenance: Duration::from_secs(90),
            template_sync: Duration::from_secs(600),
            trouble: Duration::from_secs(120),
            outage: Duration::from_secs(30),
            outage_max: Duration::from_secs(600),
            stalled: Duration::from_secs(60),
            contact_growth: 4,
            shared_growth: 2,
            wait_max: Duration::from_secs(3600),
        }
    }
}

impl RetryLadder {
    /// The wait after the first refusal of this kind. `advised` is what the answer's headers ask for; their advice is
    /// about rates, so it does not lengthen the wait of a single contact.
    pub fn first(&self, rung: Rung, scope: RetryScope, advised: Option<Duration>) -> Duration {
        let first = match rung {
            Rung::AccountRate => self.account_rate,
            Rung::SenderRate => self.sender_rate,
            Rung::PairRate => self.pair_rate,
            Rung::Maintenance => self.maintenance,
            Rung::TemplateSync => self.template_sync,
            Rung::Trouble => self.trouble,
        };
        let advised = advised.filter(|_| matches!(scope, RetryScope::Sender | RetryScope::Account));
        first.max(advised.unwrap_or_default()).min(self.wait_max)
    }

    /// The wait after one more refusal, when `earlier` refusals of this kind went before it.
    pub fn grown(&self, first: Duration, scope: RetryScope, earlier: u32) -> Duration {
        let growth = match scope {
            RetryScope::Contact => self.contact_growth,
            RetryScope::Template | RetryScope::Sender | RetryScope::Account => self.shared_growth,
        };
        first.saturating_mul(growth.saturating_pow(earlier)).min(self.wait_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn waits_grow_by_powers_and_stay_bounded() {
        let ladder = RetryLadder::default();
        let waits =
            |scope| (0..5).map(move |earlier| ladder.grown(SECOND, scope, earlier).as_secs()).collect::<Vec<_>>();
        assert_eq!(waits(RetryScope::Contact), [1, 4, 16, 64, 256]);
        assert_eq!(waits(RetryScope::Sender), [1, 2, 4, 8, 16]);
        assert_eq!(ladder.grown(SECOND, RetryScope::Contact, u32::MAX), ladder.wait_max);
    }

    #[test]
    fn every_number_of_a_ladder_is_heeded() {
        let ladder = RetryLadder {
            account_rate: SECOND,
            sender_rate: SECOND * 2,
            pair_rate: SECOND * 3,
            maintenance: SECOND * 4,
            template_sync: SECOND * 5,
            trouble: SECOND * 6,
            contact_growth: 3,
            shared_growth: 1,
            wait_max: SECOND * 20,
            ..RetryLadder::default()
        };
        let rungs =
            [Rung::AccountRate, Rung::SenderRate, Rung::PairRate, Rung::Maintenance, Rung::TemplateSync, Rung::Trouble];
        assert_eq!(rungs.map(|rung| ladder.first(rung, RetryScope::Contact, None).as_secs()), [1, 2, 3, 4, 5, 6]);
        assert_eq!(ladder.grown(SECOND, RetryScope::Contact, 2), SECOND * 9);
        assert_eq!(ladder.grown(SECOND, RetryScope::Sender, 9), SECOND);
        assert_eq!(ladder.grown(SECOND, RetryScope::Contact, 9), SECOND * 20);
        let advised = |scope| ladder.first(Rung::SenderRate, scope, Some(SECOND * 99));
        assert_eq!((advised(RetryScope::Sender), advised(RetryScope::Contact)), (SECOND * 20, SECOND * 2));
    }
}
