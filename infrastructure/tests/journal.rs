//! The call journal against real processes: what is marked survives a kill, and two processes never share a file.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Barrier;

use domain::ids::MessageId;
use infrastructure::dispatcher::CallJournal;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uuid::Uuid;

const JOURNAL: &str = "EKTOLA_TEST_CALL_JOURNAL";
const SLOTS: usize = 8;

fn message(number: u128) -> MessageId {
    MessageId(Uuid::from_u128(number))
}

fn journal_file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.journal");
    (folder, path)
}

/// This very program, running one of the tests below that play another process.
fn another_process(test: &str, journal: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]).env(JOURNAL, journal);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
#[ignore = "plays the process that is killed; started by another test"]
fn marks_and_kills_itself() {
    let path = PathBuf::from(std::env::var_os(JOURNAL).unwrap());
    let (journal, _) = CallJournal::open(&path, SLOTS).unwrap();
    let settled = journal.mark(message(1), 1).unwrap();
    let _in_flight = journal.mark(message(2), 1).unwrap();
    let _also_in_flight = journal.mark(message(3), 4).unwrap();
    settled.clear();
    kill(Pid::this(), Signal::SIGKILL).unwrap();
}

#[test]
#[ignore = "plays the second process; started by another test"]
fn opens_the_journal() {
    let path = PathBuf::from(std::env::var_os(JOURNAL).unwrap());
    CallJournal::open(&path, SLOTS).unwrap();
}

#[test]
fn marks_survive_a_killed_process_and_cleared_ones_do_not_come_back() {
    let (_folder, path) = journal_file();
    let (journal, first) = CallJournal::open(&path, SLOTS).unwrap();
    assert_eq!((first.marks.len(), first.unreadable, first.continued), (0, 0, false));
    let id = journal.id();
    drop(journal);

    let status = another_process("marks_and_kills_itself", &path).status().unwrap();
    assert_eq!(status.signal(), Some(9));

    let (journal, recovered) = CallJournal::open(&path, SLOTS).unwrap();
    assert_eq!(recovered.marks, HashSet::from([(message(2), 1), (message(3), 4)]));
    assert_eq!((recovered.unreadable, recovered.continued), (0, true));
    assert_eq!(journal.id(), id);
    assert!(journal.rules_out(id, message(1), 1));
    assert!(journal.contains(message(2), 1) && !journal.rules_out(id, message(2), 1));
    assert!(!journal.rules_out(Uuid::from_u128(9), message(1), 1), "another journal's claim cannot be judged");

    journal.forget(message(2), 1);
    drop(journal);
    let (_, recovered) = CallJournal::open(&path, SLOTS).unwrap();
    assert_eq!(recovered.marks, HashSet::from([(message(3), 4)]));
}

#[test]
fn two_processes_never_share_a_journal() {
    let (_folder, path) = journal_file();
    let (journal, _) = CallJournal::open(&path, SLOTS).unwrap();
    assert_eq!(CallJournal::open(&path, SLOTS).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert!(!another_process("opens_the_journal", &path).status().unwrap().success());
    drop(journal);
    assert!(another_process("opens_the_journal", &path).status().unwrap().success());
}

#[test]
fn a_mark_that_is_dropped_stays_and_a_cleared_one_frees_its_slot() {
    let (_folder, path) = journal_file();
    let (journal, _) = CallJournal::open(&path, 2).unwrap();
    drop(journal.mark(message(1), 1).unwrap());
    assert!(journal.contains(message(1), 1));
    for attempt in 1..=10 {
        let mark = journal.mark(message(2), attempt).unwrap();
        assert!(journal.contains(message(2), attempt));
        mark.clear();
        assert!(!journal.contains(message(2), attempt));
    }
    assert!(journal.contains(message(1), 1));
}

#[test]
fn an_attempt_is_marked_once_and_slots_are_limited() {
    let (_folder, path) = journal_file();
    let (journal, _) = CallJournal::open(&path, 2).unwrap();
    let _first = journal.mark(message(1), 1).unwrap();
    assert_eq!(journal.mark(message(1), 1).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    let second = journal.mark(message(1), 2).unwrap();
    assert_eq!(journal.mark(message(1), 3).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    assert!(!journal.contains(message(1), 3));
    second.clear();
    let _third = journal.mark(message(1), 3).unwrap();
    assert_eq!(CallJournal::open(&path, 0).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn it_grows_and_keeps_what_it_holds() {
    let (_folder, path) = journal_file();
    let (journal, _) = CallJournal::open(&path, 1).unwrap();
    let id = journal.id();
    drop(journal.mark(message(1), 1).unwrap());
    drop(journal);
    let (journal, recovered) = CallJournal::open(&path, 3).unwrap();
    assert_eq!((recovered.marks.len(), recovered.continued, journal.id()), (1, true, id));
    drop((journal.mark(message(2), 1).unwrap(), journal.mark(message(3), 1).unwrap()));
    drop(journal);
    // Asking for fewer slots must not hide the marks in the others.
    let (_, recovered) = CallJournal::open(&path, 1).unwrap();
    assert_eq!(recovered.marks.len(), 3);
}

#[test]
fn many_threads_mark_and_clear_at_once() {
    const THREADS: u128 = 4;
    const CALLS: u32 = 500;
    let (_folder, path) = journal_file();
    let (journal, _) = CallJournal::open(&path, 8).unwrap();
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (journal, start) = (journal.clone(), &start);
            scope.spawn(move || {
                start.wait();
                for attempt in 1..=CALLS {
                    let mark = journal.mark(message(thread), attempt).unwrap();
                    if attempt == CALLS {
                        drop(mark);
                    } else {
                        mark.clear();
                    }
                }
            });
        }
    });
    drop(journal);
    let (_, recovered) = CallJournal::open(&path, 8).unwrap();
    assert_eq!(recovered.marks, (0..THREADS).map(|thread| (message(thread), CALLS)).collect());
    assert_eq!(recovered.unreadable, 0);
}
