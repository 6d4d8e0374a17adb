//! The sandbox's memory: two append-only files from which everything that it owes can be computed again.
//!
//! The ledger has one line per accepted call, `<ledger>.posted` one per acknowledged status. A line is handed to the
//! operating system in one write before anybody hears of it, so a killed sandbox forgets nothing that it has said; a
//! last line that the kill tore was never heard of by anybody and is cut off. What is owed is the statuses that the
//! ledger's calls lead to minus those that were acknowledged. A kill between an acknowledgement and its line makes a
//! status come twice, never not at all.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::behavior::{Outcomes, Status};
use super::course::Course;
use super::schedule::{OwedMessage, Way};
use super::wire::recipient_key;

/// How long a start waits for a sandbox that is just ending to let go of the ledger.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// One accepted call, as its line shows it.
#[derive(Debug, Serialize)]
pub(super) struct LedgerLine<'a> {
    /// The engine's time, RFC 3339.
    pub(super) at: String,
    /// When the call's body had been read: milliseconds since 1970 that never step back while the sandbox runs.
    pub(super) read_at_ms: f64,
    pub(super) phone_number_id: &'a str,
    pub(super) wamid: &'a str,
    pub(super) to: &'a str,
    pub(super) callback: Option<&'a str>,
    pub(super) template: &'a str,
    /// What becomes of the message, unless the usual does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) course: Option<&'a Course>,
}

/// The fields of a line that recovery needs.
#[derive(Deserialize)]
struct RecoveredLine<'a> {
    #[serde(borrow)]
    phone_number_id: Cow<'a, str>,
    #[serde(borrow)]
    wamid: Cow<'a, str>,
    #[serde(borrow)]
    to: Cow<'a, str>,
    #[serde(borrow)]
    callback: Option<Cow<'a, str>>,
    course: Option<Course>,
}

/// What `GET /_ledger` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct LedgerCounts {
    pub(super) accepted: u64,
    /// Accepted calls beyond the first with the same callback data. Calls without any are not counted.
    pub(super) doubled: u64,
    pub(super) statuses_owed: u64,
}

pub(super) struct Ledger {
    path: PathBuf,
    calls: Mutex<Calls>,
    posted: Mutex<AppendFile>,
    ordinal: AtomicU64,
}

struct Calls {
    file: AppendFile,
    counts: LedgerCounts,
    callbacks: HashSet<u128>,
}

impl Ledger {
    /// Opens or creates the ledger at `path` and finds the messages that still owe statuses. Blocks: it reads both
    /// files from end to end.
    pub(super) fn open(path: &Path, outcomes: Outcomes) -> anyhow::Result<(Self, Vec<OwedMessage>)> {
        let file = open_for_append(path)?;
        lock(&file)?;
        let posted_file = open_for_append(posted_path(path))?;
        let (posted, posted_length) = read_posted(&posted_file).context("cannot read the acknowledged statuses")?;
        let mut recovery = Recovery::new(outcomes, &posted);
        let length = for_each_line(&file, |number, line| recovery.call(number, line))?;
        let (counts, callbacks, owed) = (recovery.counts, recovery.callbacks, recovery.owed);
        let ledger = Self {
            path: path.to_owned(),
            ordinal: AtomicU64::new(counts.accepted),
            calls: Mutex::new(Calls { file: AppendFile::cut_at(file, length)?, counts, callbacks }),
            posted: Mutex::new(AppendFile::cut_at(posted_file, posted_length)?),
        };
        Ok((ledger, owed))
    }

