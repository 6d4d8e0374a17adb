//! The file's bytes as UTF-8, a chunk at a time, whatever encoding they came in.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use encoding_rs::{CoderResult, DecoderResult, UTF_16BE, UTF_16LE, WINDOWS_1252};

const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Utf8,
    Utf8WithMark,
    Utf16Le,
    Utf16Be,
    Windows1252,
}

impl Encoding {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Utf8 | Self::Utf8WithMark => "UTF-8",
            Self::Utf16Le | Self::Utf16Be => "UTF-16",
            Self::Windows1252 => "UTF-8 or Windows-1252",
        }
    }

    fn mark_bytes(self) -> u64 {
        match self {
            Self::Utf8 | Self::Windows1252 => 0,
            Self::Utf8WithMark => 3,
            Self::Utf16Le | Self::Utf16Be => 2,
        }
    }

    /// A byte order mark decides. Without one a file that is UTF-8 to its end is UTF-8, since text of another encoding
    /// hardly ever is by chance; what remains is taken for Windows-1252, which reading the file then confirms.
    pub(super) fn detect(path: &Path) -> io::Result<Self> {
        let mut start = Vec::new();
        File::open(path)?.take(3).read_to_end(&mut start)?;
        match start.as_slice() {
            [0xEF, 0xBB, 0xBF] => return Ok(Self::Utf8WithMark),
            [0xFF, 0xFE, ..] => return Ok(Self::Utf16Le),
            [0xFE, 0xFF, ..] => return Ok(Self::Utf16Be),
            _ => {}
        }
        let mut text = Text::open(path, Self::Utf8)?;
        let mut discarded = Vec::new();
        loop {
            discarded.clear();
            match text.read_more(&mut discarded)? {
                Progress::More => {}
                Progress::End => return Ok(Self::Utf8),
                Progress::Malformed => return Ok(Self::Windows1252),
            }
        }
    }
}

/// What a call of [`Text::read_more`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    End,
    /// All that precedes the malformed bytes was handed out before.
    Malformed,
}

pub(super) struct Text {
    file: File,
    decoder: Decoder,
    chunk: Vec<u8>,
    bytes_read: u64,
    ended: bool,
    malformed: bool,
}

impl Text {
    pub(super) fn open(path: &Path, encoding: Encoding) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mark = io::copy(&mut (&mut file).take(encoding.mark_bytes()), &mut io::sink())?;
        Ok(Self {
            file,
            decoder: Decoder::of(encoding),
            chunk: Vec::with_capacity(CHUNK_BYTES),
            bytes_read: mark,
            ended: false,
            malformed: false,
        })
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// Appends the next piece of text, which is whole characters.
    pub(super) fn read_more(&mut self, text: &mut Vec<u8>) -> io::Result<Progress> {
        let length_before = text.len();
        while text.len() == length_before {
            if self.malformed {
                return Ok(Progress::Malformed);
            }
            if self.ended {
                return Ok(Progress::End);
            }
            self.chunk.clear();
            let read = (&mut self.file).take(CHUNK_BYTES as u64).read_to_end(&mut self.chunk)?;
            self.bytes_read += read as u64;
            self.ended = read == 0;
            self.malformed = self.decoder.decode(&self.chunk, self.ended, text).is_err();
        }
        Ok(Progress::More)
    }
}

struct Malformed;

enum Decoder {
    /// Holds the first bytes of a character whose rest is in the next chunk.
    Utf8(Vec<u8>),
    Utf16(Box<encoding_rs::Decoder>),
    Windows1252,
}

impl Decoder {
    fn of(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Utf8 | Encoding::Utf8WithMark => Self::Utf8(Vec::new()),
            Encoding::Utf16Le => Self::Utf16(Box::new(UTF_16LE.new_decoder_without_bom_handling())),
            Encoding::Utf16Be => Self::Utf16(Box::new(UTF_16BE.new_decoder_without_bom_handling())),
            Encoding::Windows1252 => Self::Windows1252,
        }
    }

    /// Appends what precedes a malformed byte also when there is one.
    fn decode(&mut self, bytes: &[u8], last: bool, text: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Utf8(begun) => decode_utf8(begun, bytes, last, text),
            Self::Utf16(decoder) => decode_utf16(decoder, bytes, last, text),
            Self::Windows1252 => decode_windows_1252(bytes, text),
        }
    }
}

fn decode_utf8(begun: &mut Vec<u8>, bytes: &[u8], last: bool, text: &mut Vec<u8>) -> Result<(), Malformed> {
    let start = text.len();
    text.append(begun);
    text.extend_from_slice(bytes);
    let Err(error) = std::str::from_utf8(&text[start..]) else { return Ok(()) };
    let tail = text.split_off(start + error.valid_up_to());
    if error.error_len().is_some() || last {
        return Err(Malformed);
    }
    *begun = tail;
    Ok(())
}

fn decode_utf16(
    decoder: &mut encoding_rs::Decoder,
    bytes: &[u8],
    last: bool,
    text: &mut Vec<u8>,
) -> Result<(), Malformed> {
    let mut rest = bytes;
    loop {
        let start = text.len();
        text.resize(start + CHUNK_BYTES, 0);
        let (result, read, written) = decoder.decode_to_utf8_without_replacement(rest, &mut text[start..], last);
        text.truncate(start + written);
        rest = &rest[read..];
        match result {
            DecoderResult::InputEmpty => return Ok(()),
            DecoderResult::OutputFull => {}
            DecoderResult::Malformed(..) => return Err(Malformed),
        }
    }
}

fn decode_windows_1252(bytes: &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
    let foreign = bytes.iter().position(|byte| matches!(byte, 0 | 0x81 | 0x8D | 0x8F | 0x90 | 0x9D));
    let mut rest = &bytes[..foreign.unwrap_or(bytes.len())];
    let mut decoder = WINDOWS_1252.new_decoder_without_bom_handling();
    loop {
        let start = text.len();
        text.resize(start + CHUNK_BYTES, 0);
        let (result, read, written, _) = decoder.decode_to_utf8(rest, &mut text[start..], true);
        text.truncate(start + written);
        rest = &rest[read..];
        match result {
            CoderResult::InputEmpty => break,
            CoderResult::OutputFull => {}
        }
    }
    if foreign.is_some() { Err(Malformed) } else { Ok(()) }
}
