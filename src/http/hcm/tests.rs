//! The connection manager on an in-memory connection, with a filter that answers in place of the router.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::route::RouteEntry;
use nuncio_filter_api::{
    Body, Connection, Drain, DrainState, HttpFilter, HttpFilterConfig, HttpFilterRow, Io, LowerCx, LowerEnv, NetworkCx,
    NetworkFilter, Registry, Reply, Request, Response, ResponseHead, Rng, ServerState, Sides, Step, StreamCx, Worker,
};
use nuncio_proto::envoy::config::route::v3 as route;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::access_log::{FileManager, FlushPolicy};
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::{Address, ConnectionInfo};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::Hcm;

mod http1;
mod http2;
mod refusals;

/// Answers every request with its method, path and body; `/hang` never.
struct Responder;

impl HttpFilterConfig for Responder {
    fn instantiate(self: Arc<Self>, _name: &Arc<str>, _cx: &StreamCx) -> Box<dyn HttpFilter> {
        Box::new(Responder)
    }

    fn is_terminal(&self) -> bool {
        true
    }
}

impl HttpFilter for Responder {
    fn request<'a>(&'a mut self, request: &'a mut Request, cx: &'a mut StreamCx) -> Step<'a> {
        Step::Wait(Box::pin(async move {
            assert!(cx.route().is_some_and(|r| r.downcast::<RouteEntry>().is_some()), "routes are found first");
            if &*request.head.path == "/hang" {
                std::future::pending::<()>().await;
            }
            let _ = request.body.buffer(1 << 20).await;
            let mut text = format!("{} {} ", request.head.method, request.head.path).into_bytes();
            text.extend_from_slice(&request.body.take_full().unwrap_or_default());
            let mut head = ResponseHead::new(http::StatusCode::OK);
            head.headers.insert(http::header::CONTENT_LENGTH, text.len().into());
            Err(Reply::Response(Response { head, body: Body::full(text) }))
        }))
    }
}

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

static ROWS: &[HttpFilterRow] = &[HttpFilterRow {
    name: "envoy.filters.http.router",
    config: ROUTER,
    lower: |_, _| Ok(Arc::new(Responder)),
    per_route: None,
    sides: Sides::Downstream,
}];

fn message() -> proto::HttpConnectionManager {
    let any = Any { type_url: format!("type.googleapis.com/{ROUTER}"), value: Vec::new() };
    let table = route::RouteConfiguration {
        virtual_hosts: vec![route::VirtualHost {
            name: "all".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![route::Route {
                r#match: Some(route::RouteMatch {
                    path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".to_owned())),
                    ..Default::default()
                }),
                action: Some(route::route::Action::DirectResponse(route::DirectResponseAction {
                    status: 200,
                    ..Default::default()
                })),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    proto::HttpConnectionManager {
        stat_prefix: "test".to_owned(),
        http_filters: vec![proto::HttpFilter {
            name: "router".to_owned(),
            config_type: Some(proto::http_filter::ConfigType::TypedConfig(any)),
            ..Default::default()
        }],
        route_specifier: Some(proto::http_connection_manager::RouteSpecifier::RouteConfig(table)),
        ..Default::default()
    }
}

/// Lowers `message`; a refusal fails the test.
fn lower(message: proto::HttpConnectionManager) -> Arc<Hcm> {
    let hcm = try_lower(message);
    Arc::new(hcm.expect("nothing was refused"))
}

/// Lowers `message`, or tells why not.
fn try_lower(message: proto::HttpConnectionManager) -> Result<Hcm, Vec<String>> {
    let stats = Store::new();
    let env = LowerEnv {
        internal_buffer: Default::default(),
        own_services: Default::default(),
        shared: nuncio_filter_api::SharedConfigs::default(),
        registry: Registry { http: vec![ROWS], ..Registry::default() },
        clusters: Arc::default(),
        files: Arc::new(FileManager::new(FlushPolicy::default(), &stats.scope("filesystem"))),
        stats,
        concurrency: 1,
        local_ip: [192, 0, 2, 1].into(),
        node: Default::default(),
        slots: Default::default(),
        runtime: Default::default(),
        is_ads_delta: false,
    };
    let mut cx = LowerCx::new(&env);
    let hcm = Hcm::lower(message, &mut cx);
    let refusals: Vec<String> = cx.finish().iter().map(ToString::to_string).collect();
    assert_eq!(hcm.is_err(), !refusals.is_empty(), "a refusal is recorded exactly where lowering fails");
    hcm.map_err(|_| refusals)
}

/// Serves one end of a pipe; the other is the client's. To be run in a `LocalSet`.
fn connect(hcm: &Arc<Hcm>) -> DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 20);
    let worker = Rc::new(Worker::new(0, Rng::seeded(1), Arc::new(ServerState::default())));
    let peer = Address::Ip(([203, 0, 113, 7], 4000).into());
    let local = Address::Ip(([192, 0, 2, 1], 80).into());
    let info = Rc::new(ConnectionInfo::new(1, peer, local, tokio::time::Instant::now()));
    let drain = Rc::new(Drain::new(tokio::sync::watch::channel(DrainState::Serving).1, worker.clone()));
    let cx = NetworkCx { worker, drain, buffer_limit: 1 << 20 };
    let hcm: Arc<dyn NetworkFilter> = hcm.clone();
    tokio::task::spawn_local(hcm.run(Connection { io: Io::new(server), info }, cx));
    client
}

/// Sends `input` and reads until the server closes or falls silent.
async fn talk(client: &mut DuplexStream, input: &str) -> String {
    client.write_all(input.as_bytes()).await.unwrap();
    let mut out = Vec::new();
    let mut buf = [0; 4096];
    while let Ok(Ok(n @ 1..)) = tokio::time::timeout(Duration::from_millis(200), client.read(&mut buf)).await {
        out.extend_from_slice(&buf[..n]);
    }
    String::from_utf8(out).unwrap()
}

async fn local<T>(test: impl Future<Output = T>) -> T {
    tokio::task::LocalSet::new().run_until(test).await
}
