//! The streams that there are, and what is wanted of each.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::bootstrap::DynamicResources;
use nuncio_config::control_plane::{ControlPlane, Dialect, Plane};
use nuncio_config::discovery::Origin;
use nuncio_config::grpc::Backoff as BackoffConfig;
use nuncio_config::load::UnknownFields;
use nuncio_config::xdstp::ResourceName;
use nuncio_filter_api::{ByteStr, Upstreams};
use nuncio_proto::envoy::config::core::v3::Node;
use nuncio_telemetry::stats::Store;
use tokio::sync::{mpsc, watch};
use tracing::warn;

use super::client::{Client, Server, Wish};
use super::delivery::Deliverer;
use super::pace::{Backoff, RateLimit};
use super::protocol::{Change, Delta, Identity, Protocol, Sotw, WILDCARD};
use super::rest::{Pollers, Polling};
use crate::task::Task;
use crate::update::{Kind, PlaneCounted, PlaneState, Subscriptions, Target, Updates};

/// Envoy's default of the pauses between streams.
const DEFAULT_BACKOFF: BackoffConfig = BackoffConfig { base: Duration::from_millis(500), max: Duration::from_secs(30) };
/// Updates that may wait to be applied; the stream rests meanwhile.
const DELIVERIES: usize = 1;
/// What is asked for in the place of all that there is.
pub(crate) fn collections(dynamic: &DynamicResources) -> Arc<BTreeMap<Kind, String>> {
    let DynamicResources { cds_collection, lds_collection, context, .. } = dynamic;
    let of_kinds = [(Kind::Cluster, cds_collection), (Kind::Listener, lds_collection)];
    let asked = |(kind, name): (Kind, &Option<ResourceName>)| Some((kind, name.as_ref()?.within(context).to_string()));
    Arc::new(of_kinds.into_iter().filter_map(asked).collect())
}

/// Follows what is wanted of servers, until it is dropped.
pub(crate) struct Sources {
    pub(crate) updates: Updates,
    pub(crate) upstreams: Rc<dyn Upstreams>,
    pub(crate) store: Store,
    pub(crate) node: Node,
    /// The server of aggregated discovery.
    pub(crate) ads: Option<Arc<ControlPlane>>,
    /// What becomes of unknown fields in JSON.
    pub(crate) unknown: UnknownFields,
    /// What is asked for in the place of all that there is.
    pub(crate) collections: Arc<BTreeMap<Kind, String>>,
    /// Whether there are clusters that cannot be used yet.
    pub(crate) warming: watch::Receiver<bool>,
}

/// What has a stream of its own: a server, and there a kind unless all go over one.
type Key = (Origin, Option<Kind>);

/// A stream, and what is wanted of it.
struct Stream {
    wishes: mpsc::UnboundedSender<Wish>,
    wanted: BTreeSet<Target>,
    /// The same, for whoever tells about the stream as a whole.
    shared: watch::Sender<BTreeSet<Target>>,
    _tasks: [Task; 2],
}

impl Sources {
    /// Runs until the process ends.
    pub(crate) async fn run(self) {
        let mut subscriptions = self.updates.subscriptions();
        let mut streams = BTreeMap::new();
        let mut pollers = Pollers::new(Polling {
            updates: self.updates.clone(),
            upstreams: self.upstreams.clone(),
            node: self.node.clone(),
            unknown: self.unknown,
        });
        if let Some(plane) = &self.ads {
            // Envoy opens it at once, whoever wants something of it.
            let key = (Origin::Ads, None);
            streams.insert(key.clone(), self.open(&key, plane));
        }
        loop {
            let wanted = subscriptions.borrow_and_update().clone();
            self.reconcile(&wanted, &mut streams, &mut pollers).await;
            if subscriptions.changed().await.is_err() {
                return;
            }
        }
    }

    async fn reconcile(&self, wanted: &Arc<Subscriptions>, streams: &mut BTreeMap<Key, Stream>, pollers: &mut Pollers) {
        let mut polled = BTreeMap::new();
        let mut by_stream: BTreeMap<Key, BTreeSet<Target>> = BTreeMap::new();
        for target in wanted.iter() {
            let key = match &target.origin {
                Origin::Path { .. } => continue,
                Origin::Ads => (Origin::Ads, None),
                Origin::Server(server) => match &server.plane {
                    Plane::Grpc(plane) => (target.origin.clone(), (!plane.is_aggregated).then_some(target.kind)),
                    Plane::Rest(rest) => {
                        polled.insert(target.clone(), rest.clone());
                        continue;
                    }
                },
            };
            by_stream.entry(key).or_default().insert(target.clone());
        }
        pollers.reconcile(&polled);
        streams.retain(|key, _| by_stream.contains_key(key) || key.0 == Origin::Ads);
        for (key, stream) in &mut *streams {
            self.change(stream, by_stream.remove(key).unwrap_or_default()).await;
        }
        for (key, targets) in by_stream {
            let Origin::Server(server) = key.0.clone() else {
                self.refuse(&targets).await;
                continue;
            };
            let Plane::Grpc(plane) = &server.plane else { continue };
            let mut stream = self.open(&key, plane);
            self.change(&mut stream, targets).await;
            streams.insert(key, stream);
        }
    }

