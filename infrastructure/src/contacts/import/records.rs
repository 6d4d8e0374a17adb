//! Records of a CSV file, one at a time, in bounded memory whatever the file holds.
//!
//! RFC 4180 with what real files have besides: any line end, spaces around a quoted cell, quotes inside a cell that
//! does not begin with one. What must stay true: a quote that nobody closed is a fault of the file and never a long
//! cell. It shows in two ways. Either the file ends inside the cell, or the cell runs over line ends to the opening
//! quote of a later cell, so that text follows what was taken for the closing quote.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use super::fault::{FileFault, ImportError};
use super::text::{Encoding, Progress, Text};

pub(super) const CELL_BYTES_MAX: usize = 4096;
pub(super) const COLUMNS_MAX: usize = 200;

/// Why a cell cannot be used although the file goes on being readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellFault {
    TooLong,
    TextAfterQuote,
}

impl std::fmt::Display for CellFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooLong => write!(f, "the cell is longer than {CELL_BYTES_MAX} bytes"),
            Self::TextAfterQuote => f.write_str("text follows a closing quote; write a quote inside a cell twice"),
        }
    }
}

/// One record; reused from record to record.
#[derive(Debug, Default)]
pub(super) struct Record {
    bytes: Vec<u8>,
    /// Where each cell ends in `bytes`.
    ends: Vec<usize>,
    /// All cells, also those beyond `COLUMNS_MAX` which are not kept.
    cells: usize,
    cell_bytes: usize,
    quoted: bool,
    fault: Option<(usize, CellFault)>,
}

impl Record {
    pub(super) fn cells(&self) -> usize {
        self.cells
    }

    /// A cell without the white space around it; empty if the record has fewer cells.
    pub(super) fn cell(&self, column: usize) -> Cow<'_, str> {
        let Some(end) = self.ends.get(column) else { return Cow::Borrowed("") };
        let start = column.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        match String::from_utf8_lossy(&self.bytes[start..*end]) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        }
    }

    /// The first cell at fault.
    pub(super) fn fault(&self) -> Option<(usize, CellFault)> {
        self.fault
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.cells = 0;
        self.cell_bytes = 0;
        self.quoted = false;
        self.fault = None;
    }

    fn is_blank(&self) -> bool {
        self.cells == 1 && !self.quoted && self.fault.is_none() && self.cell(0).is_empty()
    }

    fn append(&mut self, text: &[u8]) {
        self.cell_bytes += text.len();
        if self.cell_bytes > CELL_BYTES_MAX {
            self.fail(CellFault::TooLong);
        } else if self.cells < COLUMNS_MAX {
            self.bytes.extend_from_slice(text);
        }
    }

    fn fail(&mut self, fault: CellFault) {
        self.fault.get_or_insert((self.cells, fault));
    }

    fn end_cell(&mut self) {
        if self.cells < COLUMNS_MAX {
            self.ends.push(self.bytes.len());
        }
        self.cells += 1;
        self.cell_bytes = 0;
    }

    /// The cell so far was white space before an opening quote.
    fn forget_cell(&mut self) {
        self.bytes.truncate(self.ends.last().copied().unwrap_or(0));
        self.cell_bytes = 0;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing of the cell but white space.
    CellStart,
    Unquoted,
    Quoted,
    /// A quote inside a quoted cell: it closes the cell unless a second one follows.
    Quote,
    /// After the closing quote and a space.
    Closed,
}

pub(super) struct RecordReader {
    text: Text,
    encoding: Encoding,
    delimiter: u8,
    buffer: Vec<u8>,
    at: usize,
    state: State,
    /// The quoted cell being read has run over a line end.
    over_line_end: bool,
    /// A line feed right after a carriage return belongs to it.
    after_carriage_return: bool,
    row: u64,
}

impl RecordReader {
    pub(super) fn open(path: &Path, encoding: Encoding, delimiter: u8) -> io::Result<Self> {
        Ok(Self {
            text: Text::open(path, encoding)?,
            encoding,
            delimiter,
            buffer: Vec::new(),
            at: 0,
            state: State::CellStart,
            over_line_end: false,
            after_carriage_return: false,
            row: 0,
        })
    }

