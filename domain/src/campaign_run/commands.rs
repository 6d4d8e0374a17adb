//! What can be asked of a run.

use std::collections::BTreeMap;

use super::events::{RunDefinition, StallReason};
use crate::aggregate::Position;
use crate::message::MessageStatus;

#[derive(Debug, Clone, PartialEq)]
pub enum CampaignRunCommand {
    Start {
        definition: RunDefinition,
    },
    ResolveAudience {
        queued: u64,
        skipped: u64,
    },
    Pause,
    /// Also lifts a stall.
    Resume,
    Cancel,
    Expire,
    Stall {
        reason: StallReason,
    },
    Complete {
        counts: BTreeMap<MessageStatus, u64>,
        as_of: Position,
    },
}
