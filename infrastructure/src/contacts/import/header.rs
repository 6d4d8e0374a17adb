//! The first record: which delimiter the file uses and what each column is for.

use std::path::Path;

use super::fault::{FileFault, ImportError};
use super::records::{COLUMNS_MAX, Record, RecordReader};
use super::text::Encoding;

const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// What the column with the numbers may be called. The first one that a header has is taken, since a file may well
/// have a column `contact` with names beside its `mobile`.
const PHONE_KEYS: [&str; 6] = ["phone", "mobile", "phone_number", "mobile_number", "whatsapp", "contact"];

/// The column that says of each contact whether it agreed to messages.
const OPT_IN_KEY: &str = "opt_in";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Phone,
    Segments,
    /// Whether the contact agreed to messages.
    OptIn,
    /// The attribute of this name.
    Attribute(String),
    /// A column without a name, which spreadsheets leave at the end; it must be empty.
    Unnamed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// As the file has it.
    pub(super) name: String,
    pub(super) role: Role,
}

/// How to read the rest of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) encoding: Encoding,
    pub(super) delimiter: u8,
    pub(super) columns: Vec<Column>,
}

/// Reads the header once with each delimiter; the one that gives a column for the numbers is the file's, and among
/// several the one that gives the most columns.
pub(super) fn read_layout(path: &Path, encoding: Encoding) -> Result<Layout, ImportError> {
    let mut best: Option<(bool, usize, u8, Record)> = None;
    let mut fault = None;
    for delimiter in DELIMITERS {
        let mut header = Record::default();
        match RecordReader::open(path, encoding, delimiter)?.read(&mut header) {
            Ok(true) => {}
            Ok(false) => return Err(FileFault::Empty.into()),
            Err(ImportError::File(found)) => {
                fault.get_or_insert(found);
                continue;
            }
            Err(error) => return Err(error),
        }
        let rank = (header.fault().is_none() && phone_column(&header).is_some(), header.cells());
        if best.as_ref().is_none_or(|(phone, cells, ..)| rank > (*phone, *cells)) {
            best = Some((rank.0, rank.1, delimiter, header));
        }
    }
    match (best, fault) {
        (Some((has_phone, _, delimiter, header)), fault) => match fault {
            Some(fault) if !has_phone => Err(fault.into()),
            _ => Ok(Layout { encoding, delimiter, columns: columns(&header, encoding)? }),
        },
        (None, fault) => Err(fault.unwrap_or(FileFault::Empty).into()),
    }
}

fn columns(header: &Record, encoding: Encoding) -> Result<Vec<Column>, FileFault> {
    if header.cells() > COLUMNS_MAX {
        return Err(FileFault::TooManyColumns { columns_max: COLUMNS_MAX });
    }
    if let Some((column, reason)) = header.fault() {
        return Err(FileFault::HeaderCell { column: column + 1, reason: reason.to_string() });
    }
    let names: Vec<String> = (0..header.cells()).map(|column| header.cell(column).into_owned()).collect();
    // The usual origin of these is UTF-16 without its byte order mark.
    if names.iter().any(|name| name.contains('\0')) {
        return Err(FileFault::UnreadableEncoding { row: 1, encoding: encoding.name() });
    }
    let keys: Vec<String> = names.iter().map(|name| key(name)).collect();
    for (index, key) in keys.iter().enumerate() {
        if !key.is_empty() && keys[..index].contains(key) {
            return Err(FileFault::DuplicateColumn { name: names[index].clone() });
        }
    }
    if keys.iter().any(|key| key == "segment") && keys.iter().any(|key| key == "segments") {
        return Err(FileFault::TwoSegmentColumns);
    }
    let Some(phone) = phone_column(header) else {
        return Err(FileFault::NoPhoneColumn { found: names });
    };
    let columns = names.into_iter().zip(keys).enumerate().map(|(index, (name, key))| {
        let role = match key.as_str() {
            _ if index == phone => Role::Phone,
            "" => Role::Unnamed,
            "segment" | "segments" => Role::Segments,
            OPT_IN_KEY => Role::OptIn,
            _ => Role::Attribute(key),
        };
        Column { name, role }
    });
    Ok(columns.collect())
}

fn phone_column(header: &Record) -> Option<usize> {
    let keys: Vec<String> = (0..header.cells()).map(|column| key(&header.cell(column))).collect();
    PHONE_KEYS.iter().find_map(|phone| keys.iter().position(|key| key == phone))
}

/// `Due Date` and `due_date` are one column.
fn key(name: &str) -> String {
    name.to_lowercase().split_whitespace().collect::<Vec<_>>().join("_")
}
