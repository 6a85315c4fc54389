//! From the message to the table.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::r#type::matcher::v3::Matcher;
use proto::route::Action as RouteOneof;

use super::condition::Match;
use super::direct_response::DirectResponse;
use super::discovered;
use super::entry::{RouteCommon, RouteEntry, Siblings};
use super::forward::{Forward, Targets};
use super::hosts::{HostsBuilder, Port};
use super::level::{BufferLimit, Level, LevelFields};
use super::mirror::MirrorPolicy;
use super::paths::PathsBuilder;
use super::plugin::Plugins;
use super::redirect::Redirect;
use super::retry::Hedging;
use super::stats::RouteStats;
use super::trace::TraceShares;
use super::uri_template::UriTemplate;
use super::virtual_host::{RequireTls, VirtualHost};
use super::{
    Action, Config, Decorator, HostRoutes, HostTree, MutationOrder, PathParameters, RouteSet, RouteTable, Slot, Target,
};
use crate::matcher::Field;
use crate::matching::{Inputs, Tree, TreeRules};
use crate::protocol::{any_as, message_name};

/// Envoy's default of `max_direct_response_body_size_bytes`.
const MAX_DIRECT_RESPONSE_BODY: u32 = 4096;

impl RouteTable {
    /// Lowers a route configuration. Whether the clusters it names exist is for the caller to see to, by
    /// [`RouteTable::cluster_refs`].
    pub fn lower(mut message: proto::RouteConfiguration, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let discovered = discovered::Origin::lower(&mut message, cx);
        let virtual_hosts = std::mem::take(&mut message.virtual_hosts);
        let port = if message.ignore_port_in_host_matching { Port::Ignored } else { Port::Matched };
        let config = Config::lower(message, cx);
        // What is wrong with the virtual hosts is found even if something is wrong above them.
        let refused = config.is_err();
        let config = Arc::new(config.unwrap_or_default());
        let mut table = TableBuilder { config: config.clone(), ..Default::default() };
        let hosts = cx.each("virtual_hosts", virtual_hosts, |host, cx| table.add_host(host, cx));
        if refused {
            return Err(Refused);
        }
        let (virtual_hosts, discovered) = (hosts?, discovered?.map(Box::new));
        Ok(Self { config, hosts: table.domains.build(port), virtual_hosts, entries: table.entries, discovered })
    }
}

impl RouteTable {
    /// Lowers a table that stands within a listener or a scope. Envoy: `validate_clusters` is true there where it is not
    /// said.
    pub fn lower_inline(message: proto::RouteConfiguration, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let table = Self::lower(message, cx)?;
        if table.validate_clusters().unwrap_or(true) {
            table.check_clusters(cx)?;
        }
        Ok(table)
    }

    /// Refuses routes to clusters that do not exist (`validate_clusters`).
    pub fn check_clusters(&self, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let mut result = Ok(());
        for unknown in self.cluster_refs().filter(|named| !cx.env.clusters.is_declared(&named.cluster.name)) {
            let reason = format!("unknown cluster {:?}", unknown.cluster.name);
            result = Err(cx.at(&unknown.to_string(), |cx| cx.invalid(reason)));
        }
        for (path, unknown) in self.mirror_refs().filter(|(_, named)| !cx.env.clusters.is_declared(&named.name)) {
            result = Err(cx.at(&path, |cx| cx.invalid(format!("unknown cluster {:?}", unknown.name))));
        }
        result
    }
}

impl Config {
    fn lower(message: proto::RouteConfiguration, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::RouteConfiguration {
            name,
            virtual_hosts: _,
            // `discovered::Origin` has it.
            vhds: _,
            internal_only_headers,
            response_headers_to_add,
            response_headers_to_remove,
            request_headers_to_add,
            request_headers_to_remove,
            most_specific_header_mutations_wins,
            validate_clusters,
            max_direct_response_body_size_bytes,
            cluster_specifier_plugins,
            request_mirror_policies,
            ignore_port_in_host_matching: _,
            vhost_header,
            ignore_path_parameters_in_path_matching,
            typed_per_filter_config,
            metadata,
            route_specifiers,
        } = message;
        let supported = cx.unsupported("route_specifiers", &route_specifiers);
        let level = LevelFields {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
        };
        let level = Level::lower(level, cx);
        let internal_only =
            cx.each("internal_only_headers", internal_only_headers, |n, cx| crate::value::header_name(&n, cx));
        let mirrors = cx.each("request_mirror_policies", request_mirror_policies, MirrorPolicy::lower);
        let metadata = metadata.and_then(crate::metadata::lower_metadata);
        let plugins = Plugins::lower(cluster_specifier_plugins, cx);
        let host_field = Some(vhost_header).filter(|name| !name.is_empty());
        let host_field = cx.opt("vhost_header", host_field, |name, cx| Field::lower(&name, cx));
        supported?;
        Ok(Self {
            name: name.into(),
            level: level?,
            order: match most_specific_header_mutations_wins {
                true => MutationOrder::MostSpecificLast,
                false => MutationOrder::MostSpecificFirst,
            },
            path_parameters: match ignore_path_parameters_in_path_matching {
                true => PathParameters::Ignored,
                false => PathParameters::Matched,
            },
            host_field: host_field?,
            mirrors: mirrors?.into(),
            max_direct_response_body: max_direct_response_body_size_bytes
                .map_or(MAX_DIRECT_RESPONSE_BODY, |max| max.value)
                .into(),
            internal_only_headers: internal_only?.into(),
            validate_clusters: validate_clusters.map(|v| v.value),
            metadata,
            plugins: plugins?,
            names: cx.env.clusters.clone(),
        })
    }
}

