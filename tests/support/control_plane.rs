//! A control plane on loopback: aggregated discovery in both dialects over gRPC, from a table of resources that a test
//! changes while proxies follow it.

mod delta;

use delta::Delta;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use hyper::server::conn::http2;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use nuncio_config::load::{Format, Loader, Source, UnknownFields};
use nuncio_config::xdstp::collection_of;
use nuncio_proto::envoy::config::core::v3::{self as core, TypedExtensionConfig};
use nuncio_proto::envoy::config::{
    cluster::v3 as cluster, endpoint::v3 as endpoint, listener::v3 as listener, route::v3 as route,
};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use nuncio_proto::envoy::service::discovery::v3::aggregated_discovery_service_server as server;
use nuncio_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use nuncio_proto::envoy::service::runtime::v3::Runtime;
use nuncio_proto::google::protobuf::Any;
use prost::{Message, Name};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// A type of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Cluster,
    Endpoints,
    LocalityEndpoint,
    Listener,
    Routes,
    Secret,
    Runtime,
    Extension,
    Scope,
    VirtualHost,
}

impl Kind {
    pub(crate) const fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::LocalityEndpoint => "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Routes => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
            Self::Scope => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
        }
    }

    /// The resource that this YAML tells.
    pub(crate) fn encode(self, yaml: &str) -> Vec<u8> {
        fn encode<T: Message + Name + Default>(yaml: &str) -> Vec<u8> {
            let source = Source::new("resource", Format::Yaml, yaml.as_bytes().to_vec());
            let loaded = Loader::new(UnknownFields::Reject).load::<T>(vec![source]);
            loaded.unwrap_or_else(|problems| panic!("{problems:?}\n{yaml}")).message.encode_to_vec()
        }
        match self {
            Self::Cluster => encode::<cluster::Cluster>(yaml),
            Self::Endpoints => encode::<endpoint::ClusterLoadAssignment>(yaml),
            Self::LocalityEndpoint => encode::<endpoint::LbEndpoint>(yaml),
            Self::Listener => encode::<listener::Listener>(yaml),
            Self::Secret => encode::<tls::Secret>(yaml),
            Self::Routes => encode::<route::RouteConfiguration>(yaml),
            Self::Runtime => encode::<Runtime>(yaml),
            Self::Extension => encode::<TypedExtensionConfig>(yaml),
            Self::Scope => encode::<route::ScopedRouteConfiguration>(yaml),
            Self::VirtualHost => encode::<route::VirtualHost>(yaml),
        }
    }
}

/// A request as a test looks at it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) type_url: String,
    /// SotW: the version that the client is at.
    pub(crate) version: String,
    pub(crate) nonce: String,
    /// SotW: all names; delta: those that are subscribed to.
    pub(crate) names: Vec<String>,
    pub(crate) unsubscribed: Vec<String>,
    /// What a NACK says.
    pub(crate) error: Option<String>,
    /// node.id, where the request tells it.
    pub(crate) node: Option<String>,
    /// Delta: what the client has from an earlier stream.
    pub(crate) known: Vec<String>,
}

/// The ways in which a proxy may ask the cluster `xds`.
pub(crate) const WAYS: [Way; 4] = [
    Way { api_type: "GRPC", is_aggregated: true },
    Way { api_type: "DELTA_GRPC", is_aggregated: true },
    Way { api_type: "GRPC", is_aggregated: false },
    Way { api_type: "DELTA_GRPC", is_aggregated: false },
];

/// A way to ask a control plane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    api_type: &'static str,
    /// Over one stream for all types.
    pub(crate) is_aggregated: bool,
}

impl Way {
    pub(crate) fn is_delta(self) -> bool {
        self.api_type == "DELTA_GRPC"
    }

    /// `ads_config`, as a field of `dynamic_resources`.
    pub(crate) fn ads(self) -> String {
        format!("ads_config: {}", self.api())
    }

    /// A `ConfigSource`, of which `further` fields may be told.
    pub(crate) fn source(self, further: &str) -> String {
        let api = match self.is_aggregated {
            true => "ads: {}".to_owned(),
            false => format!("api_config_source: {}", self.api()),
        };
        format!("{{ resource_api_version: V3, {further} {api} }}")
    }

    fn api(self) -> String {
        let api_type = self.api_type;
        format!(
            "{{ api_type: {api_type}, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}] }}"
        )
    }
}

/// The cluster `xds` of a control plane that is, or will be, at this port, as an item of `static_resources.clusters`.
pub(crate) fn cluster_at(port: u16) -> String {
    named_cluster_at("xds", port)
}

