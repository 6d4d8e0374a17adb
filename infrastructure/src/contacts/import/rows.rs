//! A record as a line of the staging table, in the text form of `COPY`, or the reason why it is rejected.

use std::collections::HashMap;
use std::sync::LazyLock;

use domain::consent::normal_form;
use domain::phone;

use super::fault::RowError;
use super::header::{Column, Layout, Role};
use super::records::Record;
use crate::erasure::Suppressed;

/// Said of a number whose owner was erased.
pub const SUPPRESSED: &str = "the owner of this number was erased on request and is not taken up again; if the person has \
    agreed anew: ektola contacts readmit NUMBER";
const SEGMENT_CHARACTERS_MAX: usize = 100;
/// How people say whether a contact agreed: in English, in short, and in the languages of India.
const YES: [&str; 18] = [
    "yes",
    "y",
    "true",
    "t",
    "1",
    "on",
    "agreed",
    "haan",
    "ha",
    "हाँ",
    "हां",
    "हा",
    "होय",
    "હા",
    "ஆம்",
    "అవును",
    "হ্যাঁ",
    "ಹೌದು",
];
const NO: [&str; 16] =
    ["no", "n", "false", "f", "0", "off", "nahi", "नहीं", "नही", "नाही", "ના", "இல்லை", "కాదు", "లేదు", "না", "ಇಲ್ಲ"];
static MEANINGS: LazyLock<HashMap<String, bool>> = LazyLock::new(|| {
    let meaning = |words: &'static [&str], yes| words.iter().map(move |word| (normal_form(word), yes));
    meaning(&YES, true).chain(meaning(&NO, false)).collect()
});
const SEGMENT_SEPARATORS: [char; 3] = [';', '|', ','];

pub(super) struct RowWriter<'a> {
    columns: &'a [Column],
    suppressed: &'a Suppressed,
    attributes: Vec<u8>,
    segments: Vec<u8>,
    opt_in: Option<bool>,
}

impl<'a> RowWriter<'a> {
    pub(super) fn new(layout: &'a Layout, suppressed: &'a Suppressed) -> Self {
        Self { columns: &layout.columns, suppressed, attributes: Vec::new(), segments: Vec::new(), opt_in: None }
    }

    /// Appends `row number, phone, attributes, segments, opt-in` to `lines`; nothing if the row is rejected.
    pub(super) fn write(&mut self, row: u64, record: &Record, lines: &mut Vec<u8>) -> Result<(), RowError> {
        self.attributes.clear();
        self.segments.clear();
        self.opt_in = None;
        let phone = self.read_cells(record).map_err(|(column, reason)| RowError {
            row,
            column: column.map(|column| self.name_of(column)),
            reason,
        })?;
        lines.extend_from_slice(row.to_string().as_bytes());
        lines.push(b'\t');
        // A normalised number is a plus and digits: there is nothing to escape.
        lines.extend_from_slice(phone.as_str().as_bytes());
        lines.push(b'\t');
        lines.push(b'{');
        escape(&self.attributes, lines);
        lines.extend_from_slice(b"}\t");
        if self.segments.is_empty() {
            lines.extend_from_slice(b"\\N");
        } else {
            lines.push(b'{');
            escape(&self.segments, lines);
            lines.push(b'}');
        }
        lines.extend_from_slice(match self.opt_in {
            None => b"\t\\N\n",
            Some(true) => b"\tt\n",
            Some(false) => b"\tf\n",
        });
        Ok(())
    }

    fn name_of(&self, column: usize) -> String {
        match self.columns.get(column) {
            Some(known) if !known.name.is_empty() => known.name.clone(),
            _ => format!("column {}", column + 1),
        }
    }

    /// Fills `attributes` and `segments` and returns the number; or which column is at fault, and how.
    fn read_cells(&mut self, record: &Record) -> Result<phone::Phone, (Option<usize>, String)> {
        if record.cells() > self.columns.len() {
            let reason = format!(
                "the row has {} cells but the header names {} columns; put a cell that contains the delimiter in quotes",
                record.cells(),
                self.columns.len()
            );
            return Err((None, reason));
        }
        if let Some((column, fault)) = record.fault() {
            return Err((Some(column), fault.to_string()));
        }
        let mut found = None;
        for (index, column) in self.columns.iter().enumerate() {
            let cell = record.cell(index);
            if cell.contains('\0') {
                return Err((Some(index), "the cell contains a NUL character".to_owned()));
            }
            match &column.role {
                Role::Phone => {
                    let phone = phone::normalize(&cell).map_err(|error| (Some(index), error.to_string()))?;
                    if self.suppressed.contains(&phone) {
                        return Err((Some(index), SUPPRESSED.to_owned()));
                    }
                    found = Some(phone);
                }
                _ if cell.is_empty() => {}
                Role::Segments => {
                    write_segments(&cell, &mut self.segments).map_err(|reason| (Some(index), reason))?;
                }
                Role::OptIn => self.opt_in = Some(read_opt_in(&cell).map_err(|reason| (Some(index), reason))?),
                Role::Attribute(key) => write_attribute(key, &cell, &mut self.attributes),
                Role::Unnamed => {
                    return Err((
                        Some(index),
                        "the cell has a value but the header does not name its column".to_owned(),
                    ));
                }
            }
        }
        found.ok_or_else(|| (None, "the row has no phone".to_owned()))
    }
}

fn read_opt_in(cell: &str) -> Result<bool, String> {
    let meaning = MEANINGS.get(&normal_form(cell)).copied();
    meaning.ok_or_else(|| "must say yes or no: whether the contact agreed to messages".to_owned())
}

/// Appends `"key":"value"` to the members of a JSON object.
fn write_attribute(key: &str, value: &str, members: &mut Vec<u8>) {
    if !members.is_empty() {
        members.push(b',');
    }
    write_json(key, members);
    members.push(b':');
    write_json(value, members);
}

fn write_json(text: &str, json: &mut Vec<u8>) {
    serde_json::to_writer(json, text).expect("a string can always be written to memory");
}

/// Appends `"name","name"`, the elements of an array of Postgres.
fn write_segments(cell: &str, elements: &mut Vec<u8>) -> Result<(), String> {
    let mut names: Vec<&str> = cell.split(SEGMENT_SEPARATORS).map(str::trim).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        if name.chars().count() > SEGMENT_CHARACTERS_MAX {
            return Err(format!("the name of a segment has at most {SEGMENT_CHARACTERS_MAX} characters"));
        }
        if !elements.is_empty() {
            elements.push(b',');
        }
        elements.push(b'"');
        for byte in name.bytes() {
            if matches!(byte, b'"' | b'\\') {
                elements.push(b'\\');
            }
            elements.push(byte);
        }
        elements.push(b'"');
    }
    Ok(())
}

/// The text form of `COPY` gives a meaning to these four bytes.
fn escape(value: &[u8], line: &mut Vec<u8>) {
    for &byte in value {
        match byte {
            b'\\' => line.extend_from_slice(b"\\\\"),
            b'\t' => line.extend_from_slice(b"\\t"),
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            _ => line.push(byte),
        }
    }
}
