use std::ffi::CString;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::stats::Store;

/// More than any of these tests takes; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder of its own that is removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nuncio-log-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let text = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: the path is a string that ends with NUL.
        assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn stats() -> FilesystemStats {
    FilesystemStats::new(&Store::new().scope("filesystem"))
}

fn manager() -> FileManager {
    FileManager::new(FlushPolicy::default(), &Store::new().scope("filesystem"))
}

#[test]
fn lines_reach_the_file_when_flushed_and_are_counted() {
    let folder = Folder::new("flush");
    let path = folder.path("log");
    let stats = stats();
    let file = LogFile::open(Destination::from_path(&path), FlushPolicy::default(), stats.clone()).unwrap();
    file.write(b"one\n");
    file.write(b"two\n");
    assert_eq!(fs::read(&path).unwrap(), b"");
    assert!(file.flush(PATIENCE));
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    assert_eq!((stats.write_buffered().value(), stats.write_completed().value()), (2, 1));
    assert_eq!((stats.write_total_buffered().value(), stats.flushed_by_timer().value()), (0, 0));
}

#[test]
fn lines_are_appended_to_what_was_there() {
    let folder = Folder::new("append");
    let path = folder.path("log");
    fs::write(&path, "before\n").unwrap();
    let file = manager().open(&Destination::from_path(&path)).unwrap();
    file.write(b"after\n");
    assert!(file.flush(PATIENCE));
    assert_eq!(fs::read(&path).unwrap(), b"before\nafter\n");
}

#[test]
fn a_full_buffer_is_written_without_being_asked() {
    let folder = Folder::new("full");
    let policy = FlushPolicy { interval: PATIENCE * 10, min_size: 8 };
    let fifo = folder.fifo("log");
    let file = LogFile::open(Destination::from_path(&fifo), policy, stats()).unwrap();
    file.write(b"12345678\n");
    let mut line = [0; 9];
    fs::File::open(&fifo).unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"12345678\n");
}

#[test]
fn the_timer_writes_what_no_one_asks_for() {
    let folder = Folder::new("timer");
    let policy = FlushPolicy { interval: Duration::from_millis(5), min_size: 64 << 10 };
    let fifo = folder.fifo("log");
    let stats = stats();
    let file = LogFile::open(Destination::from_path(&fifo), policy, stats.clone()).unwrap();
    file.write(b"a line\n");
    let mut line = [0; 7];
    fs::File::open(&fifo).unwrap().read_exact(&mut line).unwrap();
    assert_eq!(&line, b"a line\n");
    assert_eq!(stats.flushed_by_timer().value(), 1);
}

#[test]
fn lines_of_one_thread_keep_their_order_and_those_of_many_are_all_there() {
    let folder = Folder::new("order");
    let path = folder.path("log");
    let policy = FlushPolicy { interval: Duration::from_millis(1), min_size: 100 };
    let file = LogFile::open(Destination::from_path(&path), policy, stats()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let file = &file;
            scope.spawn(move || (0..2000).for_each(|n| file.write(format!("{thread} {n}\n").as_bytes())));
        }
    });
    assert!(file.flush(PATIENCE));
    let mut next = [0; 4];
    for line in fs::read_to_string(&path).unwrap().lines() {
        let (thread, n) = line.split_once(' ').unwrap();
        let expected: &mut u32 = &mut next[thread.parse::<usize>().unwrap()];
        assert_eq!(n.parse::<u32>().unwrap(), *expected);
        *expected += 1;
    }
    assert_eq!(next, [2000; 4]);
}

#[test]
fn a_reader_that_does_not_read_costs_lines_and_nothing_else() {
    let folder = Folder::new("blocked");
    let fifo = folder.fifo("log");
    let policy = FlushPolicy { interval: PATIENCE * 10, min_size: 1000 };
    let stats = stats();
    let blocked = LogFile::open_bounded(Destination::from_path(&fifo), policy, stats.clone(), 1 << 20).unwrap();
    let line = [b"x".repeat(99), b"\n".to_vec()].concat();
    // Ten times what queue and pipe hold; were it to block, this test would not end.
    for _ in 0..100_000 {
        blocked.write(&line);
    }
    let dropped = stats.write_failed().value();
    assert!(dropped > 85_000, "only {dropped} lines were dropped");
    // All but those in the last buffer, which is not full.
    assert!((99_991..=100_000).contains(&(stats.write_buffered().value() + dropped)));
    assert!(!blocked.flush(Duration::from_millis(20)));

    let other = manager().open(&Destination::from_path(folder.path("other"))).unwrap();
    other.write(b"not stalled\n");
    assert!(other.flush(PATIENCE));

    // A reader gets whole lines alone.
    let mut reader = fs::File::open(&fifo).unwrap();
    let mut got = vec![0; 1_000_000];
    reader.read_exact(&mut got).unwrap();
    assert!(got.chunks(100).all(|l| l == line));
}

