//! The log of ejections: Envoy's OutlierDetectionEvent, one to a line.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nuncio_config::load::JsonLines;
use nuncio_proto::envoy::data::cluster::v3 as proto;
use nuncio_proto::envoy::data::cluster::v3::outlier_detection_event::Event;
use nuncio_proto::google::protobuf::{Timestamp, UInt64Value};
use nuncio_telemetry::access_log::LogFile;

use super::detector::{Cause, Evidence, Record, What};

/// Where the ejections of all clusters are logged.
pub(crate) struct OutlierLog {
    file: Arc<LogFile>,
    lines: RefCell<JsonLines>,
}

// === impl OutlierLog ===

impl OutlierLog {
    pub(crate) fn new(file: Arc<LogFile>) -> Self {
        Self { file, lines: RefCell::default() }
    }

    pub(crate) fn write(&self, cluster: &str, record: &Record, now: SystemTime) {
        let line = self.lines.borrow_mut().print(&event(cluster, record, now));
        self.file.write(line.as_bytes());
    }
}

fn event(cluster: &str, record: &Record, now: SystemTime) -> proto::OutlierDetectionEvent {
    let mut event = proto::OutlierDetectionEvent {
        timestamp: Some(timestamp(now)),
        secs_since_last_action: record.since_last.map(|since| UInt64Value { value: since.as_secs() }),
        cluster_name: cluster.to_owned(),
        upstream_url: record.host.address().to_string(),
        num_ejections: record.ejections,
        ..proto::OutlierDetectionEvent::default()
    };
    match record.what {
        What::Eject { cause, is_enforced, evidence } => {
            event.set_type(kind(cause));
            event.set_action(proto::Action::Eject);
            event.enforced = is_enforced;
            event.event = Some(match evidence {
                Evidence::Consecutive => Event::EjectConsecutiveEvent(proto::OutlierEjectConsecutive {}),
                Evidence::SuccessRate { host, mean, limit } => {
                    Event::EjectSuccessRateEvent(proto::OutlierEjectSuccessRate {
                        host_success_rate: host as u32,
                        cluster_average_success_rate: mean as u32,
                        cluster_success_rate_ejection_threshold: limit as u32,
                    })
                }
                Evidence::FailurePercentage { host } => {
                    Event::EjectFailurePercentageEvent(proto::OutlierEjectFailurePercentage {
                        host_success_rate: host as u32,
                    })
                }
            });
        }
        // Envoy: why it was ejected is not said again.
        What::Uneject => event.set_action(proto::Action::Uneject),
    }
    event
}

fn kind(cause: Cause) -> proto::OutlierEjectionType {
    match cause {
        Cause::Consecutive5xx => proto::OutlierEjectionType::Consecutive5xx,
        Cause::ConsecutiveGatewayFailure => proto::OutlierEjectionType::ConsecutiveGatewayFailure,
        Cause::SuccessRate => proto::OutlierEjectionType::SuccessRate,
        Cause::ConsecutiveLocalOriginFailure => proto::OutlierEjectionType::ConsecutiveLocalOriginFailure,
        Cause::SuccessRateLocalOrigin => proto::OutlierEjectionType::SuccessRateLocalOrigin,
        Cause::FailurePercentage => proto::OutlierEjectionType::FailurePercentage,
        Cause::FailurePercentageLocalOrigin => proto::OutlierEjectionType::FailurePercentageLocalOrigin,
    }
}

/// In milliseconds, as Envoy's events have it.
pub(crate) fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_millis() * 1_000_000).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::testing::fixed;

    #[test]
    fn events_read_as_envoys_do() {
        let address: std::net::SocketAddr = ([127, 0, 0, 1], 80).into();
        let host = Arc::new(Host::new(&fixed(address), address.into()));
        let line = |what, since_last| {
            let record = Record { host: host.clone(), what, ejections: 1, since_last };
            let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
            JsonLines::default().print(&event("up", &record, now))
        };
        let evidence = Evidence::SuccessRate { host: 0.9, mean: 66.7, limit: 50.0 };
        let eject = What::Eject { cause: Cause::SuccessRate, is_enforced: true, evidence };
        assert_eq!(
            line(eject, None),
            "{\"type\":\"SUCCESS_RATE\",\"timestamp\":\"1970-01-01T00:00:01.500Z\",\"cluster_name\":\"up\",\
             \"upstream_url\":\"127.0.0.1:80\",\"action\":\"EJECT\",\"num_ejections\":1,\"enforced\":true,\
             \"eject_success_rate_event\":{\"host_success_rate\":0,\"cluster_average_success_rate\":66,\
             \"cluster_success_rate_ejection_threshold\":50}}\n"
        );
        assert_eq!(
            line(What::Uneject, Some(Duration::from_millis(2_900))),
            "{\"type\":\"CONSECUTIVE_5XX\",\"timestamp\":\"1970-01-01T00:00:01.500Z\",\"secs_since_last_action\":\"2\",\
             \"cluster_name\":\"up\",\"upstream_url\":\"127.0.0.1:80\",\"action\":\"UNEJECT\",\"num_ejections\":1,\
             \"enforced\":false}\n"
        );
    }
}
