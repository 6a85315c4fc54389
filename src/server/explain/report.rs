//! The steps that a request takes.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::{EndpointAddress, HashTable, Health, LbPolicy};
use nuncio_config::listener::ListenerConfig;
use nuncio_config::route::{
    Action, Cluster, Descriptor, EntryPlace, EnvoyHeaders, Explanation, Forward, RateLimitCx, RetryPolicy, RouteEntry,
    RouteTable,
};
use nuncio_filter_api::{LowerEnv, RequestHead, Rng, Route, Scheme, Worker};
use nuncio_http::hcm::{Chosen, Preview};
use nuncio_proto::envoy::config::bootstrap::v3::Bootstrap;
use nuncio_proto::envoy::config::core::v3::address::Address as AddressMessage;
use nuncio_proto::envoy::config::listener::v3::Listener;
use nuncio_telemetry::format::FormatCx;
use nuncio_telemetry::{Address, ConnectionInfo, Inspected, StreamInfo};
use nuncio_upstream::Snapshot;
use tokio::time::Instant;

use super::Query;
use crate::route_check::{Inline, of_listener};

/// What is explained.
pub(crate) struct Config<'a> {
    /// As it was loaded.
    pub(crate) bootstrap: &'a Bootstrap,
    /// The listeners made of it.
    pub(crate) listeners: Vec<Arc<ListenerConfig>>,
    pub(crate) clusters: &'a Snapshot,
    pub(crate) env: &'a LowerEnv,
}

/// What becomes of the request at one listener.
pub(crate) struct Report {
    pub(super) listener: String,
    pub(super) filter_chain: String,
    /// Name of the scope, where there are scopes and one is the request's own.
    pub(super) scope: Option<String>,
    pub(super) route_config: String,
    /// The request as it is routed.
    pub(super) head: RequestHead,
    /// The status and why, where the connection manager answers without routing.
    pub(super) refused: Option<(u16, String)>,
    pub(super) explanation: Option<Explanation>,
    pub(super) taken: Option<Taken>,
}

