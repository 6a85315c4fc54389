//! A route as filters and the router see it.

use std::any::Any;
use std::sync::Arc;

use nuncio_filter_api::{ByteStr, PerRoute, RequestHead, Route};
use nuncio_telemetry::Metadata;
use nuncio_telemetry::format::FormatCx;

use super::forward::Cluster;
use super::hash_policy::HashPolicies;
use super::level::{BufferLimit, Level};
use super::mirror::MirrorPolicy;
use super::rate_limit::RateLimit;
use super::redirect::request_host;
use super::retry::{Hedging, RetryPolicy};
use super::split::{Split, Weighted};
use super::stats::RouteStats;
use super::trace::TraceShares;
use super::virtual_host::VirtualHost;
use super::{Action, Decorator};
use crate::metadata::MetadataMatch;

/// One place where requests can end: a route, or one of the clusters of a route that splits its requests.
pub struct RouteEntry {
    pub(super) route: Arc<RouteCommon>,
    pub(super) cluster: Option<Cluster>,
    pub(super) weighted: Option<Box<WeightedLevel>>,
}

/// What the entries of one route share.
pub(super) struct RouteCommon {
    pub(super) name: Arc<str>,
    pub(super) virtual_host: Arc<VirtualHost>,
    pub(super) level: Level,
    pub(super) action: Action,
    /// Bytes of the path that a prefix rewrite replaces; `None`: all but the query.
    pub(super) replaced: Option<usize>,
    pub(super) stats: Option<Arc<RouteStats>>,
    pub(super) buffer_limit: Option<BufferLimit>,
    pub(super) metadata: Option<Arc<Metadata>>,
    pub(super) decorator: Option<Decorator>,
    pub(super) trace_shares: Option<Box<TraceShares>>,
}

/// What a weighted cluster adds to its route.
pub(super) struct WeightedLevel {
    pub(super) level: Level,
    pub(super) host_rewrite: Option<ByteStr>,
    /// With what the route asks for.
    pub(super) metadata_match: Option<Arc<MetadataMatch>>,
    /// Which of the clusters it is.
    pub(super) number: usize,
    pub(super) siblings: Siblings,
}

/// The entries of all clusters of a route that splits its requests.
#[derive(Clone)]
pub(super) struct Siblings {
    /// The number of the first.
    pub(super) first: usize,
    pub(super) split: Arc<Split>,
}

impl RouteCommon {
    fn metadata_match(&self) -> Option<&Arc<MetadataMatch>> {
        if let Action::Forward(forward) = &self.action { forward.metadata_match.as_ref() } else { None }
    }
}

impl RouteEntry {
    pub(super) fn weighted(route: Arc<RouteCommon>, weighted: Weighted, number: usize, siblings: Siblings) -> Self {
        let Weighted { cluster, level, host_rewrite, metadata_match } = weighted;
        let metadata_match = match (metadata_match, route.metadata_match()) {
            (Some(own), Some(above)) => Some(Arc::new(own.over(above))),
            (own, _) => own,
        };
        let weighted = WeightedLevel { level, host_rewrite, metadata_match, number, siblings };
        Self { route, cluster: Some(cluster), weighted: Some(Box::new(weighted)) }
    }

    /// What becomes of a request.
    pub fn action(&self) -> &Action {
        &self.route.action
    }

    /// Where a route that forwards sends requests; `None` for other actions.
    pub fn cluster(&self) -> Option<&Cluster> {
        self.cluster.as_ref()
    }

    /// The virtual host it is of.
    pub fn virtual_host(&self) -> &VirtualHost {
        &self.route.virtual_host
    }

    /// `metadata` of the route (`%METADATA(ROUTE:...)%`).
    pub fn metadata(&self) -> Option<&Arc<Metadata>> {
        self.route.metadata.as_ref()
    }

    /// Where requests are counted, if there is a `stat_prefix`.
    pub fn stats(&self) -> Option<&Arc<RouteStats>> {
        self.route.stats.as_ref()
    }

    /// Where copies of requests go: what the route says, or else its virtual host, or else the table.
    pub fn mirror_policies(&self) -> &[MirrorPolicy] {
        match self.own_mirror_policies() {
            [] => &self.route.virtual_host.mirrors,
            own => own,
        }
    }

    pub(super) fn own_mirror_policies(&self) -> &[MirrorPolicy] {
        if let Action::Forward(forward) = self.action() { &forward.mirrors } else { &[] }
    }