    /// The number of the record read last; the header is 1.
    pub(super) fn row(&self) -> u64 {
        self.row
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.text.bytes_read()
    }

    /// The next record that is not a blank line; false at the end of the file.
    pub(super) fn read(&mut self, record: &mut Record) -> Result<bool, ImportError> {
        loop {
            record.clear();
            if !self.read_any(record)? {
                return Ok(false);
            }
            if !record.is_blank() {
                self.row += 1;
                return Ok(true);
            }
        }
    }

    fn read_any(&mut self, record: &mut Record) -> Result<bool, ImportError> {
        self.state = State::CellStart;
        loop {
            if self.at == self.buffer.len() && !self.fill()? {
                return self.end(record);
            }
            if matches!(self.state, State::Unquoted | State::Quoted) {
                self.append_plain(record);
                if self.at == self.buffer.len() {
                    continue;
                }
            }
            let byte = self.buffer[self.at];
            self.at += 1;
            if std::mem::take(&mut self.after_carriage_return) && byte == b'\n' {
                continue;
            }
            if self.step(byte, record)? {
                return Ok(true);
            }
        }
    }

    fn fill(&mut self) -> Result<bool, ImportError> {
        self.buffer.clear();
        self.at = 0;
        match self.text.read_more(&mut self.buffer)? {
            Progress::More => Ok(true),
            Progress::End => Ok(false),
            Progress::Malformed => {
                Err(FileFault::UnreadableEncoding { row: self.row + 1, encoding: self.encoding.name() }.into())
            }
        }
    }

    /// Takes up to the next byte that means something, in one go.
    fn append_plain(&mut self, record: &mut Record) {
        let mut end = self.at;
        while end < self.buffer.len() {
            let byte = self.buffer[end];
            if byte == self.delimiter || byte == b'\n' || byte == b'\r' || byte == b'"' {
                break;
            }
            end += 1;
        }
        record.append(&self.buffer[self.at..end]);
        self.at = end;
    }

    /// Takes one byte; true if it ends the record.
    fn step(&mut self, byte: u8, record: &mut Record) -> Result<bool, ImportError> {
        let line_end = byte == b'\n' || byte == b'\r';
        if self.state == State::Quoted {
            if byte == b'"' {
                self.state = State::Quote;
            } else {
                self.over_line_end |= line_end;
                record.append(&[byte]);
            }
            return Ok(false);
        }
        if byte == self.delimiter || line_end {
            record.end_cell();
            self.state = State::CellStart;
            self.after_carriage_return = byte == b'\r';
            return Ok(line_end);
        }
        let space = byte == b' ' || byte == b'\t';
        match self.state {
            State::CellStart if byte == b'"' => {
                record.forget_cell();
                record.quoted = true;
                self.over_line_end = false;
                self.state = State::Quoted;
            }
            State::CellStart if space => record.append(&[byte]),
            State::Quote if byte == b'"' => {
                record.append(b"\"");
                self.state = State::Quoted;
            }
            State::Quote | State::Closed if space => self.state = State::Closed,
            State::Quote | State::Closed if self.over_line_end => {
                return Err(FileFault::UnclosedQuote { row: self.row + 1 }.into());
            }
            State::Quote | State::Closed => {
                record.fail(CellFault::TextAfterQuote);
                record.append(&[byte]);
                self.state = State::Unquoted;
            }
            State::CellStart | State::Unquoted | State::Quoted => {
                record.append(&[byte]);
                self.state = State::Unquoted;
            }
        }
        Ok(false)
    }

    /// The file has ended; whatever was begun is the last record, unless a quote is still open.
    fn end(&mut self, record: &mut Record) -> Result<bool, ImportError> {
        if self.state == State::Quoted {
            return Err(FileFault::UnclosedQuote { row: self.row + 1 }.into());
        }
        if self.state == State::CellStart && record.cells == 0 && record.cell_bytes == 0 {
            return Ok(false);
        }
        record.end_cell();
        self.state = State::CellStart;
        Ok(true)
    }
}
