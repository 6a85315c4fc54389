//! Access logs: which records are written, in what form, and to which file.
//!
//! In: a finished stream's [`FormatCx`]. Out: lines in a file. Invariants: a worker formats into memory and never waits
//! for a disk or a reader; what is buffered is bounded, and what does not fit is dropped by whole lines and counted.
//! Start reading at [`AccessLog`]; [`FileManager`] opens the files.

mod connection;
mod destination;
mod file;
mod filter;
mod manager;
mod writer;

#[cfg(test)]
mod tests;

pub use connection::{ConnectionLog, ListenerLogs};
pub use destination::{Destination, OpenError};
pub use file::LogFile;
pub use filter::{Comparison, ComparisonOp, HeaderPredicate, LogFilter, MetadataPredicate, Sampling, Setting};
pub use manager::{FileManager, FilesystemStats, FlushPolicy};

use std::sync::Arc;

use crate::format::{FormatCx, LineFormat};

/// One configured access log of a file, stdout or stderr.
#[derive(Debug)]
pub struct AccessLog {
    filter: Option<LogFilter>,
    format: LineFormat,
    file: Arc<LogFile>,
}

impl AccessLog {
    /// A log that writes the records that pass `filter`, all if there is none.
    pub fn new(filter: Option<LogFilter>, format: LineFormat, file: Arc<LogFile>) -> Self {
        Self { filter, format, file }
    }

    /// Writes the record of `cx`, if it is one that this log wants.
    pub fn log(&self, cx: &FormatCx<'_>) {
        if self.filter.as_ref().is_none_or(|filter| filter.accepts(cx)) {
            self.file.write_with(|line| self.format.write(cx, line));
        }
    }
}
