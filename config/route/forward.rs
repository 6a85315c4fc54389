//! `RouteAction`: the request goes to a cluster.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, StatusCode};
use nuncio_filter_api::{ByteStr, ClusterName, LowerCx, PerRoute, Refused, RequestHead};
use nuncio_proto::envoy::config::core::v3::{ProxyProtocolConfig, TypedExtensionConfig};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::early_data::v3::DefaultEarlyDataPolicy;
use nuncio_proto::envoy::extensions::path::rewrite::uri_template::v3::UriTemplateRewriteConfig;
use nuncio_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use nuncio_telemetry::format::Format;
use proto::route_action::upgrade_config::ConnectConfig;
use proto::route_action::{ClusterSpecifier, HostRewriteSpecifier, UpgradeConfig};

use super::grpc_timeout::{LegacyGrpcTimeout, grpc_timeout};
use super::hash_policy::HashPolicies;
use super::internal_redirect::InternalRedirect;
use super::mirror::MirrorPolicy;
use super::plugin::{ClusterMatcher, Plugin, Plugins};
use super::rate_limit::RateLimit;
use super::retry::{Hedging, RetryPolicy};
use super::split::{Split, Weighted};
use super::uri_template::{UriRewrite, UriTemplate};
use crate::cluster::Priority;
use crate::matcher::{Field, Substitution};
use crate::metadata::MetadataMatch;
use crate::protocol::{duration, non_zero};
use crate::value::header_name;

/// A `RouteAction`, save the cluster: that is the entry's, because each weighted cluster is an entry of its own.
#[derive(Debug)]
pub struct Forward {
    /// Status where the cluster does not exist: 503 unless configured as 404 or 500.
    pub cluster_not_found: StatusCode,
    /// `idle_timeout`, where it overrides the connection manager's `stream_idle_timeout`; zero switches it off.
    pub idle_timeout: Option<Duration>,
    /// `flush_timeout`, where it overrides the connection manager's `stream_flush_timeout`; zero switches it off.
    pub flush_timeout: Option<Duration>,
    /// `max_stream_duration`
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// `priority`
    pub priority: Priority,
    /// The Host becomes the name of the upstream host, if it has one.
    pub auto_host_rewrite: bool,
    /// A rewritten Host is appended to x-forwarded-host.
    pub append_x_forwarded_host: bool,
    pub(super) host_rewrite: HostRewrite,
    pub(super) path_rewrite: PathRewrite,
    pub(super) mirrors: Box<[MirrorPolicy]>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) hedging: Option<Hedging>,
    pub(super) rate_limits: Box<[RateLimit]>,
    /// The limits of the virtual host hold too, not only where the route has none.
    pub(super) includes_host_rate_limits: bool,
    /// Which redirects are followed here, if any are.
    pub internal_redirect: Option<Box<InternalRedirect>>,
    pub(super) metadata_match: Option<Arc<MetadataMatch>>,
    pub(super) hash: Option<Arc<HashPolicies>>,
    pub(super) cors: Option<PerRoute>,
    timeout: Option<Duration>,
    grpc_timeout: Option<LegacyGrpcTimeout>,
    upgrades: Box<[Upgrade]>,
}

/// Where an entry sends requests.
#[derive(Clone, Debug)]
pub enum Cluster {
    /// `cluster`
    Named(ClusterName),
    /// `cluster_header`: the first value of this header is the cluster's name.
    Header(ClusterHeader),
    /// A plugin: matchers choose the cluster.
    Matcher(Arc<ClusterMatcher>),
}

/// A header or pseudo-header that names a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterHeader(Field);

impl ClusterHeader {
    /// The name of the cluster that a request asks for.
    pub fn name<'a>(&self, head: &'a RequestHead) -> Option<&'a str> {
        self.0.first_in_request(head)
    }
}

/// `max_stream_duration`: overrides the connection manager's. Envoy: the route has no `timeout` then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// Zero switches it off.
    pub max: Option<Duration>,
    /// Where set, grpc-timeout is obeyed up to this; zero: without bound.
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from grpc-timeout.
    pub grpc_timeout_header_offset: Option<Duration>,
}

