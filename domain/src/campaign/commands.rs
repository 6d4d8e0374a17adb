//! What can be asked of a campaign.

use chrono::{DateTime, Utc};
use jiff::civil;

use super::events::{CampaignDefinition, SkippedBecause, Trigger};
use crate::ids::RunId;

#[derive(Debug, Clone, PartialEq)]
pub enum CampaignCommand {
    Create {
        definition: CampaignDefinition,
    },
    /// Replaces the definition, unless it has moved past `based_on`. Refused once the campaign has ended.
    Revise {
        based_on: u32,
        definition: CampaignDefinition,
    },
    Activate,
    Pause,
    Resume,
    Cancel,
    /// `run_id` is derived by the caller, so that the same occurrence or the same key names the same run.
    TriggerRun {
        run_id: RunId,
        trigger: Trigger,
        nominal_at: DateTime<Utc>,
    },
    SkipOccurrence {
        revision: u32,
        local: civil::DateTime,
        nominal_at: DateTime<Utc>,
        because: SkippedBecause,
    },
    Complete,
}
