//! Broken promises, each kept once as the file that shows it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::path::{Path, PathBuf};

/// More are not kept: somebody has to look at these first.
const FINDINGS_MAX: usize = 50;

pub(crate) struct Findings {
    folder: PathBuf,
    seen: HashSet<String>,
}

impl Findings {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), seen: HashSet::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// What was found and the command that shows it again, unless the same promise was seen broken before.
    pub(crate) fn keep(&mut self, target: &str, broken: &str, input: &[u8]) -> io::Result<Option<String>> {
        // Numbers differ from input to input; but a panic's place is one, and comes first.
        let (start, rest) = broken.split_at(broken.find('\n').unwrap_or(0));
        let kind: String = rest.chars().filter(|sign| !sign.is_numeric()).take(60).collect();
        if self.seen.len() >= FINDINGS_MAX || !self.seen.insert(format!("{target} {start} {kind}")) {
            return Ok(None);
        }
        std::fs::create_dir_all(&self.folder)?;
        let mut hasher = DefaultHasher::new();
        input.hash(&mut hasher);
        let path = self.folder.join(format!("{target}-{:016x}", hasher.finish()));
        std::fs::write(&path, input)?;
        let replay = format!("make fuzz ARGS=\"--target {target} --replay {}\"", path.display());
        Ok(Some(format!("{target} breaks a promise: {broken}\n      {replay}")))
    }
}
