//! Reports that hosts send by themselves, out of band: a stream of each host (`OpenRcaService.StreamCoreMetrics`), over
//! a connection of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use nuncio_config::cluster::OwnReports;
use nuncio_config::protocol::to_duration;
use nuncio_config::tls::Alpn;
use nuncio_filter_api::{Body, ByteStr, Io, RequestHead, Response, Scheme, grpc_frame};
use nuncio_http::h2::client::{H2Client, ResponseLimits};
use nuncio_net::{ConnectError, ConnectOptions, TlsStats, connect};
use nuncio_proto::google::protobuf;
use nuncio_telemetry::Address;
use prost::Message;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use super::report::Reported;
use crate::cluster::Cluster;
use crate::host::Host;
use crate::pool::transport::{self, Beginning};

/// The streams of the hosts of one cluster. Dropping them ends them.
pub(super) struct ReportStreams {
    cluster: Arc<Cluster>,
    /// Of the hosts that they were last compared with.
    version: Option<u64>,
    tasks: JoinSet<()>,
    stats: Arc<StreamStats>,
    /// By address of the host, which is kept here from being used again.
    running: HashMap<usize, (Arc<Host>, AbortHandle)>,
}

nuncio_telemetry::stats! {
    /// `cluster.<name>.lb_orca_oob`
    struct StreamStats {
        active_sessions: Gauge,
        report_errors: Counter,
        reports_received: Counter,
        stream_failures: Counter,
        stream_terminated: Counter,
    }
}

/// The stream of one host, begun again whenever it ends.
struct Session {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    stats: Arc<StreamStats>,
}

/// How a stream ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The host has no such service.
    Unimplemented,
    /// After that many reports.
    Failed(usize),
}

/// `xds.service.orca.v3.OrcaLoadReportRequest`
#[derive(Clone, PartialEq, Message)]
struct ReportRequest {
    #[prost(message, optional, tag = "1")]
    report_interval: Option<protobuf::Duration>,
}

