//! What can be wrong with an import, said so that the person who made the file can put it right.

use serde::Serialize;

/// Why a file as a whole was refused. Nothing of it was stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// Neither a header nor a row.
    #[error("the file is empty: its first row must name the columns, one of them `phone`")]
    Empty,
    /// Bytes that the encoding found for the file does not have.
    #[error("row {row} cannot be read as {encoding}: save the file as \"CSV UTF-8\" and upload it again")]
    UnreadableEncoding { row: u64, encoding: &'static str },
    /// No column of the header holds the numbers.
    #[error(
        "row 1 has no `phone` column: name the column that holds the numbers `phone`; the columns found are {}",
        listed(found)
    )]
    NoPhoneColumn { found: Vec<String> },
    /// Two columns of one name, compared without regard to case and spaces.
    #[error("row 1 names the column `{name}` twice: rename or remove one of the two")]
    DuplicateColumn { name: String },
    /// Both `segment` and `segments`.
    #[error("row 1 names both `segment` and `segments`: keep one, and separate several segments by a semicolon")]
    TwoSegmentColumns,
    /// More columns than a contact may have.
    #[error("row 1 has more than {columns_max} columns: remove those that no message needs")]
    TooManyColumns { columns_max: usize },
    /// A name in the header that cannot be read as one cell.
    #[error("row 1, column {column}: {reason}")]
    HeaderCell { column: usize, reason: String },
    /// A quote opens a cell and nothing closes it, so that all that follows it would be one cell.
    #[error("a quote that opens a cell in row {row} is never closed: close it, or write a quote inside a cell twice")]
    UnclosedQuote { row: u64 },
}

/// Why an import failed. Nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file has to be put right; the text says how.
    #[error(transparent)]
    File(#[from] FileFault),
    /// More than `ImportOptions::max_bytes`.
    #[error("the file has {bytes} bytes, more than the {max_bytes} that are allowed: split it")]
    TooLarge { bytes: u64, max_bytes: u64 },
    #[error("the database failed during the import")]
    Database(#[from] sqlx::Error),
    #[error("the uploaded file could not be read back")]
    Io(#[from] std::io::Error),
}

/// Why one row was rejected; the others are not affected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowError {
    /// The header is row 1; blank lines do not count.
    pub row: u64,
    /// The name of the column as the file has it; none if the row as a whole is at fault.
    pub column: Option<String>,
    pub reason: String,
}

const COLUMNS_LISTED_MAX: usize = 20;
const NAME_CHARACTERS_LISTED_MAX: usize = 40;

fn listed(columns: &[String]) -> String {
    let mut names: Vec<String> = columns
        .iter()
        .take(COLUMNS_LISTED_MAX)
        .map(|name| format!("`{}`", name.chars().take(NAME_CHARACTERS_LISTED_MAX).collect::<String>()))
        .collect();
    if columns.len() > COLUMNS_LISTED_MAX {
        names.push(format!("and {} more", columns.len() - COLUMNS_LISTED_MAX));
    }
    names.join(", ")
}
