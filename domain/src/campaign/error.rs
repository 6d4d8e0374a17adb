use thiserror::Error;

use super::events::CampaignStatus;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CampaignError {
    /// There is no such campaign, or it belongs to another tenant; the two look the same on purpose.
    #[error("no such campaign")]
    NotFound,
    #[error("a campaign that is {} does not allow this", status.name())]
    NotAllowed { status: CampaignStatus },
    /// Somebody else changed the campaign in between.
    #[error("the campaign is at revision {current}; this was based on revision {based_on}")]
    RevisionMoved { based_on: u32, current: u32 },
}
