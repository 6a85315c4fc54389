//! The workers' side of a log file: buffers that fill up, and the queue they are handed over to.
//!
//! ```text
//! worker 1 -> shard 1 --\                         each arrow: hand_over, when 64 KiB are full
//! worker 2 -> shard 2 ----> queue -> writer       or when the writer asks, at latest each interval
//! worker 3 -> shard 3 --/
//! ```

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::manager::{FilesystemStats, FlushPolicy};
use super::writer::Writer;
use super::{Destination, OpenError};

/// Bytes that wait for a file whose writes do not return. Enough for some 300,000 lines, or for a disk that stalls a
/// few seconds under full load, and little beside what such a load takes anyway.
const QUEUE_MAX_BYTES: usize = 64 << 20;

/// Threads up to this number have a shard of their own; more of them share.
const SHARDS: usize = 64;

/// Written buffers kept for the next hand-over.
const SPARE_BUFFERS: usize = 8;

/// Larger ones are not kept: one line of megabytes must not be remembered for ever.
const SPARE_MAX_BYTES: usize = 256 << 10;

/// A file that is written by a thread of its own. Dropping it writes what is left and ends the thread.
///
/// Each file has its own thread, rather than all sharing one with non-blocking writes, because writing to a regular
/// file cannot be made non-blocking: a hung disk would stall the logs that go to other places.
#[derive(Debug)]
pub struct LogFile {
    shared: Arc<Shared>,
}

/// What the workers share with the writer's thread.
#[derive(Debug)]
pub(super) struct Shared {
    shards: Box<[Shard]>,
    state: Mutex<State>,
    /// Told when there is something to do for the writer.
    pub(super) work: Condvar,
    /// Told when the writer has done what was asked.
    pub(super) done: Condvar,
    pub(super) policy: FlushPolicy,
    pub(super) stats: FilesystemStats,
    /// [`QUEUE_MAX_BYTES`], but in tests.
    max_queued: usize,
}

/// The lines of one thread. Aligned so that no two threads' shards lie on one cache line, or on a pair of them that
/// the processor fetches together.
///
/// The lock is on the data path because the writer must be able to take lines that a worker, perhaps idle since, has
/// left; it is taken by one worker, and by the writer once in an interval for as long as two words are exchanged.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    buffer: Mutex<Chunk>,
}

/// Whole lines.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    lines: u64,
}

/// The queue and the requests to the writer.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) queue: VecDeque<Chunk>,
    /// Bytes in the queue and in the writer's hands.
    queued: usize,
    spares: Vec<Vec<u8>>,
    /// Number of the last flush asked for, and of the last one done.
    pub(super) flush_asked: u64,
    pub(super) flush_done: u64,
    pub(super) reopen: bool,
    pub(super) closing: bool,
}

impl LogFile {
    /// Opens `destination` and starts its thread.
    pub fn open(destination: Destination, policy: FlushPolicy, stats: FilesystemStats) -> Result<Self, OpenError> {
        Self::open_bounded(destination, policy, stats, QUEUE_MAX_BYTES)
    }

    pub(super) fn open_bounded(
        destination: Destination,
        policy: FlushPolicy,
        stats: FilesystemStats,
        max_queued: usize,
    ) -> Result<Self, OpenError> {
        let file = destination.open()?;
        let shared = Arc::new(Shared {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            policy,
            stats,
            max_queued,
        });
        let writer = Writer::new(file, destination, shared.clone());
        // A process that cannot start a thread now could not run at all.
        thread::Builder::new()
            .name("log-file".to_owned())
            .spawn(move || writer.run())
            .expect("a thread can be started");
        Ok(Self { shared })
    }

    /// Appends one line, given whole with its newline.
    pub fn write(&self, line: &[u8]) {
        self.write_with(|out| out.extend_from_slice(line));
    }

    /// Appends the line that `format` writes to the end of the buffer it is given. Does not block.
    pub fn write_with(&self, format: impl FnOnce(&mut Vec<u8>)) {
        let shard = &self.shared.shards[slot() % SHARDS];
        let mut chunk = lock(&shard.buffer);
        format(&mut chunk.bytes);
        chunk.lines += 1;
        if chunk.bytes.len() >= self.shared.policy.min_size {
            self.shared.hand_over(&mut chunk);
            self.shared.work.notify_one();
        }
    }

    /// Asks the writer to write all that is buffered; [`wait_flushed`](Self::wait_flushed) with the result waits.
    pub(super) fn ask_flush(&self) -> u64 {
        let mut state = lock(&self.shared.state);
        state.flush_asked += 1;
        self.shared.work.notify_one();
        state.flush_asked
    }

    /// Whether flush number `asked` was done within `patience`.
    pub(super) fn wait_flushed(&self, asked: u64, patience: Duration) -> bool {
        let state = lock(&self.shared.state);
        let waited = self.shared.done.wait_timeout_while(state, patience, |s| s.flush_done < asked);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.flush_done >= asked
    }

    /// Writes all that is buffered; false if that took longer than `patience`, as with a reader that does not read.
    pub fn flush(&self, patience: Duration) -> bool {
        self.wait_flushed(self.ask_flush(), patience)
    }

    /// Asks the writer to write what was logged so far, and to open the path anew.
    pub fn reopen(&self) {
        lock(&self.shared.state).reopen = true;
        self.shared.work.notify_one();
    }
}

/// Not undo but an end: the thread writes what is left and stops; nobody waits for it here.
impl Drop for LogFile {
    fn drop(&mut self) {
        lock(&self.shared.state).closing = true;
        self.shared.work.notify_one();
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Moves every thread's lines to the queue; false if there were none.
    pub(super) fn hand_over_all(&self) -> bool {
        let mut any = false;
        for shard in &self.shards {
            let mut chunk = lock(&shard.buffer);
            if !chunk.bytes.is_empty() {
                self.hand_over(&mut chunk);
                any = true;
            }
        }
        any
    }

    /// Moves the lines to the queue, or drops them if it is full. The shard stays locked meanwhile, so that a thread's
    /// lines keep their order.
    fn hand_over(&self, chunk: &mut Chunk) {
        let mut state = lock(&self.state);
        let bytes = chunk.bytes.len();
        if state.queued + bytes > self.max_queued {
            drop(state);
            self.stats.write_failed().add(chunk.lines);
            chunk.bytes.clear();
            chunk.lines = 0;
            return;
        }
        let spare = Chunk { bytes: state.spares.pop().unwrap_or_default(), lines: 0 };
        let full = std::mem::replace(chunk, spare);
        self.stats.write_buffered().add(full.lines);
        self.stats.write_total_buffered().add(bytes as u64);
        state.queued += bytes;
        state.queue.push_back(full);
    }

    /// Takes back a chunk that was written.
    pub(super) fn written(&self, chunk: Chunk) {
        let mut bytes = chunk.bytes;
        self.stats.write_total_buffered().sub(bytes.len() as u64);
        let mut state = lock(&self.state);
        state.queued -= bytes.len();
        if state.spares.len() < SPARE_BUFFERS && bytes.capacity() <= SPARE_MAX_BYTES {
            bytes.clear();
            state.spares.push(bytes);
        }
    }
}

/// A panic while a line was formatted leaves at worst that line torn, so the lock's poison is of no interest.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of this thread, counted from 0 in the order of first use.
fn slot() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        /// Tells threads apart cheaply; which number a thread has decides nothing but which buffer it uses.
        static SLOT: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    SLOT.get()
}