/// The route that was taken.
pub(super) struct Taken {
    pub(super) place: EntryPlace,
    pub(super) name: String,
    /// What it does: keys and values in order.
    pub(super) action: Vec<(&'static str, String)>,
    pub(super) cluster: Option<ClusterReport>,
    pub(super) rate_limits: Vec<RateLimitReport>,
}

/// A rate limit of the route, or of its virtual host.
pub(super) struct RateLimitReport {
    /// `route` or `virtual host`.
    pub(super) level: &'static str,
    pub(super) stage: u32,
    pub(super) disable_key: Option<String>,
    pub(super) on_stream_done: bool,
    /// By what the request is counted; `None` where an action finds nothing.
    pub(super) descriptor: Option<Descriptor>,
}

/// The cluster that the request goes to.
pub(super) struct ClusterReport {
    pub(super) name: String,
    /// `None`: there is no such cluster.
    pub(super) lb: Option<&'static str>,
    pub(super) endpoints: Vec<EndpointReport>,
}

pub(super) struct EndpointReport {
    pub(super) address: String,
    pub(super) hostname: String,
    pub(super) health: &'static str,
    pub(super) weight: u32,
    /// The load balancer may choose it.
    pub(super) is_candidate: bool,
}

/// Explains the request at each listener that has a connection manager, or at the one that the query names.
pub(crate) fn explain(config: &Config<'_>, query: &Query) -> Result<Vec<Report>, String> {
    let wanted = |listener: &&Arc<ListenerConfig>| query.listener.as_ref().is_none_or(|name| *name == *listener.name);
    let found = config.listeners.iter().filter(wanted);
    let reports: Vec<Report> = found.filter_map(|listener| at(listener, config, query)).collect();
    match (reports.is_empty(), &query.listener) {
        (true, Some(name)) => Err(format!("no listener {name:?} has a connection manager")),
        (true, None) => Err("no listener has a connection manager".to_owned()),
        (false, _) => Ok(reports),
    }
}

fn at(listener: &ListenerConfig, config: &Config<'_>, query: &Query) -> Option<Report> {
    let worker = Rc::new(Worker::new(0, Rng::seeded(0), Arc::default()));
    let local = listener.sockets.first().map_or(Address::Pipe(Arc::from("")), |socket| socket.address.address.clone());
    let local = match (local, query.destination_port) {
        (Address::Ip(mut local), Some(port)) => {
            local.set_port(port);
            Address::Ip(local)
        }
        (local, _) => local,
    };
    let mut connection = ConnectionInfo::new(0, Address::Ip((query.source, 0).into()), local, Instant::now());
    if let Some(name) = &query.server_name {
        connection.server_name = RefCell::new(Some(name.as_str().into()));
        let application_protocols = query.alpn.iter().map(|protocol| protocol.as_str().into()).collect();
        let inspected = Inspected { transport_protocol: "tls", application_protocols, ..Inspected::default() };
        connection.inspected = Some(Box::new(inspected));
    }
    let number = listener.filter_chains.find(&connection)?;
    let chain = &listener.filter_chains.all()[number];
    let preview = Preview::new(chain.filters.last()?, connection, worker)?;
    let inline = said(listener, number, config.bootstrap)?;
    let (authority, path) = (query.authority.as_str().into(), query.path.as_str().into());
    let mut head = RequestHead::new(query.method.clone(), Scheme::Http, authority, path);
    head.headers = query.headers.clone();
    let refused = preview.admit(&mut head).err().map(|reply| (reply.status.as_u16(), reply.details.into_owned()));
    let mut report = Report {
        listener: listener.name.to_string(),
        filter_chain: chain.name.to_string(),
        scope: None,
        route_config: String::new(),
        head,
        refused,
        explanation: None,
        taken: None,
    };
    let chosen = preview.routes(&report.head);
    let Some((scope, message)) = inline.table(chosen.as_ref().and_then(|chosen| chosen.scope)) else {
        return Some(report);
    };
    (report.scope, report.route_config) = (scope, message.name.clone());
    if let (Some(Chosen { table, .. }), None) = (chosen, &report.refused) {
        let info = preview.info();
        report.explanation = Some(table.explain(&message, &report.head, info, query.random, config.env));
        report.taken = table.resolve(&report.head, info, query.random).map(|number| {
            let mut cx = FormatCx::new(info, info.start, info.start_wall);
            cx.request = Some(report.head.view());
            let entry = table.entry(number);
            let name = cluster_name(&table, entry, &report.head, info);
            Taken::new(entry, table.places()[number], name, &report.head, &cx, config.clusters)
        });
    }
    Some(report)
}

/// The routes that the listener was given, for its filter chain of this number.
fn said(listener: &ListenerConfig, chain: usize, bootstrap: &Bootstrap) -> Option<Inline> {
    let listeners = bootstrap.static_resources.iter().flat_map(|resources| &resources.listeners);
    let message = listeners.into_iter().find(|message| name(message) == *listener.name)?;
    let place = match chain < message.filter_chains.len() {
        true => format!("filter_chains[{chain}]."),
        false => "default_filter_chain.".to_owned(),
    };
    of_listener(message).into_iter().find(|(path, _)| path.starts_with(&place)).map(|(_, inline)| inline)
}

/// Its name, or else its address, as lowering names it.
fn name(message: &Listener) -> String {
    if !message.name.is_empty() {
        return message.name.clone();
    }
    match message.address.as_ref().and_then(|address| address.address.as_ref()) {
        Some(AddressMessage::SocketAddress(socket)) => {
            let port = match socket.port_specifier {
                Some(nuncio_proto::envoy::config::core::v3::socket_address::PortSpecifier::PortValue(port)) => port,
                _ => 0,
            };
            let (open, close) = if socket.address.contains(':') { ("[", "]") } else { ("", "") };
            format!("{open}{}{close}:{port}", socket.address)
        }
        Some(AddressMessage::Pipe(pipe)) => pipe.path.clone(),
        _ => String::new(),
    }
}

// === impl Taken ===

impl Taken {
    fn new(
        entry: &RouteEntry,
        place: EntryPlace,
        name: String,
        head: &RequestHead,
        cx: &FormatCx<'_>,
        clusters: &Snapshot,
    ) -> Self {
        let mut action = Vec::new();
        let mut cluster = None;
        match entry.action() {
            Action::Forward(forward) => {
                action = of_forward(forward, entry, &name, place, head, cx);
                let found = clusters.iter().find(|cluster| *cluster.config.name.name == *name);
                cx.info.upstream.borrow_mut().cluster_metadata = found.and_then(|c| c.config.metadata.clone());
                cluster = Some(ClusterReport::new(name, clusters));
            }
            Action::Redirect(redirect) => {
                action.push(("action", "redirect".to_owned()));
                action.push(("status", redirect.status.as_str().to_owned()));
            }
            Action::TlsRedirect => {
                action.push(("action", "redirect, as require_tls asks".to_owned()));
                action.push(("status", "301".to_owned()));
            }
            Action::DirectResponse(direct) => {
                action.push(("action", "direct_response".to_owned()));
                action.push(("status", direct.status.as_str().to_owned()));
                action.push(("body", String::from_utf8_lossy(&direct.body(head, cx)).into_owned()));
            }
            Action::NonForwarding => action.push(("action", "non_forwarding_action".to_owned())),
        }
        action.extend(entry.location(head, cx).map(|location| ("location", location)));
        let cluster_name = cluster.as_ref().map_or("", |cluster: &ClusterReport| &cluster.name);
        let rate_limits = rate_limits(entry, cluster_name, head, cx);
        Self { place, name: entry.name().to_string(), action, cluster, rate_limits }
    }
}

fn of_forward(
    forward: &Forward,
    entry: &RouteEntry,
    cluster: &str,
    place: EntryPlace,
    head: &RequestHead,
    cx: &FormatCx<'_>,
) -> Vec<(&'static str, String)> {
    let mut rewritten = head.clone();
    entry.rewrite_request(&mut rewritten, cx, EnvoyHeaders::Add);
    let chosen = match (place.weighted, entry.cluster()) {
        (Some(number), _) => format!("weighted_clusters.clusters[{number}]"),
        (None, Some(Cluster::Header(_))) => "cluster_header".to_owned(),
        (None, Some(Cluster::Matcher(_))) => "the matcher of a cluster specifier plugin".to_owned(),
        (None, _) => "cluster".to_owned(),
    };
    let timeout = forward.timeout(head).map_or("none".to_owned(), |timeout| format!("{timeout:?}"));
    let mut action = vec![
        ("action", "route".to_owned()),
        ("cluster", cluster.to_owned()),
        ("cluster_from", chosen),
        ("upstream_path", rewritten.path.to_string()),
        ("upstream_host", rewritten.authority.to_string()),
        ("timeout", timeout),
        ("retry", entry.retry_policy().map_or("none".to_owned(), retry)),
    ];
    if let Some(policies) = entry.hash_policies() {
        // What is generated for want of a cookie belongs to a connection, and there is none.
        let hash = policies.hash(&rewritten, cx.info, None);
        action.push(("hash", hash.map_or("none: by chance".to_owned(), |hash| format!("{hash:016x}"))));
    }
    if let Some(metadata) = entry.metadata_match() {
        let criteria = metadata.criteria().iter().map(|(name, value)| format!("{name}={value}"));
        action.push(("metadata_match", criteria.collect::<Vec<_>>().join(", ")));
    }
    if forward.auto_host_rewrite {
        action.push(("auto_host_rewrite", "the host becomes the endpoint's name".to_owned()));
    }
    action
}

/// A retry policy in a line.
fn retry(policy: &RetryPolicy) -> String {
    let on: Vec<&str> = policy.on.words().collect();
    let tries = policy.per_try_timeout.map(|timeout| format!(", {timeout:?} per try")).unwrap_or_default();
    format!(
        "on {}, {} times{tries}",
        if on.is_empty() { "nothing".to_owned() } else { on.join(",") },
        policy.num_retries
    )
}

/// What the limits of the route and then of its virtual host make of the request.
fn rate_limits(entry: &RouteEntry, cluster: &str, head: &RequestHead, cx: &FormatCx<'_>) -> Vec<RateLimitReport> {
    let levels = [("route", entry.route_rate_limits()), ("virtual host", entry.virtual_host_rate_limits())];
    let limits = levels.into_iter().flat_map(|(level, limits)| limits.iter().map(move |limit| (level, limit)));
    let reports = limits.map(|(level, limit)| RateLimitReport {
        level,
        stage: limit.stage,
        disable_key: limit.disable_key.as_ref().map(ToString::to_string),
        on_stream_done: limit.apply_on_stream_done,
        descriptor: limit.descriptor(&RateLimitCx { head, entry, cluster, format: *cx }),
    });
    reports.collect()
}

fn cluster_name(table: &RouteTable, entry: &RouteEntry, head: &RequestHead, info: &StreamInfo) -> String {
    match entry.cluster() {
        Some(Cluster::Named(cluster)) => cluster.name.to_string(),
        Some(Cluster::Header(header)) => header.name(head).unwrap_or_default().to_owned(),
        Some(Cluster::Matcher(_)) => {
            table.chosen_cluster(entry, head, info).map_or(String::new(), |cluster| cluster.name.to_string())
        }
        None => String::new(),
    }
}

// === impl ClusterReport ===

impl ClusterReport {
    fn new(name: String, clusters: &Snapshot) -> Self {
        let Some(cluster) = clusters.iter().find(|cluster| *cluster.config.name.name == *name) else {
            return Self { name, lb: None, endpoints: Vec::new() };
        };
        let lb = match &cluster.config.lb {
            LbPolicy::RoundRobin => "round robin",
            LbPolicy::LeastRequest(_) => "least request",
            LbPolicy::Random => "random",
            LbPolicy::ClusterProvided => "cluster provided",
            LbPolicy::Hashing(hashing) => match hashing.table {
                HashTable::Ring { .. } => "ring hash",
                HashTable::Maglev { .. } => "maglev",
            },
        };
        let set = cluster.hosts();
        let resolved = set.hosts.iter().enumerate().map(|(i, host)| EndpointReport {
            address: host.address().to_string(),
            hostname: host.hostname.to_string(),
            health: health(host.flags().health_of_discovery()),
            weight: host.weight(),
            is_candidate: set.is_candidate(i),
        });
        let mut endpoints: Vec<_> = resolved.collect();
        if endpoints.is_empty() {
            // Nobody has asked DNS yet: the names stand for what it will say.
            endpoints.extend(cluster.config.endpoints.iter().map(|endpoint| EndpointReport {
                address: match &endpoint.address {
                    EndpointAddress::Fixed(address) => address.to_string(),
                    EndpointAddress::Named { name, port } => format!("{name}:{port}"),
                },
                hostname: endpoint.hostname.to_string(),
                health: health(endpoint.health),
                weight: endpoint.weight,
                is_candidate: matches!(endpoint.health, Health::Unknown | Health::Healthy),
            }));
        }
        Self { name, lb: Some(lb), endpoints }
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Unknown | Health::Healthy => "healthy",
        Health::Unhealthy | Health::Timeout => "unhealthy",
        Health::Degraded => "degraded",
        Health::Draining => "draining",
    }
}