const PATH: ByteStr = ByteStr::from_static("/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// gRPC's `UNIMPLEMENTED`.
const UNIMPLEMENTED: &str = "12";
/// Bytes before each message: a flag for compression, and its length.
const PREFIX: usize = 5;
/// No report is nearly as large.
const MAX_REPORT: usize = 64 * 1024;
/// Envoy: a host that is silent for so many intervals is asked anew.
const SILENT_INTERVALS: u32 = 3;
/// Between one stream and the next lies a random time below this, which doubles while no report comes.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

// === impl ReportStreams ===

impl ReportStreams {
    pub(super) fn new(cluster: &Arc<Cluster>) -> Self {
        let stats = StreamStats::new(&cluster.scope().scope("lb_orca_oob"));
        // Adding nothing shows them before there is anything to count.
        let counters =
            [stats.report_errors(), stats.reports_received(), stats.stream_failures(), stats.stream_terminated()];
        counters.into_iter().for_each(|counter| counter.add(0));
        stats.active_sessions().add(0);
        let (tasks, running) = Default::default();
        Self { cluster: cluster.clone(), version: None, tasks, stats: Arc::new(stats), running }
    }

    /// Begins the streams of hosts that have come, and ends those of hosts that are gone. Within a `LocalSet`.
    pub(super) fn reconcile(&mut self) {
        // The version first: hosts that change meanwhile are then looked at again.
        let version = self.cluster.version();
        if self.version.replace(version) == Some(version) {
            return;
        }
        let set = self.cluster.hosts();
        let current: HashMap<usize, &Arc<Host>> = set.hosts.iter().map(|h| (Arc::as_ptr(h).addr(), h)).collect();
        self.running.retain(|at, (_, task)| {
            let stays = current.contains_key(at);
            if !stays {
                task.abort();
            }
            stays
        });
        for (at, host) in current {
            self.running.entry(at).or_insert_with(|| {
                let session = Session::new(&self.cluster, host, &self.stats);
                (host.clone(), self.tasks.spawn_local(session.run()))
            });
        }
        while self.tasks.try_join_next().is_some() {}
    }
}

// === impl Session ===

impl Session {
    fn new(cluster: &Arc<Cluster>, host: &Arc<Host>, stats: &Arc<StreamStats>) -> Self {
        stats.active_sessions().inc();
        Self { cluster: cluster.clone(), host: host.clone(), stats: stats.clone() }
    }

    async fn run(self) {
        let Some(own) = self.cluster.config.own_reports() else { return };
        // Envoy: spread over the time in which each is to report.
        sleep(own.period.mul_f64(fastrand::f64())).await;
        let mut bound = FIRST_BACKOFF;
        loop {
            let end = match timeout(self.cluster.config.connect_timeout, self.begin(own)).await {
                Ok(Some((client, _driver))) => self.follow(client, own).await,
                Ok(None) | Err(_) => End::Failed(0),
            };
            match end {
                End::Unimplemented => {
                    self.stats.stream_terminated().inc();
                    return;
                }
                End::Failed(0) => {}
                End::Failed(_) => bound = FIRST_BACKOFF,
            }
            self.stats.stream_failures().inc();
            sleep(bound.mul_f64(fastrand::f64())).await;
            bound = (bound * 2).min(MAX_BACKOFF);
        }
    }

    /// A connection of its own, with the task that drives it.
    async fn begin(&self, own: &OwnReports) -> Option<(H2Client, DriverTask)> {
        let config = &self.cluster.config;
        let address = self.address(own);
        let log = |error: &ConnectError| {
            tracing::debug!(cluster = %config.name.name, host = %address, %error, "load reports cannot be asked for");
        };
        let io = self.connect(&address, own).await.inspect_err(log).ok()?;
        let limit = config.buffer_limit as usize;
        let begun = H2Client::handshake(io, &config.http.http2, ResponseLimits::default(), limit, None).await;
        let (client, driver) = begun.ok()?;
        let task = tokio::task::spawn_local(async move {
            // Streams tell what goes wrong.
            let _ = driver.await;
        });
        Some((client, DriverTask(task.abort_handle())))
    }

    fn address(&self, own: &OwnReports) -> Address {
        match (self.host.address(), own.port) {
            (Address::Ip(mut address), Some(port)) => {
                address.set_port(port);
                address.into()
            }
            (address, _) => address,
        }
    }

    async fn connect(&self, address: &Address, own: &OwnReports) -> Result<Io, ConnectError> {
        let config = &self.cluster.config;
        let options = ConnectOptions { bind: config.bind.as_deref(), keepalive: config.tcp_keepalive, source: None };
        let connected = connect(self.host.proxy().unwrap_or(address), options).await?;
        let Some(socket) = self.cluster.choose_transport(&self.host, &own.transport_criteria) else {
            return Ok(connected.io);
        };
        let tlvs = self.host.description().tlvs.clone();
        let beginning = Beginning {
            remote: self.host.proxy().unwrap_or(address),
            proxied: self.host.proxy().map(|_| address),
            has_own_proxy: self.host.proxy.is_some(),
            host_name: &self.host.hostname,
            tlvs: &tlvs,
            options: None,
            record: None,
            alpn: Alpn::Only(&own.alpn),
            stats: &|| TlsStats::new(&self.cluster.scope()),
        };
        Ok(transport::begin(&socket, connected, beginning).await?.connected.io)
    }

    /// Takes in reports until there are no more.
    async fn follow(&self, client: H2Client, own: &OwnReports) -> End {
        let silence = own.period * SILENT_INTERVALS;
        let asked = client.exchange(&self.request(own), Body::full(message(own)), None, None);
        let Ok(Ok(Response { head, mut body })) = timeout(silence, asked).await else { return End::Failed(0) };
        if is_unimplemented(&head.headers) {
            return End::Unimplemented;
        }
        if head.status != StatusCode::OK {
            return End::Failed(0);
        }
        let (mut data, mut count) = (BytesMut::new(), 0);
        let mut silent_at = Instant::now() + silence;
        loop {
            let Ok(Some(Ok(frame))) = tokio::time::timeout_at(silent_at, body.next()).await else {
                return End::Failed(count);
            };
            match frame.into_data() {
                Ok(bytes) => data.extend_from_slice(&bytes),
                Err(frame) => match frame.into_trailers().is_ok_and(|trailers| is_unimplemented(&trailers)) {
                    true => return End::Unimplemented,
                    false => return End::Failed(count),
                },
            }
            loop {
                match next_message(&mut data) {
                    // Envoy: one without a word is none.
                    Ok(Some(report)) if report.is_empty() => {}
                    Ok(Some(report)) if self.take(&report) => {
                        count += 1;
                        silent_at = Instant::now() + silence;
                    }
                    Ok(None) => break,
                    Ok(Some(_)) | Err(Malformed) => return End::Failed(count),
                }
            }
        }
    }

    /// Takes in a report. False where it is none.
    fn take(&self, report: &[u8]) -> bool {
        match Reported::take_message(report, &self.cluster.config, &self.host, Instant::now()) {
            Reported::Nothing => return false,
            Reported::Unusable => self.stats.report_errors().inc(),
            Reported::Load => {}
        }
        self.stats.reports_received().inc();
        true
    }

    fn request(&self, own: &OwnReports) -> RequestHead {
        let address = Address::to_string(&self.address(own));
        let names = [&*own.authority, &*self.host.hostname, &*address];
        let authority = names.into_iter().find(|name| !name.is_empty()).unwrap_or(&self.cluster.config.name.name);
        let mut head = RequestHead::new(Method::POST, Scheme::Http, authority.into(), PATH);
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        head.headers.insert(TE, HeaderValue::from_static("trailers"));
        head
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.stats.active_sessions().dec();
    }
}

/// The task that drives a connection, which goes with it.
struct DriverTask(AbortHandle);

impl Drop for DriverTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn message(own: &OwnReports) -> bytes::Bytes {
    grpc_frame(&ReportRequest { report_interval: Some(to_duration(own.period)) }.encode_to_vec())
}

fn is_unimplemented(headers: &HeaderMap) -> bool {
    headers.get(&GRPC_STATUS).is_some_and(|status| status == UNIMPLEMENTED)
}

/// What a host sends is no message of gRPC that could be a report.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

/// Takes the next message out of `data`, where it is whole.
fn next_message(data: &mut BytesMut) -> Result<Option<BytesMut>, Malformed> {
    let Some(&[flag, a, b, c, d]) = data.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if flag != 0 || length > MAX_REPORT {
        return Err(Malformed);
    }
    if data.len() < PREFIX + length {
        return Ok(None);
    }
    data.advance(PREFIX);
    Ok(Some(data.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_in_any_pieces() {
        let (mut data, mut seen) = (BytesMut::new(), Vec::new());
        for byte in [grpc_frame(b"ab"), grpc_frame(b""), grpc_frame(b"c")].concat() {
            data.extend_from_slice(&[byte]);
            while let Some(message) = next_message(&mut data).expect("it is well-formed") {
                seen.push(message.to_vec());
            }
        }
        assert_eq!(seen, [&b"ab"[..], b"", b"c"]);
    }

    #[test]
    fn what_is_compressed_or_too_long_is_no_report() {
        for prefix in [[1, 0, 0, 0, 1], [0, 0, 1, 0, 1]] {
            assert_eq!(next_message(&mut BytesMut::from(&prefix[..])), Err(Malformed));
        }
    }

    #[test]
    fn a_request_says_how_often_it_wants_reports() {
        let own = OwnReports { period: Duration::from_millis(1500), ..OwnReports::default() };
        assert_eq!(message(&own)[PREFIX..], [0x0a, 8, 8, 1, 0x10, 0x80, 0xca, 0xb5, 0xee, 1]);
    }
}
