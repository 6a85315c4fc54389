//! What tests of filters share: a [`Harness`] that lowers one filter and runs its hooks as a connection manager does.
//!
//! Nothing here is part of a running server: the feature `testing` compiles it for tests alone.

use std::cell::Cell;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use http_body::{Body as HttpBody, Frame};
use nuncio_telemetry::access_log::{FileManager, FlushPolicy};
use nuncio_telemetry::stats::Scope;
use nuncio_telemetry::{Address, ConnectionInfo, RouteNames, StreamInfo};
use tokio::io::DuplexStream;
use tokio::time::Instant;

use crate::{
    Body, BodyError, HttpFilter, HttpFilterConfig, HttpFilterRow, Invalid, LocalReply, LowerCx, LowerEnv, NodeNames,
    PerRoute, Registry, Reply, Request, RequestHead, Response, ResponseHead, Rng, Route, RouteRef, RouteSource, Routes,
    Scheme, Step, StreamCx, Transport, Verdict, Worker,
};

/// The filter's name in the chain of a [`Harness`].
const NAME: &str = "the filter";
/// The scope in which a filter of a [`Harness`] counts.
const SCOPE: &str = "http.test";

/// One filter with its configuration, and the routes that configure it.
pub struct Harness {
    row: &'static HttpFilterRow,
    env: LowerEnv,
    config: Arc<dyn HttpFilterConfig>,
    per_route: Vec<PerRoute>,
    is_forward: bool,
    worker: Rc<Worker>,
}

impl Harness {
    /// The filter of `row` with this encoded configuration. Panics if it is refused.
    pub fn new(row: &'static HttpFilterRow, config: &[u8]) -> Self {
        let env = env();
        let config = lower(row, config, &env).unwrap_or_else(|invalid| panic!("refused: {invalid:?}"));
        let worker = Rc::new(Worker::new(0, Rng::seeded(1), Arc::default()));
        Self { row, env, config, per_route: Vec::new(), is_forward: true, worker }
    }

    /// With this encoded configuration for the route, more specific than those given before it. Panics if refused.
    pub fn per_route(mut self, config: &[u8]) -> Self {
        let lowered = lower_per_route(self.row, config, &self.env);
        self.per_route.push(lowered.unwrap_or_else(|invalid| panic!("refused: {invalid:?}")));
        self
    }

    /// With a route that is a redirect or a direct response.
    pub fn answering_route(mut self) -> Self {
        self.is_forward = false;
        self
    }

    /// Where the filter counts: `stats!` blocks made of it are those that the filter writes.
    pub fn scope(&self) -> Scope {
        self.env.stats.scope(SCOPE)
    }

    /// A stream whose route has the per-route configurations given so far.
    pub fn stream(&self, head: &RequestHead) -> Exchange {
        let now = Instant::now();
        let client = Address::Ip(([192, 0, 2, 1], 1234).into());
        let listener = Address::Ip(([127, 0, 0, 1], 80).into());
        let connection = Rc::new(ConnectionInfo::new(1, client, listener, now));
        let info = Rc::new(StreamInfo::new(connection, now, SystemTime::UNIX_EPOCH));
        let routes = Rc::new(TestRoutes {
            table: Rc::new(TestRoute {
                name: Arc::from("route"),
                configs: self.per_route.clone(),
                is_forward: self.is_forward,
            }),
            lookups: Cell::new(0),
        });
        let mut cx = StreamCx::new(info, self.worker.clone(), routes.clone(), 1 << 20);
        cx.refresh_route(head);
        let filter = self.config.clone().instantiate(&Arc::from(NAME), &cx);
        Exchange { cx, filter, request: head.clone(), routes }
    }

