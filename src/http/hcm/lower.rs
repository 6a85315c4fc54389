//! From the message `HttpConnectionManager` to [`Hcm`].

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderValue;
use nuncio_config::access_log::lower as lower_access_log;
use nuncio_config::discovery::RouteSlot;
use nuncio_config::http_chain::HttpChain;
use nuncio_config::matcher::{Cidr, StringMatcher};
use nuncio_config::protocol::{CommonOptions, HeaderCase, Http1Options, Http2Options, duration, non_zero};
use nuncio_config::route::{RouteTable, ScopedRoutes};
use nuncio_filter_api::{ByteStr, IsSet, LowerCx, NetworkFilter, NetworkFilterRow, Refused, Scheme};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as proto;
use nuncio_telemetry::stats::Scope;
use nuncio_telemetry::stats::catalogue::HttpStats;
use prost::Message;

use super::client_cert::ForwardClientCert;
use super::config::{
    ClientAddress, CodecOptions, CodecType, HeadOptions, PathRules, RequestIdOptions, ServerHeader, StripPort, Timeouts,
};
use super::proxy_status::ProxyStatus;
use super::trace::Tracing;
use super::upgrade::{Upgrade, Upgrades};
use super::{Hcm, Routes, stats};
use crate::local_reply::LocalReplies;
use crate::{h1, request_id};

/// The connection manager's row in the table of network filters.
pub static ROW: NetworkFilterRow = NetworkFilterRow {
    name: "envoy.filters.network.http_connection_manager",
    config: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    lower,
};

/// Default of `max_request_headers_kb`.
const MAX_REQUEST_HEADERS_KB: u32 = 60;
/// Default of `stream_idle_timeout`.
const STREAM_IDLE: Duration = Duration::from_secs(300);
/// Default of `drain_timeout`.
const DRAIN: Duration = Duration::from_secs(5);
/// Default of `delayed_close_timeout`.
const DELAYED_CLOSE: Duration = Duration::from_secs(1);
/// Default of `server_name`. It is what tests and dashboards of Envoy's users look for.
const SERVER_NAME: &str = "envoy";

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let message =
        proto::HttpConnectionManager::decode(bytes).map_err(|e| cx.invalid(format!("does not decode: {e}")))?;
    Ok(Arc::new(Hcm::lower(message, cx)?))
}