#[test]
fn a_full_disk_is_counted_and_stalls_nobody() {
    let stats = stats();
    let file = LogFile::open(Destination::from_path("/dev/full"), FlushPolicy::default(), stats.clone()).unwrap();
    for _ in 0..3 {
        file.write(b"a line\n");
        assert!(file.flush(PATIENCE));
    }
    assert_eq!((stats.write_failed().value(), stats.write_completed().value()), (3, 0));
    assert_eq!(stats.write_total_buffered().value(), 0);
}

#[test]
fn a_path_has_one_file_as_long_as_it_is_used() {
    let folder = Folder::new("dedup");
    let manager = manager();
    let destination = Destination::from_path(folder.path("log"));
    let first = manager.open(&destination).unwrap();
    assert!(Arc::ptr_eq(&first, &manager.open(&destination).unwrap()));
    let old = Arc::downgrade(&first);
    drop(first);
    assert!(old.upgrade().is_none());
    manager.open(&destination).unwrap().write(b"again\n");
}

#[test]
fn dropping_a_file_writes_what_is_left() {
    let folder = Folder::new("drop");
    let fifo = folder.fifo("log");
    let file = manager().open(&Destination::from_path(&fifo)).unwrap();
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    file.write(b"the last line\n");
    drop(file);
    let mut line = [0; 14];
    reader.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"the last line\n");
}

#[test]
fn reopening_follows_a_rotated_file() {
    let folder = Folder::new("rotate");
    let (path, rotated) = (folder.path("log"), folder.path("log.1"));
    let manager = manager();
    let file = manager.open(&Destination::from_path(&path)).unwrap();
    file.write(b"old\n");
    fs::rename(&path, &rotated).unwrap();
    manager.reopen();
    assert!(manager.flush_all(PATIENCE));
    file.write(b"new\n");
    assert!(manager.flush_all(PATIENCE));
    assert_eq!(fs::read(&rotated).unwrap(), b"old\n");
    assert_eq!(fs::read(&path).unwrap(), b"new\n");
}

#[test]
fn a_file_that_cannot_be_reopened_stays_in_use_and_is_tried_again() {
    let folder = Folder::new("reopen");
    let (path, rotated) = (folder.path("log"), folder.path("log.1"));
    let stats = stats();
    let file = LogFile::open(Destination::from_path(&path), FlushPolicy::default(), stats.clone()).unwrap();
    fs::rename(&path, &rotated).unwrap();
    fs::create_dir(&path).unwrap();
    file.reopen();
    assert!(file.flush(PATIENCE));
    assert!(stats.reopen_failed().value() >= 1);
    file.write(b"kept\n");
    assert!(file.flush(PATIENCE));
    assert_eq!(fs::read(&rotated).unwrap(), b"kept\n");
    fs::remove_dir(&path).unwrap();
    assert!(file.flush(PATIENCE));
    file.write(b"new\n");
    assert!(file.flush(PATIENCE));
    assert_eq!(fs::read(&path).unwrap(), b"new\n");
}

#[test]
fn a_path_that_cannot_be_opened_is_named() {
    let error = manager().open(&Destination::from_path("/no/such/folder/log")).unwrap_err();
    assert_eq!(error.to_string(), "unable to open file '/no/such/folder/log': No such file or directory (os error 2)");
}

#[test]
fn the_standard_streams_are_known_by_their_paths() {
    assert_eq!(Destination::from_path("/dev/stdout"), Destination::Stdout);
    assert_eq!(Destination::from_path("/dev/stderr"), Destination::Stderr);
    assert!(manager().open(&Destination::Stderr).is_ok());
}
