//! Which lane is served next.

use domain::message::Lane;

/// Of so many turns in a row one is an offer's, while both wait.
const TURNS: u32 = 4;

/// Serves reminders first and keeps offers moving: a reminder never waits behind a campaign of a million offers, and
/// reminders without end do not stop them.
#[derive(Debug, Default)]
pub(super) struct LaneTurns {
    turn: u32,
}

impl LaneTurns {
    /// The lanes in the order in which they are asked now.
    pub(super) fn order(&self) -> [Lane; 2] {
        if (self.turn + 1).is_multiple_of(TURNS) {
            [Lane::Marketing, Lane::Utility]
        } else {
            [Lane::Utility, Lane::Marketing]
        }
    }

    /// Something was taken.
    pub(super) fn next(&mut self) {
        self.turn = (self.turn + 1) % TURNS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_both_wait_reminders_have_three_turns_of_four() {
        let mut turns = LaneTurns::default();
        let served: Vec<Lane> = (0..400)
            .map(|_| {
                let lane = turns.order()[0];
                turns.next();
                lane
            })
            .collect();
        assert_eq!(served.iter().filter(|lane| **lane == Lane::Utility).count(), 300);
    }
}
