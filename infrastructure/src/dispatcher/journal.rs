//! The call journal: which calls to WhatsApp had begun when the process died.
//!
//! Between the receipt (`DispatchStarted`) and the outcome nobody can tell from the log whether the call was made. The
//! journal can: a call is marked in it the instant before its bytes leave, and the mark is cleared when the outcome is
//! in the log. After a kill, a claim that names this journal and has no mark was never called and goes back to the
//! others; only calls that were truly in flight become unknown.
//!
//! A mark must survive the process, not the machine. One positional write of a slot does that: it returns when the
//! bytes are in the kernel's page cache, which outlives the process however it ends. A memory mapping would give the
//! same guarantee and save about a microsecond for each call, at the price of unsafe code.
//!
//! What a crash of the machine leaves in the file is not known, and marks may be missing from it. Therefore the file
//! names the boot in which it was written. In another boot, or when a slot cannot be read, the journal takes a new id:
//! claims that name the old one cannot be judged any more and become unknown. What must stay true: a journal that
//! keeps its id has lost no mark.
//!
//! The file is a header and slots of 32 bytes, in little-endian order. Two processes never share it: it is locked for
//! as long as it is open, and the lock ends with the process.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use domain::ids::MessageId;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// How long the lock of a process that is ending is waited for.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(1);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// More calls than this cannot be in flight at once.
const SLOTS_MAX: usize = 1 << 20;

const SLOT_BYTES: usize = 32;
const HEADER_BYTES: usize = 64;
const MAGIC: &[u8; 8] = b"EKTOLACJ";
const VERSION: u32 = 1;

type Slot = [u8; SLOT_BYTES];
type Header = [u8; HEADER_BYTES];
type Key = (MessageId, u32);

const FREE: Slot = [0; SLOT_BYTES];

/// A cheap handle; clones share the journal.
#[derive(Debug, Clone)]
pub struct CallJournal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: File,
    id: Uuid,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    free: Vec<usize>,
    marked: HashMap<Key, usize>,
}

/// What the journal held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Calls that had begun and whose outcome had not reached the log.
    pub marks: HashSet<(MessageId, u32)>,
    /// Slots that were neither free nor a mark. They are freed.
    pub unreadable: usize,
    /// Does the journal keep its id? If not, claims that name an earlier id cannot be judged.
    pub continued: bool,
}

/// A call that may be in flight. Dropped without [`Mark::clear`], the mark stays in the file and in the journal.
#[derive(Debug)]
#[must_use = "the mark is to be cleared when the outcome of the call is in the log"]
pub struct Mark {
    journal: CallJournal,
    key: Key,
}

impl Mark {
    /// Frees the slot. Only after the outcome is in the log, or when the call was not made.
    pub fn clear(self) {
        self.journal.forget(self.key.0, self.key.1);
    }
}

impl CallJournal {
    /// Opens the journal, or creates it with that many slots; an existing file grows to that many, and never shrinks.
    /// Fails with `WouldBlock` while another process has it open, after waiting for a second.
    pub fn open(path: &Path, slots: usize) -> io::Result<(Self, Recovered)> {
        Self::open_in_boot(path, slots, this_boot())
    }

    fn open_in_boot(path: &Path, slots: usize, boot: Option<Uuid>) -> io::Result<(Self, Recovered)> {
        if slots == 0 || slots > SLOTS_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the number of slots is out of range"));
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        lock(&file)?;
        let found = Found::read(&file)?;
        let slots = slots.max(found.slots);
        let continued = found.continued_id(boot);
        let id = continued.unwrap_or_else(Uuid::new_v4);
        // The header comes first: whatever is cut off below, a slot that was lost is never lost under the old id.
        file.write_all_at(&header_bytes(id, slots, boot)?, 0)?;
        for slot in &found.unreadable {
            file.write_all_at(&FREE, offset(*slot))?;
        }
        // The slots are written out in full, so that a mark never needs room that the disk no longer has.
        for slot in found.slots..slots {
            file.write_all_at(&FREE, offset(slot))?;
        }
        let used: HashSet<usize> = found.marked.values().copied().collect();
        // Low slots are taken first, so that a quiet journal touches one page.
        let free = (0..slots).rev().filter(|slot| !used.contains(slot)).collect();
        let recovered = Recovered {
            marks: found.marked.keys().copied().collect(),
            unreadable: found.unreadable.len(),
            continued: continued.is_some(),
        };
        let slots = Mutex::new(Slots { free, marked: found.marked });
        Ok((Self(Arc::new(Inner { file, id, slots })), recovered))
    }

    /// Goes into `BeginDispatch`, so that a claim says which journal can speak about it.
    pub fn id(&self) -> Uuid {
        self.0.id
    }

