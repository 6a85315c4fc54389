use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use http::HeaderName;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::ClusterProtocolSelection;
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use nuncio_proto::envoy::extensions::upstreams::http::v3 as pb;
use nuncio_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};
use nuncio_proto::envoy::extensions::upstreams::tcp::v3::TcpProtocolOptions;
use nuncio_proto::google::protobuf::{Any, UInt32Value};

use super::{ErrorMatcher, RequestPolicies};
use crate::http_chain::HttpChain;
use crate::protocol::{CommonOptions, Http1Options, Http2Options, any_as, message_name};
use crate::route::HashPolicies;

/// The key of `typed_extension_protocol_options` for HTTP.
const TYPED_KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The key of `typed_extension_protocol_options` for TCP.
const TCP_KEY: &str = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";

/// The names by which Envoy knows the options of both.
const NAMES: [&str; 4] =
    [TYPED_KEY, TCP_KEY, "envoy.upstreams.http.http_protocol_options", "envoy.upstreams.tcp.tcp_protocol_options"];

/// How nuncio speaks HTTP to the hosts of a cluster.
#[derive(Clone, Debug, Default)]
pub struct UpstreamHttp {
    /// Which version.
    pub protocol: UpstreamProtocol,
    /// Settings of all versions.
    pub common: CommonOptions,
    /// Settings of HTTP/1.
    pub http1: Http1Options,
    /// Settings of HTTP/2.
    pub http2: Http2Options,
    /// `hash_policy`: in place of those of routes.
    pub hash: Option<Arc<HashPolicies>>,
    /// `upstream_http_protocol_options`: what hosts are called in TLS, where that goes by the request.
    pub server_name: Option<ServerName>,
    /// `http_filters`: each attempt to get a response passes them. A chain without filters takes the place of a
    /// router's all the same.
    pub filters: Option<Arc<HttpChain>>,
    /// Which responses outlier detection takes for errors, where it is not for their status.
    pub error_matcher: Option<Arc<ErrorMatcher>>,
    /// What takes the place of the policies of routes.
    pub policies: Option<Arc<RequestPolicies>>,
}

/// What a host is called in TLS, where that goes by the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerName {
    /// `auto_sni`: the host is asked for by this name.
    pub is_sent: bool,
    /// `auto_san_validation`: its certificate must be of this name.
    pub is_checked: bool,
    /// `override_auto_sni_header`: the header that has the name, in place of the Host, where the request has it.
    pub header: Option<HeaderName>,
}

/// Which version of HTTP a cluster speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1
    #[default]
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// The version of the request.
    Downstream,
    /// The one that the host chooses by ALPN.
    Auto,
}

/// The messages and fields of a cluster that speak of HTTP.
#[derive(Default)]
pub(super) struct Protos<'a> {
    /// The name under which the cluster counts.
    pub(super) stat_name: &'a str,
    pub(super) typed: HashMap<String, Any>,
    pub(super) upstream: Option<core::UpstreamHttpProtocolOptions>,
    pub(super) common: Option<core::HttpProtocolOptions>,
    pub(super) http1: Option<core::Http1ProtocolOptions>,
    pub(super) http2: Option<core::Http2ProtocolOptions>,
    pub(super) selection: i32,
    pub(super) max_requests_per_connection: Option<UInt32Value>,
}

// === impl Protos ===

impl Protos<'_> {
    fn is_empty(&self) -> bool {
        let Self { stat_name: _, typed, upstream, common, http1, http2, selection, max_requests_per_connection } = self;
        typed.is_empty()
            && upstream.is_none()
            && common.is_none()
            && http1.is_none()
            && http2.is_none()
            && *selection == 0
            && max_requests_per_connection.is_none()
    }
}

// === impl UpstreamHttp ===

impl UpstreamHttp {
    /// Lowers what a cluster says of HTTP. The typed options replace all older fields, as in Envoy.
    pub(super) fn lower(proto: Protos<'_>, cx: &mut LowerCx<'_>) -> Result<Arc<Self>, Refused> {
        if proto.is_empty() {
            // Most clusters of a configuration say nothing: they share one.
            static DEFAULT: LazyLock<Arc<UpstreamHttp>> = LazyLock::new(Arc::default);
            return Ok(DEFAULT.clone());
        }
        let typed = cx.at("typed_extension_protocol_options", |cx| typed_options(&proto.typed, cx))?;
        let lowered = match typed {
            Some(typed) => cx.at("typed_extension_protocol_options", |cx| {
                cx.at_key(TYPED_KEY, |cx| Self::lower_typed(typed, proto.stat_name, cx))
            })?,
            None => Self::lower_fields(proto, cx)?,
        };
        if let Some(headers) = lowered.common.max_response_headers {
            lowered.http2.check_field_size(headers, "max_response_headers_kb", cx)?;
        }
        Ok(Arc::new(lowered))
    }