    /// A number that no other call on this ledger has had since it was opened.
    pub(super) fn next_ordinal(&self) -> u64 {
        self.ordinal.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes an accepted call that will owe `statuses`. When this fails the call is not accepted.
    pub(super) fn accept(&self, line: &LedgerLine<'_>, statuses: usize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let mut guard = self.calls();
        let calls = &mut *guard;
        calls.file.append(&bytes)?;
        count_call(&mut calls.counts, &mut calls.callbacks, line.callback, statuses);
        Ok(())
    }

    /// Writes that the next status of each of these messages was acknowledged.
    pub(super) fn acknowledge(&self, messages: &[OwedMessage]) -> io::Result<()> {
        let mut lines = String::with_capacity(messages.len() * 80);
        for message in messages {
            lines.extend([message.fields().wamid, " ", message.step().status.name(), "\n"]);
        }
        let written = self.posted.lock().unwrap_or_else(PoisonError::into_inner).append(lines.as_bytes());
        let mut calls = self.calls();
        calls.counts.statuses_owed = calls.counts.statuses_owed.saturating_sub(count_of(messages.len()));
        written
    }

    /// Takes a recipient out of both files: its number and the ids of its messages give way to others of the same
    /// length, in place, line by line, so that a kill leaves whole lines and the counts stay. Answers how many calls
    /// there were.
    pub(super) fn forget(&self, recipient: &str) -> io::Result<usize> {
        let calls = self.calls();
        let posted = self.posted.lock().unwrap_or_else(PoisonError::into_inner);
        let key = recipient_key(recipient);
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        let mut forgotten: HashMap<String, String> = HashMap::new();
        rewrite_lines(&file, |line| {
            let call: RecoveredLine<'_> = serde_json::from_slice(line).ok()?;
            if recipient_key(&call.to) != key {
                return None;
            }
            let nobody = "0".repeat(call.to.len());
            let id = stand_in(&call.wamid);
            let text = str::from_utf8(line).ok()?;
            let changed = text.replace(call.wamid.as_ref(), &id).replace(call.to.as_ref(), &nobody);
            forgotten.insert(call.wamid.into_owned(), id);
            Some(changed.into_bytes())
        })?;
        let file = OpenOptions::new().read(true).write(true).open(posted_path(&self.path))?;
        rewrite_lines(&file, |line| {
            let (wamid, name) = str::from_utf8(line).ok()?.rsplit_once(' ')?;
            Some(format!("{} {name}", forgotten.get(wamid)?).into_bytes())
        })?;
        drop((calls, posted));
        Ok(forgotten.len())
    }

    pub(super) fn counts(&self) -> LedgerCounts {
        self.calls().counts
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count_call(counts: &mut LedgerCounts, callbacks: &mut HashSet<u128>, callback: Option<&str>, statuses: usize) {
    counts.accepted += 1;
    counts.statuses_owed += count_of(statuses);
    if callback.is_some_and(|callback| !callbacks.insert(fingerprint(callback))) {
        counts.doubled += 1;
    }
}

/// What the lines of a ledger add up to.
struct Recovery<'a> {
    outcomes: Outcomes,
    posted: &'a HashMap<u128, Posted>,
    counts: LedgerCounts,
    callbacks: HashSet<u128>,
    owed: Vec<OwedMessage>,
}

impl<'a> Recovery<'a> {
    fn new(outcomes: Outcomes, posted: &'a HashMap<u128, Posted>) -> Self {
        let counts = LedgerCounts { accepted: 0, doubled: 0, statuses_owed: 0 };
        Self { outcomes, posted, counts, callbacks: HashSet::new(), owed: Vec::new() }
    }

    fn call(&mut self, number: u64, line: &[u8]) -> anyhow::Result<()> {
        let call: RecoveredLine<'_> =
            serde_json::from_slice(line).with_context(|| format!("line {number} is not a call of a sandbox"))?;
        let recipient = recipient_key(&call.to);
        let posted = self.posted.get(&fingerprint(&call.wamid)).copied().unwrap_or_default();
        let callback = call.callback.as_deref();
        let (way, next) = match call.course {
            // Its steps need not differ by their status, and one is posted after the other.
            Some(course) => (Way::Other(Box::new(course)), usize::from(posted.count)),
            None => {
                let fate = self.outcomes.of(&recipient);
                let next = fate.statuses().iter().position(|status| posted.statuses & bit(*status) == 0);
                (Way::Usual(fate), next.unwrap_or(fate.statuses().len()))
            }
        };
        let owed = OwedMessage::new(&call.wamid, &call.phone_number_id, &recipient, callback, way, next);
        let statuses = owed.as_ref().map_or(0, OwedMessage::remaining);
        count_call(&mut self.counts, &mut self.callbacks, callback, statuses);
        self.owed.extend(owed);
        Ok(())
    }
}

/// The acknowledged statuses of a message.
#[derive(Debug, Clone, Copy, Default)]
struct Posted {
    statuses: u8,
    count: u8,
}

/// The acknowledged statuses of each message, and the length of the whole lines. An unreadable line is passed over:
/// its status is posted once more.
fn read_posted(file: &File) -> anyhow::Result<(HashMap<u128, Posted>, u64)> {
    let mut posted: HashMap<u128, Posted> = HashMap::new();
    let length = for_each_line(file, |_, line| {
        let Some((wamid, name)) = str::from_utf8(line).ok().and_then(|line| line.rsplit_once(' ')) else {
            return Ok(());
        };
        if let Some(status) = Status::ALL.into_iter().find(|status| status.name() == name) {
            let posted = posted.entry(fingerprint(wamid)).or_default();
            posted.statuses |= bit(status);
            posted.count = posted.count.saturating_add(1);
        }
        Ok(())
    })?;
    Ok((posted, length))
}

fn bit(status: Status) -> u8 {
    match status {
        Status::Sent => 1,
        Status::Delivered => 2,
        Status::Read => 4,
        Status::Failed => 8,
        Status::Played => 16,
        Status::Deleted => 32,
        Status::Warning => 64,
        Status::UnheardOf => 128,
    }
}

/// Hands every whole line to `each`, counted from 1, and returns the length of all whole lines.
fn for_each_line(file: &File, mut each: impl FnMut(u64, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut line, mut length, mut number) = (Vec::new(), 0, 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        let Some(whole) = line.strip_suffix(b"\n") else { return Ok(length) };
        number += 1;
        each(number, whole)?;
        length += count_of(read);
    }
}

/// Another id of the same length, the same for the same id.
fn stand_in(wamid: &str) -> String {
    let digits = format!("{:032x}", fingerprint(wamid));
    "erased-".chars().chain(digits.chars().cycle()).take(wamid.len()).collect()
}

/// Writes what `change` makes of a line over it; what is not as long as the line is not written.
fn rewrite_lines(file: &File, mut change: impl FnMut(&[u8]) -> Option<Vec<u8>>) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let (mut line, mut at) = (Vec::new(), 0);
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        let Some(whole) = line.strip_suffix(b"\n") else { return file.sync_data() };
        if let Some(changed) = change(whole).filter(|changed| changed.len() == whole.len()) {
            file.write_all_at(&changed, at)?;
        }
        at += count_of(read);
    }
}

