//! The log of health checks: Envoy's HealthCheckEvent, one to a line.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::SystemTime;

use nuncio_config::address::to_proto;
use nuncio_config::cluster::{Checker, HealthCheck, Locality};
use nuncio_config::load::JsonLines;
use nuncio_proto::envoy::data::core::v3 as proto;
use nuncio_proto::envoy::data::core::v3::health_check_event::Event as ProtoEvent;

use super::state::{Event, FailureKind};
use crate::host::Host;
use crate::outlier::timestamp;

/// Where the events of one cluster go.
pub(super) struct EventLog {
    config: Arc<HealthCheck>,
    cluster: Arc<str>,
    lines: RefCell<JsonLines>,
}

// === impl EventLog ===

impl EventLog {
    pub(super) fn new(config: &Arc<HealthCheck>, cluster: &Arc<str>) -> Self {
        Self { config: config.clone(), cluster: cluster.clone(), lines: RefCell::default() }
    }

    pub(super) fn write(&self, host: &Host, events: &[Event]) {
        if self.config.log.files.is_empty() {
            return;
        }
        for event in events {
            let event = message(&self.config.checker, &self.cluster, host, *event, SystemTime::now());
            let line = self.lines.borrow_mut().print(&event);
            self.config.log.files.iter().for_each(|file| file.write(line.as_bytes()));
        }
    }
}

fn message(checker: &Checker, cluster: &str, host: &Host, event: Event, now: SystemTime) -> proto::HealthCheckEvent {
    let kind = match checker {
        Checker::Http(_) => proto::HealthCheckerType::Http,
        Checker::Tcp(_) => proto::HealthCheckerType::Tcp,
        Checker::Grpc(_) => proto::HealthCheckerType::Grpc,
        Checker::Redis(_) => proto::HealthCheckerType::Redis,
        Checker::Thrift(_) => proto::HealthCheckerType::Thrift,
    };
    proto::HealthCheckEvent {
        health_checker_type: kind as i32,
        host: Some(to_proto(&host.address())),
        cluster_name: cluster.to_owned(),
        timestamp: Some(timestamp(now)),
        metadata: host.metadata().as_deref().map(nuncio_config::metadata::to_proto),
        locality: Some(host.locality.as_deref().map(Locality::to_proto).unwrap_or_default()),
        event: Some(what(event)),
    }
}

fn what(event: Event) -> ProtoEvent {
    match event {
        Event::EjectUnhealthy(failure) => ProtoEvent::EjectUnhealthyEvent(proto::HealthCheckEjectUnhealthy {
            failure_type: failure_type(failure.kind) as i32,
            http_status_code: failure.status.into(),
        }),
        Event::AddHealthy { first_check } => ProtoEvent::AddHealthyEvent(proto::HealthCheckAddHealthy { first_check }),
        Event::Success => ProtoEvent::SuccessfulHealthCheckEvent(proto::HealthCheckSuccessful {}),
        Event::Failure { failure, first_check } => ProtoEvent::HealthCheckFailureEvent(proto::HealthCheckFailure {
            failure_type: failure_type(failure.kind) as i32,
            first_check,
            http_status_code: failure.status.into(),
        }),
        Event::Degraded => ProtoEvent::DegradedHealthyHost(proto::DegradedHealthyHost {}),
        Event::NoLongerDegraded => ProtoEvent::NoLongerDegradedHost(proto::NoLongerDegradedHost {}),
    }
}

fn failure_type(kind: FailureKind) -> proto::HealthCheckFailureType {
    match kind {
        FailureKind::Active => proto::HealthCheckFailureType::Active,
        FailureKind::Passive => proto::HealthCheckFailureType::Passive,
        FailureKind::Network => proto::HealthCheckFailureType::Network,
        FailureKind::NetworkTimeout => proto::HealthCheckFailureType::NetworkTimeout,
    }
}
