use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, USER_AGENT};
use http::{HeaderName, HeaderValue};
use nuncio_config::cluster::{HttpHealthCheck, UpstreamProtocol};
use nuncio_filter_api::{Body, Io, RequestHead, Response, ResponseHead, Scheme};
use nuncio_http::h1::{ClientConnection, ClientSettings, ExchangeFailure, ExchangeOptions, OnIdle};
use nuncio_http::h2::client::H2Client;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{ConnectionInfo, Protocol, StreamInfo};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::probe::{NO_ANSWER, Target};
use super::state::{CheckResult, Failure, FailureKind};
use super::watch::HealthCheckStats;
use crate::host::HealthFlag;
use crate::pings::{self, Pings};
use crate::worker::http1_settings;

static DEGRADED: HeaderName = HeaderName::from_static("x-envoy-degraded");
static IMMEDIATE_FAIL: HeaderName = HeaderName::from_static("x-envoy-immediate-health-check-fail");
static CHECKED_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-upstream-healthchecked-cluster");
const OWN_NAME: HeaderValue = HeaderValue::from_static("Envoy/HC");

/// A request, answered with an expected status.
#[derive(Default)]
pub(super) struct HttpProbe {
    connection: HttpConnection,
}

/// A connection that is kept from one check to the next.
#[derive(Default)]
pub(super) struct HttpConnection {
    http1: Rc<RefCell<Option<ClientConnection>>>,
    settings: Option<Arc<ClientSettings>>,
    http2: Option<Http2>,
}

/// An HTTP/2 connection with the task that drives it.
struct Http2 {
    client: H2Client,
    driver: AbortHandle,
}

// === impl HttpProbe ===

impl HttpProbe {
    pub(super) async fn run(
        &mut self,
        target: &Target,
        config: &HttpHealthCheck,
        stats: &HealthCheckStats,
    ) -> CheckResult {
        let head = request(target, config);
        let body = Body::full(config.send.clone());
        let answer = self.connection.ask(target, config.protocol, head, body).await;
        let Some(Response { head, mut body }) = answer else { return NO_ANSWER };
        let Some(text) = read(&mut body, config).await else { return NO_ANSWER };
        if !target.config.reuse_connection {
            self.close();
        }
        verdict(target, config, &head, &text, stats)
    }

    pub(super) fn close(&mut self) {
        self.connection.close();
    }
}

fn request(target: &Target, config: &HttpHealthCheck) -> RequestHead {
    let authority = target.authority(&config.host);
    let mut head = RequestHead::new(config.method.clone(), Scheme::Http, authority, (&*config.path).into());
    head.headers.insert(USER_AGENT, OWN_NAME);
    if !config.send.is_empty() {
        head.headers.insert(CONTENT_LENGTH, config.send.len().into());
    }
    let protocol = if config.protocol == UpstreamProtocol::Http2 { Protocol::Http2 } else { Protocol::Http11 };
    with_context(target, protocol, |cx| config.headers.apply_request(&mut head, cx));
    head
}