/// The table so far.
#[derive(Default)]
struct TableBuilder {
    config: Arc<Config>,
    domains: HostsBuilder,
    hosts: u32,
    entries: Vec<RouteEntry>,
}

impl TableBuilder {
    fn add_host(&mut self, message: proto::VirtualHost, cx: &mut LowerCx<'_>) -> Result<HostRoutes, Refused> {
        let number = self.hosts;
        self.hosts += 1;
        let (host, parts) = VirtualHost::lower(message, self.config.clone(), cx);
        let refused = host.is_err();
        let host = Arc::new(host.unwrap_or_default());
        let domains = cx.each("domains", parts.domains, |domain, cx| self.domains.add(&domain, number, cx));
        let tls_redirect = (host.require_tls != RequireTls::None).then(|| self.add_tls_redirect(&host));
        if parts.matcher.is_some() && !parts.routes.is_empty() {
            return Err(cx.invalid("only one of routes and matcher may be set"));
        }
        let routes = self.add_routes(parts.routes, &host, cx);
        let tree = cx.opt("matcher", parts.matcher, |matcher, cx| self.add_tree(matcher, &host, cx));
        domains?;
        let (routes, tree) = (routes?, tree?);
        if refused {
            return Err(Refused);
        }
        Ok(HostRoutes { host, tls_redirect, routes, tree })
    }

    fn add_tree(
        &mut self,
        matcher: Matcher,
        host: &Arc<VirtualHost>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Box<HostTree>, Refused> {
        let mut sets = Vec::new();
        let mut leaf = |any: Any, cx: &mut LowerCx<'_>| {
            let set = match message_name(&any) {
                "envoy.config.route.v3.RouteList" => {
                    let proto::RouteList { routes } = any_as(&any, cx)?;
                    self.add_routes(routes, host, cx)
                }
                _ => self.add_route(any_as(&any, cx)?, host, cx).map(|route| RouteSet::new(vec![route])),
            };
            sets.push(set?);
            Ok(to_number(sets.len() - 1))
        };
        // Envoy: `keep_matching` is for trees whose actions are passed over by whoever asks.
        let mut rules = TreeRules { inputs: Inputs::Headers, keep_matching: false, leaf: &mut leaf };
        let tree = Tree::lower(matcher, &mut rules, cx)?;
        Ok(Box::new(HostTree { tree, sets }))
    }

    fn add_routes(
        &mut self,
        routes: Vec<proto::Route>,
        host: &Arc<VirtualHost>,
        cx: &mut LowerCx<'_>,
    ) -> Result<RouteSet, Refused> {
        cx.each("routes", routes, |route, cx| self.add_route(route, host, cx)).map(RouteSet::new)
    }

    fn add_tls_redirect(&mut self, host: &Arc<VirtualHost>) -> u32 {
        let route = RouteCommon {
            name: Arc::from(""),
            virtual_host: host.clone(),
            level: Level::default(),
            action: Action::TlsRedirect,
            replaced: None,
            stats: None,
            buffer_limit: None,
            metadata: None,
            decorator: None,
            trace_shares: None,
        };
        self.add_entry(RouteEntry { route: Arc::new(route), cluster: None, weighted: None })
    }

