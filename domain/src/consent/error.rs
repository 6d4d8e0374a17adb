use thiserror::Error;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConsentError {
    /// There is no such contact, or it belongs to another tenant; the two look the same on purpose.
    #[error("no such contact")]
    NotFound,
    /// The contact opted out of everything; only the contact itself can lift that.
    #[error("the contact opted out; only the contact can lift that")]
    OptedOut,
    #[error("the contact was erased")]
    Erased,
}
