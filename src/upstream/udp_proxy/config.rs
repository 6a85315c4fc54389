//! From the message `UdpProxyConfig` to [`Config`].

use std::net::SocketAddr;
use std::time::Duration;

use nuncio_config::access_log::lower as lower_access_log;
use nuncio_config::listener::UdpSocketConfig;
use nuncio_config::protocol::duration;
use nuncio_config::udp_route::UdpRoutes;
use nuncio_filter_api::{ClusterName, LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::udp::udp_proxy::v3 as proto;
use nuncio_telemetry::access_log::AccessLog;
use proto::udp_proxy_config::{HashPolicy, RouteSpecifier, UdpAccessLogOptions, hash_policy};
use twox_hash::XxHash64;

use super::filters::SessionFilters;
use super::tunnel::TunnelConfig;
use crate::tcp_proxy::log_interval;

nuncio_telemetry::stats! {
    /// `udp.<stat_prefix>`
    pub(super) struct UdpProxyStats {
        /// Datagrams for which there was no cluster.
        downstream_sess_no_route: Counter,
        downstream_sess_rx_bytes: Counter,
        downstream_sess_rx_datagrams: Counter,
        downstream_sess_rx_errors: Counter,
        downstream_sess_total: Counter,
        downstream_sess_active: Gauge,
        downstream_sess_tx_bytes: Counter,
        downstream_sess_tx_datagrams: Counter,
        downstream_sess_tx_errors: Counter,
        idle_timeout: Counter,
        /// Sessions whose filters' discovered configuration was missing.
        session_filter_config_missing: Counter,
    }

    /// `cluster.<name>.udp`
    pub(super) struct UdpClusterStats {
        sess_rx_datagrams: Counter,
        /// Datagrams of hosts that are longer than may be.
        sess_rx_datagrams_dropped: Counter,
        sess_rx_errors: Counter,
        sess_tx_datagrams: Counter,
        sess_tx_errors: Counter,
        sess_tunnel_buffer_overflow: Counter,
        sess_tunnel_failure: Counter,
        sess_tunnel_success: Counter,
    }
}

/// The filter as configured.
pub(super) struct Config {
    pub(super) stats: UdpProxyStats,
    route: Route,
    hash: Option<HashBy>,
    pub(super) idle_timeout: Duration,
    pub(super) balance: Balance,
    pub(super) source: Source,
    pub(super) socket: UdpSocketConfig,
    pub(super) logs: Vec<AccessLog>,
    pub(super) proxy_logs: Vec<AccessLog>,
    pub(super) log_interval: Option<Duration>,
    pub(super) log_on_connected: bool,
    pub(super) tunnel: Option<TunnelConfig>,
    pub(super) filters: SessionFilters,
}

#[derive(Debug)]
enum Route {
    Cluster(ClusterName),
    Tree(UdpRoutes),
}

/// What hosts are chosen by, where it is asked for.
#[derive(Clone, Copy, Debug)]
enum HashBy {
    SourceIp,
    /// The same for all.
    Fixed(u64),
}

/// When a host is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Balance {
    Sessions,
    Datagrams,
}

/// In whose name datagrams are sent to hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Own,
    Client,
}

/// Envoy's default of `idle_timeout`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

// === impl Config ===

impl Config {
    // Deprecated fields are configuration too.
    #[allow(deprecated)]
    pub(super) fn lower(message: proto::UdpProxyConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::UdpProxyConfig {
            stat_prefix,
            idle_timeout,
            use_original_src_ip,
            hash_policies,
            upstream_socket_config,
            use_per_packet_load_balancing,
            access_log,
            proxy_access_log,
            session_filters,
            tunneling_config,
            access_log_options,
            route_specifier,
        } = message;
        let tunnel = cx.opt("tunneling_config", tunneling_config, TunnelConfig::lower);
        let filters = SessionFilters::lower(session_filters, cx);
        if use_per_packet_load_balancing {
            let reason = match (&tunnel, &filters) {
                (Ok(Some(_)), _) => Some("Only one of use_per_packet_load_balancing or tunneling_config can be used."),
                (_, Ok(filters)) if !filters.is_empty() => {
                    Some("Only one of use_per_packet_load_balancing or session_filters can be used.")
                }
                _ => None,
            };
            if let Some(reason) = reason {
                return Err(cx.at("use_per_packet_load_balancing", |cx| cx.invalid(reason)));
            }
        }
        let route = match route_specifier {
            Some(RouteSpecifier::Cluster(name)) => Ok(Route::Cluster(cx.env.clusters.intern(&name))),
            Some(RouteSpecifier::Matcher(matcher)) => cx.at("matcher", |cx| Route::lower(matcher, cx)),
            None => Err(cx.invalid("one of cluster and matcher is required")),
        };
        let idle_timeout = cx.opt("idle_timeout", idle_timeout, duration);
        let hash = cx.each("hash_policies", hash_policies, HashBy::lower);
        let socket = cx.at("upstream_socket_config", |cx| UdpSocketConfig::lower(upstream_socket_config, true, cx));
        let logs = cx.each("access_log", access_log, lower_access_log);
        let proxy_logs = cx.each("proxy_access_log", proxy_access_log, lower_access_log);
        let UdpAccessLogOptions { access_log_flush_interval, flush_access_log_on_tunnel_connected: log_on_connected } =
            access_log_options.unwrap_or_default();
        let log_interval = cx.at("access_log_options", |cx| {
            cx.opt("access_log_flush_interval", access_log_flush_interval, log_interval)
        });
        Ok(Self {
            stats: UdpProxyStats::new(&cx.env.stats.scope("udp").scope(&stat_prefix)),
            route: route?,
            hash: hash?.into_iter().next(),
            idle_timeout: idle_timeout?.unwrap_or(IDLE_TIMEOUT),
            balance: if use_per_packet_load_balancing { Balance::Datagrams } else { Balance::Sessions },
            source: if use_original_src_ip { Source::Client } else { Source::Own },
            socket: socket?,
            logs: logs?,
            proxy_logs: proxy_logs?,
            log_interval: log_interval?,
            log_on_connected,
            tunnel: tunnel?,
            filters: filters?,
        })
    }

    /// The cluster for what `peer` sends to `local`.
    pub(super) fn cluster(&self, peer: SocketAddr, local: SocketAddr) -> Option<&ClusterName> {
        match &self.route {
            Route::Cluster(cluster) => Some(cluster),
            Route::Tree(routes) => routes.find(peer, local),
        }
    }

    /// What hosts are chosen by for what `peer` sends.
    pub(super) fn hash(&self, peer: SocketAddr) -> Option<u64> {
        Some(match self.hash? {
            HashBy::SourceIp => XxHash64::oneshot(0, peer.ip().to_string().as_bytes()),
            HashBy::Fixed(hash) => hash,
        })
    }
}

// === impl Route ===

impl Route {
    fn lower(matcher: nuncio_proto::xds::r#type::matcher::v3::Matcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let routes = UdpRoutes::lower(matcher, cx)?;
        // Nothing is looked at for a cluster that is always the same.
        Ok(routes.only().cloned().map_or(Self::Tree(routes), Self::Cluster))
    }
}

// === impl HashBy ===

impl HashBy {
    fn lower(policy: HashPolicy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use hash_policy::PolicySpecifier;
        let HashPolicy { policy_specifier } = policy;
        match policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => Ok(Self::SourceIp),
            Some(PolicySpecifier::Key(key)) => Ok(Self::Fixed(XxHash64::oneshot(0, key.as_bytes()))),
            None => Err(cx.invalid("one of source_ip and key is required")),
        }
    }
}
