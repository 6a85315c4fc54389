//! The thread that writes a log file.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, PoisonError};

use super::Destination;
use super::file::{Shared, State};

/// How long a destination that takes no bytes (a stream that someone made non-blocking) is waited for at a time.
const POLL_MILLIS: i32 = 1000;

pub(super) struct Writer {
    file: File,
    destination: Destination,
    shared: Arc<Shared>,
    /// The last write failed in the middle of a line.
    torn: bool,
    /// The path is to be opened anew: asked for, or failed before.
    reopen: bool,
}

/// Why the writer was woken.
struct Wake {
    timer: bool,
    closing: bool,
    flush: u64,
}

impl Writer {
    pub(super) fn new(file: File, destination: Destination, shared: Arc<Shared>) -> Self {
        Self { file, destination, shared, torn: false, reopen: false }
    }

    /// Writes until the file is closed. Each wake, whatever its reason, writes all threads' lines: none waits longer
    /// than the interval, even on a worker that has become idle.
    pub(super) fn run(mut self) {
        loop {
            let wake = self.wait();
            let any = self.shared.hand_over_all();
            if wake.timer && any {
                self.shared.stats.flushed_by_timer().inc();
            }
            self.drain();
            if self.reopen {
                self.reopen();
            }
            self.shared.state().flush_done = wake.flush;
            self.shared.done.notify_all();
            if wake.closing {
                return;
            }
        }
    }

    fn wait(&mut self) -> Wake {
        let idle = |s: &mut State| s.queue.is_empty() && s.flush_asked == s.flush_done && !s.reopen && !s.closing;
        let waited = self.shared.work.wait_timeout_while(self.shared.state(), self.shared.policy.interval, idle);
        let (mut state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        self.reopen |= std::mem::take(&mut state.reopen);
        Wake { timer: timeout.timed_out(), closing: state.closing, flush: state.flush_asked }
    }

    fn drain(&mut self) {
        loop {
            let Some(chunk) = self.shared.state().queue.pop_front() else { return };
            match self.write(&chunk.bytes) {
                Ok(()) => self.shared.stats.write_completed().inc(),
                Err(_) => self.shared.stats.write_failed().inc(),
            }
            self.shared.written(chunk);
        }
    }

    /// Writes all of `bytes`. After a failure in the middle of a line (a full disk) the next write begins a new one.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut rest = bytes;
        if self.torn {
            self.write_some(b"\n")?;
            self.torn = false;
        }
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(n) => rest = &rest[n..],
                Err(e) => {
                    let done = bytes.len() - rest.len();
                    self.torn = done > 0 && bytes[done - 1] != b'\n';
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => wait_writable(self.file.as_raw_fd()),
                result => return result,
            }
        }
    }

    /// Opens the path anew, for a rotated log; the old file stays in use if that fails, and the next wake tries again.
    fn reopen(&mut self) {
        match self.destination.open() {
            Ok(file) => {
                self.file = file;
                self.torn = false;
                self.reopen = false;
            }
            Err(_) => {
                self.shared.stats.reopen_failed().inc();
            }
        }
    }
}

fn wait_writable(fd: RawFd) {
    let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd is passed, with its count. Whatever poll answers, the write is tried again.
    unsafe { libc::poll(&raw mut poll, 1, POLL_MILLIS) };
}