    /// Marks a call that is about to be made; on an error it must not be made. Fails with `AlreadyExists` if the
    /// attempt is marked, for an attempt is called once, and with `StorageFull` if no slot is free.
    pub fn mark(&self, message: MessageId, attempt: u32) -> io::Result<Mark> {
        let key = (message, attempt);
        let slot = {
            let mut slots = self.slots();
            if slots.marked.contains_key(&key) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the attempt is marked in the call journal"));
            }
            let slot = slots
                .free
                .pop()
                .ok_or_else(|| io::Error::new(io::ErrorKind::StorageFull, "every slot of the call journal is taken"))?;
            slots.marked.insert(key, slot);
            slot
        };
        if let Err(error) = self.0.file.write_all_at(&slot_bytes(key), offset(slot)) {
            self.forget(message, attempt);
            return Err(error);
        }
        Ok(Mark { journal: self.clone(), key })
    }

    /// Was this attempt marked, by this process or by an earlier one, and neither cleared nor forgotten?
    pub fn contains(&self, message: MessageId, attempt: u32) -> bool {
        self.slots().marked.contains_key(&(message, attempt))
    }

    /// Is it certain that this claim, which nobody holds any more, was never called? `journal_id` is the one in its
    /// `DispatchStarted`.
    pub fn rules_out(&self, journal_id: Uuid, message: MessageId, attempt: u32) -> bool {
        journal_id == self.id() && !self.contains(message, attempt)
    }

    /// Frees the slot of a call whose outcome is in the log. Does nothing for a call that is not marked.
    pub fn forget(&self, message: MessageId, attempt: u32) {
        let Some(slot) = self.slots().marked.remove(&(message, attempt)) else {
            return;
        };
        match self.0.file.write_all_at(&FREE, offset(slot)) {
            Ok(()) => self.slots().free.push(slot),
            // The slot is not used again by this process. The mark that it may hold speaks of a claim that is closed.
            Err(error) => tracing::warn!(
                message.id = %message,
                attempt,
                error = &error as &dyn std::error::Error,
                "a slot of the call journal could not be freed"
            ),
        }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        // No code between taking and giving back the lock can leave the two collections at odds.
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the file for this process. One that is just ending, or a child between its fork and its exec, still has it for
/// a moment.
fn lock(file: &File) -> io::Result<()> {
    let given_up = Instant::now() + LOCK_WAIT_MAX;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < given_up => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "another process has the call journal open"));
            }
        }
    }
}

#[derive(Debug)]
struct FileHeader {
    id: Uuid,
    slots: usize,
    /// `None` where the system names no boot.
    boot: Option<Uuid>,
}

/// What a file holds.
#[derive(Debug, Default)]
struct Found {
    header: Option<FileHeader>,
    slots: usize,
    marked: HashMap<Key, usize>,
    unreadable: Vec<usize>,
}

impl Found {
    /// The id that the journal keeps, if it is certain that no mark was lost.
    fn continued_id(&self, boot: Option<Uuid>) -> Option<Uuid> {
        let header = self.header.as_ref()?;
        let complete = self.unreadable.is_empty() && self.slots >= header.slots;
        (complete && boot.is_some() && header.boot == boot).then_some(header.id)
    }

    fn read(file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let length_max = offset(SLOTS_MAX);
        if length > length_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is too long for a call journal"));
        }
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        let mut found = Self::default();
        // A process that died while it created the file left no mark.
        let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(found);
        };
        found.header = read_header(header)?;
        for (index, slot) in rest.chunks(SLOT_BYTES).enumerate() {
            found.slots = index + 1;
            match <&Slot>::try_from(slot) {
                Ok(&FREE) => {}
                Ok(slot) => match read_slot(slot) {
                    // A mark that is there twice would leave a slot that nothing frees.
                    Some(key) if !found.marked.contains_key(&key) => {
                        found.marked.insert(key, index);
                    }
                    _ => found.unreadable.push(index),
                },
                // The file ends within the slot.
                Err(_) => found.unreadable.push(index),
            }
        }
        Ok(found)
    }
}

fn offset(slot: usize) -> u64 {
    let bytes = HEADER_BYTES + slot * SLOT_BYTES;
    u64::try_from(bytes).expect("a usize fits into 64 bits")
}

fn header_bytes(id: Uuid, slots: usize, boot: Option<Uuid>) -> io::Result<Header> {
    let slots = u32::try_from(slots).map_err(io::Error::other)?;
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&slots.to_le_bytes());
    header[16..32].copy_from_slice(id.as_bytes());
    header[32..48].copy_from_slice(boot.unwrap_or_default().as_bytes());
    let sum = checksum(&header[..56]);
    header[56..].copy_from_slice(&sum);
    Ok(header)
}

/// `None` for a header that a crash of the machine left behind. Refuses the file of somebody else.
fn read_header(header: &Header) -> io::Result<Option<FileHeader>> {
    if header == &[0; HEADER_BYTES] || (header.starts_with(MAGIC) && checksum(&header[..56]) != header[56..]) {
        return Ok(None);
    }
    if !header.starts_with(MAGIC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is not a call journal"));
    }
    let number = |from: usize| header[from..].first_chunk().copied().map(u32::from_le_bytes).unwrap_or_default();
    if number(8) != VERSION {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the call journal is of another version"));
    }
    let uuid = |from: usize| Uuid::from_slice(&header[from..from + 16]).map_err(io::Error::other);
    let slots = usize::try_from(number(12)).map_err(io::Error::other)?;
    Ok(Some(FileHeader { id: uuid(16)?, slots, boot: Some(uuid(32)?).filter(|boot| !boot.is_nil()) }))
}