    fn add_route(
        &mut self,
        message: proto::Route,
        host: &Arc<VirtualHost>,
        cx: &mut LowerCx<'_>,
    ) -> Result<(Match, Target), Refused> {
        let proto::Route {
            name,
            r#match,
            metadata,
            decorator,
            typed_per_filter_config,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            tracing,
            per_request_buffer_limit_bytes,
            stat_prefix,
            request_body_buffer_limit,
            route_specifiers,
            action,
        } = message;
        let supported = cx.unsupported("route_specifiers", &route_specifiers);
        let matched = cx.at("match", |cx| Match::lower(r#match, cx));
        let level = LevelFields {
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
        };
        let level = Level::lower(level, cx);
        let buffer_limit = BufferLimit::lower(per_request_buffer_limit_bytes, request_body_buffer_limit);
        let metadata = metadata.and_then(crate::metadata::lower_metadata);
        let template = matched.as_ref().ok().and_then(Match::template);
        let trace_shares = cx.opt("tracing", tracing, TraceShares::lower);
        let action = self.lower_action(action, template, cx);
        supported?;
        let (action, targets) = action?;
        refuse_refreshed_hedging(&action, host, cx)?;
        let mut matched = matched?;
        if matches!(targets, Some(Targets::Nowhere)) {
            matched.take_nothing();
        }
        let route = Arc::new(RouteCommon {
            name: name.into(),
            virtual_host: host.clone(),
            level: level?,
            action,
            replaced: matched.replaced(),
            stats: (!stat_prefix.is_empty()).then(|| RouteStats::of_route(&host.name, &stat_prefix, cx)),
            buffer_limit,
            metadata,
            decorator: decorator.map(Decorator::lower),
            trace_shares: trace_shares?.map(Box::new),
        });
        Ok((matched, self.add_entries(route, targets)))
    }

    fn lower_action(
        &self,
        action: Option<RouteOneof>,
        template: Option<&UriTemplate>,
        cx: &mut LowerCx<'_>,
    ) -> Result<(Action, Option<Targets>), Refused> {
        match action {
            None => Err(cx.invalid("action is required")),
            Some(RouteOneof::Route(route)) => cx
                .at("route", |cx| Forward::lower(route, template, &self.config.plugins, cx))
                .map(|(forward, targets)| (Action::Forward(forward), Some(targets))),
            Some(RouteOneof::Redirect(redirect)) => {
                cx.at("redirect", |cx| Redirect::lower(redirect, template, cx)).map(|r| (Action::Redirect(r), None))
            }
            Some(RouteOneof::DirectResponse(direct)) => {
                let max = self.config.max_direct_response_body;
                cx.at("direct_response", |cx| DirectResponse::lower(direct, max, cx))
                    .map(|d| (Action::DirectResponse(d), None))
            }
            Some(RouteOneof::NonForwardingAction(proto::NonForwardingAction {})) => Ok((Action::NonForwarding, None)),
            // Envoy: what a filter may make of the action is its own affair; the router has no cluster for it.
            Some(RouteOneof::FilterAction(proto::FilterAction { action: _ })) => Ok((Action::NonForwarding, None)),
        }
    }

    fn add_entries(&mut self, route: Arc<RouteCommon>, targets: Option<Targets>) -> Target {
        match targets {
            None | Some(Targets::Nowhere) => {
                Target::Entry(self.add_entry(RouteEntry { route, cluster: None, weighted: None }))
            }
            Some(Targets::One(cluster)) => {
                Target::Entry(self.add_entry(RouteEntry { route, cluster: Some(cluster), weighted: None }))
            }
            Some(Targets::Split(split, clusters)) => {
                let first = to_number(self.entries.len());
                let split = Arc::new(split);
                let siblings = Siblings { first: first as usize, split: split.clone() };
                let entries = clusters.into_iter().enumerate();
                let entries = entries.map(|(i, w)| RouteEntry::weighted(route.clone(), w, i, siblings.clone()));
                self.entries.extend(entries);
                Target::Split(first, split)
            }
        }
    }

    fn add_entry(&mut self, entry: RouteEntry) -> u32 {
        self.entries.push(entry);
        to_number(self.entries.len() - 1)
    }
}

impl RouteSet {
    fn new(routes: Vec<(Match, Target)>) -> Self {
        let mut paths = PathsBuilder::default();
        for (i, (matched, _)) in routes.iter().enumerate() {
            matched.index(to_number(i), &mut paths);
        }
        let paths = paths.build();
        Self {
            paths,
            routes: routes.into_iter().map(|(m, target)| Slot { conditions: m.conditions, target }).collect(),
        }
    }
}

/// An attempt that goes on beside the next would be counted of the cluster of that.
fn refuse_refreshed_hedging(action: &Action, host: &VirtualHost, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let Action::Forward(forward) = action else { return Ok(()) };
    let refreshes = forward.retry.as_ref().or(host.retry.as_ref()).is_some_and(|retry| retry.refresh_cluster);
    if refreshes && forward.hedging.or(host.hedging) == Some(Hedging::OnPerTryTimeout) {
        return Err(cx.not_implemented("refresh_cluster_on_retry beside hedge_on_per_try_timeout"));
    }
    Ok(())
}

impl Decorator {
    fn lower(message: proto::Decorator) -> Self {
        let proto::Decorator { operation, propagate } = message;
        Self { operation: operation.into(), propagate: propagate.is_none_or(|p| p.value) }
    }
}

pub(super) fn to_number(n: usize) -> u32 {
    u32::try_from(n).expect("a route configuration has fewer than 2^32 routes")
}