    fn lower_typed(proto: pb::HttpProtocolOptions, stat_name: &str, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::HttpProtocolOptions {
            common_http_protocol_options,
            upstream_http_protocol_options,
            http_filters,
            header_validation_config,
            outlier_detection,
            request_mirror_policies,
            hash_policy,
            retry_policy,
            upstream_protocol_options,
        } = proto;
        let validator = header_validation_config.map_or(Ok(()), |validator| {
            // Envoy 1.40 as it is released has none of these extensions.
            let reason = format!("header validator extensions are not supported: {}", validator.name);
            Err(cx.at("header_validation_config", |cx| cx.invalid(reason)))
        });
        let error_matcher = cx.opt("outlier_detection", outlier_detection, lower_error_matcher);
        let server_name = ServerName::lower(upstream_http_protocol_options, cx);
        let hash = HashPolicies::lower("hash_policy", hash_policy, cx);
        let policies = RequestPolicies::lower(retry_policy, request_mirror_policies, cx);
        let filters = lower_filters(http_filters, stat_name, cx);
        let common = cx.at("common_http_protocol_options", |cx| CommonOptions::lower(common_http_protocol_options, cx));
        let versions = match upstream_protocol_options {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)) => {
                cx.at("explicit_http_config", |cx| lower_explicit(explicit, cx))
            }
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
                cx.at("use_downstream_protocol_config", |cx| lower_downstream(config, cx))
            }
            Some(UpstreamProtocolOptions::AutoConfig(config)) => cx.at("auto_config", |cx| lower_auto(config, cx)),
            None => Err(cx.invalid("upstream_protocol_options is required")),
        };
        validator?;
        let (common, (protocol, http1, http2)) = (common?, versions?);
        Ok(Self {
            protocol,
            common,
            http1,
            http2,
            hash: hash?.map(Arc::new),
            filters: filters?,
            server_name: server_name?,
            error_matcher: error_matcher?.map(Arc::new),
            policies: policies?,
        })
    }

    fn lower_fields(proto: Protos<'_>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Protos { stat_name: _, typed: _, upstream, common, http1, http2, selection, max_requests_per_connection } =
            proto;
        let use_downstream = selection == ClusterProtocolSelection::UseDownstreamProtocol as i32;
        if !use_downstream && http1.is_some() && http2.is_some() {
            return Err(cx.invalid(
                "both HTTP1 and HTTP2 options may only be configured with non-default 'protocol_selection' values",
            ));
        }
        let protocol = match (use_downstream, &http2) {
            (true, _) => UpstreamProtocol::Downstream,
            (false, Some(_)) => UpstreamProtocol::Http2,
            (false, None) => UpstreamProtocol::Http1,
        };
        let server_name = ServerName::lower(upstream, cx);
        let common = cx.at("common_http_protocol_options", |cx| CommonOptions::lower(common, cx));
        let http1 = cx.at("http_protocol_options", |cx| Http1Options::lower(http1, cx));
        let http2 = cx.at("http2_protocol_options", |cx| Http2Options::lower(http2, cx));
        let mut common = common?;
        if let Some(max) = max_requests_per_connection {
            common.max_requests_per_connection = Some(u64::from(max.value)).filter(|max| *max > 0);
        }
        Ok(Self {
            protocol,
            common,
            http1: http1?,
            http2: http2?,
            hash: None,
            error_matcher: None,
            policies: None,
            filters: None,
            server_name: server_name?,
        })
    }
}

type Versions = (UpstreamProtocol, Http1Options, Http2Options);

fn lower_explicit(proto: ExplicitHttpConfig, cx: &mut LowerCx<'_>) -> Result<Versions, Refused> {
    match proto.protocol_config {
        Some(ProtocolConfig::HttpProtocolOptions(options)) => {
            let http1 = cx.at("http_protocol_options", |cx| Http1Options::lower(Some(options), cx))?;
            Ok((UpstreamProtocol::Http1, http1, Http2Options::default()))
        }
        Some(ProtocolConfig::Http2ProtocolOptions(options)) => {
            let http2 = cx.at("http2_protocol_options", |cx| Http2Options::lower(Some(options), cx))?;
            Ok((UpstreamProtocol::Http2, Http1Options::default(), http2))
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
            Err(cx.at("http3_protocol_options", |cx| cx.not_implemented("HTTP/3")))
        }
        None => Err(cx.invalid("protocol_config is required")),
    }
}

