//! Route tables: which route a request takes, and what that route does with it.
//!
//! In: a `RouteConfiguration`. Out: a [`RouteTable`], whose [`resolve`](RouteTable::resolve) gives the number of a
//! [`RouteEntry`]. Invariants: the first matching route of the configuration wins, exactly as if each were looked at
//! in turn; resolving neither allocates nor locks, and its cost grows with the path, not with the number of routes.
//! Start reading at [`RouteTable::resolve`], then `paths.rs` for how the first match is found.

mod condition;
mod direct_response;
mod discovered;
mod entry;
mod explain;
mod filter_config;
mod forward;
mod grpc_timeout;
mod hash_policy;
mod hosts;
mod internal_redirect;
mod level;
mod lower;
mod mirror;
mod paths;
mod places;
mod plugin;
mod rate_limit;
mod redirect;
mod refresh;
mod retry;
mod rewrite;
mod scope;
mod split;
mod stats;
mod trace;
pub(crate) mod trie;
mod uri_template;
mod virtual_host;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use http::{HeaderName, Method};
use nuncio_filter_api::{ClusterName, ClusterNames, RequestHead, Route, RouteRef, Routes};
use nuncio_telemetry::{Metadata, RouteNames, StreamInfo};

pub use condition::Reason;
pub(crate) use condition::check_template;
pub use direct_response::DirectResponse;
pub use discovered::{DiscoveredHosts, HostSlot};
pub use entry::RouteEntry;
pub use explain::{Considered, Explanation, HostMatch};
pub use forward::{Cluster, ClusterHeader, Forward, MaxStreamDuration, ProxyHeader, Upgrade};
pub use grpc_timeout::{grpc_timeout, grpc_timeout_value};
pub use hash_policy::HashPolicies;
pub use internal_redirect::{InternalRedirect, RedirectPredicate, Schemes};
pub use mirror::MirrorPolicy;
pub use places::EntryPlace;
pub use plugin::ClusterMatcher;
pub use rate_limit::{Descriptor, Hits, LimitOverride, LimitUnit, NoHits, RateLimit, RateLimitCx, RateLimitHeaders};
pub use redirect::Redirect;
pub use refresh::{NextCluster, TriedClusters};
pub use retry::{AvoidedHosts, BackOff, Hedging, RateLimitedBackOff, ResetFormat, ResetHeader, RetryOn, RetryPolicy};
pub use rewrite::EnvoyHeaders;
pub use scope::{FoundScope, ScopeConfig, ScopeSlot, ScopedRoutes};
pub use stats::RouteStats;
pub use trace::{TraceShares, check_spans};
pub use virtual_host::VirtualHost;

use condition::{Asked, Conditions};
use hosts::Hosts;
use level::Level;
use paths::Paths;
use plugin::Plugins;
use split::Split;

use crate::matcher::Field;
use crate::matching::Tree;

/// A `RouteConfiguration`, ready to run and shared by all workers.
pub struct RouteTable {
    config: Arc<Config>,
    hosts: Hosts,
    virtual_hosts: Vec<HostRoutes>,
    entries: Vec<RouteEntry>,
    /// Where some of the virtual hosts come by discovery.
    discovered: Option<Box<discovered::Origin>>,
}

/// What holds for all routes of a table.
#[derive(Default)]
pub(crate) struct Config {
    name: Arc<str>,
    level: Level,
    order: MutationOrder,
    path_parameters: PathParameters,
    /// `vhost_header`: what names the virtual host in place of the authority.
    host_field: Option<Field>,
    /// `request_mirror_policies` of all virtual hosts that have none.
    mirrors: Arc<[MirrorPolicy]>,
    max_direct_response_body: u64,
    internal_only_headers: Box<[HeaderName]>,
    validate_clusters: Option<bool>,
    metadata: Option<Arc<Metadata>>,
    plugins: Plugins,
    /// To find the cluster that a header names.
    names: Arc<ClusterNames>,
}

/// `most_specific_header_mutations_wins`: what is applied last wins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum MutationOrder {
    #[default]
    MostSpecificFirst,
    MostSpecificLast,
}

/// `ignore_path_parameters_in_path_matching`
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum PathParameters {
    #[default]
    Matched,
    Ignored,
}

/// How the route of a request to one virtual host is found.
struct HostRoutes {
    host: Arc<VirtualHost>,
    /// The entry of the redirect to https, where `require_tls` asks for one.
    tls_redirect: Option<u32>,
    routes: RouteSet,
    /// `matcher`: chooses one of several sets, where there are no routes of the host itself.
    tree: Option<Box<HostTree>>,
}

struct HostTree {
    tree: Tree,
    sets: Vec<RouteSet>,
}

/// Routes of which the first that matches is taken.
#[derive(Default)]
struct RouteSet {
    paths: Paths,
    routes: Vec<Slot>,
}