#[derive(Debug, Default)]
pub(super) enum HostRewrite {
    #[default]
    Keep,
    Literal(ByteStr),
    Header(HeaderName),
    PathRegex(Substitution),
    Format(Format),
}

#[derive(Debug, Default)]
pub(super) enum PathRewrite {
    #[default]
    Keep,
    Prefix(Box<str>),
    Regex(Substitution),
    Template(UriRewrite),
    Format(Format),
}

/// What a route says of one kind of upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Lower case, such as `websocket` or `connect`.
    pub kind: Box<str>,
    /// Overrides the connection manager.
    pub enabled: bool,
    /// The CONNECT ends here: its payload is sent upstream as it is.
    pub terminate: bool,
    /// So is a POST, as if it were a CONNECT.
    pub allow_post: bool,
    /// What the host is told of the client before the payload.
    pub proxy_header: Option<ProxyHeader>,
}

/// A version of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Envoy's default of a route's `timeout`.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(15);

/// What a route action sends requests to.
pub(super) enum Targets {
    One(Cluster),
    Split(Split, Vec<Weighted>),
    /// An optional plugin that is not known would say.
    Nowhere,
}

impl Forward {
    /// Lowers the action of a route that matches paths by `template`, if it does, and to what clusters it leads.
    pub(super) fn lower(
        action: proto::RouteAction,
        template: Option<&UriTemplate>,
        plugins: &Plugins,
        cx: &mut LowerCx<'_>,
    ) -> Result<(Self, Targets), Refused> {
        let supported = refuse_unsupported(&action, cx);
        let hash = HashPolicies::lower("hash_policy", action.hash_policy, cx).map(|hash| hash.map(Arc::new));
        let targets = targets(action.cluster_specifier, hash.as_ref().ok().and_then(Option::as_ref), plugins, cx);
        let rewrites = PathRewrites {
            prefix: action.prefix_rewrite,
            regex: action.regex_rewrite,
            policy: action.path_rewrite_policy,
            format: action.path_rewrite,
        };
        let paths = PathRewrite::lower(rewrites, template, cx);
        let hosts = host_rewrite(action.host_rewrite_specifier, cx);
        let upgrades = upgrades(action.upgrade_configs, cx);
        let mirrors = cx.each("request_mirror_policies", action.request_mirror_policies, MirrorPolicy::lower);
        let retry = cx.opt("retry_policy", action.retry_policy, RetryPolicy::lower);
        let redirect = cx.opt("internal_redirect_policy", action.internal_redirect_policy, InternalRedirect::lower);
        let older_redirect =
            InternalRedirect::of_action(action.internal_redirect_action, action.max_internal_redirects);
        let rate_limits = cx.each("rate_limits", action.rate_limits, RateLimit::lower);
        let timeout = cx.opt("timeout", action.timeout, duration);
        let idle_timeout = cx.opt("idle_timeout", action.idle_timeout, duration);
        let flush_timeout = cx.opt("flush_timeout", action.flush_timeout, duration);
        let max_stream_duration = cx.opt("max_stream_duration", action.max_stream_duration, MaxStreamDuration::lower);
        let grpc_timeout = LegacyGrpcTimeout::lower(action.max_grpc_timeout, action.grpc_timeout_offset, cx);
        let cors = cx.opt("cors", action.cors, super::filter_config::lower_cors);
        supported?;
        let (host_rewrite, auto_host_rewrite) = hosts?;
        let max_stream_duration = max_stream_duration?;
        let timeout = non_zero(timeout?.unwrap_or(DEFAULT_TIMEOUT));
        let forward = Self {
            cluster_not_found: match action.cluster_not_found_response_code {
                1 => StatusCode::NOT_FOUND,
                2 => StatusCode::INTERNAL_SERVER_ERROR,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            idle_timeout: idle_timeout?,
            flush_timeout: flush_timeout?,
            // Envoy: the older fields are dead where the newer one is set.
            grpc_timeout: grpc_timeout?.filter(|_| max_stream_duration.is_none()),
            timeout: timeout.filter(|_| max_stream_duration.is_none()),
            max_stream_duration,
            priority: if action.priority == 1 { Priority::High } else { Priority::Default },
            auto_host_rewrite,
            append_x_forwarded_host: action.append_x_forwarded_host,
            host_rewrite,
            path_rewrite: paths?,
            mirrors: mirrors?.into(),
            retry: retry?,
            hedging: action.hedge_policy.map(Hedging::lower),
            rate_limits: rate_limits?.into(),
            includes_host_rate_limits: action.include_vh_rate_limits.is_some_and(|include| include.value),
            internal_redirect: redirect?.or(older_redirect).map(Box::new),
            metadata_match: action.metadata_match.and_then(MetadataMatch::lower).map(Arc::new),
            hash: hash?,
            cors: cors?,
            upgrades: upgrades?,
        };
        Ok((forward, targets?))
    }

    /// How long the whole response may take once the request was received; `None`: for ever.
    pub fn timeout(&self, head: &RequestHead) -> Option<Duration> {
        match &self.grpc_timeout {
            Some(grpc) if head.is_grpc() => grpc.timeout(head),
            _ => self.timeout,
        }
    }

    /// How long the whole stream may take, where the connection manager allows `manager`; `None`: for ever.
    pub fn stream_duration(&self, head: &RequestHead, manager: Option<Duration>) -> Option<Duration> {
        self.max_stream_duration.map_or(manager, |duration| duration.of(head, manager))
    }

    /// What grpc-timeout is to tell the upstream of a gRPC request that may take so long; `None`: it stays as it is.
    pub fn told_grpc_timeout(&self, expected: Option<Duration>, stream: Option<Duration>) -> Option<Option<Duration>> {
        match (&self.max_stream_duration, &self.grpc_timeout) {
            (Some(_), _) => Some(stream),
            (None, Some(_)) => expected.map(Some),
            (None, None) => None,
        }
    }

    /// What the route says of upgrades to `kind`, in any case; `None`: what the connection manager says holds.
    pub fn upgrade(&self, kind: &str) -> Option<&Upgrade> {
        self.upgrades.iter().find(|u| u.kind.eq_ignore_ascii_case(kind))
    }
}

/// Refuses each field that nuncio does not implement yet. Destructures, so that a new field is not forgotten.
fn refuse_unsupported(action: &proto::RouteAction, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let proto::RouteAction {
        cluster_not_found_response_code: _,
        metadata_match: _,
        prefix_rewrite: _,
        regex_rewrite: _,
        path_rewrite_policy: _,
        path_rewrite: _,
        append_x_forwarded_host: _,
        timeout: _,
        idle_timeout: _,
        flush_timeout: _,
        early_data_policy,
        retry_policy: _,
        // Envoy does nothing with it.
        retry_policy_typed_config: _,
        request_mirror_policies: _,
        priority: _,
        rate_limits: _,
        include_vh_rate_limits: _,
        hash_policy: _,
        cors: _,
        max_grpc_timeout: _,
        grpc_timeout_offset: _,
        upgrade_configs: _,
        internal_redirect_policy: _,
        internal_redirect_action: _,
        max_internal_redirects: _,
        hedge_policy: _,
        max_stream_duration: _,
        cluster_specifier: _,
        host_rewrite_specifier: _,
    } = action;
    early_data_policy.as_ref().map_or(Ok(()), |policy| cx.at("early_data_policy", |cx| early_data(policy, cx)))
}

/// Says which requests may be sent before a TLS handshake is over. Clusters with TLS are refused where they are configured.
fn early_data(policy: &TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let TypedExtensionConfig { name: _, typed_config } = policy;
    cx.at("typed_config", |cx| {
        let any = typed_config.as_ref().ok_or_else(|| cx.invalid("is required"))?;
        crate::protocol::any_as(any, cx).map(|DefaultEarlyDataPolicy {}| ())
    })
}

fn targets(
    specifier: Option<ClusterSpecifier>,
    hash: Option<&Arc<HashPolicies>>,
    plugins: &Plugins,
    cx: &mut LowerCx<'_>,
) -> Result<Targets, Refused> {
    let of_plugin = |plugin: Plugin| plugin.map_or(Targets::Nowhere, |matcher| Targets::One(Cluster::Matcher(matcher)));
    match specifier {
        None => Err(cx.invalid("cluster_specifier is required")),
        Some(ClusterSpecifier::Cluster(name)) => cx.at("cluster", |cx| Cluster::named(&name, cx)).map(Targets::One),
        Some(ClusterSpecifier::ClusterHeader(name)) => {
            cx.at("cluster_header", |cx| Cluster::header(&name, cx)).map(Targets::One)
        }
        Some(ClusterSpecifier::WeightedClusters(clusters)) => cx
            .at("weighted_clusters", |cx| Split::lower(clusters, hash, cx))
            .map(|(split, clusters)| Targets::Split(split, clusters)),
        Some(ClusterSpecifier::ClusterSpecifierPlugin(name)) => {
            cx.at("cluster_specifier_plugin", |cx| plugins.named(&name, cx)).map(of_plugin)
        }
        Some(ClusterSpecifier::InlineClusterSpecifierPlugin(plugin)) => {
            cx.at("inline_cluster_specifier_plugin", |cx| super::plugin::lower(plugin, cx)).map(of_plugin)
        }
    }
}

impl Cluster {
    pub(super) fn named(name: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        if name.is_empty() {
            return Err(cx.invalid("must not be empty"));
        }
        Ok(Self::Named(cx.env.clusters.intern(name)))
    }