/// Runs `f` with what header rules may speak of: the host.
pub(super) fn with_context(target: &Target, protocol: Protocol, f: impl FnOnce(&FormatCx<'_>)) {
    let (now, wall) = (Instant::now(), SystemTime::now());
    let address = target.host.address();
    let info = StreamInfo::new(Rc::new(ConnectionInfo::new(0, address.clone(), address.clone(), now)), now, wall);
    info.protocol.set(Some(protocol));
    {
        let mut upstream = info.upstream.borrow_mut();
        upstream.cluster = Some(target.cluster.config.observable_name.clone());
        upstream.cluster_raw = Some(target.cluster.config.name.name.clone());
        upstream.host = Some(address);
        upstream.host_metadata = target.host.metadata();
    }
    f(&FormatCx::new(&info, now, wall));
}

/// The whole body, as much of it as is looked at. `None` if it breaks off.
async fn read(body: &mut Body, config: &HttpHealthCheck) -> Option<Vec<u8>> {
    let limit = if config.receive.is_empty() { 0 } else { config.response_bytes.unwrap_or(usize::MAX) };
    let mut text = Vec::new();
    while let Some(frame) = body.next().await {
        if let Some(data) = frame.ok()?.data_ref() {
            let wanted = data.len().min(limit - text.len());
            text.extend_from_slice(&data[..wanted]);
        }
    }
    Some(text)
}

fn verdict(
    target: &Target,
    config: &HttpHealthCheck,
    head: &ResponseHead,
    text: &[u8],
    stats: &HealthCheckStats,
) -> CheckResult {
    let status = head.status.as_u16();
    let failed = |retriable| CheckResult::Failed(Failure { kind: FailureKind::Active, retriable, status });
    let leaves = || {
        if head.headers.contains_key(&IMMEDIATE_FAIL) {
            target.host.set_flag(HealthFlag::ExcludedViaImmediateHcFail);
        }
    };
    if !config.expected.contain(status) {
        leaves();
        return failed(config.retriable.contain(status));
    }
    if !config.receive.are_in(text) {
        leaves();
        return failed(false);
    }
    if let Some(name) = &config.service_name
        && config.verifies.holds_for_percent(100, || fastrand::u64(..))
    {
        stats.verify_cluster().inc();
        let said = head.headers.get(&CHECKED_CLUSTER).map_or(&b""[..], HeaderValue::as_bytes);
        if !name.matches(said) {
            return failed(false);
        }
    }
    CheckResult::Passed { degraded: head.headers.contains_key(&DEGRADED) }
}

/// Envoy: the end of a stream is not that of its connection.
fn ends_stream_alone(failure: &ExchangeFailure) -> bool {
    use ExchangeFailure::{HeadersTooLarge, Refused, Reset, TooManyHeaders};
    matches!(failure, Reset | Refused | TooManyHeaders | HeadersTooLarge)
}

// === impl HttpConnection ===

impl HttpConnection {
    /// Sends a request over the connection, which is made where there is none. `None` if there is no response.
    pub(super) async fn ask(
        &mut self,
        target: &Target,
        protocol: UpstreamProtocol,
        head: RequestHead,
        body: Body,
    ) -> Option<Response> {
        match protocol {
            UpstreamProtocol::Http2 => self.ask_http2(target, head, body).await,
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream | UpstreamProtocol::Auto => {
                self.ask_http1(target, head, body).await
            }
        }
    }

    async fn ask_http1(&mut self, target: &Target, head: RequestHead, body: Body) -> Option<Response> {
        let connection = match self.idle_http1() {
            Some(connection) => connection,
            None => ClientConnection::new(target.connect().await?, self.settings(target)),
        };
        let kept = self.http1.clone();
        let on_idle: Rc<dyn OnIdle> = Rc::new(move |connection| *kept.borrow_mut() = Some(connection));
        let options = ExchangeOptions { on_idle: Some(on_idle), ..ExchangeOptions::default() };
        connection.exchange(&head, body, options).await.ok()
    }

    fn settings(&mut self, target: &Target) -> Arc<ClientSettings> {
        self.settings.get_or_insert_with(|| Arc::new(http1_settings(&target.cluster.config))).clone()
    }

    /// The connection of the last check, unless the host has closed it since.
    fn idle_http1(&mut self) -> Option<ClientConnection> {
        let mut connection = self.http1.take()?;
        let is_closed = connection.poll_idle_closed(&mut Context::from_waker(Waker::noop())).is_ready();
        (!is_closed).then_some(connection)
    }

    async fn ask_http2(&mut self, target: &Target, head: RequestHead, body: Body) -> Option<Response> {
        if self.http2.as_mut().is_some_and(Http2::is_gone) {
            self.http2 = None;
        }
        let client = match &self.http2 {
            Some(http2) => http2.client.clone(),
            None => self.http2.insert(Http2::begin(target.connect().await?, target).await?).client.clone(),
        };
        match client.exchange(&head, body, None, None).await {
            Ok(response) => Some(response),
            Err(error) => {
                if !target.config.reuse_connection || !ends_stream_alone(&error.failure) {
                    self.http2 = None;
                }
                None
            }
        }
    }

    pub(super) fn close(&mut self) {
        self.http1.take();
        self.http2 = None;
    }
}

// === impl Http2 ===

impl Http2 {
    async fn begin(io: Io, target: &Target) -> Option<Self> {
        let config = &target.cluster.config;
        let (http, limit) = (&config.http, config.buffer_limit as usize);
        let begun = H2Client::handshake(io, &http.http2, (&http.common).into(), limit, None).await;
        let (client, mut driver) = begun.ok()?;
        let pings = Pings::new(http.http2.keepalive, &mut driver);
        let driver = tokio::task::spawn_local(async move {
            let unasked = Notify::new();
            tokio::select! {
                // Streams tell what goes wrong.
                _ = driver => {}
                // A check that is given up leaves the connection: nothing else would tell that it is dead.
                () = pings::unanswered(pings, &unasked, |most| fastrand::u64(..most)) => {}
            }
        });
        Some(Self { client, driver: driver.abort_handle() })
    }

    /// Whether the host takes no more requests.
    fn is_gone(&mut self) -> bool {
        matches!(self.client.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
            || self.driver.is_finished()
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