/// One route of the configuration.
struct Slot {
    conditions: Option<Box<Conditions>>,
    target: Target,
}

/// Numbers of entries.
enum Target {
    Entry(u32),
    /// One of the entries from this on.
    Split(u32, Arc<Split>),
}

/// What a route does.
pub enum Action {
    /// `route`
    Forward(Forward),
    /// `redirect`
    Redirect(Redirect),
    /// `direct_response`
    DirectResponse(DirectResponse),
    /// `non_forwarding_action`: for gRPC servers; a proxy has no cluster to send such a request to.
    NonForwarding,
    /// `require_tls`: 301 to the same URL with https.
    TlsRedirect,
}

/// `Route.decorator`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decorator {
    /// Name of the span.
    pub operation: Arc<str>,
    /// The peer is told of it.
    pub propagate: bool,
}

/// A cluster named by a table, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRef<'a> {
    /// The cluster.
    pub cluster: &'a ClusterName,
    virtual_host: usize,
    route: usize,
    weighted: Option<usize>,
}

/// The path of the field, from the route configuration.
impl fmt::Display for ClusterRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtual_hosts[{}].routes[{}].route.", self.virtual_host, self.route)?;
        match self.weighted {
            None => f.write_str("cluster"),
            Some(i) => write!(f, "weighted_clusters.clusters[{i}].name"),
        }
    }
}

impl RouteTable {
    /// No route at all.
    pub(crate) fn empty() -> Self {
        Self {
            config: Arc::default(),
            hosts: Hosts::default(),
            virtual_hosts: Vec::new(),
            entries: Vec::new(),
            discovered: None,
        }
    }

    /// The number of the entry for a request. `random` chooses among weighted clusters and decides fractions.
    pub fn resolve(&self, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<usize> {
        let name = match &self.config.host_field {
            None => &*head.authority,
            Some(field) => field.first_in_request(head)?,
        };
        let host = &self.virtual_hosts[self.hosts.find(name)? as usize];
        if let Some(redirect) = host.tls_redirect
            && host.host.wants_tls(head)
        {
            return Some(redirect as usize);
        }
        let path = self.config.matched_path(&head.path).as_bytes();
        host.routes_for(head, info)?.find(Asked { head, info, path, random })
    }

    /// The cluster that a request goes to, where its entry does not name it but chooses one for each.
    pub fn chosen_cluster(&self, entry: &RouteEntry, head: &RequestHead, info: &StreamInfo) -> Option<ClusterName> {
        match entry.cluster()? {
            Cluster::Named(_) => None,
            Cluster::Header(header) => self.config.names.find(header.name(head)?),
            Cluster::Matcher(matcher) => matcher.find(head, info).cloned(),
        }
    }

    /// The entry numbered `index`, as [`RouteTable::resolve`] gave it.
    pub fn entry(&self, index: usize) -> &RouteEntry {
        &self.entries[index]
    }

    /// `name`
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// `internal_only_headers`: removed from requests of external clients.
    pub fn internal_only_headers(&self) -> &[HeaderName] {
        &self.config.internal_only_headers
    }

    /// `validate_clusters`, where set. Envoy's default: a table given inline is validated, one from RDS is not.
    pub fn validate_clusters(&self) -> Option<bool> {
        self.config.validate_clusters
    }

    /// `metadata`
    pub fn metadata(&self) -> Option<&Arc<Metadata>> {
        self.config.metadata.as_ref()
    }

    /// Every cluster that a mirror policy names, with the path of its field from the route configuration.
    pub fn mirror_refs(&self) -> impl Iterator<Item = (String, &ClusterName)> {
        let own = named("request_mirror_policies".to_owned(), &self.config.mirrors);
        let hosts = self.virtual_hosts.iter().enumerate().flat_map(move |(number, host)| {
            let inherited = Arc::ptr_eq(&host.host.mirrors, &self.config.mirrors);
            let mirrors = if inherited { &[][..] } else { &host.host.mirrors };
            let routes = host.routes.routes.iter().enumerate().flat_map(move |(route, slot)| {
                let mirrors = self.entries[slot.target.first()].own_mirror_policies();
                named(format!("virtual_hosts[{number}].routes[{route}].route.request_mirror_policies"), mirrors)
            });
            named(format!("virtual_hosts[{number}].request_mirror_policies"), mirrors).chain(routes)
        });
        own.chain(hosts)
    }

    /// Every cluster that the routes name, in the order of the configuration. Envoy: not those of trees (`matcher`).
    pub fn cluster_refs(&self) -> impl Iterator<Item = ClusterRef<'_>> {
        self.virtual_hosts.iter().enumerate().flat_map(move |(virtual_host, host)| {
            host.routes.routes.iter().enumerate().flat_map(move |(route, slot)| {
                let (first, count) = match &slot.target {
                    Target::Entry(entry) => (*entry as usize, None),
                    Target::Split(first, split) => (*first as usize, Some(split.len())),
                };
                (0..count.unwrap_or(1)).filter_map(move |i| match self.entries[first + i].cluster()? {
                    Cluster::Named(cluster) => {
                        Some(ClusterRef { cluster, virtual_host, route, weighted: count.map(|_| i) })
                    }
                    Cluster::Header(_) | Cluster::Matcher(_) => None,
                })
            })
        })
    }
}