    pub(super) fn header(name: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        Field::lower(name, cx).map(|field| Self::Header(ClusterHeader(field)))
    }
}

impl ProxyHeader {
    pub(crate) fn lower(message: ProxyProtocolConfig) -> Self {
        // Envoy sends no values here, whatever is to be passed on or added: only its transport socket does.
        let ProxyProtocolConfig { version, pass_through_tlvs: _, added_tlvs: _ } = message;
        if version == 1 { Self::V2 } else { Self::V1 }
    }
}

impl MaxStreamDuration {
    fn lower(message: proto::route_action::MaxStreamDuration, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::route_action::MaxStreamDuration {
            max_stream_duration,
            grpc_timeout_header_max,
            grpc_timeout_header_offset,
        } = message;
        let max = cx.opt("max_stream_duration", max_stream_duration, duration);
        let header_max = cx.opt("grpc_timeout_header_max", grpc_timeout_header_max, duration);
        let offset = cx.opt("grpc_timeout_header_offset", grpc_timeout_header_offset, duration);
        Ok(Self { max: max?, grpc_timeout_header_max: header_max?, grpc_timeout_header_offset: offset? })
    }

    /// How long the stream of a request may take, where the connection manager allows `manager`.
    fn of(&self, head: &RequestHead, manager: Option<Duration>) -> Option<Duration> {
        let Some((max, asked)) = self.grpc_timeout_header_max.and_then(|max| Some((max, grpc_timeout(head)?))) else {
            return self.max.map_or(manager, non_zero);
        };
        let bounded = if max.is_zero() { asked } else { asked.min(max) };
        // Unlike elsewhere zero is no time at all here.
        Some(bounded.saturating_sub(self.grpc_timeout_header_offset.unwrap_or_default()))
    }
}

/// The fields that rewrite paths, of which one may be set.
struct PathRewrites {
    prefix: String,
    regex: Option<RegexMatchAndSubstitute>,
    policy: Option<TypedExtensionConfig>,
    format: String,
}

impl PathRewrite {
    fn lower(fields: PathRewrites, template: Option<&UriTemplate>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let PathRewrites { prefix, regex, policy, format } = fields;
        let set = [!prefix.is_empty(), regex.is_some(), policy.is_some(), !format.is_empty()];
        if set.into_iter().filter(|set| *set).count() > 1 {
            let names = "prefix_rewrite, regex_rewrite, path_rewrite_policy and path_rewrite";
            return Err(cx.invalid(format!("specify only one of {names}")));
        }
        if let Some(regex) = regex {
            return cx.at("regex_rewrite", |cx| Substitution::lower(regex, cx)).map(Self::Regex);
        }
        if let Some(policy) = policy {
            return cx.at("path_rewrite_policy", |cx| uri_rewrite(policy, template, cx)).map(Self::Template);
        }
        match (prefix.is_empty(), format.is_empty(), template) {
            (false, _, Some(_)) => {
                Err(cx.at("prefix_rewrite", |cx| cx.invalid("cannot be used with path_match_policy")))
            }
            (false, _, None) => Ok(Self::Prefix(prefix.into())),
            (true, false, _) => cx.at("path_rewrite", |cx| crate::format::format(&format, cx)).map(Self::Format),
            (true, true, _) => Ok(Self::Keep),
        }
    }
}

fn uri_rewrite(
    policy: TypedExtensionConfig,
    template: Option<&UriTemplate>,
    cx: &mut LowerCx<'_>,
) -> Result<UriRewrite, Refused> {
    let TypedExtensionConfig { name: _, typed_config } = policy;
    let any = typed_config.ok_or_else(|| cx.at("typed_config", |cx| cx.invalid("is required")))?;
    cx.at("typed_config", |cx| {
        let UriTemplateRewriteConfig { path_template_rewrite } = crate::protocol::any_as(&any, cx)?;
        let template = template.ok_or_else(|| cx.invalid("needs a path_match_policy with a URI template"))?;
        cx.at("path_template_rewrite", |cx| UriRewrite::lower(&path_template_rewrite, template, cx))
    })
}

/// The rewrite of the Host, and whether it is to become the upstream host's name.
fn host_rewrite(specifier: Option<HostRewriteSpecifier>, cx: &mut LowerCx<'_>) -> Result<(HostRewrite, bool), Refused> {
    let rewrite = match specifier {
        None => HostRewrite::Keep,
        Some(HostRewriteSpecifier::AutoHostRewrite(auto)) => return Ok((HostRewrite::Keep, auto.value)),
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) if host.is_empty() => HostRewrite::Keep,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => HostRewrite::Literal(host.into()),
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) if name.is_empty() => HostRewrite::Keep,
        Some(HostRewriteSpecifier::HostRewriteHeader(name)) => {
            HostRewrite::Header(cx.at("host_rewrite_header", |cx| header_name(&name, cx))?)
        }
        Some(HostRewriteSpecifier::HostRewritePathRegex(regex)) => {
            HostRewrite::PathRegex(cx.at("host_rewrite_path_regex", |cx| Substitution::lower(regex, cx))?)
        }
        Some(HostRewriteSpecifier::HostRewrite(format)) if format.is_empty() => HostRewrite::Keep,
        Some(HostRewriteSpecifier::HostRewrite(format)) => {
            HostRewrite::Format(cx.at("host_rewrite", |cx| crate::format::format(&format, cx))?)
        }
    };
    Ok((rewrite, false))
}

fn upgrades(configs: Vec<UpgradeConfig>, cx: &mut LowerCx<'_>) -> Result<Box<[Upgrade]>, Refused> {
    let mut seen: Vec<Box<str>> = Vec::new();
    let upgrades = cx.each("upgrade_configs", configs, |config, cx| {
        let UpgradeConfig { upgrade_type, enabled, connect_config } = config;
        let kind: Box<str> = upgrade_type.to_ascii_lowercase().into();
        if seen.contains(&kind) {
            return Err(cx.invalid(format!("duplicate upgrade {upgrade_type}")));
        }
        seen.push(kind.clone());
        if connect_config.is_some() && !matches!(&*kind, "connect" | "connect-udp") {
            return Err(cx.invalid(format!("upgrade type {upgrade_type} is not CONNECT and has a connect_config")));
        }
        let terminate = connect_config.is_some();
        let ConnectConfig { proxy_protocol_config, allow_post } = connect_config.unwrap_or_default();
        let proxy_header = proxy_protocol_config.map(ProxyHeader::lower);
        let enabled = enabled.is_none_or(|e| e.value);
        Ok(Upgrade { kind, enabled, terminate, allow_post, proxy_header })
    });
    upgrades.map(Vec::into)
}