    /// A whole stream: `request` through the filter and, unless it answers, `response` back. Both bodies are read.
    pub async fn run(&self, request: Request, response: Response) -> Outcome {
        let mut stream = self.stream(&request.head);
        let forwarded = stream.request(request).await;
        let (forwarded, reply) = match forwarded {
            Ok(request) => (Some(Whole::read(request.head, request.body).await), Ok(response)),
            Err(reply) => (None, Err(reply)),
        };
        let (response, reply) = match reply {
            Ok(response) => (response, None),
            Err(Reply::Response(response)) => (response, None),
            Err(Reply::Again(head)) => (Response { head: *head, body: Body::empty() }, None),
            Err(Reply::Local(local)) => (rendered(&local), Some(local)),
        };
        let response = match stream.response(response).await {
            Ok(response) => response,
            Err(Reply::Response(response)) => response,
            Err(Reply::Again(head)) => Response { head: *head, body: Body::empty() },
            Err(Reply::Local(local)) => rendered(&local),
        };
        let response = Whole::read(response.head, response.body).await;
        stream.filter.complete(&stream.cx);
        Outcome { request: forwarded, local_reply: reply, response, stream }
    }
}

/// What became of a stream.
pub struct Outcome {
    /// The request that the next filter got; `None` if this one answered.
    pub request: Option<Whole<RequestHead>>,
    /// The filter's answer to the request, where it was a local reply.
    pub local_reply: Option<LocalReply>,
    /// The response that the filter before this one got.
    pub response: Whole<ResponseHead>,
    /// The stream.
    pub stream: Exchange,
}

/// A message whose body was read to its end.
#[derive(Debug)]
pub struct Whole<H> {
    /// The head.
    pub head: H,
    /// The body's bytes.
    pub data: Bytes,
    /// The trailers, if it had any.
    pub trailers: Option<HeaderMap>,
    /// Why the body broke off, if it did.
    pub error: Option<BodyError>,
}

impl<H> Whole<H> {
    async fn read(head: H, mut body: Body) -> Self {
        let (mut data, mut trailers, mut error) = (BytesMut::new(), None, None);
        while let Some(frame) = body.next().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => data.extend_from_slice(&bytes),
                Ok(Err(frame)) => trailers = frame.into_trailers().ok(),
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        Self { head, data: data.freeze(), trailers, error }
    }
}

/// One stream and its filter, hook by hook.
pub struct Exchange {
    /// The stream's context.
    pub cx: StreamCx,
    filter: Box<dyn HttpFilter>,
    request: RequestHead,
    routes: Rc<TestRoutes>,
}

impl Exchange {
    /// Runs the request hook.
    pub async fn request(&mut self, mut request: Request) -> Result<Request, Reply> {
        let verdict = wait(self.filter.request(&mut request, &mut self.cx)).await;
        self.request = request.head.clone();
        verdict.map(|()| request)
    }

    /// Runs the response hook.
    pub async fn response(&mut self, mut response: Response) -> Result<Response, Reply> {
        wait(self.filter.response(&mut response, &self.request, &mut self.cx)).await.map(|()| response)
    }

    /// How often the filter asked for the route anew.
    pub fn route_refreshes(&self) -> u32 {
        self.routes.lookups.get() - 1
    }
}

async fn wait(step: Step<'_>) -> Verdict {
    match step {
        Step::Done(verdict) => verdict,
        Step::Wait(future) => future.await,
    }
}

/// A local reply as a response, without what the connection manager adds.
fn rendered(local: &LocalReply) -> Response {
    let mut head = ResponseHead::new(local.status);
    head.headers = local.headers.clone();
    Response { head, body: Body::full(local.body.clone()) }
}

// === connections ===

/// A connection within the process: the other end is the client's.
impl Transport for DuplexStream {}

// === lowering ===

/// An environment without extensions.
pub fn env() -> LowerEnv {
    let stats = nuncio_telemetry::stats::Store::new();
    LowerEnv {
        internal_buffer: Default::default(),
        own_services: Default::default(),
        shared: crate::SharedConfigs::default(),
        registry: Registry::default(),
        clusters: Arc::default(),
        files: Arc::new(FileManager::new(FlushPolicy::default(), &stats.scope("filesystem"))),
        stats,
        concurrency: 1,
        local_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
        node: NodeNames::default(),
        slots: Default::default(),
        runtime: Default::default(),
        is_ads_delta: true,
    }
}

/// Lowers an encoded filter configuration. Panics where refusals are not recorded as they should be.
pub fn lower(row: &HttpFilterRow, config: &[u8], env: &LowerEnv) -> Result<Arc<dyn HttpFilterConfig>, Vec<Invalid>> {
    in_cx(env, |cx| cx.in_scope(env.stats.scope(SCOPE), |cx| (row.lower)(config, cx)))
}

