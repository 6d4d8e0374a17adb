//! Whom a tenant may write to: the import of contacts, what can be asked of them, and the audience of a run.
//!
//! What was known of a contact is kept with the span of log positions in which it held, so that the audience of a run
//! can be read again, page by page and later, exactly as it was when the run started.

mod audience;
mod import;
mod position;
mod queries;

pub use self::audience::{AudienceMember, audience_member, audience_page};
pub use self::import::{
    FileContent, FileFault, ImportError, ImportOptions, ImportProgress, ImportReport, ImportStage, RowError,
    SUPPRESSED, import, read_file,
};
pub use self::position::is_being_changed;
pub use self::queries::{
    Contact, ContactFilter, ContactPage, SegmentCount, ensure_contact, ensure_contacts, find_by_phone, find_contact,
    list_contacts, list_segments, segment_exists,
};
