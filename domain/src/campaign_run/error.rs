use thiserror::Error;

use super::events::RunStatus;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CampaignRunError {
    /// There is no such run, or it belongs to another tenant; the two look the same on purpose.
    #[error("no such run")]
    NotFound,
    #[error("a run that is {} does not allow this", status.name())]
    NotAllowed { status: RunStatus },
    /// A run cannot complete while its audience is still being resolved.
    #[error("the audience of the run is still being resolved")]
    AudienceOpen,
    /// A run cannot complete while messages wait or are being sent.
    #[error("{open} messages of the run are still pending or dispatching")]
    MessagesOpen { open: u64 },
}
