//! The admin server: what the process tells of itself, and what it can be told to do, over HTTP on a thread of its own.

mod certs;
mod clusters;
mod csds;
mod dump;
mod endpoints;
mod explain;
mod grpc;
mod info;
mod logging;
mod mutate;
mod pages;
mod serve;
mod stats;
mod tap;
mod xds;

pub(crate) use serve::AdminThread;

use std::borrow::Cow;
use std::sync::Arc;

use http::{Method, StatusCode};
use nuncio_filter_api::LowerEnv;
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_telemetry::logging::AppLog;
use percent_encoding::percent_decode_str;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cli::Options;
use crate::control::Request;
use crate::node::identify;
use crate::startup::override_node;
use crate::update::Subscriptions;
use crate::worker::Shared;
use endpoints::Outcome;
use stats::AdminStats;
use tap::Tapped;

/// What the endpoints answer from.
pub(crate) struct Admin {
    options: Options,
    env: Arc<LowerEnv>,
    stats: AdminStats,
    shared: Arc<Shared>,
    log: AppLog,
    started: Instant,
    control: mpsc::Sender<(Request, oneshot::Sender<()>)>,
    /// What is wanted of discovery.
    wanted: watch::Receiver<Arc<Subscriptions>>,
}

/// The parameters of a request, decoded, in order.
struct Params(Vec<(String, String)>);

/// What a request is answered.
enum Answer {
    Reply(Reply),
    /// Whatever is tapped from now on.
    Tapped(Tapped),
}

/// An answer that is there as a whole.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    content_type: &'static str,
    body: Cow<'static, str>,
}

const TEXT: &str = "text/plain; charset=UTF-8";
const HTML: &str = "text/html; charset=UTF-8";
const JSON: &str = "application/json";

// === impl Admin ===

impl Admin {
    pub(crate) fn new(
        options: Options,
        env: Arc<LowerEnv>,
        shared: Arc<Shared>,
        log: AppLog,
        control: mpsc::Sender<(Request, oneshot::Sender<()>)>,
        wanted: watch::Receiver<Arc<Subscriptions>>,
    ) -> Self {
        let (stats, started) = (AdminStats::new(&shared.store), Instant::now());
        Self { stats, options, env, shared, log, started, control, wanted }
    }

    /// The bootstrap as it was loaded, with the names of the command line and what this build can do.
    fn bootstrap(&self) -> Bootstrap {
        // What the loader checked decodes.
        let mut bootstrap = Bootstrap::decode(self.shared.bootstrap.load().loaded.bootstrap()).unwrap_or_default();
        override_node(&mut bootstrap, &self.options);
        bootstrap.node = Some(identify(bootstrap.node.take().unwrap_or_default(), &self.env.registry));
        bootstrap
    }

    /// Whether a request's body has parameters too.
    fn takes_body(method: &Method, path: &str) -> bool {
        method == Method::POST && [endpoints::EXPLAIN, endpoints::RUNTIME_MODIFY, endpoints::TAP].contains(&path)
    }

    async fn answer(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> Answer {
        let Some(endpoint) = endpoints::served(self).find(|endpoint| endpoint.path == path) else {
            let help = format!("invalid path. {}", pages::help_text(endpoints::served(self)));
            return Answer::Reply(Reply::text(help).status(StatusCode::NOT_FOUND));
        };
        if endpoint.mutates && method != Method::POST {
            let refusal = format!("Method {method} not allowed, POST required.");
            return Answer::Reply(Reply::text(refusal).status(StatusCode::METHOD_NOT_ALLOWED));
        }
        let mut params = Params::parse(query);
        if endpoint.path == endpoints::RUNTIME_MODIFY && params.0.is_empty() {
            params = Params::parse(&String::from_utf8_lossy(body));
        } else if !body.is_empty() && endpoint.path == endpoints::EXPLAIN {
            match explain::parameters(body) {
                Ok(more) => params.0.extend(more),
                Err(error) => return Answer::Reply(Reply::bad_request(error)),
            }
        }
        match (endpoint.handle)(self, &params) {
            Outcome::Reply(reply) => Answer::Reply(reply),
            Outcome::Ask(request) => Answer::Reply(self.ask(request).await),
            Outcome::Tap => tap::attach(self, body).map_or_else(Answer::Reply, Answer::Tapped),
        }
    }

    /// Has the control thread do something, and answers when it is done.
    async fn ask(&self, request: Request) -> Reply {
        let (done, wait) = oneshot::channel();
        let asked = self.control.send((request, done)).await.is_ok() && wait.await.is_ok();
        if asked { Reply::text("OK\n") } else { Reply::text("shutting down\n").status(StatusCode::SERVICE_UNAVAILABLE) }
    }
}

// === impl Params ===

impl Params {
    fn parse(query: &str) -> Self {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key), decode(value))
        };
        Self(query.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (&**key, &**value))
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.iter().find(|(k, _)| *k == key).map(|(_, value)| value)
    }

    fn has(&self, key: &str) -> bool {
        self.value(key).is_some()
    }
}

// === impl Reply ===

impl Reply {
    fn text(body: impl Into<Cow<'static, str>>) -> Self {
        Self { status: StatusCode::OK, content_type: TEXT, body: body.into() }
    }

    fn html(body: String) -> Self {
        Self { content_type: HTML, ..Self::text(body) }
    }

    fn json(mut body: String) -> Self {
        body.push('\n');
        Self { content_type: JSON, ..Self::text(body) }
    }

    fn bad_request(body: impl Into<Cow<'static, str>>) -> Self {
        Self::text(body).status(StatusCode::BAD_REQUEST)
    }

    fn status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_may_lack_a_value() {
        let params = Params::parse("filter=a%26b&usedonly&x=1=2");
        assert_eq!(params.value("filter"), Some("a&b"));
        assert_eq!(params.value("usedonly"), Some(""));
        assert_eq!(params.value("x"), Some("1=2"));
        assert!(!params.has("y"));
    }
}