/// Identifies a text in a set of millions without keeping the text.
pub(super) fn fingerprint(text: &str) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(salt);
        hasher.write(text.as_bytes());
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

fn count_of(length: usize) -> u64 {
    u64::try_from(length).expect("a length in memory fits 64 bits")
}

fn posted_path(ledger: &Path) -> OsString {
    let mut path = ledger.as_os_str().to_owned();
    path.push(".posted");
    path
}

fn open_for_append(path: impl AsRef<Path>) -> anyhow::Result<File> {
    let path = path.as_ref();
    // Only the owner may read it: it holds numbers.
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Two sandboxes on one ledger would post each other's statuses. The kernel lets go of the lock when a process dies.
fn lock(file: &File) -> anyhow::Result<()> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => bail!("another sandbox has it open"),
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock it"),
        }
    }
}

/// A file of lines that only grows by whole ones.
struct AppendFile {
    file: File,
    length: u64,
}

impl AppendFile {
    fn cut_at(file: File, length: u64) -> io::Result<Self> {
        file.set_len(length)?;
        Ok(Self { file, length })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        match written {
            Ok(()) => self.length += count_of(bytes.len()),
            // A torn line would spoil the next one, which is written right behind it.
            Err(_) => self.file.set_len(self.length)?,
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "greeting";

    fn line<'a>(wamid: &'a str, to: &'a str, callback: Option<&'a str>) -> LedgerLine<'a> {
        let at = "2026-11-23T10:00:00Z".to_owned();
        LedgerLine {
            at,
            read_at_ms: 1.5,
            phone_number_id: "1055",
            wamid,
            to,
            callback,
            template: TEMPLATE,
            course: None,
        }
    }