impl Hcm {
    #[allow(clippy::too_many_lines, reason = "an exhaustive destructuring of Envoy's largest message")]
    pub(super) fn lower(message: proto::HttpConnectionManager, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::HttpConnectionManager {
            codec_type,
            stat_prefix,
            http_filters,
            add_user_agent,
            tracing,
            common_http_protocol_options,
            http1_safe_max_connection_duration,
            http_protocol_options,
            http2_protocol_options,
            http3_protocol_options,
            server_name,
            server_header_transformation,
            scheme_header_transformation,
            max_request_headers_kb,
            stream_idle_timeout,
            stream_flush_timeout,
            request_timeout,
            request_headers_timeout,
            drain_timeout,
            drain_timeout_jitter,
            delayed_close_timeout,
            access_log,
            access_log_flush_interval,
            flush_access_log_on_new_request,
            access_log_options,
            use_remote_address,
            xff_num_trusted_hops,
            original_ip_detection_extensions,
            early_header_mutation_extensions,
            internal_address_config,
            skip_xff_append,
            via,
            generate_request_id,
            preserve_external_request_id,
            always_set_request_id_in_response,
            forward_client_cert_details,
            set_current_client_cert_details,
            forward_client_cert_matcher,
            proxy_100_continue,
            represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            upgrade_configs,
            normalize_path,
            merge_slashes,
            path_with_escaped_slashes_action,
            request_id_extension,
            local_reply_config,
            strip_matching_host_port,
            stream_error_on_invalid_http_message,
            path_normalization_options,
            strip_trailing_host_dot,
            proxy_status_config,
            typed_header_validation_config,
            append_x_forwarded_port,
            append_local_overload,
            add_proxy_protocol_connection_state,
            forward_proto_config,
            route_specifier,
            strip_port_mode,
        } = message;
        let (mode, details) = (forward_client_cert_details, set_current_client_cert_details);
        let client_certificate = ForwardClientCert::lower(mode, details, forward_client_cert_matcher, cx);
        let refused = [
            cx.unsupported("http3_protocol_options", &http3_protocol_options),
            cx.unsupported("access_log_flush_interval", &access_log_flush_interval),
            cx.unsupported("flush_access_log_on_new_request", &flush_access_log_on_new_request),
            cx.unsupported("access_log_options", &access_log_options),
            cx.unsupported("original_ip_detection_extensions", &original_ip_detection_extensions),
            cx.unsupported("early_header_mutation_extensions", &early_header_mutation_extensions),
            cx.unsupported(
                "represent_ipv4_remote_address_as_ipv4_mapped_ipv6",
                &represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
            ),
            cx.unsupported("path_normalization_options", &path_normalization_options),
            // By default hosts are told of the client that a PROXY header told of.
            cx.unsupported(
                "add_proxy_protocol_connection_state",
                &add_proxy_protocol_connection_state.filter(|adds| !adds.value),
            ),
            cx.unsupported("typed_header_validation_config", &typed_header_validation_config),
            cx.unsupported("append_local_overload", &append_local_overload),
            cx.unsupported("forward_proto_config", &forward_proto_config),
            // The default is what the codecs do: a malformed HTTP/1 message ends its connection.
            cx.unsupported(
                "stream_error_on_invalid_http_message",
                &stream_error_on_invalid_http_message.filter(|b| b.value),
            ),
        ];
        let codec = lower_codec(codec_type, cx);
        let common = cx.at("common_http_protocol_options", |cx| CommonOptions::lower(common_http_protocol_options, cx));
        let http1 = cx.at("http_protocol_options", |cx| Http1Options::lower(http_protocol_options, cx));
        let http2 = cx.at("http2_protocol_options", |cx| Http2Options::lower(http2_protocol_options, cx));
        let options = refuse_options(http1.as_ref().ok(), http2.as_ref().ok(), cx);
        let max_request_headers = max_request_headers_kb.map_or(MAX_REQUEST_HEADERS_KB, |kb| kb.value) as usize * 1024;
        let sizes = check_sizes(max_request_headers, common.as_ref().ok(), http2.as_ref().ok(), cx);
        let scope = cx.env.stats.scope(&format!("http.{stat_prefix}"));
        let (chain, upgrades) = cx.in_scope(scope.clone(), |cx| {
            let chain = HttpChain::lower("http_filters", http_filters, cx);
            (chain, cx.each("upgrade_configs", upgrade_configs, lower_upgrade).map(Upgrades))
        });
        let logs = cx.each("access_log", access_log, lower_access_log);
        let local_replies = cx.opt("local_reply_config", local_reply_config, LocalReplies::lower);
        let routes = lower_routes(route_specifier, &scope, cx);
        let client = lower_internal(internal_address_config, cx);
        let stream_idle = cx.opt("stream_idle_timeout", stream_idle_timeout, duration);
        let stream_flush = cx.opt("stream_flush_timeout", stream_flush_timeout, duration);
        let request = cx.opt("request_timeout", request_timeout, duration);
        let request_headers = cx.opt("request_headers_timeout", request_headers_timeout, duration);
        let drain = cx.opt("drain_timeout", drain_timeout, duration);
        let delayed_close = cx.opt("delayed_close_timeout", delayed_close_timeout, duration);
        let proxy_status = cx.opt("proxy_status_config", proxy_status_config, ProxyStatus::lower);
        let request_id = cx.opt("request_id_extension", request_id_extension, request_id::lower);
        let trace = request_id.map(Option::unwrap_or_default);
        let lower_tracing = |tracing, cx: &mut LowerCx<'_>| Tracing::lower(tracing, trace.unwrap_or_default(), cx);
        let tracing = cx.opt("tracing", tracing, lower_tracing);
        let via = header_value("via", &via, cx);
        let server_name = if server_name.is_set() { server_name } else { SERVER_NAME.to_owned() };
        let server_name = header_value("server_name", &server_name, cx);
        let scheme_overwrite = cx.opt("scheme_header_transformation", scheme_header_transformation, lower_scheme);
        let strip_any =
            matches!(strip_port_mode, Some(proto::http_connection_manager::StripPortMode::StripAnyHostPort(true)));
        if strip_any && strip_matching_host_port {
            cx.invalid("strip_matching_host_port and strip_any_host_port exclude each other");
        }
        refused.into_iter().collect::<Result<Vec<()>, _>>()?;
        options.and(sizes)?;
        let user_agent = add_user_agent.is_some_and(|b| b.value);
        let node = &cx.env.node;
        let (cluster, id) = (node.cluster.clone(), node.id.clone());
        let http1 = http1?;
        let codec = CodecOptions { codec: codec?, common: common?, http2: http2?, max_request_headers, http1 };
        let head = HeadOptions {
            client: ClientAddress {
                use_remote_address: use_remote_address.is_some_and(|b| b.value),
                xff_num_trusted_hops,
                skip_xff_append,
                append_x_forwarded_port,
                ..client?
            },
            request_id: RequestIdOptions {
                trace: trace?,
                generate: generate_request_id.is_none_or(|b| b.value),
                preserve_external: preserve_external_request_id,
                always_set_in_response: always_set_request_id_in_response,
            },
            path: PathRules::lower(
                normalize_path.map(|b| b.value),
                merge_slashes,
                path_with_escaped_slashes_action,
                cx,
            ),
            strip_port: match (strip_any, strip_matching_host_port) {
                (true, _) => StripPort::Any,
                (false, true) => StripPort::Matching,
                (false, false) => StripPort::Never,
            },
            strip_trailing_dot: strip_trailing_host_dot,
            via: via?.filter(|v| !v.is_empty()),
            server_name: server_name?.expect("there is a default"),
            server_header: match server_header_transformation {
                1 => ServerHeader::AppendIfAbsent,
                2 => ServerHeader::PassThrough,
                _ => ServerHeader::Overwrite,
            },
            scheme_overwrite: scheme_overwrite?.flatten(),
            client_certificate: client_certificate?,
            user_agent: if user_agent { header_value("add_user_agent", &cluster, cx)? } else { None },
            service_node: if user_agent { header_value("add_user_agent", &id, cx)? } else { None },
            proxy_100_continue,
            proxy_status: proxy_status?,
            tracing: tracing?,
        };
        let timeouts = Timeouts {
            stream_idle: stream_idle?.map_or(Some(STREAM_IDLE), non_zero),
            stream_flush: stream_flush?.map(non_zero),
            request: request?.and_then(non_zero),
            request_headers: request_headers?.and_then(non_zero),
            drain: drain?.unwrap_or(DRAIN),
            http1_ends_with_request: http1_safe_max_connection_duration,
            drain_jitter: drain_timeout_jitter.map_or(0.0, |p| p.value),
            delayed_close: delayed_close?.unwrap_or(DELAYED_CLOSE),
        };
        let stats = Arc::new(stats::HcmStats::new(&cx.env.stats, cx.listener(), &stat_prefix));
        let h1_settings = Arc::new(h1_settings(&codec, &stats.http));
        let (routes, slot) = routes?;
        Ok(Self {
            h1_settings,
            head,
            timeouts,
            chain: Arc::new(chain?),
            upgrades: upgrades?,
            local_replies: local_replies?.unwrap_or_default(),
            stats,
            routes,
            _slot: slot,
            logs: logs?,
            local_ip: ByteStr::from(cx.env.local_ip.to_string()),
            codec,
        })
    }
}