fn slot_bytes((message, attempt): Key) -> Slot {
    let mut slot = FREE;
    slot[..16].copy_from_slice(message.0.as_bytes());
    slot[16..20].copy_from_slice(&attempt.to_le_bytes());
    let sum = checksum(&slot[..24]);
    slot[24..].copy_from_slice(&sum);
    slot
}

/// `None`: neither free nor a mark.
fn read_slot(slot: &Slot) -> Option<Key> {
    if checksum(&slot[..24]) != slot[24..] {
        return None;
    }
    let message = Uuid::from_slice(&slot[..16]).ok()?;
    let attempt = u32::from_le_bytes(slot[16..20].try_into().ok()?);
    Some((MessageId(message), attempt))
}

fn checksum(bytes: &[u8]) -> [u8; 8] {
    let digest = Sha256::digest(bytes);
    std::array::from_fn(|index| digest[index])
}

/// The kernel draws it anew whenever the machine starts. Where there is none, each opening counts as another boot.
fn this_boot() -> Option<Uuid> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: Option<Uuid> = Some(Uuid::from_u128(1));
    const NEXT_BOOT: Option<Uuid> = Some(Uuid::from_u128(2));

    fn message(number: u128) -> MessageId {
        MessageId(Uuid::from_u128(number))
    }

    fn journal_file() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("calls.journal");
        (folder, path)
    }

    fn open(path: &Path, boot: Option<Uuid>) -> (CallJournal, Recovered) {
        CallJournal::open_in_boot(path, 4, boot).unwrap()
    }

    #[test]
    fn in_the_same_boot_it_continues() {
        let (_folder, path) = journal_file();
        let (journal, recovered) = open(&path, BOOT);
        assert!(!recovered.continued);
        let id = journal.id();
        drop(journal.mark(message(1), 1).unwrap());
        drop(journal);
        let (journal, recovered) = open(&path, BOOT);
        assert_eq!(recovered, Recovered { marks: HashSet::from([(message(1), 1)]), unreadable: 0, continued: true });
        assert_eq!(journal.id(), id);
        assert!(!journal.rules_out(id, message(1), 1));
        assert!(journal.rules_out(id, message(1), 2));
        assert!(journal.rules_out(id, message(2), 1));
    }

    #[test]
    fn after_another_boot_it_judges_no_earlier_claim() {
        for (before, after) in [(BOOT, NEXT_BOOT), (BOOT, None), (None, BOOT), (None, None)] {
            let (_folder, path) = journal_file();
            let (journal, _) = open(&path, before);
            let id = journal.id();
            drop(journal.mark(message(1), 1).unwrap());
            drop(journal);
            let (journal, recovered) = open(&path, after);
            assert!(!recovered.continued);
            assert_ne!(journal.id(), id);
            assert!(!journal.rules_out(id, message(2), 1), "a mark of message 2 may be lost");
            assert!(journal.contains(message(1), 1), "what is left is kept");
            drop(journal);
            assert_eq!(open(&path, after).1.continued, after.is_some());
        }
    }

    #[test]
    fn an_unreadable_slot_is_reported_and_ends_the_journal() {
        let (_folder, path) = journal_file();
        let (journal, _) = open(&path, BOOT);
        let id = journal.id();
        drop(journal.mark(message(1), 1).unwrap());
        drop(journal.mark(message(2), 1).unwrap());
        drop(journal);
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[7], offset(0) + 3).unwrap();
        let (journal, recovered) = open(&path, BOOT);
        assert_eq!(recovered, Recovered { marks: HashSet::from([(message(2), 1)]), unreadable: 1, continued: false });
        assert_ne!(journal.id(), id);
        drop(journal);
        assert_eq!(open(&path, BOOT).1.unreadable, 0);
    }

    #[test]
    fn a_file_cut_short_ends_the_journal() {
        for length in [0, 10, 64, 64 + 16, 64 + 3 * 32] {
            let (_folder, path) = journal_file();
            let (journal, _) = open(&path, BOOT);
            let id = journal.id();
            drop(journal);
            OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
            let (journal, recovered) = open(&path, BOOT);
            assert!(!recovered.continued);
            assert_ne!(journal.id(), id);
            let marks: Vec<Mark> = (0..4).map(|number| journal.mark(message(number), 1).unwrap()).collect();
            assert_eq!(marks.len(), 4);
        }
    }

    #[test]
    fn the_file_of_somebody_else_is_left_alone() {
        let (_folder, path) = journal_file();
        let foreign = [b'x'; 200];
        std::fs::write(&path, foreign).unwrap();
        assert_eq!(CallJournal::open_in_boot(&path, 4, BOOT).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut newer = header_bytes(Uuid::from_u128(5), 4, BOOT).unwrap();
        newer[8] = 2;
        let sum = checksum(&newer[..56]);
        newer[56..].copy_from_slice(&sum);
        std::fs::write(&path, newer).unwrap();
        assert_eq!(CallJournal::open_in_boot(&path, 4, BOOT).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(std::fs::read(&path).unwrap(), newer);
    }
}