/// Lowers an encoded per-route configuration. Panics where the filter has none.
pub fn lower_per_route(row: &HttpFilterRow, config: &[u8], env: &LowerEnv) -> Result<PerRoute, Vec<Invalid>> {
    let (_, lower) = row.per_route.expect("the filter has per-route configuration");
    in_cx(env, |cx| lower(config, cx))
}

fn in_cx<R>(env: &LowerEnv, f: impl FnOnce(&mut LowerCx<'_>) -> Result<R, crate::Refused>) -> Result<R, Vec<Invalid>> {
    let mut cx = LowerCx::new(env);
    let lowered = cx.at("config", f);
    let invalid = cx.finish();
    assert_eq!(lowered.is_err(), !invalid.is_empty(), "a refusal is recorded exactly where lowering fails");
    lowered.map_err(|_| invalid)
}

// === messages ===

/// A request without body for `http://host<path>`, with header lines such as `x-a: 1`.
pub fn request(method: Method, path: &str, lines: &[&str]) -> Request {
    let mut head = RequestHead::new(method, Scheme::Http, "host".into(), path.into());
    head.headers = headers(lines);
    Request { head, body: Body::empty() }
}

/// A response without body, with header lines.
pub fn response(status: u16, lines: &[&str]) -> Response {
    let mut head = ResponseHead::new(status.try_into().expect("a test gives a status"));
    head.headers = headers(lines);
    Response { head, body: Body::empty() }
}

/// Header lines as a map.
pub fn headers(lines: &[&str]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').expect("a header line has a colon");
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a test gives a header name");
        map.append(name, HeaderValue::from_str(value.trim()).expect("a test gives a header value"));
    }
    map
}

/// A map as header lines, sorted by name, the values of one name in their order.
pub fn lines(map: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        map.iter().map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))).collect();
    lines.sort_by_key(|(name, _)| *name);
    lines.into_iter().map(|(name, value)| format!("{name}: {value}")).collect()
}

/// A body that arrives in these chunks, each only after the reader was made to wait for it, then perhaps trailers.
pub fn chunks(data: &[&'static str], trailers: Option<HeaderMap>) -> Body {
    let mut frames: VecDeque<_> =
        data.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))).collect();
    frames.extend(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
    Body::stream(Slow { frames, is_ready: false })
}

/// A body that breaks off after these chunks.
pub fn broken(data: &[&'static str], error: BodyError) -> Body {
    let mut frames: VecDeque<_> =
        data.iter().map(|chunk| Ok(Frame::data(Bytes::from_static(chunk.as_bytes())))).collect();
    frames.push_back(Err(error));
    Body::stream(Slow { frames, is_ready: false })
}

struct Slow {
    frames: VecDeque<Result<Frame<Bytes>, BodyError>>,
    is_ready: bool,
}

impl HttpBody for Slow {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.is_ready = !self.is_ready;
        if self.is_ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.frames.pop_front())
    }
}

// === routes ===

struct TestRoutes {
    table: Rc<TestRoute>,
    lookups: Cell<u32>,
}

struct TestRoute {
    name: Arc<str>,
    configs: Vec<PerRoute>,
    is_forward: bool,
}

impl RouteSource for TestRoutes {
    fn resolve(&self, _head: &RequestHead, _info: &StreamInfo, _random: u64) -> Option<RouteRef> {
        self.lookups.set(self.lookups.get() + 1);
        Some(RouteRef::new(self.table.clone(), 0, None))
    }
}

impl RouteNames for TestRoute {
    fn virtual_host(&self, _route: usize) -> &str {
        ""
    }
}

impl Routes for TestRoute {
    fn route(&self, _index: usize) -> &dyn Route {
        self
    }
}

impl Route for TestRoute {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn filter_configs(&self, filter: &str, each: &mut dyn FnMut(&PerRoute)) {
        if filter == NAME {
            self.configs.iter().for_each(each);
        }
    }

    fn cors_policies(&self, _each: &mut dyn FnMut(&PerRoute)) {}

    fn filter_disabled(&self, _filter: &str) -> Option<bool> {
        None
    }

    fn is_forward(&self) -> bool {
        self.is_forward
    }

    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}