/// What only hosts may be spoken to with.
fn refuse_options(
    http1: Option<&Http1Options>,
    http2: Option<&Http2Options>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    // The default is what the codec does: a malformed HTTP/1 message ends its connection.
    let spares = http1.is_some_and(|http1| http1.spares_connection_of_malformed);
    let http1 =
        cx.at("http_protocol_options", |cx| cx.unsupported("override_stream_error_on_invalid_http_message", &spares));
    let disallows = http2.is_some_and(|http2| http2.disallow_obs_text);
    let http2 = cx.at("http2_protocol_options", |cx| cx.unsupported("disallow_obs_text", &disallows));
    http1.and(http2)
}

/// What of limits contradicts others, or is for responses.
fn check_sizes(
    request_headers: usize,
    common: Option<&CommonOptions>,
    http2: Option<&Http2Options>,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let field = http2.map_or(Ok(()), |http2| {
        let check = |cx: &mut LowerCx<'_>| http2.check_field_size(request_headers, "max_request_headers_kb", cx);
        cx.at("http2_protocol_options", check)
    });
    if common.is_some_and(|common| common.max_response_headers.is_some()) {
        let refuse = |cx: &mut LowerCx<'_>| cx.invalid("cannot be set on http_connection_manager");
        return Err(cx.at("common_http_protocol_options", |cx| cx.at("max_response_headers_kb", refuse)));
    }
    field
}

fn lower_codec(codec_type: i32, cx: &mut LowerCx<'_>) -> Result<CodecType, Refused> {
    match codec_type {
        0 => Ok(CodecType::Auto),
        1 => Ok(CodecType::Http1),
        2 => Ok(CodecType::Http2),
        _ => Err(cx.at("codec_type", |cx| cx.not_implemented("HTTP3"))),
    }
}

/// The codec's own form of the options.
fn h1_settings(codec: &CodecOptions, stats: &HttpStats) -> h1::ServerSettings {
    let http1 = &codec.http1;
    h1::ServerSettings {
        max_headers_bytes: codec.max_request_headers,
        max_headers_count: codec.common.max_headers_count,
        accept_http_10: http1.accept_http_10,
        default_host_for_http_10: http1.default_host_for_http_10.as_str().into(),
        allow_absolute_url: http1.allow_absolute_url,
        enable_trailers: http1.enable_trailers,
        allow_chunked_length: http1.allow_chunked_length,
        allow_custom_methods: http1.allow_custom_methods,
        ignore_upgrade: ignore_upgrade(&http1.ignored_upgrades),
        header_format: header_format(http1.header_case),
        stats: Some(stats.clone()),
    }
}