impl Config {
    /// The part of `:path` that routes are matched against.
    fn matched_path<'a>(&self, path: &'a str) -> &'a str {
        let end = match self.path_parameters {
            PathParameters::Matched => memchr::memchr2(b'?', b'#', path.as_bytes()),
            PathParameters::Ignored => memchr::memchr3(b'?', b'#', b';', path.as_bytes()),
        };
        end.map_or(path, |end| &path[..end])
    }
}

impl HostRoutes {
    fn routes_for(&self, head: &RequestHead, info: &StreamInfo) -> Option<&RouteSet> {
        match &self.tree {
            None => Some(&self.routes),
            Some(tree) => {
                let found = tree.tree.find_for_request(head, info)?;
                Some(&tree.sets[found as usize])
            }
        }
    }
}

impl RouteSet {
    fn find(&self, asked: Asked<'_>) -> Option<usize> {
        let Asked { head, path, .. } = asked;
        let accept = |route: u32| self.routes[route as usize].accepts(asked);
        let route = self.paths.find(path, head, is_connect(head), accept)?;
        self.routes[route as usize].target.entry(asked)
    }
}

impl Slot {
    fn accepts(&self, asked: Asked<'_>) -> bool {
        self.conditions.as_ref().is_none_or(|conditions| conditions.hold(asked))
    }
}

impl Target {
    fn first(&self) -> usize {
        match self {
            Self::Entry(entry) | Self::Split(entry, _) => *entry as usize,
        }
    }

    /// `None` where the runtime leaves no cluster any weight.
    fn entry(&self, asked: Asked<'_>) -> Option<usize> {
        match self {
            Self::Entry(entry) => Some(*entry as usize),
            Self::Split(first, split) => Some(*first as usize + split.pick(asked)?),
        }
    }
}

/// The clusters that these policies name, with their paths.
fn named(path: String, policies: &[MirrorPolicy]) -> impl Iterator<Item = (String, &ClusterName)> {
    policies.iter().enumerate().filter_map(move |(i, policy)| match &policy.cluster {
        Cluster::Named(cluster) => Some((format!("{path}[{i}].cluster"), cluster)),
        Cluster::Header(_) | Cluster::Matcher(_) => None,
    })
}

/// Whether `connect_matcher` takes the request: a CONNECT that is no upgrade, or CONNECT-UDP.
fn is_connect(head: &RequestHead) -> bool {
    match &head.protocol {
        None => head.method == Method::CONNECT,
        Some(p) if p.eq_ignore_ascii_case("connect-udp") => true,
        Some(p) => head.method == Method::CONNECT && crate::matcher::is_tunnel(p),
    }
}

/// A table as one worker holds it: its streams count references to this, not to what all workers share.
pub struct WorkerRoutes(Arc<RouteTable>);

impl WorkerRoutes {
    /// Wraps the table for one worker.
    pub fn new(table: Arc<RouteTable>) -> Rc<Self> {
        Rc::new(Self(table))
    }

    /// The table.
    pub fn table(&self) -> &Arc<RouteTable> {
        &self.0
    }

    /// The route of a request.
    pub fn resolve(self: &Rc<Self>, head: &RequestHead, info: &StreamInfo, random: u64) -> Option<RouteRef> {
        let index = self.0.resolve(head, info, random)?;
        let entry = self.0.entry(index);
        note(&info.route_metadata, entry.metadata());
        note(&info.virtual_host_metadata, entry.virtual_host().metadata.as_ref());
        let cluster = self.0.chosen_cluster(entry, head, info);
        Some(RouteRef::new(self.clone(), index, cluster))
    }
}

/// Most routes have no metadata: then nothing is written.
fn note(place: &RefCell<Option<Arc<Metadata>>>, metadata: Option<&Arc<Metadata>>) {
    if metadata.is_some() || place.borrow().is_some() {
        *place.borrow_mut() = metadata.cloned();
    }
}

impl RouteNames for WorkerRoutes {
    fn virtual_host(&self, route: usize) -> &str {
        &self.0.entry(route).virtual_host().name
    }
}

impl Routes for WorkerRoutes {
    fn route(&self, index: usize) -> &dyn Route {
        self.0.entry(index)
    }
}

#[cfg(test)]
mod tests;
