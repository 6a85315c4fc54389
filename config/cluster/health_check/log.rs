use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use nuncio_telemetry::access_log::{Destination, LogFile};

use crate::protocol::extension;

/// Where the events of health checks go.
#[derive(Debug, Default)]
pub struct HealthCheckLog {
    /// Files, each of which gets every event.
    pub files: Box<[Arc<LogFile>]>,
    /// Whether every failure is an event, rather than the first check's alone.
    pub all_failures: bool,
    /// Whether every success is an event.
    pub all_successes: bool,
}

impl HealthCheckLog {
    pub(super) fn lower(path: String, sinks: Vec<TypedExtensionConfig>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let path = (!path.is_empty()).then_some(path);
        let file = cx.opt("event_log_path", path, open);
        let sinks = cx.each("event_logger", sinks, |sink, cx| {
            let HealthCheckEventFileSink { event_log_path } = extension(sink, cx)?;
            cx.at("typed_config", |cx| cx.at("event_log_path", |cx| open(event_log_path, cx)))
        });
        let files = file?.into_iter().chain(sinks?).collect();
        Ok(Self { files, ..Self::default() })
    }
}

fn open(path: String, cx: &mut LowerCx<'_>) -> Result<Arc<LogFile>, Refused> {
    if path.is_empty() {
        return Err(cx.invalid("must not be empty"));
    }
    cx.env.files.open(&Destination::from_path(path)).map_err(|e| cx.invalid(e.to_string()))
}
