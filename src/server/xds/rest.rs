//! Discovery by polling: `POST /v3/discovery:...` with requests and responses as JSON.
//!
//! There is no stream and no nonce: a request tells the version that is in force, which is all that the server learns of
//! how its responses fared. As in Envoy each resource is asked for by requests of its own.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Method, StatusCode};
use nuncio_config::control_plane::RestServer;
use nuncio_config::load::{Format, Source, UnknownFields, to_json_line};
use nuncio_filter_api::{Body, Request, RequestHead, Rng, Scheme, Upstreams};
use nuncio_proto::envoy::config::core::v3::Node;
use nuncio_proto::envoy::service::discovery::v3 as proto;
use tokio::task::spawn_blocking;
use tracing::{debug, warn};

use super::sources::type_url;
use crate::files::{Delivery, is_empty, unexpected};
use crate::task::Task;
use crate::update::{Kind, Push, Removed, Target, Updates};

/// Bytes that a response may have. Envoy has no bound.
const MAX_RESPONSE: usize = 512 << 20;

/// What all pollers have.
#[derive(Clone)]
pub(super) struct Polling {
    pub(super) updates: Updates,
    pub(super) upstreams: Rc<dyn Upstreams>,
    pub(super) node: Node,
    pub(super) unknown: UnknownFields,
}

/// The pollers, one for each target.
pub(super) struct Pollers {
    polling: Polling,
    running: BTreeMap<Target, Task>,
}

struct Poller {
    polling: Polling,
    target: Target,
    server: RestServer,
    /// What was accepted last.
    version: String,
    rng: Rng,
}

/// What a server answers.
enum Fetched {
    Unchanged,
    Response(Bytes),
}

// === impl Pollers ===

impl Pollers {
    pub(super) fn new(polling: Polling) -> Self {
        Self { polling, running: BTreeMap::new() }
    }

    /// Polls for these from now on, and for no others.
    pub(super) fn reconcile(&mut self, wanted: &BTreeMap<Target, RestServer>) {
        self.running.retain(|target, _| wanted.contains_key(target));
        for (target, server) in wanted {
            if self.running.contains_key(target) {
                continue;
            }
            let poller = Poller {
                polling: self.polling.clone(),
                target: target.clone(),
                server: server.clone(),
                version: String::new(),
                rng: Rng::from_entropy(),
            };
            self.running.insert(target.clone(), Task::spawn(poller.run()));
        }
    }
}

// === impl Poller ===

impl Poller {
    async fn run(mut self) {
        loop {
            self.poll().await;
            let delay = self.server.refresh_delay;
            let jitter = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX).max(1);
            tokio::time::sleep(delay + Duration::from_nanos(self.rng.below(jitter))).await;
        }
    }

    async fn poll(&mut self) {
        let updates = self.polling.updates.clone();
        updates.attempt(&self.target).await;
        let path = path(self.target.kind);
        let fetched = tokio::time::timeout(self.server.request_timeout, self.fetch()).await;
        match fetched.unwrap_or_else(|_| Err("it does not answer in time".to_owned())) {
            Ok(Fetched::Unchanged) => debug!(target: "config", "{}: unchanged", self.target),
            Ok(Fetched::Response(body)) => {
                if let Err(reason) = self.take(body).await {
                    warn!(target: "config", "REST config for {path} rejected: {}: {reason}", self.target);
                    updates.rejected(&self.target).await;
                }
            }
            Err(reason) => {
                warn!(target: "config", "REST update for {path} failed: {}: {reason}", self.target);
                updates.unreachable(&self.target).await;
            }
        }
    }

    async fn fetch(&self) -> Result<Fetched, String> {
        let request = proto::DiscoveryRequest {
            version_info: self.version.clone(),
            node: Some(self.polling.node.clone()),
            resource_names: self.target.name.iter().map(|name| name.to_string()).collect(),
            type_url: type_url(self.target.kind).to_string(),
            ..proto::DiscoveryRequest::default()
        };
        let authority = (&*self.server.cluster.name).into();
        let mut head = RequestHead::new(Method::POST, Scheme::Http, authority, path(self.target.kind).into());
        head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = to_json_line(&request);
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        let request = Request { head, body: Body::full(body) };
        let response = self.polling.upstreams.send(&self.server.cluster, request).await;
        let mut response = response.map_err(|error| error.to_string())?;
        match response.head.status {
            StatusCode::NOT_MODIFIED => return Ok(Fetched::Unchanged),
            StatusCode::OK => {}
            status => return Err(format!("the server answers with status {}", status.as_u16())),
        }
        response.body.buffer(MAX_RESPONSE).await.map_err(|error| error.to_string())?;
        Ok(Fetched::Response(response.body.take_full().unwrap_or_default()))
    }

    /// Has the response applied; says why not, where it is none of what was asked for.
    async fn take(&mut self, body: Bytes) -> Result<(), String> {
        let unknown = self.polling.unknown;
        let decoded =
            spawn_blocking(move || Delivery::decode(Source::new("response", Format::Json, body.into()), unknown));
        // The process's hook has logged a panic.
        let delivery = decoded.await.unwrap_or_else(|_| Err("decoding it panicked".to_owned()))?;
        if is_empty(&self.target, &delivery) {
            self.polling.updates.empty(&self.target, delivery.version.clone()).await;
            self.version = delivery.version;
            return Ok(());
        }
        if let Some(reason) = unexpected(&self.target, &delivery) {
            return Err(reason);
        }
        let Delivery { version, resources, sources: _ } = delivery;
        let (kind, origin) = (self.target.kind, self.target.origin.clone());
        let push = Push { kind, origin, version: version.clone(), resources, removed: Removed::all_others() };
        match self.polling.updates.apply(push).await.error_detail(kind) {
            None => self.version = version,
            // It is counted already.
            Some(detail) => warn!(target: "config", "REST config for {} rejected: {detail}", path(kind)),
        }
        Ok(())
    }
}

/// What is asked for resources of this kind.
fn path(kind: Kind) -> &'static str {
    match kind {
        Kind::Runtime => "/v3/discovery:runtime",
        Kind::Extension => "/v3/discovery:extension_configs",
        Kind::Scope => "/v3/discovery:scoped-routes",
        Kind::Cluster => "/v3/discovery:clusters",
        Kind::Endpoints => "/v3/discovery:endpoints",
        // Asked for by changes alone, which polling does not have.
        Kind::LocalityEndpoints => "/v3/discovery:locality-endpoints",
        Kind::Secret => "/v3/discovery:secrets",
        Kind::Listener => "/v3/discovery:listeners",
        Kind::Routes => "/v3/discovery:routes",
        // The same.
        Kind::VirtualHost => "/v3/discovery:virtual-hosts",
    }
}