    /// Nobody can be asked for these.
    async fn refuse(&self, targets: &BTreeSet<Target>) {
        for target in targets {
            warn!(target: "config", "{target}: ads is its source, but the bootstrap has no ads_config");
            self.updates.failed(target).await;
        }
    }

    async fn change(&self, stream: &mut Stream, wanted: BTreeSet<Target>) {
        // Those that are gone last: a name that moves from one target to another is never given up.
        for target in wanted.difference(&stream.wanted) {
            self.updates.attempt(target).await;
            stream.wish(target, Change::Subscribe(self.asked(target)));
        }
        for target in stream.wanted.difference(&wanted) {
            stream.wish(target, Change::Unsubscribe(self.asked(target)));
        }
        if stream.wanted != wanted {
            stream.shared.send_replace(wanted.clone());
            stream.wanted = wanted;
        }
    }

    /// The name by which a target is asked for.
    fn asked(&self, target: &Target) -> String {
        let collection = || self.collections.get(&target.kind).map(String::as_str);
        target.name.as_deref().or_else(collection).unwrap_or(WILDCARD).to_owned()
    }

    fn open(&self, key: &Key, plane: &ControlPlane) -> Stream {
        let services = &plane.services;
        let backoff = services.iter().find_map(|service| service.backoff).unwrap_or(DEFAULT_BACKOFF);
        let server = Server {
            services: services.iter().map(|service| service.target.clone()).collect(),
            method: method(key.1, plane.dialect),
            backoff: Backoff::new(backoff.base, backoff.max),
            rate_limit: plane.rate_limit.map(|limit| RateLimit::new(limit.max_tokens, limit.fill_rate)),
            warming: (key.0 == Origin::Ads).then(|| self.warming.clone()),
        };
        let identity = Identity::new(self.node.clone(), plane.node_on_first_message_only);
        match plane.dialect {
            Dialect::Sotw => self.spawn(key, Sotw::new(identity), server),
            Dialect::Delta => self.spawn(key, Delta::new(identity), server),
        }
    }

    fn spawn<P: Protocol + 'static>(&self, key: &Key, protocol: P, server: Server) -> Stream {
        let (wishes, wished) = mpsc::unbounded_channel();
        let (deliveries, delivered) = mpsc::channel(DELIVERIES);
        let (shared, targets) = watch::channel(BTreeSet::new());
        let (state, states) = watch::channel(PlaneState::default());
        let counted = key.1.is_none().then(|| PlaneCounted::new(&self.store.scope("")));
        let client = Client::new(protocol, server, self.upstreams.clone(), counted, wished, deliveries, state);
        let collections = self.collections.clone();
        let deliverer = Deliverer::new(self.updates.clone(), key.clone(), collections, targets, delivered, states);
        let _tasks = [Task::spawn(client.run()), Task::spawn(deliverer.run())];
        Stream { wishes, wanted: BTreeSet::new(), shared, _tasks }
    }
}

impl Stream {
    fn wish(&self, target: &Target, change: Change) {
        // Its task ends with it.
        let _ = self.wishes.send((type_url(target.kind), change));
    }
}

/// The type URL of a kind.
pub(super) fn type_url(kind: Kind) -> Arc<str> {
    kind.type_url().into()
}

/// What is called for a kind, or for all of them.
fn method(kind: Option<Kind>, dialect: Dialect) -> ByteStr {
    let (service, sotw, delta) = match kind {
        None => ("discovery.v3.AggregatedDiscoveryService", "StreamAggregatedResources", "DeltaAggregatedResources"),
        Some(Kind::Runtime) => ("runtime.v3.RuntimeDiscoveryService", "StreamRuntime", "DeltaRuntime"),
        Some(Kind::Cluster) => ("cluster.v3.ClusterDiscoveryService", "StreamClusters", "DeltaClusters"),
        Some(Kind::Endpoints) => ("endpoint.v3.EndpointDiscoveryService", "StreamEndpoints", "DeltaEndpoints"),
        // Lowering refuses the state of the world for it.
        Some(Kind::LocalityEndpoints) => {
            ("endpoint.v3.LocalityEndpointDiscoveryService", "DeltaLocalityEndpoints", "DeltaLocalityEndpoints")
        }
        Some(Kind::Secret) => ("secret.v3.SecretDiscoveryService", "StreamSecrets", "DeltaSecrets"),
        Some(Kind::Listener) => ("listener.v3.ListenerDiscoveryService", "StreamListeners", "DeltaListeners"),
        Some(Kind::Extension) => {
            ("extension.v3.ExtensionConfigDiscoveryService", "StreamExtensionConfigs", "DeltaExtensionConfigs")
        }
        Some(Kind::Scope) => ("route.v3.ScopedRoutesDiscoveryService", "StreamScopedRoutes", "DeltaScopedRoutes"),
        // The same.
        Some(Kind::VirtualHost) => ("route.v3.VirtualHostDiscoveryService", "DeltaVirtualHosts", "DeltaVirtualHosts"),
        Some(Kind::Routes) => ("route.v3.RouteDiscoveryService", "StreamRoutes", "DeltaRoutes"),
    };
    let method = if dialect == Dialect::Sotw { sotw } else { delta };
    format!("/envoy.service.{service}/{method}").into()
}
