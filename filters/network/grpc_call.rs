//! A call of a gRPC service about a connection: one message there, one back.

use std::sync::Arc;
use std::time::Duration;

use nuncio_config::grpc::GrpcServiceConfig;
use nuncio_filter_api::{GrpcStream, GrpcTarget, LowerCx, NetworkCx, Refused, grpc_frame};
use nuncio_proto::envoy::config::core::v3::ApiVersion;
use nuncio_telemetry::stats::Gauge;
use prost::Message;

/// A method to call.
pub(crate) struct GrpcCall {
    target: Arc<GrpcTarget>,
    path: &'static str,
    timeout: Duration,
}

/// No answer came, or none that can be read.
pub(crate) struct CallFailed;

/// A call that is under way, as the gauge has it.
struct Active<'a>(Gauge<'a>);

// === impl GrpcCall ===

impl GrpcCall {
    pub(crate) fn new(service: GrpcServiceConfig, path: &'static str, default_timeout: Duration) -> Self {
        let GrpcServiceConfig { target, timeout, backoff: _ } = service;
        Self { target: Arc::new(target), path, timeout: timeout.unwrap_or(default_timeout) }
    }

    /// As `new`, where the time-out is one of the filter's.
    pub(crate) fn with_timeout(self, timeout: Option<Duration>) -> Self {
        Self { timeout: timeout.unwrap_or(self.timeout), ..self }
    }

    /// Calls; `active` counts it as long as it is under way.
    pub(crate) async fn call<R: Message + Default>(
        &self,
        request: &impl Message,
        active: Gauge<'_>,
        cx: &NetworkCx,
    ) -> Result<R, CallFailed> {
        let _active = Active::new(active);
        let (sender, mut stream) = GrpcStream::open(&**cx.worker.upstreams(), &self.target, self.path.into());
        // There is room for one.
        let _ = sender.try_send(grpc_frame(&request.encode_to_vec()));
        drop(sender);
        match tokio::time::timeout(self.timeout, stream.next()).await {
            Ok(Ok(message)) => R::decode(message).map_err(|_| CallFailed),
            Ok(Err(_)) | Err(_) => Err(CallFailed),
        }
    }
}

// === impl Active ===

impl<'a> Active<'a> {
    fn new(gauge: Gauge<'a>) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// There is no other version than the third.
pub(crate) fn check_version(version: i32, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    if ApiVersion::try_from(version) == Ok(ApiVersion::V3) {
        return Ok(());
    }
    Err(cx.at("transport_api_version", |cx| cx.invalid("must be V3")))
}
