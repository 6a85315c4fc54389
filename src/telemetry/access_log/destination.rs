//! What a log is written to, and how it is opened.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A regular file, FIFO or device by its path.
    Path(Arc<std::path::Path>),
    /// The process's standard output.
    Stdout,
    /// The process's standard error.
    Stderr,
}

/// A log that cannot be opened is a configuration error.
#[derive(Debug, thiserror::Error)]
#[error("unable to open file '{}': {source}", destination.display())]
pub struct OpenError {
    destination: Destination,
    source: io::Error,
}

impl Destination {
    /// The destination that a configured path means. `/dev/stdout` and `/dev/stderr` are the streams themselves and
    /// not opened anew: opening them fails where the stream is a socket or belongs to another user, as in containers.
    pub fn from_path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        match path.to_str() {
            Some("/dev/stdout") => Self::Stdout,
            Some("/dev/stderr") => Self::Stderr,
            _ => Self::Path(path.into()),
        }
    }

    fn display(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Stdout => "/dev/stdout".to_owned(),
            Self::Stderr => "/dev/stderr".to_owned(),
        }
    }

    /// Opens it for appending; a path is created if it is not there.
    pub(super) fn open(&self) -> Result<File, OpenError> {
        let opened = match self {
            // Also for reading, so that a FIFO opens before its reader does: Envoy does the same.
            Self::Path(path) => OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path),
            Self::Stdout => duplicate(io::stdout().as_fd()),
            Self::Stderr => duplicate(io::stderr().as_fd()),
        };
        opened.map_err(|source| OpenError { destination: self.clone(), source })
    }
}

fn duplicate(stream: BorrowedFd<'_>) -> io::Result<File> {
    stream.try_clone_to_owned().map(File::from)
}