    fn open(path: &Path) -> (Ledger, Vec<OwedMessage>) {
        Ledger::open(path, Outcomes::ByNumber).expect("the ledger opens")
    }

    fn counts(accepted: u64, doubled: u64, statuses_owed: u64) -> LedgerCounts {
        LedgerCounts { accepted, doubled, statuses_owed }
    }

    #[test]
    fn what_is_owed_is_what_was_not_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        {
            let (ledger, owed) = open(&path);
            assert!(owed.is_empty());
            ledger.accept(&line("wamid.A", "+919812345600", Some("a")), 3).unwrap();
            ledger.accept(&line("wamid.B", "+919812345696", Some("b")), 2).unwrap();
            ledger.accept(&line("wamid.C", "+919812345699", None), 1).unwrap();
            assert_eq!(ledger.counts(), counts(3, 0, 6));
        }
        {
            let (ledger, owed) = open(&path);
            assert_eq!(ledger.counts(), counts(3, 0, 6));
            assert_eq!(owed[0].fields().callback, Some("a"));
            assert_eq!(owed[0].fields().recipient_id, "919812345600");
            assert_eq!(owed[2].step().status, Status::Failed);
            assert_eq!(owed[2].fields().callback, None);
            ledger.acknowledge(&owed).unwrap();
            assert_eq!(ledger.counts(), counts(3, 0, 3));
        }
        let (ledger, owed) = open(&path);
        assert_eq!(ledger.counts(), counts(3, 0, 3));
        assert_eq!(owed.iter().map(|owed| owed.step().status).collect::<Vec<_>>(), [Status::Delivered; 2]);
    }

    #[test]
    fn doubled_calls_are_counted_by_callback_also_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (ledger, _) = open(&path);
        for callback in [Some("a"), Some("b"), Some("a"), None, None] {
            ledger.accept(&line("wamid.A", "+919812345600", callback), 3).unwrap();
        }
        assert_eq!(ledger.counts().doubled, 1);
        drop(ledger);
        let (ledger, _) = open(&path);
        ledger.accept(&line("wamid.B", "+919812345600", Some("b")), 3).unwrap();
        assert_eq!((ledger.counts().accepted, ledger.counts().doubled), (6, 2));
    }

    #[test]
    fn a_torn_last_line_is_cut_off_and_the_next_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let (ledger, _) = open(&path);
        ledger.accept(&line("wamid.A", "+919812345600", Some("a")), 3).unwrap();
        drop(ledger);
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"at\":\"2026-").unwrap();

        let (ledger, owed) = open(&path);
        assert_eq!(owed.len(), 1);
        ledger.accept(&line("wamid.B", "+919812345600", Some("b")), 3).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let wamids: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["wamid"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(wamids, ["wamid.A", "wamid.B"]);
    }

    #[test]
    fn a_spoilt_line_is_named_instead_of_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        std::fs::write(&path, "{}\n").unwrap();
        let Err(error) = Ledger::open(&path, Outcomes::ByNumber) else { panic!("a spoilt ledger was opened") };
        assert!(format!("{error:#}").contains("line 1"), "{error:#}");
    }
}
