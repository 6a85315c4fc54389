//! Virtual hosts: the domains they serve and the routes they have.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, PerRoute, Refused, RequestHead, Scheme};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::xds::r#type::matcher::v3::Matcher;
use nuncio_telemetry::Metadata;
use proto::virtual_host::TlsRequirementType;

use super::Config;
use super::level::{BufferLimit, Level, LevelFields};
use super::mirror::MirrorPolicy;
use super::rate_limit::RateLimit;
use super::redirect::forwarded_scheme;
use super::retry::{Hedging, RetryPolicy};
use super::stats::{RouteStats, VirtualClusters};

/// What the routes of a virtual host share.
#[derive(Default)]
pub struct VirtualHost {
    /// `name`
    pub name: Arc<str>,
    /// x-envoy-attempt-count goes upstream.
    pub include_request_attempt_count: bool,
    /// x-envoy-attempt-count goes downstream.
    pub include_attempt_count_in_response: bool,
    /// `metadata` (`%METADATA(VIRTUAL_HOST:...)%`).
    pub metadata: Option<Arc<Metadata>>,
    /// `include_is_timeout_retry_header`: x-envoy-is-timeout-retry goes upstream with retries.
    pub include_is_timeout_retry: bool,
    virtual_clusters: Option<Box<VirtualClusters>>,
    pub(super) mirrors: Arc<[MirrorPolicy]>,
    pub(super) retry: Option<RetryPolicy>,
    pub(super) hedging: Option<Hedging>,
    pub(super) rate_limits: Box<[RateLimit]>,
    pub(super) require_tls: RequireTls,
    pub(super) buffer_limit: Option<BufferLimit>,
    pub(super) cors: Option<PerRoute>,
    pub(super) level: Level,
    pub(super) config: Arc<Config>,
}

/// `require_tls`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RequireTls {
    #[default]
    None,
    ExternalOnly,
    All,
}

/// A virtual host taken apart: what is lowered next are its routes.
pub(super) struct Parts {
    pub(super) domains: Vec<String>,
    pub(super) routes: Vec<proto::Route>,
    pub(super) matcher: Option<Matcher>,
}

impl VirtualHost {
    /// Lowers all but domains and routes. These are given back even if something else was refused, so that what is
    /// wrong with them is found too.
    pub(super) fn lower(
        host: proto::VirtualHost,
        config: Arc<Config>,
        cx: &mut LowerCx<'_>,
    ) -> (Result<Self, Refused>, Parts) {
        let supported = refuse_unsupported(&host, cx);
        let buffer_limit = BufferLimit::lower(host.per_request_buffer_limit_bytes, host.request_body_buffer_limit);
        let level = LevelFields {
            request_headers_to_add: host.request_headers_to_add,
            request_headers_to_remove: host.request_headers_to_remove,
            response_headers_to_add: host.response_headers_to_add,
            response_headers_to_remove: host.response_headers_to_remove,
            typed_per_filter_config: host.typed_per_filter_config,
        };
        let level = Level::lower(level, cx);
        let virtual_clusters = VirtualClusters::lower(&host.name, host.virtual_clusters, cx);
        let mirrors = cx.each("request_mirror_policies", host.request_mirror_policies, MirrorPolicy::lower);
        let retry = cx.opt("retry_policy", host.retry_policy, RetryPolicy::lower);
        let rate_limits = cx.each("rate_limits", host.rate_limits, RateLimit::lower);
        let metadata = host.metadata.and_then(crate::metadata::lower_metadata);
        let cors = cx.opt("cors", host.cors, super::filter_config::lower_cors);
        let lower = || {
            supported?;
            Ok(Self {
                name: host.name.into(),
                include_request_attempt_count: host.include_request_attempt_count,
                include_attempt_count_in_response: host.include_attempt_count_in_response,
                metadata,
                include_is_timeout_retry: host.include_is_timeout_retry_header,
                virtual_clusters: virtual_clusters?,
                mirrors: Some(mirrors?).filter(|own| !own.is_empty()).map_or(config.mirrors.clone(), Vec::into),
                retry: retry?,
                hedging: host.hedge_policy.map(Hedging::lower),
                rate_limits: rate_limits?.into(),
                require_tls: match TlsRequirementType::try_from(host.require_tls) {
                    Ok(TlsRequirementType::ExternalOnly) => RequireTls::ExternalOnly,
                    Ok(TlsRequirementType::All) => RequireTls::All,
                    Ok(TlsRequirementType::None) | Err(_) => RequireTls::None,
                },
                buffer_limit,
                cors: cors?,
                level: level?,
                config,
            })
        };
        (lower(), Parts { domains: host.domains, routes: host.routes, matcher: host.matcher })
    }

    /// Where a request is counted, and the name of that virtual cluster; `None` where there are none.
    pub fn virtual_cluster(&self, head: &RequestHead) -> Option<(&Arc<RouteStats>, Option<&Arc<str>>)> {
        self.virtual_clusters.as_ref().map(|clusters| clusters.find(head))
    }

    /// Whether the request must come again over TLS.
    pub(super) fn wants_tls(&self, head: &RequestHead) -> bool {
        match self.require_tls {
            RequireTls::None => false,
            RequireTls::All => forwarded_scheme(head) != Scheme::Https,
            RequireTls::ExternalOnly => forwarded_scheme(head) != Scheme::Https && !is_internal(head),
        }
    }
}

fn is_internal(head: &RequestHead) -> bool {
    head.headers.get("x-envoy-internal").is_some_and(|v| v.as_bytes() == b"true")
}

/// Refuses each field that nuncio does not implement yet. Destructures, so that a new field is not forgotten.
fn refuse_unsupported(host: &proto::VirtualHost, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let proto::VirtualHost {
        name: _,
        domains: _,
        routes: _,
        matcher: _,
        require_tls: _,
        virtual_clusters: _,
        rate_limits: _,
        request_headers_to_add: _,
        request_headers_to_remove: _,
        response_headers_to_add: _,
        response_headers_to_remove: _,
        cors: _,
        typed_per_filter_config: _,
        include_request_attempt_count: _,
        include_attempt_count_in_response: _,
        retry_policy: _,
        // Envoy does nothing with it.
        retry_policy_typed_config: _,
        hedge_policy: _,
        include_is_timeout_retry_header: _,
        per_request_buffer_limit_bytes: _,
        request_body_buffer_limit: _,
        request_mirror_policies: _,
        metadata: _,
        route_specifiers,
    } = host;
    cx.unsupported("route_specifiers", route_specifiers)
}
