use std::cell::RefCell;
use std::io::Write as _;

use infrastructure::contacts::{ImportError, read_file};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::phones::is_phone;
use super::{promise, without_nul};
use crate::seeds;

const ERRORS_LISTED_MAX: usize = 3;

pub(super) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = seeds::files("contacts", ".rows.json");
    seeds.extend(seeds::texts(&["phone,segment\n9999900001,\"a\rb\tc\nd\\ \"\"e\"\"\"\n"]));
    seeds
}

thread_local! {
    /// The reader wants a file, as an upload is one.
    static FILE: RefCell<Option<NamedTempFile>> = const { RefCell::new(None) };
}

pub(super) fn check(content: &[u8]) -> Result<String, String> {
    let read = FILE.with_borrow_mut(|file| -> std::io::Result<_> {
        let file = match file {
            Some(file) => file,
            None => file.insert(NamedTempFile::new()?),
        };
        std::fs::File::create(file.path())?.write_all(content)?;
        Ok([read_file(file.path(), ERRORS_LISTED_MAX), read_file(file.path(), ERRORS_LISTED_MAX)])
    });
    let [read, again] = read.map_err(|error| format!("the fuzzer's own file cannot be written: {error}"))?;
    let content = match read {
        Ok(content) => content,
        Err(ImportError::File(fault)) => {
            return Ok(format!("{fault:?}").split([' ', '{']).next().unwrap_or_default().to_owned());
        }
        Err(error) => return Err(format!("a file fails for another reason than itself: {error}")),
    };
    promise(again.is_ok_and(|again| again == content), "the same file is read in two ways")?;
    let errors = u64::try_from(content.errors.len()).unwrap_or(u64::MAX);
    promise(errors + content.errors_omitted == content.rejected, "a rejected row has no reason")?;
    promise(content.errors.len() <= ERRORS_LISTED_MAX, "more reasons are listed than asked for")?;
    let lines = String::from_utf8(content.lines).map_err(|_| "a line for the database is no UTF-8")?;
    without_nul(&lines, "a line for the database")?;
    let taken = lines.split_terminator('\n').map(check_line).collect::<Result<Vec<()>, String>>()?.len() as u64;
    promise(taken + content.rejected == content.rows, "a row is lost")?;
    let reasons: Vec<String> =
        content.errors.iter().map(|error| error.reason.chars().filter(|sign| !sign.is_numeric()).collect()).collect();
    Ok(format!("{} {reasons:?}", taken.min(2)))
}

/// The text form of `COPY`: five fields, nothing unescaped in them.
fn check_line(line: &str) -> Result<(), String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [row, phone, attributes, segments, opt_in] = fields.as_slice() else {
        return Err("a line for the database has not five fields".to_owned());
    };
    promise(row.parse::<u64>().is_ok_and(|row| row > 1), "the number of a row is none")?;
    promise(is_phone(phone), "a phone is not one")?;
    promise(!line.contains('\r'), "a carriage return is not escaped")?;
    let attributes: Value =
        serde_json::from_str(&unescaped(attributes)?).map_err(|error| format!("attributes are no JSON: {error}"))?;
    let texts = attributes.as_object().ok_or("attributes are no object")?.values();
    promise(
        texts.into_iter().all(|value| value.as_str().is_some_and(|text| !text.is_empty())),
        "an attribute is empty",
    )?;
    promise(*segments == "\\N" || (segments.starts_with('{') && segments.ends_with('}')), "segments are no array")?;
    unescaped(segments.trim_start_matches("\\N"))?;
    promise(matches!(*opt_in, "t" | "f" | "\\N"), "an opt-in is neither yes nor no")
}

fn unescaped(field: &str) -> Result<String, String> {
    let mut text = String::with_capacity(field.len());
    let mut signs = field.chars();
    while let Some(sign) = signs.next() {
        text.push(if sign == '\\' {
            match signs.next() {
                Some('\\') => '\\',
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                _ => return Err("a backslash in a line for the database escapes nothing".to_owned()),
            }
        } else {
            sign
        });
    }
    Ok(text)
}