/// The same under another name.
pub(crate) fn named_cluster_at(name: &str, port: u16) -> String {
    format!(
        "- name: {name}
  connect_timeout: 1s
  typed_extension_protocol_options:
    envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
      '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
      explicit_http_config: {{ http2_protocol_options: {{}} }}
  load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}
"
    )
}

/// A running control plane. It ends with the runtime of its test.
#[derive(Clone)]
pub(crate) struct ControlPlane {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    resources: HashMap<&'static str, BTreeMap<String, (u64, Any)>>,
    version: u64,
    asked: Vec<Asked>,
    /// Streams opened so far.
    streams: u64,
    /// Streams up to this number are to end.
    closed: u64,
    /// SotW responses that every stream sends as they are, with the number of those it has sent.
    raw: Vec<DiscoveryResponse>,
    /// Names, all types together, of which delta streams say that there is no such thing.
    denied: BTreeSet<String>,
    /// What it calls itself.
    identifier: String,
    /// Whether those who ask for virtual hosts are given all of them.
    gives_all_hosts: bool,
    /// Whether delta streams send again, with the next change, what was in a response that was refused.
    resends_refused: bool,
}

impl State {
    fn itself(&self) -> Option<core::ControlPlane> {
        Some(core::ControlPlane { identifier: self.identifier.clone() }).filter(|it| !it.identifier.is_empty())
    }
}

/// Whether a resource is wanted by its name, or as one of a collection: `xdstp://authority/type/folder/*?context`.
fn is_asked_for(names: &BTreeSet<String>, name: &str) -> bool {
    names.contains(name) || collection_of(name).is_some_and(|collection| names.contains(&collection))
}

impl ControlPlane {
    pub(crate) async fn start() -> Self {
        Self::start_at(0).await
    }