    /// When requests are sent again: what the route says, or else its virtual host.
    pub fn retry_policy(&self) -> Option<&RetryPolicy> {
        let Action::Forward(forward) = self.action() else { return None };
        forward.retry.as_ref().or(self.route.virtual_host.retry.as_ref())
    }

    /// What becomes of an attempt that takes too long: what the route says, or else its virtual host.
    pub fn hedging(&self) -> Hedging {
        let Action::Forward(forward) = self.action() else { return Hedging::Off };
        forward.hedging.or(self.route.virtual_host.hedging).unwrap_or(Hedging::Off)
    }

    /// `rate_limits` of the route.
    pub fn route_rate_limits(&self) -> &[RateLimit] {
        if let Action::Forward(forward) = self.action() { &forward.rate_limits } else { &[] }
    }

    /// `rate_limits` of the virtual host, for a route that has none or includes them (`include_vh_rate_limits`).
    pub fn virtual_host_rate_limits(&self) -> &[RateLimit] {
        match self.action() {
            Action::Forward(forward) if forward.includes_host_rate_limits || forward.rate_limits.is_empty() => {
                &self.route.virtual_host.rate_limits
            }
            _ => &[],
        }
    }

    /// What requests are hashed by, where hosts are chosen by hash.
    pub fn hash_policies(&self) -> Option<&HashPolicies> {
        if let Action::Forward(forward) = self.action() { forward.hash.as_deref() } else { None }
    }

    /// Which endpoints may be chosen, where the cluster has subsets: what the weighted cluster and the route ask for.
    pub fn metadata_match(&self) -> Option<&Arc<MetadataMatch>> {
        let own = self.weighted.as_ref().and_then(|weighted| weighted.metadata_match.as_ref());
        own.or(self.route.metadata_match())
    }

    /// `tracing` of the route: which of its requests are to be traced.
    pub fn trace_shares(&self) -> Option<&TraceShares> {
        self.route.trace_shares.as_deref()
    }

    /// `decorator` of the route: what its operation is called.
    pub fn decorator(&self) -> Option<&Decorator> {
        self.route.decorator.as_ref()
    }

    /// Bytes of a request body that may be buffered on a connection that allows `connection` bytes.
    pub fn buffer_limit(&self, connection: u64) -> u64 {
        let limit = self.route.buffer_limit.or(self.route.virtual_host.buffer_limit);
        limit.map_or(connection, |limit| limit.bytes(connection))
    }

    /// Location of the response to `head`: of a redirect, or of a direct response whose status asks for one.
    pub fn location(&self, head: &RequestHead, cx: &FormatCx<'_>) -> Option<String> {
        match self.action() {
            Action::DirectResponse(direct) if direct.status != 201 && !direct.status.is_redirection() => None,
            _ => self.uri(head, cx),
        }
    }

    /// The URL that a redirect or direct response sends to, whether or not its status makes clients follow it.
    pub fn uri(&self, head: &RequestHead, cx: &FormatCx<'_>) -> Option<String> {
        match self.action() {
            Action::Redirect(redirect) => Some(redirect.location(head, self.route.replaced, cx)),
            Action::TlsRedirect => Some(format!("https://{}{}", head.authority, head.path)),
            Action::DirectResponse(_) => {
                // Envoy: the Location of a redirect that changes nothing.
                let scheme = head.scheme.as_str();
                Some(format!("{scheme}://{}{}", request_host(head, scheme, None), head.path))
            }
            Action::Forward(_) | Action::NonForwarding => None,
        }
    }

    fn levels(&self) -> impl Iterator<Item = &Level> {
        let route = &self.route;
        let weighted = self.weighted.as_ref().map(|w| &w.level);
        [&route.virtual_host.config.level, &route.virtual_host.level, &route.level].into_iter().chain(weighted)
    }
}

impl Route for RouteEntry {
    fn name(&self) -> &Arc<str> {
        &self.route.name
    }

    fn filter_configs(&self, filter: &str, each: &mut dyn FnMut(&PerRoute)) {
        self.levels().filter_map(|level| level.filters.config(filter)).for_each(each);
    }

    fn cors_policies(&self, each: &mut dyn FnMut(&PerRoute)) {
        let own = if let Action::Forward(forward) = self.action() { forward.cors.as_ref() } else { None };
        self.virtual_host().cors.iter().chain(own).for_each(each);
    }

    fn filter_disabled(&self, filter: &str) -> Option<bool> {
        self.levels().filter_map(|level| level.filters.disabled(filter)).last()
    }

    fn is_forward(&self) -> bool {
        matches!(self.action(), Action::Forward(_))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
