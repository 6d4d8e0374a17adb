//! The only place of the command line that prints. Answers go to stdout, everything else to stderr, so that a script
//! can rely on stdout holding nothing but the answer.

mod format;
mod progress;
mod table;

use std::fmt;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

pub use self::format::{bytes, count, duration, instant};
pub use self::progress::{Progress, Unit};
pub use self::table::{Align, Table};

/// What a stream can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Style {
    pub(super) terminal: bool,
    pub(super) color: bool,
}

impl Style {
    fn of(stream: &impl IsTerminal) -> Self {
        let terminal = stream.is_terminal();
        Self { terminal, color: terminal && colors_wanted(|name| std::env::var(name).ok()) }
    }

    pub(super) fn stderr() -> Self {
        Self::of(&io::stderr())
    }
}

/// By the convention of <https://no-color.org>.
fn colors_wanted(variable: impl Fn(&str) -> Option<String>) -> bool {
    variable("NO_COLOR").is_none_or(|value| value.is_empty()) && variable("TERM").is_none_or(|term| term != "dumb")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Quiet,
}

/// A handle to the two streams, cheap to copy.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    stdout: Style,
    stderr: Style,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Self { json, stdout: Style::of(&io::stdout()), stderr: Style::stderr() }
    }

    /// Without color and width, wherever the tests run.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { json: false, stdout: Style::default(), stderr: Style::default() }
    }

    /// A line on stdout.
    pub fn line(&self, line: &str) {
        // A reader that has gone away is no reason to end what runs.
        let mut stdout = io::stdout().lock();
        drop(writeln!(stdout, "{line}").and_then(|()| stdout.flush()));
    }

    /// A line for the person, on stderr.
    pub fn note(&self, line: &str) {
        drop(writeln!(io::stderr().lock(), "{line}"));
    }

    /// The answer of a subcommand: with `--json` one document, otherwise the text.
    pub fn answer<T: Serialize + ?Sized>(&self, value: &T, text: impl FnOnce(&Self) -> String) -> anyhow::Result<()> {
        if self.json {
            return self.document(value);
        }
        self.write(&text(self))
    }

    /// One JSON document on stdout.
    pub fn document<T: Serialize + ?Sized>(&self, value: &T) -> anyhow::Result<()> {
        self.write(&serde_json::to_string_pretty(value)?)
    }

    /// A table as it looks on stdout.
    pub fn table(&self, table: &Table) -> String {
        table.render(self.stdout)
    }

    /// Text for stdout in the color of its meaning, if stdout has colors.
    pub fn paint(&self, tone: Tone, text: impl fmt::Display) -> String {
        if !self.stdout.color {
            return text.to_string();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Quiet => 2,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// Progress of countable work on stderr: a bar on a terminal, otherwise a line every two seconds.
    pub fn progress(&self, title: &str, total: u64) -> Progress {
        Progress::start(self.stderr.terminal, title, total, Unit::Count)
    }

    /// The same for work that is measured in bytes.
    pub fn progress_in_bytes(&self, title: &str, total: u64) -> Progress {
        Progress::start(self.stderr.terminal, title, total, Unit::Bytes)
    }

    fn write(&self, text: &str) -> anyhow::Result<()> {
        let mut stdout = io::stdout().lock();
        match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
            // As in `ektola openapi | head`: the reader has what it wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_can_be_refused() {
        let variables = |no_color: Option<&'static str>, term: &'static str| {
            colors_wanted(move |name| match name {
                "NO_COLOR" => no_color.map(str::to_owned),
                _ => Some(term.to_owned()),
            })
        };
        assert!(variables(None, "xterm"));
        assert!(variables(Some(""), "xterm"));
        assert!(!variables(Some("1"), "xterm"));
        assert!(!variables(None, "dumb"));
    }

    #[test]
    fn text_is_painted_only_where_colors_are_shown() {
        let plain = Output::plain();
        assert_eq!(plain.paint(Tone::Bad, "no"), "no");
        let colored = Output { stdout: Style { terminal: true, color: true }, ..plain };
        assert_eq!(colored.paint(Tone::Bad, "no"), "\u{1b}[31mno\u{1b}[0m");
    }
}