fn lower_auto(proto: AutoHttpConfig, cx: &mut LowerCx<'_>) -> Result<Versions, Refused> {
    let AutoHttpConfig {
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        alternate_protocols_cache_options,
    } = proto;
    let supported = crate::refuse_set!(cx; http3_protocol_options, alternate_protocols_cache_options);
    let http1 = cx.at("http_protocol_options", |cx| Http1Options::lower(http_protocol_options, cx));
    let http2 = cx.at("http2_protocol_options", |cx| Http2Options::lower(http2_protocol_options, cx));
    supported?;
    Ok((UpstreamProtocol::Auto, http1?, http2?))
}

fn lower_downstream(proto: UseDownstreamHttpConfig, cx: &mut LowerCx<'_>) -> Result<Versions, Refused> {
    let UseDownstreamHttpConfig { http_protocol_options, http2_protocol_options, http3_protocol_options } = proto;
    let supported = crate::refuse_set!(cx; http3_protocol_options);
    let http1 = cx.at("http_protocol_options", |cx| Http1Options::lower(http_protocol_options, cx));
    let http2 = cx.at("http2_protocol_options", |cx| Http2Options::lower(http2_protocol_options, cx));
    supported?;
    Ok((UpstreamProtocol::Downstream, http1?, http2?))
}

fn typed_options(
    proto: &HashMap<String, Any>,
    cx: &mut LowerCx<'_>,
) -> Result<Option<pb::HttpProtocolOptions>, Refused> {
    let mut found = None;
    for (key, any) in proto {
        cx.at_key(key, |cx| match message_name(any) {
            TYPED_KEY | TCP_KEY if !NAMES.contains(&key.as_str()) => Err(cx.invalid(format!(
                "Didn't find a registered network or http filter or protocol options implementation for name: '{key}'"
            ))),
            TYPED_KEY => any_as(any, cx).map(|options| found = Some(options)),
            TCP_KEY => {
                // It is of connections that carry no stream. Those for tunnels are made when there is one.
                let TcpProtocolOptions { idle_timeout: _ } = any_as(any, cx)?;
                Ok(())
            }
            other => Err(cx.not_implemented(format_args!("{other} as protocol options of a cluster"))),
        })?;
    }
    Ok(found)
}

// === impl ServerName ===

impl ServerName {
    fn lower(proto: Option<core::UpstreamHttpProtocolOptions>, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        let core::UpstreamHttpProtocolOptions { auto_sni, auto_san_validation, override_auto_sni_header } =
            proto.unwrap_or_default();
        let is_host = matches!(override_auto_sni_header.as_str(), "" | ":authority");
        let header = (!is_host).then(|| HeaderName::try_from(override_auto_sni_header)).transpose().map_err(|_| {
            cx.at("upstream_http_protocol_options", |cx| {
                cx.at("override_auto_sni_header", |cx| cx.invalid("is no header name"))
            })
        })?;
        let name = Self { is_sent: auto_sni, is_checked: auto_san_validation, header };
        Ok((auto_sni || auto_san_validation).then_some(name))
    }
}

fn lower_error_matcher(
    proto: pb::http_protocol_options::OutlierDetection,
    cx: &mut LowerCx<'_>,
) -> Result<ErrorMatcher, Refused> {
    let pb::http_protocol_options::OutlierDetection { error_matcher } = proto;
    let matcher = cx.opt("error_matcher", error_matcher, ErrorMatcher::lower)?;
    matcher.ok_or_else(|| cx.at("error_matcher", |cx| cx.invalid("is required")))
}

/// Envoy: filters count where their cluster does.
fn lower_filters(
    filters: Vec<HttpFilter>,
    stat_name: &str,
    cx: &mut LowerCx<'_>,
) -> Result<Option<Arc<HttpChain>>, Refused> {
    if filters.is_empty() {
        return Ok(None);
    }
    let scope = cx.env.stats.scope(&format!("cluster.{stat_name}"));
    cx.in_scope(scope, |cx| HttpChain::lower_upstream("http_filters", filters, cx))
}
