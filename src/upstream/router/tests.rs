use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::SystemTime;

use http::Method;
use nuncio_config::cluster::ClusterConfig;
use nuncio_config::load::{Format, Loader, Source, UnknownFields};
use nuncio_config::route::{RouteTable, WorkerRoutes};
use nuncio_filter_api::testing::env;
use nuncio_filter_api::{Body, Reply, RequestHead, Response, Rng, RouteSource, Scheme, Worker};
use nuncio_proto::envoy::config::cluster::v3::Cluster as ClusterProto;
use nuncio_proto::envoy::config::route::v3::RouteConfiguration;
use nuncio_telemetry::{Address, ConnectionInfo, StreamInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::testing::{on_worker, until};
use crate::{Clusters, WorkerClusters};

/// What an upstream does once it has read the head of a request.
#[derive(Clone)]
enum Act {
    /// Sends this and reads on.
    Send(&'static str),
    /// Sends this and closes.
    SendAndClose(&'static str),
    /// Sends this and resets the connection.
    SendAndReset(&'static str),
    Hang,
}

const OK: Act = Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");

/// An upstream that follows a script, one act for each request, and keeps what it was sent.
struct Upstream {
    address: SocketAddr,
    requests: Rc<RefCell<Vec<String>>>,
}

impl Upstream {
    async fn new(script: Vec<Act>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Rc::<RefCell<Vec<String>>>::default();
        let script = Rc::new(RefCell::new(VecDeque::from(script)));
        let seen = requests.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let (script, seen) = (script.clone(), seen.clone());
                tokio::task::spawn_local(async move {
                    let mut read = Vec::new();
                    loop {
                        while !read.ends_with(b"\r\n\r\n") {
                            if socket.read_buf(&mut read).await.unwrap_or(0) == 0 {
                                return;
                            }
                        }
                        seen.borrow_mut().push(String::from_utf8(std::mem::take(&mut read)).unwrap());
                        let act = script.borrow_mut().pop_front().unwrap_or(Act::Hang);
                        match act {
                            Act::Send(bytes) => socket.write_all(bytes.as_bytes()).await.unwrap(),
                            Act::SendAndClose(bytes) => return socket.write_all(bytes.as_bytes()).await.unwrap(),
                            Act::SendAndReset(bytes) => {
                                socket.write_all(bytes.as_bytes()).await.unwrap();
                                socket.set_zero_linger().unwrap();
                                return;
                            }
                            Act::Hang => std::future::pending().await,
                        }
                    }
                });
            }
        });
        Self { address, requests }
    }
}

/// A worker with one cluster, `c`, and a router in front of it.
struct Fixture {
    clusters: Arc<Clusters>,
    worker: Rc<Worker>,
    config: Arc<dyn HttpFilterConfig>,
    routes: Rc<Table>,
    stats: HttpStats,
}

struct Table(Rc<WorkerRoutes>);

impl RouteSource for Table {
    fn resolve(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<RouteRef> {
        self.0.resolve(head, info, random)
    }
}

fn load<T: Message + prost::Name + Default>(yaml: &str) -> T {
    let source = Source::new("test", Format::Yaml, yaml.as_bytes().to_vec());
    Loader::new(UnknownFields::Reject).load(vec![source]).unwrap_or_else(|p| panic!("{p:?}")).message
}

impl Fixture {
    /// `cluster` and `route` are YAML: further fields of the cluster, and the action of the only route.
    fn new(address: SocketAddr, cluster: &str, route: &str) -> Self {
        Self::with_router(address, cluster, route, &proto::Router::default())
    }

    fn with_router(address: SocketAddr, cluster: &str, route: &str, router: &proto::Router) -> Self {
        let env = env();
        let mut cx = LowerCx::new(&env);
        let host = format!(
            "{{endpoint: {{address: {{socket_address: {{address: '{}', port_value: {}}}}}}}}}",
            address.ip(),
            address.port()
        );
        let yaml = format!(
            "name: c\nload_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{host}]}}]}}\n{cluster}"
        );
        let cluster = ClusterConfig::lower(load::<ClusterProto>(&yaml), &mut cx);
        let yaml = format!("virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, {route}}}]}}]");
        let table = RouteTable::lower(load::<RouteConfiguration>(&yaml), &mut cx);
        let scope = env.stats.scope("http.test");
        let config = cx.in_scope(scope.clone(), |cx| (ROW.lower)(&router.encode_to_vec(), cx));
        let (Ok(cluster), Ok(table), Ok(config)) = (cluster, table, config) else { panic!("{:?}", cx.finish()) };
        let clusters = Clusters::new(&env.stats, None);
        clusters.update([cluster]);
        let worker = Rc::new(Worker::new(0, Rng::seeded(1), Arc::default()));
        worker.set_upstreams(Rc::new(WorkerClusters::new(clusters.clone(), Rng::seeded(1))));
        let routes = Rc::new(Table(WorkerRoutes::new(Arc::new(table))));
        Self { clusters, worker, config, routes, stats: HttpStats::new(&scope) }
    }

    fn stats(&self) -> nuncio_telemetry::stats::catalogue::ClusterStats {
        self.clusters.snapshot().get(0).unwrap().stats.clone()
    }

    async fn get(&self) -> Outcome {
        self.send(RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/p?q".into()), Body::empty()).await
    }

    async fn send(&self, head: RequestHead, body: Body) -> Outcome {
        self.send_as(head, body, |_| ()).await
    }

    async fn send_as(&self, head: RequestHead, body: Body, prepare: impl FnOnce(&StreamInfo)) -> Outcome {
        let now = self.worker.clock.now();
        let client: Address = "192.0.2.1:1000".parse::<SocketAddr>().unwrap().into();
        let connection = Rc::new(ConnectionInfo::new(1, client.clone(), client, now));
        let info = Rc::new(StreamInfo::new(connection, now, SystemTime::UNIX_EPOCH));
        info.times.request_end.set(Some(now));
        prepare(&info);
        let mut cx = StreamCx::new(info.clone(), self.worker.clone(), self.routes.clone(), 1 << 20);
        let mut request = Request { head, body };
        cx.refresh_route(&request.head);
        let mut filter = self.config.clone().instantiate(&"router".into(), &cx);
        let verdict = match filter.request(&mut request, &mut cx) {
            Step::Done(verdict) => verdict,
            Step::Wait(future) => future.await,
        };
        Outcome::read(verdict.expect_err("a router answers"), request.head, info).await
    }
}

/// The answer, read to its end.
struct Outcome {
    status: u16,
    headers: http::HeaderMap,
    body: String,
    /// Details of the error that broke the body off.
    broken: Option<String>,
    details: String,
    flags: String,
    head: RequestHead,
    info: Rc<StreamInfo>,
}

impl Outcome {
    async fn read(reply: Reply, head: RequestHead, info: Rc<StreamInfo>) -> Self {
        let (status, headers, details, flags, mut body) = match reply {
            Reply::Local(local) => {
                let body = if local.body.is_empty() { Body::empty() } else { Body::full(local.body) };
                (local.status, local.headers, local.details.into_owned(), local.flags, body)
            }
            Reply::Response(Response { head, body }) => {
                let details = info.details.borrow().clone().unwrap_or_default().into_owned();
                (head.status, head.headers, details, info.flags.get(), body)
            }
            Reply::Again(head) => (head.status, head.headers, String::new(), info.flags.get(), Body::empty()),
        };
        let (mut text, mut broken) = (String::new(), None);
        while let Some(frame) = body.next().await {
            match frame {
                Ok(frame) => text += str::from_utf8(&frame.into_data().unwrap_or_default()).unwrap(),
                Err(error) => broken = Some(error.details.into_owned()),
            }
        }
        let flags = flags.iter().map(ResponseFlag::short).collect();
        Self { status: status.as_u16(), headers, body: text, broken, details, flags, head, info }
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().unwrap())
    }
}

const ROUTE: &str = "route: {cluster: c}";

#[test]
fn a_request_reaches_its_host_and_the_response_the_client() {
    on_worker(async {
        let upstream = Upstream::new(vec![OK, OK]).await;
        let f = Fixture::new(upstream.address, "", ROUTE);
        for _ in 0..2 {
            let outcome = f.get().await;
            assert_eq!((outcome.status, &*outcome.body, &*outcome.details), (200, "ok", "via_upstream"));
            let millis: u64 = outcome.header("x-envoy-upstream-service-time").unwrap().parse().unwrap();
            assert!(millis < 5000);
            let info = outcome.info.upstream.borrow();
            assert_eq!(info.host, Some(upstream.address.into()));
            assert_eq!((info.cluster.as_deref(), info.attempts, info.connection_id), (Some("c"), 1, Some(1)));
        }
        let sent = &upstream.requests.borrow()[0];
        assert_eq!(sent, "GET /p?q HTTP/1.1\r\nhost: a.test\r\nx-envoy-expected-rq-timeout-ms: 15000\r\n\r\n");
        let stats = f.stats();
        assert_eq!((stats.upstream_cx_total().value(), stats.upstream_rq_total().value()), (1, 2));
        assert_eq!((stats.upstream_rq_active().value(), f.stats.rq_total().value()), (0, 2));
        assert_eq!(stats.upstream_cx_tx_bytes_total().value(), 2 * sent.len() as u64);
        let host = f.clusters.snapshot().get(0).unwrap().hosts().hosts[0].clone();
        assert_eq!((host.stats.rq_success.get(), host.stats.rq_active.get(), host.stats.cx_active.get()), (2, 0, 1));
    });
}

/// One failure: what the upstream does, and what the client and the log get (from Envoy 1.40).
async fn check_failure(act: Act, route: &str, status: u16, flags: &str, details: &str, body: &str) -> Fixture {
    let upstream = Upstream::new(vec![act]).await;
    let f = Fixture::new(upstream.address, "connect_timeout: 0.2s", route);
    let outcome = f.get().await;
    assert_eq!((outcome.status, &*outcome.flags, &*outcome.details), (status, flags, details));
    assert_eq!(outcome.body, body);
    assert_eq!(f.stats().upstream_rq_active().value(), 0);
    let host = f.clusters.snapshot().get(0).unwrap().hosts().hosts[0].clone();
    assert_eq!((host.stats.rq_error.get(), host.stats.rq_active.get()), (1, 0));
    f
}

const RESET: &str = "upstream connect error or disconnect/reset before headers. reset reason: ";

#[test]
fn upstream_failures_are_told_as_envoy_tells_them() {
    on_worker(async {
        for act in [Act::SendAndClose(""), Act::SendAndReset("")] {
            let details = "upstream_reset_before_response_started{connection_termination}";
            let f = check_failure(act, ROUTE, 503, "UC", details, &format!("{RESET}connection termination")).await;
            assert_eq!(f.stats().upstream_cx_destroy_remote_with_active_rq().value(), 1);
        }
        for bytes in ["SSH-2.0-x\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"] {
            let details = "upstream_reset_before_response_started{protocol_error}";
            let body = format!("{RESET}protocol error");
            let f = check_failure(Act::Send(bytes), ROUTE, 502, "UPE", details, &body).await;
            assert_eq!(f.stats().upstream_cx_protocol_error().value(), 1);
            assert_eq!(f.stats().upstream_cx_destroy_local_with_active_rq().value(), 1);
        }
        let route = "route: {cluster: c, timeout: 0.02s}";
        let f = check_failure(Act::Hang, route, 504, "UT", "response_timeout", "upstream request timeout").await;
        assert_eq!((f.stats().upstream_rq_timeout().value(), f.stats().upstream_cx_active().value()), (1, 0));
    });
}

#[test]
fn a_host_that_refuses_is_a_connection_failure() {
    on_worker(async {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let f = Fixture::new(closed, "", ROUTE);
        let outcome = f.get().await;
        assert_eq!((outcome.status, &*outcome.flags), (503, "UF"));
        let reason = "delayed connect error: Connection refused";
        assert_eq!(outcome.info.upstream.borrow().transport_failure.as_deref(), Some(reason));
        assert_eq!(outcome.info.upstream.borrow().host, Some(closed.into()));
        assert_eq!(f.stats().upstream_rq_pending_failure_eject().value(), 1);
    });
}

#[test]
fn a_response_that_breaks_off_never_ends_cleanly() {
    on_worker(async {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc";
        for (act, reason) in [
            (Act::SendAndClose(head), "protocol_error"),
            (Act::Send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"), "protocol_error"),
        ] {
            let upstream = Upstream::new(vec![act]).await;
            let f = Fixture::new(upstream.address, "", ROUTE);
            let outcome = f.get().await;
            assert_eq!(outcome.status, 200);
            assert_eq!(outcome.broken, Some(format!("upstream_reset_after_response_started{{{reason}}}")));
            // Envoy counts it for gRPC alone.
            assert_eq!(f.stats.rq_reset_after_downstream_response_started().value(), 0);
            let stats = f.stats();
            assert_eq!((stats.upstream_rq_active().value(), stats.upstream_cx_active().value()), (0, 0));
            assert_eq!(stats.upstream_cx_destroy_with_active_rq().value(), 1);
        }
    });
}

#[test]
fn a_body_that_stalls_is_ended_by_the_routes_timeout() {
    on_worker(async {
        let upstream = Upstream::new(vec![Act::Send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")]).await;
        let f = Fixture::new(upstream.address, "", "route: {cluster: c, timeout: 1s}");
        let outcome = f.get().await;
        assert_eq!((outcome.status, &*outcome.body), (200, "abc"));
        assert_eq!(outcome.broken.as_deref(), Some("response_timeout"));
        assert_eq!((f.stats().upstream_rq_timeout().value(), f.stats().upstream_cx_active().value()), (1, 0));
    });
}

#[test]
fn a_stale_connection_is_replaced_once_where_that_does_no_harm() {
    on_worker(async {
        // The second request finds the connection open, and it is closed without an answer.
        let script = || vec![OK, Act::SendAndClose(""), OK];
        let upstream = Upstream::new(script()).await;
        let f = Fixture::new(upstream.address, "", ROUTE);
        assert_eq!(f.get().await.status, 200);
        assert_eq!(f.get().await.status, 200);
        assert_eq!((upstream.requests.borrow().len(), f.stats().upstream_cx_total().value()), (3, 2));

        let upstream = Upstream::new(script()).await;
        let f = Fixture::new(upstream.address, "", ROUTE);
        assert_eq!(f.get().await.status, 200);
        let post = RequestHead::new(Method::POST, Scheme::Http, "a.test".into(), "/".into());
        let outcome = f.send(post, Body::empty()).await;
        assert_eq!((outcome.status, &*outcome.flags), (503, "UC"));
    });
}

#[test]
fn a_new_connection_that_closes_is_not_retried() {
    on_worker(async {
        let upstream = Upstream::new(vec![Act::SendAndClose(""), OK]).await;
        let f = Fixture::new(upstream.address, "", ROUTE);
        assert_eq!(f.get().await.status, 503);
    });
}

#[test]
fn an_open_breaker_answers_at_once() {
    on_worker(async {
        for (limit, overflow) in [("max_pending_requests", 1), ("max_requests", 0)] {
            let upstream = Upstream::new(vec![OK]).await;
            let cluster = format!("circuit_breakers: {{thresholds: [{{{limit}: 0}}]}}");
            let f = Fixture::new(upstream.address, &cluster, ROUTE);
            let outcome = f.get().await;
            assert_eq!((outcome.status, &*outcome.flags), (503, "UO"));
            assert_eq!(outcome.details, "upstream_reset_before_response_started{overflow}");
            assert_eq!(outcome.header("x-envoy-overloaded"), Some("true"));
            assert_eq!(f.stats().upstream_rq_pending_overflow().value(), overflow);
            assert_eq!(f.stats().upstream_rq_active_overflow().value(), 1 - overflow);
            assert!(upstream.requests.borrow().is_empty());
        }
    });
}

#[test]
fn a_cluster_that_does_not_exist_is_said_so() {
    on_worker(async {
        let nowhere = "127.0.0.1:9".parse().unwrap();
        let f = Fixture::new(nowhere, "", "route: {cluster: other, cluster_not_found_response_code: NOT_FOUND}");
        let outcome = f.get().await;
        assert_eq!((outcome.status, &*outcome.flags, &*outcome.details), (404, "NC", "cluster_not_found"));
        assert_eq!((&*outcome.body, f.stats.no_cluster().value()), ("", 1));
    });
}

#[test]
fn a_header_can_name_the_cluster() {
    on_worker(async {
        let upstream = Upstream::new(vec![OK]).await;
        let f = Fixture::new(upstream.address, "", "route: {cluster_header: x-to}");
        let mut head = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/".into());
        assert_eq!(f.send(head.clone(), Body::empty()).await.status, 503);
        head.headers.insert("x-to", "c".parse().unwrap());
        assert_eq!(f.send(head, Body::empty()).await.status, 200);
    });
}

#[test]
fn routes_that_ask_no_cluster_are_answered_here() {
    on_worker(async {
        let nowhere = "127.0.0.1:9".parse().unwrap();
        let f = Fixture::new(nowhere, "", "direct_response: {status: 418, body: {inline_string: tea}}");
        let outcome = f.get().await;
        assert_eq!((outcome.status, &*outcome.body, &*outcome.details), (418, "tea", "direct_response"));
        let json = "direct_response: {status: 200, body_format: {json_format: {p: '%REQ(:path)%'}}}";
        let outcome = Fixture::new(nowhere, "", json).get().await;
        assert_eq!((&*outcome.body, outcome.header("content-type")), ("{\"p\":\"/p?q\"}\n", Some("application/json")));
        let outcome = Fixture::new(nowhere, "", "non_forwarding_action: {}").get().await;
        assert_eq!((outcome.status, &*outcome.flags), (503, "NC"));
        let f = Fixture::new(nowhere, "", "redirect: {host_redirect: x.y, path_redirect: /z}");
        let outcome = f.get().await;
        assert_eq!((outcome.status, outcome.header("location")), (301, Some("http://x.y/z?q")));
        assert_eq!(f.stats.rq_direct_response().value(), 1);
    });
}

#[test]
fn rewrites_and_header_rules_apply_both_ways() {
    on_worker(async {
        let upstream = Upstream::new(vec![OK]).await;
        let route = "route: {cluster: c, host_rewrite_literal: new.host, prefix_rewrite: /new/}, \
                     response_headers_to_add: [{header: {key: x-out, value: '1'}}], \
                     request_headers_to_add: [{header: {key: x-in, value: '2'}}]";
        let f = Fixture::new(upstream.address, "", route);
        let outcome = f.get().await;
        assert_eq!(outcome.header("x-out"), Some("1"));
        let sent = upstream.requests.borrow()[0].clone();
        assert!(sent.starts_with("GET /new/p?q HTTP/1.1\r\nhost: new.host\r\n"), "{sent}");
        assert!(sent.contains("x-in: 2\r\n") && sent.contains("x-envoy-original-path: /p?q\r\n"), "{sent}");
        // Access logs print the request as it was sent.
        assert_eq!(&*outcome.head.path, "/new/p?q");
    });
}

#[test]
fn an_internal_client_sets_the_timeout() {
    on_worker(async {
        let upstream = Upstream::new(vec![Act::Hang]).await;
        let f = Fixture::new(upstream.address, "", ROUTE);
        let mut head = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/".into());
        head.headers.insert("x-envoy-upstream-rq-timeout-ms", "20".parse().unwrap());
        head.headers.insert("x-envoy-max-retries", "3".parse().unwrap());
        let outcome = f.send_as(head, Body::empty(), |info| info.internal.set(true)).await;
        assert_eq!(outcome.status, 504);
        let sent = upstream.requests.borrow()[0].clone();
        assert_eq!(sent, "GET / HTTP/1.1\r\nhost: a.test\r\nx-envoy-expected-rq-timeout-ms: 20\r\n\r\n");
    });
}

#[test]
fn envoy_headers_can_be_suppressed() {
    on_worker(async {
        let upstream = Upstream::new(vec![OK]).await;
        let router = proto::Router { suppress_envoy_headers: true, ..proto::Router::default() };
        let f = Fixture::with_router(upstream.address, "", ROUTE, &router);
        let outcome = f.get().await;
        assert_eq!(outcome.header("x-envoy-upstream-service-time"), None);
        assert_eq!(upstream.requests.borrow()[0], "GET /p?q HTTP/1.1\r\nhost: a.test\r\n\r\n");
    });
}

#[test]
fn a_stream_longer_than_the_clusters_limit_is_ended() {
    on_worker(async {
        let upstream = Upstream::new(vec![Act::Hang]).await;
        let f = Fixture::new(upstream.address, "common_http_protocol_options: {max_stream_duration: 0.02s}", ROUTE);
        let outcome = f.get().await;
        assert_eq!((outcome.status, &*outcome.flags), (504, "UMSDR"));
        assert_eq!(outcome.body, "upstream max stream duration reached");
        assert_eq!(f.stats().upstream_rq_max_duration_reached().value(), 1);
    });
}

#[test]
fn a_request_that_is_dropped_gives_everything_back() {
    on_worker(async {
        let upstream = Upstream::new(vec![Act::Hang]).await;
        let f = Rc::new(Fixture::new(upstream.address, "", ROUTE));
        let task = tokio::task::spawn_local({
            let f = f.clone();
            async move { f.get().await.status }
        });
        until(|| !upstream.requests.borrow().is_empty()).await;
        task.abort();
        assert!(task.await.is_err());
        let stats = f.stats();
        assert_eq!((stats.upstream_rq_active().value(), stats.upstream_cx_active().value()), (0, 0));
        assert_eq!(stats.upstream_cx_destroy_local_with_active_rq().value(), 1);
    });
}

fn websocket() -> RequestHead {
    let mut head = RequestHead::new(Method::GET, Scheme::Http, "a.test".into(), "/".into());
    head.protocol = Some("websocket".into());
    head.headers.insert("upgrade", "websocket".parse().unwrap());
    head.headers.insert("connection", "upgrade".parse().unwrap());
    head
}

/// A client that says this at once and then leaves its end open.
fn early(text: &'static str) -> Body {
    struct Early(Option<&'static str>);
    impl http_body::Body for Early {
        type Data = bytes::Bytes;
        type Error = nuncio_filter_api::BodyError;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            _cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, Self::Error>>> {
            match self.0.take() {
                Some(text) => std::task::Poll::Ready(Some(Ok(http_body::Frame::data(text.into())))),
                None => std::task::Poll::Pending,
            }
        }
    }
    Body::stream(Early(Some(text)))
}

#[test]
fn an_upgrade_carries_bytes_only_once_it_is_granted() {
    on_worker(async {
        // The upstream ends the tunnel when it has seen what was sent early: two line ends, as of a request.
        let switch = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\nhi";
        let upstream = Upstream::new(vec![Act::Send(switch), Act::SendAndClose("bye")]).await;
        let f = Fixture::new(upstream.address, "", "route: {cluster: c, timeout: 1s}");
        let outcome = f.send_as(websocket(), early("early\r\n\r\n"), |info| info.times.request_end.set(None)).await;
        assert_eq!((outcome.status, &*outcome.body), (101, "hibye"));
        let broken = outcome.broken.expect("the host has closed its half");
        assert_eq!(broken, "upstream_reset_after_response_started{connection_termination}");
        assert_eq!(upstream.requests.borrow()[1], "early\r\n\r\n");
        assert_eq!(outcome.headers.get("x-envoy-upstream-service-time"), None);

        let refusal = "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno";
        let upstream = Upstream::new(vec![Act::Send(refusal), OK]).await;
        let f = Fixture::new(upstream.address, "", ROUTE);
        let outcome = f.send_as(websocket(), early("GET /smuggled HTTP/1.1\r\n\r\n"), |_| ()).await;
        assert_eq!((outcome.status, &*outcome.body), (403, "no"));
        until(|| f.stats().upstream_cx_active().value() == 0).await;
        assert_eq!(upstream.requests.borrow().len(), 1, "nothing of it reached the host");
    });
}

#[test]
fn an_upgrade_that_is_not_answered_times_out() {
    on_worker(async {
        let upstream = Upstream::new(vec![Act::Hang]).await;
        let f = Fixture::new(upstream.address, "", "route: {cluster: c, timeout: 0.02s}");
        let outcome = f.send_as(websocket(), early("x"), |info| info.times.request_end.set(None)).await;
        assert_eq!((outcome.status, &*outcome.flags), (504, "UT"));
    });
}
