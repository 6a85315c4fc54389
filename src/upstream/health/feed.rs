//! What the data path tells of the hosts it asks.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};
use nuncio_filter_api::{RequestHead, ResponseHead};

use super::HealthShare;
use crate::failure::Failure;
use crate::host::Host;
use crate::outlier::LocalOrigin;
use crate::pool::connection::PoolFailure;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
static IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");

// === impl HealthShare ===

impl HealthShare {
    /// There is a connection to `host` for a request.
    pub(crate) fn note_connected(&self, host: &Host) {
        self.note_local(host, LocalOrigin::Connected);
    }

    /// `host` has answered.
    pub(crate) fn note_response(&self, host: &Arc<Host>, request: &RequestHead, response: &ResponseHead) {
        if let Some(outlier) = &self.outlier {
            outlier.put_response(host, response, || {
                let of_grpc = if request.is_grpc() { status_of_grpc(&response.headers) } else { None };
                of_grpc.unwrap_or(response.status.as_u16())
            });
            if outlier.config.detects_degraded && response.headers.contains_key(&DEGRADED) {
                outlier.put_degraded(host);
            }
        }
        if self.is_checking && response.headers.contains_key(&IMMEDIATE_FAIL) {
            self.fail_at_once(host);
        }
    }

    /// An attempt got no response.
    pub(crate) fn note_failure(&self, host: &Host, failure: &Failure) {
        match failure {
            Failure::Pool(PoolFailure::Local(_) | PoolFailure::Remote(_) | PoolFailure::Timeout)
            | Failure::ConnectionTermination
            | Failure::Protocol
            | Failure::RemoteReset
            | Failure::RefusedStream => self.note_local(host, LocalOrigin::Failed),
            // The host was not asked, or is not at fault.
            Failure::NoCluster
            | Failure::NoHealthyHost
            | Failure::Unresolved(_)
            | Failure::Pool(PoolFailure::Overflow)
            | Failure::RequestOverflow
            | Failure::Timeout
            | Failure::PerTryTimeout
            | Failure::PerTryIdleTimeout
            | Failure::MaxStreamDuration
            | Failure::RequestBody(_)
            | Failure::Answered(_) => {}
        }
    }

    /// An attempt was given up because of `failure`.
    pub(crate) fn note_expiry(&self, host: &Host, failure: &Failure) {
        if matches!(failure, Failure::Timeout | Failure::PerTryTimeout | Failure::PerTryIdleTimeout) {
            self.note_local(host, LocalOrigin::TimedOut);
        }
    }

    /// A response broke off.
    pub(crate) fn note_break(&self, host: &Host) {
        self.note_local(host, LocalOrigin::Failed);
    }

    fn note_local(&self, host: &Host, what: LocalOrigin) {
        if let Some(outlier) = &self.outlier {
            outlier.put_local_origin(host, what);
        }
    }
}

/// The status of HTTP that stands for the one of gRPC, where the head of a response has it.
fn status_of_grpc(headers: &HeaderMap) -> Option<u16> {
    let status: u32 = headers.get(&GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
    Some(match status {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    })
}
