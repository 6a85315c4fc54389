//! The application log: `tracing` events to stderr or `--log-path`, in the form of Envoy's default prefix.
//!
//! ```text
//! [2026-11-21 02:06:28.132][1881][warning][main] upstream connect failed cluster=c error=refused
//! ```
//!
//! An event's target names the logger it belongs to: one of Envoy's names (`target: "admin"`) or a module of ours.
//! `error!(critical = true, ...)` is of the level above error. Lines go through a [`LogFile`]: nobody waits for them.

mod level;
mod line;
mod loggers;

#[cfg(test)]
mod tests;

pub use level::{LogLevel, UnknownLevel};

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, SystemTime};

use tracing::subscriber::{Interest, Subscriber};
use tracing::{Event, Metadata, span};

use crate::access_log::{FlushPolicy, LogFile};
use loggers::{LOGGERS, logger_of};

/// When the application log's lines are written: each at once, so that a log is of use while things go wrong.
pub const APPLICATION_LOG_POLICY: FlushPolicy = FlushPolicy { interval: Duration::from_secs(10), min_size: 0 };

/// The application log and its levels, which can be changed at any time. Clones are the same log.
#[derive(Clone, Debug)]
pub struct AppLog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    levels: Box<[AtomicU8]>,
    file: Arc<LogFile>,
}

/// A logger that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown logger name")]
pub struct UnknownLogger;

/// A second log was to be installed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an application log is already installed")]
pub struct AlreadyInstalled;

impl AppLog {
    /// A log to `file`, opened with [`APPLICATION_LOG_POLICY`], with all loggers at `level`.
    pub fn new(level: LogLevel, file: Arc<LogFile>) -> Self {
        let levels = LOGGERS.iter().map(|_| AtomicU8::new(level as u8)).collect();
        Self(Arc::new(Inner { levels, file }))
    }

    /// Makes it the log of the process.
    pub fn install(&self) -> Result<(), AlreadyInstalled> {
        tracing::subscriber::set_global_default(self.clone()).map_err(|_| AlreadyInstalled)
    }

    /// Sets all loggers to `level`.
    pub fn set_all(&self, level: LogLevel) {
        for logger in &self.0.levels {
            logger.store(level as u8, Ordering::Relaxed);
        }
        tracing::callsite::rebuild_interest_cache();
    }

    /// Sets one logger, by Envoy's name, to `level`.
    pub fn set(&self, logger: &str, level: LogLevel) -> Result<(), UnknownLogger> {
        let index = LOGGERS.iter().position(|name| *name == logger).ok_or(UnknownLogger)?;
        self.0.levels[index].store(level as u8, Ordering::Relaxed);
        tracing::callsite::rebuild_interest_cache();
        Ok(())
    }

    /// Every logger and its level, in the order in which Envoy lists them.
    pub fn levels(&self) -> impl Iterator<Item = (&'static str, LogLevel)> {
        LOGGERS.iter().enumerate().map(|(i, name)| (*name, self.level(i)))
    }

    /// Waits until all lines are written; false if that took longer than `patience`.
    pub fn flush(&self, patience: Duration) -> bool {
        self.0.file.flush(patience)
    }

    fn level(&self, logger: usize) -> LogLevel {
        LogLevel::from_number(self.0.levels[logger].load(Ordering::Relaxed))
    }
}

/// Spans are not kept: the loggers' lines carry their fields themselves, and nothing of ours opens spans.
impl Subscriber for AppLog {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        if self.enabled(metadata) { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && LogLevel::of(metadata) >= self.level(logger_of(metadata.target()))
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        self.levels().map(|(_, level)| level.filter()).max()
    }

    fn event(&self, event: &Event<'_>) {
        thread_local! {
            static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        // The wall clock is read here and not passed in: an event has no context, and its time is only printed.
        let now = SystemTime::now();
        LINE.with(|line| match line.try_borrow_mut() {
            Ok(mut line) => self.write(event, now, &mut line),
            // A value that logs while it is printed.
            Err(_) => self.write(event, now, &mut Vec::new()),
        });
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

impl AppLog {
    fn write(&self, event: &Event<'_>, now: SystemTime, line: &mut Vec<u8>) {
        line.clear();
        line::write(event, LOGGERS[logger_of(event.metadata().target())], now, line);
        self.0.file.write(line);
    }
}
