//! Frames of one HTTP/2 connection through the whole connection manager: whatever comes, nothing panics, and the
//! connection ends once its peer has gone.
#![no_main]

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nuncio_filter_api::{
    Body, Connection, Drain, DrainState, HttpFilter, HttpFilterConfig, HttpFilterRow, Io, LowerCx, NetworkCx,
    NetworkFilter, Registry, Reply, Request, Response, ResponseHead, Rng, Sides, Step, StreamCx, Worker,
};
use nuncio_telemetry::{Address, ConnectionInfo};
use prost::Message;
use tokio::io::AsyncWriteExt;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may go on after its peer has gone, in virtual time.
const END: Duration = Duration::from_secs(3600);

/// Answers with the request's own body, whole or, by its path, as it comes or before it has come.
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
    fn request<'a>(&'a mut self, request: &'a mut Request, _cx: &'a mut StreamCx) -> Step<'a> {
        Step::Wait(Box::pin(async move {
            let head = ResponseHead::new(http::StatusCode::OK);
            let body = match request.head.path.len() % 3 {
                0 => Body::full("early"),
                1 => std::mem::replace(&mut request.body, Body::empty()),
                _ => {
                    let _ = request.body.buffer(1 << 16).await;
                    Body::full(request.body.take_full().unwrap_or_default())
                }
            };
            Err(Reply::Response(Response { head, body }))
        }))
    }
}

const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";

static ROWS: &[HttpFilterRow] = &[HttpFilterRow {
    name: "router",
    config: ROUTER,
    lower: |_, _| Ok(Arc::new(Responder)),
    per_route: None,
    sides: Sides::Downstream,
}];

/// A connection manager of HTTP/2 whose only filter is the [`Responder`].
fn manager() -> Arc<dyn NetworkFilter> {
    use nuncio_proto::envoy::config::route::v3::RouteConfiguration;
    use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
    let any =
        nuncio_proto::google::protobuf::Any { type_url: format!("type.googleapis.com/{ROUTER}"), value: Vec::new() };
    let message = proto::HttpConnectionManager {
        stat_prefix: "fuzz".to_owned(),
        codec_type: proto::http_connection_manager::CodecType::Http2.into(),
        http_filters: vec![proto::HttpFilter {
            name: "router".to_owned(),
            config_type: Some(proto::http_filter::ConfigType::TypedConfig(any)),
            ..Default::default()
        }],
        route_specifier: Some(proto::http_connection_manager::RouteSpecifier::RouteConfig(
            RouteConfiguration::default(),
        )),
        ..Default::default()
    };
    let mut env = nuncio_filter_api::testing::env();
    env.registry = Registry { http: vec![ROWS], ..Registry::default() };
    let mut cx = LowerCx::new(&env);
    let manager = (nuncio_http::hcm::ROW.lower)(&message.encode_to_vec(), &mut cx);
    assert_eq!(cx.finish(), []);
    manager.expect("nothing was refused")
}

thread_local! {
    static MANAGER: Arc<dyn NetworkFilter> = manager();
}

/// Sends `parts` one after another, gives each time to be handled, reads all that comes back, and closes.
async fn connection(parts: Vec<&[u8]>) {
    let (client, server) = tokio::io::duplex(1 << 16);
    let worker = Rc::new(Worker::new(0, Rng::seeded(1), Arc::default()));
    let peer = Address::Ip(([203, 0, 113, 7], 4000).into());
    let local = Address::Ip(([192, 0, 2, 1], 80).into());
    let info = Rc::new(ConnectionInfo::new(1, peer, local, tokio::time::Instant::now()));
    let drain = Rc::new(Drain::new(tokio::sync::watch::channel(DrainState::Serving).1, worker.clone()));
    let cx = NetworkCx { worker, drain, buffer_limit: 1 << 20 };
    let manager = MANAGER.with(Arc::clone);
    let served = tokio::task::spawn_local(manager.run(Connection { io: Io::new(server), info }, cx));
    let (mut read, mut write) = tokio::io::split(client);
    let discard = tokio::task::spawn_local(async move { tokio::io::copy(&mut read, &mut tokio::io::sink()).await });
    for part in parts {
        if write.write_all(part).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _ = write.shutdown().await;
    drop(write);
    tokio::time::timeout(END, served).await.expect("the connection ends").expect("nothing panics");
    discard.abort();
}

// The first byte: whether SETTINGS precede, and how many bytes each write has. The rest: frames.
fuzz_target!(|data: &[u8]| {
    let [how, frames @ ..] = data else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime of one thread needs nothing of the system");
    let settings: &[u8] = if how & 1 == 0 { &[0, 0, 0, 4, 0, 0, 0, 0, 0] } else { &[] };
    let size = match how >> 1 {
        0 => usize::MAX,
        n => usize::from(n),
    };
    let parts = [PREFACE, settings].into_iter().chain(frames.chunks(size)).collect();
    tokio::task::LocalSet::new().block_on(&runtime, connection(parts));
});
