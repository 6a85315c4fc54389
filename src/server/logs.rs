//! The application log and the access-log files of the process.

use std::sync::Arc;
use std::time::Duration;

use nuncio_telemetry::access_log::{Destination, FileManager, FlushPolicy};
use nuncio_telemetry::logging::{APPLICATION_LOG_POLICY, AppLog, LogLevel};
use nuncio_telemetry::stats::Store;

use crate::cli::Options;
use crate::startup::StartError;

/// How long the end of the process waits for a log that nobody takes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Everything that is logged to.
#[derive(Clone)]
pub(crate) struct Logs {
    /// What the process says of itself; its levels can be changed at any time.
    pub(crate) app: AppLog,
    /// All files, that of the application log among them.
    pub(crate) files: Arc<FileManager>,
}

impl Logs {
    /// Opens the application log as `options` say and makes it that of the process.
    pub(crate) fn start(options: &Options, store: &Store) -> Result<Self, StartError> {
        let policy = FlushPolicy {
            interval: Duration::from_millis(options.file_flush_interval_msec.into()),
            min_size: usize::try_from(options.file_flush_min_size_kb).unwrap_or(usize::MAX).saturating_mul(1024),
        };
        let files = Arc::new(FileManager::new(policy, &store.scope("filesystem")));
        let destination = options.log_path.as_ref().map_or(Destination::Stderr, Destination::from_path);
        let file = files.open_with(&destination, APPLICATION_LOG_POLICY).map_err(StartError::LogPath)?;
        let app = AppLog::new(options.log_level, file);
        for (logger, level) in component_levels(&options.component_log_level)? {
            let unknown = |e| StartError::ComponentLevel(format!("{e} {logger:?}"));
            app.set(logger, level).map_err(unknown)?;
        }
        // A second one is a second run within one process, as in tests: the first goes on.
        let _ = app.install();
        Ok(Self { app, files })
    }

    /// Writes all that is buffered.
    pub(crate) fn flush(&self) {
        self.files.flush_all(PATIENCE);
    }
}

/// Parses `name:level,name:level`.
pub(crate) fn component_levels(text: &str) -> Result<Vec<(&str, LogLevel)>, StartError> {
    let wrong = |part: &str| StartError::ComponentLevel(format!("{part:?} is not name:level"));
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (logger, level) = part.split_once(':').ok_or_else(|| wrong(part))?;
            Ok((logger, level.parse().map_err(|_| wrong(part))?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn component_levels_are_pairs() {
        let parsed = component_levels("upstream:debug,config:trace").unwrap();
        assert_eq!(parsed, [("upstream", LogLevel::Debug), ("config", LogLevel::Trace)]);
        assert!(component_levels("").unwrap().is_empty());
        for wrong in ["upstream", "upstream:loud", "a:info,b"] {
            assert!(component_levels(wrong).is_err(), "{wrong}");
        }
    }
}
