//! What a server prints, kept beside its folder and quoted when it does not start.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::{PrivateServerError, Result};

/// A log that is longer at a start is put aside; one old log is kept.
const LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;
const QUOTED_BYTES_MAX: u64 = 4_000;

pub(super) struct ServerLog {
    path: PathBuf,
    file: File,
    /// Where the words of this start begin.
    start: u64,
}

impl ServerLog {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || {
            if fs::metadata(path).is_ok_and(|found| found.len() > LOG_BYTES_MAX) {
                fs::rename(path, path.with_extension("old"))?;
            }
            let file = OpenOptions::new().create(true).append(true).open(path)?;
            let start = file.metadata()?.len();
            Ok(Self { path: path.to_owned(), file, start })
        };
        open().map_err(PrivateServerError::io(format!("open {}", path.display())))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn handle(&self) -> Result<Stdio> {
        let copy = self.file.try_clone();
        Ok(copy.map_err(PrivateServerError::io(format!("share {}", self.path.display())))?.into())
    }

    /// The last words since this start.
    pub(super) fn said(&self) -> String {
        let read = || {
            let mut file = File::open(&self.path)?;
            let end = file.metadata()?.len();
            file.seek(SeekFrom::Start(self.start.max(end.saturating_sub(QUOTED_BYTES_MAX))))?;
            let mut bytes = Vec::new();
            file.take(QUOTED_BYTES_MAX).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        read().unwrap_or_else(|error| format!("({error})"))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn only_the_words_of_this_start_are_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "yesterday's trouble\n").unwrap();
        let mut log = ServerLog::open(&path).unwrap();
        writeln!(log.file, "today's trouble").unwrap();
        assert_eq!(log.said(), "today's trouble");
    }
}
