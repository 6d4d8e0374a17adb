//! What becomes of an accepted message. The rule reads nothing but the recipient's number, so that the funnel of a
//! run can be predicted from its audience and comes out the same each time.

use serde::{Deserialize, Serialize};

/// The rule that decides what becomes of accepted messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcomes {
    /// The last two digits of the recipient's number decide:
    ///
    /// | last two digits | statuses              | ends as                |
    /// |-----------------|-----------------------|------------------------|
    /// | 00 to 95        | sent, delivered, read | read                   |
    /// | 96, 97          | sent, delivered       | delivered              |
    /// | 98, 99          | failed                | failed, code 131026    |
    #[default]
    ByNumber,
    /// Every message is sent, delivered and read.
    AllRead,
}

impl Outcomes {
    /// What becomes of a message to the number with these digits, or to this user id.
    pub(super) fn of(self, recipient: &str) -> Fate {
        match self {
            Self::AllRead => Fate::Read,
            Self::ByNumber => {
                let digits = recipient.bytes().filter(u8::is_ascii_digit);
                let ending = digits.fold(0, |ending: u32, digit| ending * 10 % 100 + u32::from(digit - b'0'));
                match ending {
                    96 | 97 => Fate::Delivered,
                    98 | 99 => Fate::Undeliverable,
                    _ => Fate::Read,
                }
            }
        }
    }
}

/// What becomes of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Read,
    Delivered,
    Undeliverable,
}

impl Fate {
    /// The statuses that it leads to, in their order.
    pub(super) fn statuses(self) -> &'static [Status] {
        match self {
            Self::Read => &[Status::Sent, Status::Delivered, Status::Read],
            Self::Delivered => &[Status::Sent, Status::Delivered],
            Self::Undeliverable => &[Status::Failed],
        }
    }
}

/// The value of a status. The last four come seldom or never, and a receiver has to bear them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Sent,
    Delivered,
    Read,
    Failed,
    Played,
    Deleted,
    Warning,
    /// A value that nobody has heard of.
    UnheardOf,
}

impl Status {
    pub(super) const ALL: [Self; 8] = [
        Self::Sent,
        Self::Delivered,
        Self::Read,
        Self::Failed,
        Self::Played,
        Self::Deleted,
        Self::Warning,
        Self::UnheardOf,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Failed => "failed",
            Self::Played => "played",
            Self::Deleted => "deleted",
            Self::Warning => "warning",
            Self::UnheardOf => "unheard_of",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_digits_decide() {
        let fate_of = |ending: u32| Outcomes::ByNumber.of(&format!("9198123456{ending:02}"));
        for ending in 0..=95 {
            assert_eq!(fate_of(ending), Fate::Read, "{ending}");
        }
        assert_eq!([fate_of(96), fate_of(97)], [Fate::Delivered; 2]);
        assert_eq!([fate_of(98), fate_of(99)], [Fate::Undeliverable; 2]);
    }

    #[test]
    fn all_read_overrules_the_number() {
        assert_eq!(Outcomes::AllRead.of("919812345699"), Fate::Read);
    }
}
