//! All log files of the process: opened once for each path, reopened and flushed together.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Destination, LogFile, OpenError};
use crate::stats::Scope;

/// When buffered lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Longest that a line waits (`--file-flush-interval-msec`).
    pub interval: Duration,
    /// Bytes of one thread that are written at once (`--file-flush-min-size-kb`).
    pub min_size: usize,
}

/// Envoy's: 10 s and 64 KiB.
impl Default for FlushPolicy {
    fn default() -> Self {
        Self { interval: Duration::from_secs(10), min_size: 64 << 10 }
    }
}

crate::stats! {
    /// What happens to log files (scope `filesystem`). Lines count as buffered when a thread hands them over.
    pub struct FilesystemStats {
        /// Intervals that ended with something to write.
        flushed_by_timer: Counter,
        /// Paths that could not be opened anew.
        reopen_failed: Counter,
        /// Lines taken.
        write_buffered: Counter,
        /// Writes that succeeded.
        write_completed: Counter,
        /// Writes that failed, and lines dropped because too many wait.
        write_failed: Counter,
        /// Bytes taken and not yet written.
        write_total_buffered: Gauge,
    }
}

/// Opens log files; one handle for each destination, as long as someone holds it.
#[derive(Debug)]
pub struct FileManager {
    policy: FlushPolicy,
    stats: FilesystemStats,
    files: Mutex<HashMap<Destination, Weak<LogFile>>>,
}

impl FileManager {
    /// A manager whose stats are in `scope`, which is `filesystem` in a server.
    pub fn new(policy: FlushPolicy, scope: &Scope) -> Self {
        Self { policy, stats: FilesystemStats::new(scope), files: Mutex::default() }
    }

    /// The file of `destination`, opened now if nobody has it open. Blocks while it opens; not for workers.
    pub fn open(&self, destination: &Destination) -> Result<Arc<LogFile>, OpenError> {
        self.open_with(destination, self.policy)
    }

    /// The same with a policy of its own, which has effect if the file is not open yet.
    pub fn open_with(&self, destination: &Destination, policy: FlushPolicy) -> Result<Arc<LogFile>, OpenError> {
        let mut files = self.files();
        if let Some(file) = files.get(destination).and_then(Weak::upgrade) {
            return Ok(file);
        }
        files.retain(|_, file| file.strong_count() > 0);
        let file = Arc::new(LogFile::open(destination.clone(), policy, self.stats.clone())?);
        files.insert(destination.clone(), Arc::downgrade(&file));
        Ok(file)
    }

    /// Opens every path anew (SIGUSR1, `/reopen_logs`); what was logged before goes to the old files.
    pub fn reopen(&self) {
        self.live().iter().for_each(|file| file.reopen());
    }

    /// Writes all that is buffered, at shutdown; false if some file did not take it within `patience`.
    pub fn flush_all(&self, patience: Duration) -> bool {
        let asked: Vec<_> = self.live().into_iter().map(|file| (file.ask_flush(), file)).collect();
        let start = Instant::now();
        asked.iter().all(|(flush, file)| file.wait_flushed(*flush, patience.saturating_sub(start.elapsed())))
    }

    fn live(&self) -> Vec<Arc<LogFile>> {
        self.files().values().filter_map(Weak::upgrade).collect()
    }

    fn files(&self) -> MutexGuard<'_, HashMap<Destination, Weak<LogFile>>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