    /// One at this port.
    pub(crate) async fn start_at(port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(0) });
        let service = server::AggregatedDiscoveryServiceServer::new(Ads(shared.clone()));
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let ads = TowerToHyperService::new(service.clone());
                let service = service_fn(move |mut request| {
                    to_ads(&mut request);
                    ads.call(request)
                });
                tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// The cluster `xds` by which a proxy reaches it, as an item of `static_resources.clusters`.
    pub(crate) fn cluster(&self) -> String {
        cluster_at(self.port())
    }

    /// Adds or replaces a resource.
    pub(crate) fn set(&self, kind: Kind, name: &str, yaml: &str) {
        self.set_bytes(kind, name, kind.encode(yaml));
    }

    /// Adds or replaces a resource by bytes that may be none.
    pub(crate) fn set_bytes(&self, kind: Kind, name: &str, value: Vec<u8>) {
        self.change(|state| {
            let any = Any { type_url: kind.type_url().to_owned(), value };
            let version = state.version + 1;
            state.resources.entry(kind.type_url()).or_default().insert(name.to_owned(), (version, any));
        });
    }

    pub(crate) fn remove(&self, kind: Kind, name: &str) {
        self.change(|state| drop(state.resources.entry(kind.type_url()).or_default().remove(name)));
    }

    /// Has delta streams say at once that there is nothing of this name, to those who ask for it.
    pub(crate) fn deny(&self, name: &str) {
        self.change(|state| {
            state.denied.insert(name.to_owned());
        });
    }

    /// Gives all virtual hosts to those who ask for any.
    pub(crate) fn give_all_hosts(&self) {
        self.change(|state| state.gives_all_hosts = true);
    }

    /// Has delta streams send again, with the next change, all that was in a response that was refused.
    pub(crate) fn resend_refused(&self) {
        self.change(|state| state.resends_refused = true);
    }

    /// Puts a resource in the place of another, at once.
    pub(crate) fn replace(&self, kind: Kind, gone: &str, name: &str, yaml: &str) {
        let any = Any { type_url: kind.type_url().to_owned(), value: kind.encode(yaml) };
        self.change(|state| {
            let version = state.version + 1;
            let all = state.resources.entry(kind.type_url()).or_default();
            all.remove(gone);
            all.insert(name.to_owned(), (version, any));
        });
    }

    /// Has every SotW stream send this as it is.
    pub(crate) fn send(&self, response: DiscoveryResponse) {
        self.change(|state| state.raw.push(response));
    }

    /// Has its responses tell what it calls itself.
    pub(crate) fn set_identifier(&self, identifier: &str) {
        self.change(|state| state.identifier = identifier.to_owned());
    }

    /// Ends all streams that are open.
    pub(crate) fn disconnect(&self) {
        self.change(|state| state.closed = state.streams);
    }

    pub(crate) fn streams(&self) -> u64 {
        self.shared.lock().streams
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// Waits until a request of this type fits.
    pub(crate) async fn wait_for(&self, kind: Kind, fits: impl Fn(&Asked) -> bool) -> Asked {
        let until = tokio::time::Instant::now() + super::DEADLINE;
        loop {
            let asked = self.asked();
            if let Some(found) = asked.iter().rev().find(|a| a.type_url == kind.type_url() && fits(a)) {
                return found.clone();
            }
            assert!(tokio::time::Instant::now() < until, "no such request among {asked:#?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let version = {
            let mut state = self.shared.lock();
            change(&mut state);
            state.version += 1;
            state.version
        };
        self.shared.changed.send_replace(version);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The services of single types speak as the one of all does.
fn to_ads<B>(request: &mut hyper::Request<B>) {
    let method = match request.uri().path().rsplit('/').next() {
        Some(method) if method.starts_with("Delta") => "DeltaAggregatedResources",
        _ => "StreamAggregatedResources",
    };
    let path = format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{method}");
    *request.uri_mut() = path.parse().expect("it is a path");
}

struct Ads(Arc<Shared>);

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl server::AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(serve::<Sotw>(self.0.clone(), request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(serve::<Delta>(self.0.clone(), request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// What differs between the dialects: the memory of a stream.
trait Dialect: Default + Send + 'static {
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn asked(request: &Self::Request) -> Asked;
    fn take(&mut self, request: Self::Request);
    fn respond(&mut self, state: &State) -> Vec<Self::Response>;
}

async fn serve<D: Dialect>(
    shared: Arc<Shared>,
    mut requests: Streaming<D::Request>,
    responses: mpsc::Sender<Result<D::Response, Status>>,
) {
    let mut dialect = D::default();
    let mut changed = shared.changed.subscribe();
    let number = {
        let mut state = shared.lock();
        state.streams += 1;
        state.streams
    };
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                shared.lock().asked.push(D::asked(&request));
                dialect.take(request);
            }
            _ = changed.changed() => {}
        }
        let due = {
            let state = shared.lock();
            if state.closed >= number {
                return;
            }
            dialect.respond(&state)
        };
        for response in due {
            if responses.send(Ok(response)).await.is_err() {
                return;
            }
        }
    }
}

#[derive(Default)]
struct Sotw {
    types: BTreeMap<String, SotwType>,
    nonce: u64,
    raw_sent: usize,
}

#[derive(Default)]
struct SotwType {
    names: BTreeSet<String>,
    /// Names with versions, as sent last.
    sent: Option<Vec<(String, u64)>>,
    nonce: String,
}

impl Dialect for Sotw {
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn asked(request: &DiscoveryRequest) -> Asked {
        Asked {
            type_url: request.type_url.clone(),
            version: request.version_info.clone(),
            nonce: request.response_nonce.clone(),
            names: request.resource_names.clone(),
            unsubscribed: Vec::new(),
            error: request.error_detail.as_ref().map(|e| e.message.clone()),
            node: request.node.as_ref().map(|n| n.id.clone()),
            known: Vec::new(),
        }
    }

    fn take(&mut self, request: DiscoveryRequest) {
        let of = self.types.entry(request.type_url).or_default();
        if !request.response_nonce.is_empty() && request.response_nonce != of.nonce {
            return;
        }
        let names: BTreeSet<String> = request.resource_names.into_iter().collect();
        if !names.is_subset(&of.names) {
            of.sent = None;
        }
        of.names = names;
    }

    fn respond(&mut self, state: &State) -> Vec<DiscoveryResponse> {
        let mut due = Vec::new();
        for (type_url, of) in &mut self.types {
            let all = state.resources.get(&**type_url).into_iter().flatten();
            let is_wanted =
                |name: &String| of.names.is_empty() || of.names.contains("*") || is_asked_for(&of.names, name);
            let wanted: Vec<_> = all.filter(|(name, _)| is_wanted(name)).collect();
            let now: Vec<_> = wanted.iter().map(|(name, (version, _))| ((*name).clone(), *version)).collect();
            if of.sent.as_ref() == Some(&now) || (of.sent.is_none() && now.is_empty()) {
                continue;
            }
            of.sent = Some(now);
            self.nonce += 1;
            of.nonce = self.nonce.to_string();
            due.push(DiscoveryResponse {
                version_info: state.version.to_string(),
                resources: wanted.into_iter().map(|(_, (_, any))| any.clone()).collect(),
                type_url: type_url.clone(),
                nonce: of.nonce.clone(),
                control_plane: state.itself(),
                ..Default::default()
            });
        }
        for raw in &state.raw[self.raw_sent.min(state.raw.len())..] {
            if let Some(of) = self.types.get_mut(&raw.type_url) {
                of.nonce = raw.nonce.clone();
            }
            due.push(raw.clone());
        }
        self.raw_sent = state.raw.len();
        due
    }
}