/// Tells which upgrades are ignored, if there is any.
fn ignore_upgrade(ignored: &[StringMatcher]) -> Option<Box<dyn Fn(&str) -> bool + Send + Sync>> {
    if ignored.is_empty() {
        return None;
    }
    let ignored = ignored.to_vec();
    Some(Box::new(move |value| ignored.iter().any(|matcher| matcher.matches(value.as_bytes()))))
}

fn header_format(case: HeaderCase) -> h1::HeaderFormat {
    match case {
        HeaderCase::Lower => h1::HeaderFormat::Lower,
        HeaderCase::ProperCase => h1::HeaderFormat::ProperCase,
        HeaderCase::Preserve { forward_reason_phrase, proper_case_added } => h1::HeaderFormat::PreserveCase {
            forward_reason_phrase,
            own: if proper_case_added { h1::OwnHeaderCase::ProperCase } else { h1::OwnHeaderCase::Lower },
        },
    }
}

fn lower_upgrade(
    upgrade: proto::http_connection_manager::UpgradeConfig,
    cx: &mut LowerCx<'_>,
) -> Result<Upgrade, Refused> {
    let proto::http_connection_manager::UpgradeConfig { upgrade_type, filters, enabled } = upgrade;
    let chain = if filters.is_empty() { None } else { Some(Arc::new(HttpChain::lower("filters", filters, cx)?)) };
    Ok(Upgrade { kind: upgrade_type, enabled: enabled.is_none_or(|b| b.value), chain })
}

fn lower_routes(
    specifier: Option<proto::http_connection_manager::RouteSpecifier>,
    scope: &Scope,
    cx: &mut LowerCx<'_>,
) -> Result<(Routes, Option<Arc<RouteSlot>>), Refused> {
    use proto::http_connection_manager::RouteSpecifier;
    match specifier {
        Some(RouteSpecifier::RouteConfig(config)) => {
            let table =
                Arc::new(ArcSwap::from_pointee(cx.at("route_config", |cx| RouteTable::lower_inline(config, cx))?));
            if let Some(hosts) = table.load().discovered_hosts() {
                hosts.attach(&table);
            }
            Ok((Routes::Table(table), None))
        }
        Some(RouteSpecifier::ScopedRoutes(scopes)) => cx
            .at("scoped_routes", |cx| ScopedRoutes::lower(scopes, scope, cx))
            .map(|scopes| (Routes::Scoped(scopes), None)),
        Some(RouteSpecifier::Rds(rds)) => {
            let slot = cx.at("rds", |cx| RouteSlot::lower(rds, scope, cx))?;
            Ok((Routes::Table(slot.table.clone()), Some(slot)))
        }
        None => Err(cx.invalid("one of route_config, rds and scoped_routes is required")),
    }
}

fn lower_internal(
    config: Option<proto::http_connection_manager::InternalAddressConfig>,
    cx: &mut LowerCx<'_>,
) -> Result<ClientAddress, Refused> {
    let Some(config) = config else { return Ok(ClientAddress::default()) };
    let proto::http_connection_manager::InternalAddressConfig { unix_sockets, cidr_ranges } = config;
    let internal_ranges = cx.at("internal_address_config", |cx| cx.each("cidr_ranges", cidr_ranges, Cidr::lower))?;
    Ok(ClientAddress { internal_ranges, internal_unix_sockets: unix_sockets, ..ClientAddress::default() })
}

fn lower_scheme(scheme: core::SchemeHeaderTransformation, cx: &mut LowerCx<'_>) -> Result<Option<Scheme>, Refused> {
    use core::scheme_header_transformation::Transformation;
    let core::SchemeHeaderTransformation { match_upstream, transformation } = scheme;
    let Some(Transformation::SchemeToOverwrite(scheme)) = transformation else {
        return cx.unsupported("match_upstream", &match_upstream).map(|()| None);
    };
    if match_upstream {
        tracing::warn!(path = cx.path(), "match_upstream has no effect beside scheme_to_overwrite");
    }
    Scheme::parse(scheme.as_bytes()).map(Some).ok_or_else(|| cx.invalid("must be http or https"))
}

pub(super) fn header_value(field: &str, value: &str, cx: &mut LowerCx<'_>) -> Result<Option<HeaderValue>, Refused> {
    if value.is_empty() {
        return Ok(None);
    }
    let parsed = HeaderValue::from_str(value);
    parsed.map(Some).map_err(|_| cx.at(field, |cx| cx.invalid("is not a valid header value")))
}
