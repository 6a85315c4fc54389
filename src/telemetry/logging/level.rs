//! Envoy's log levels.

use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata};

/// A level of the application log, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// `trace`
    Trace,
    /// `debug`
    Debug,
    /// `info`, the default.
    Info,
    /// `warning` or `warn`
    Warning,
    /// `error`
    Error,
    /// `critical`
    Critical,
    /// `off`: a threshold that nothing reaches.
    Off,
}

/// A level that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown logger level")]
pub struct UnknownLevel;

impl LogLevel {
    const ALL: [Self; 7] =
        [Self::Trace, Self::Debug, Self::Info, Self::Warning, Self::Error, Self::Critical, Self::Off];

    /// The name that is printed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    pub(super) fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Off)
    }

    /// The level of an event.
    pub(super) fn of(metadata: &Metadata<'_>) -> Self {
        match *metadata.level() {
            Level::TRACE => Self::Trace,
            Level::DEBUG => Self::Debug,
            Level::INFO => Self::Info,
            Level::WARN => Self::Warning,
            _ if metadata.fields().field("critical").is_some() => Self::Critical,
            _ => Self::Error,
        }
    }

    /// The least that `tracing` must let through for this threshold.
    pub(super) fn filter(self) -> LevelFilter {
        match self {
            Self::Trace => LevelFilter::TRACE,
            Self::Debug => LevelFilter::DEBUG,
            Self::Info => LevelFilter::INFO,
            Self::Warning => LevelFilter::WARN,
            Self::Error | Self::Critical => LevelFilter::ERROR,
            Self::Off => LevelFilter::OFF,
        }
    }
}

impl FromStr for LogLevel {
    type Err = UnknownLevel;

    fn from_str(name: &str) -> Result<Self, UnknownLevel> {
        if name == "warn" {
            return Ok(Self::Warning);
        }
        Self::ALL.into_iter().find(|level| level.as_str() == name).ok_or(UnknownLevel)
    }
}
