//! `listener.v3.Listener`: where to accept connections and what to do with them.

mod chain_match;
mod filter_chain;
mod filter_chains;
mod listener_filter;
mod udp;

pub use filter_chain::FilterChainConfig;
pub use filter_chains::FilterChains;
pub use listener_filter::{ListenerFilterConfig, ListenerFilters};
pub use udp::{UdpConfig, UdpSocketConfig};

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Readiness, Refused, RuntimeKey};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::listener::v3 as proto;
use nuncio_proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use nuncio_proto::envoy::extensions::filters::listener::proxy_protocol::v3::ProxyProtocol;
use nuncio_proto::google::protobuf::{Any, BoolValue};
use nuncio_telemetry::access_log::AccessLog;
use nuncio_telemetry::stats::Scope;
use nuncio_telemetry::{Address, Metadata, Origin};
use prost::Name;

use crate::address::{ListenAddress, Sends};
use crate::fingerprint::fingerprint;
use crate::metadata::lower_metadata;
use crate::protocol::duration;
use crate::refuse_set;
use crate::socket::{SocketOption, SocketPhase, SocketValue, TcpKeepalive};

/// Envoy's default of `per_connection_buffer_limit_bytes`, in bytes.
const DEFAULT_BUFFER_LIMIT: u32 = 1024 * 1024;

/// The numbers of `filter_chains`, `default_filter_chain` and `filter_chain_matcher`.
const FILTER_CHAINS: [u32; 3] = [3, 25, 32];

/// A listener, ready to bind.
#[derive(Clone)]
pub struct ListenerConfig {
    /// Its name; where none was given, its first address.
    pub name: Arc<str>,
    /// The addresses it binds: `address`, then `additional_addresses`. Empty with `bind_to_port: false`.
    pub sockets: Vec<ListenSocket>,
    /// Whether connections of this process reach it without a socket, and how many bytes they buffer.
    pub internal: Option<u32>,
    /// Where its stats are: `listener.` and its `stat_prefix` or else its first address.
    pub scope: Scope,
    /// What looks at its connections first.
    pub listener_filters: ListenerFilters,
    /// What becomes of its connections.
    pub filter_chains: FilterChains,
    /// What becomes of its datagrams, where it takes those and no connections.
    pub udp: Option<UdpConfig>,
    /// Where its connections are told of when they end, those too that got no filter chain.
    pub access_logs: Arc<[AccessLog]>,
    /// `per_connection_buffer_limit_bytes`.
    pub buffer_limit: u32,
    /// How accepted connections are spread over the workers.
    pub balance: ConnectionBalance,
    /// Whether each worker has a socket of its own; else one is shared by all.
    pub reuse_port: bool,
    /// Connections accepted at most for one socket event; `None`: all that wait.
    pub accept_batch: Option<u32>,
    /// How many connections there may be at once.
    pub limits: ConnectionLimits,
    /// Which drains it takes part in.
    pub drain_type: DrainType,
    /// Where its connections come from.
    pub direction: TrafficDirection,
    /// The same and this proxy, for expressions.
    pub origin: Origin,
    /// For formatters.
    pub metadata: Option<Arc<Metadata>>,
    /// What must be there before it accepts, beside what its filter chains wait for.
    pub waits_for: Vec<Arc<Readiness>>,
    /// Connections are for the listeners of the addresses that filters restore.
    pub use_original_dst: bool,
    /// The addresses that it is for without binding them.
    pub unbound: Box<[Address]>,
    /// A hash of all that it says beside its filter chains: where it is the same, only those have changed.
    pub shape: u64,
}

/// How many connections the runtime allows at once; there is no other limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// `envoy.resource_limits.listener.<name>.connection_limit`: of this listener.
    pub own: RuntimeKey,
    /// `overload.global_downstream_max_connections`: of all listeners, where this one does not ignore it.
    pub global: RuntimeKey,
}

/// One address of a listener, with what is set on its socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSocket {
    /// The address to bind.
    pub address: ListenAddress,
    /// Options to set; those for `transparent`, `freebind` and TCP Fast Open are among them.
    pub options: Vec<SocketOption>,
    /// Keep-alive of accepted connections.
    pub keepalive: Option<TcpKeepalive>,
    /// `tcp_backlog_size`; `None`: net.core.somaxconn.
    pub backlog: Option<u32>,
    /// Multi-path TCP.
    pub mptcp: bool,
}

/// `connection_balance_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionBalance {
    /// The kernel picks a worker.
    Kernel,
    /// Each connection goes to the worker with the fewest.
    Exact,
}

/// `drain_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainType {
    /// Drains also when `/healthcheck/fail` is in force.
    Default,
    /// Drains only when it is changed or removed, or on `/drain_listeners`.
    ModifyOnly,
}

/// `traffic_direction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficDirection {
    /// Not given.
    Unspecified,
    /// To the application beside this proxy.
    Inbound,
    /// From the application beside this proxy.
    Outbound,
}

// === impl ListenerConfig ===

impl ListenerConfig {
    /// Lowers one listener.
    pub fn lower(listener: proto::Listener, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let shape = fingerprint(&listener, &FILTER_CHAINS);
        let proto::Listener {
            name,
            address,
            additional_addresses,
            stat_prefix,
            stats_matcher,
            filter_chains,
            fcds_config,
            filter_chain_matcher,
            use_original_dst,
            default_filter_chain,
            per_connection_buffer_limit_bytes,
            per_connection_buffer_high_watermark_timeout,
            metadata,
            deprecated_v1,
            drain_type,
            listener_filters,
            listener_filters_timeout,
            continue_on_listener_filters_timeout,
            transparent,
            freebind,
            socket_options,
            tcp_fast_open_queue_length,
            traffic_direction,
            udp_listener_config,
            api_listener,
            connection_balance_config,
            // Deprecated and the default on Linux; false is what is left out.
            reuse_port: _,
            enable_reuse_port,
            access_log,
            tcp_backlog_size,
            max_connections_to_accept_per_socket_event,
            bind_to_port,
            enable_mptcp,
            ignore_global_conn_limit,
            // There is no overload manager that it could bypass.
            bypass_overload_manager: _,
            tcp_keepalive,
            listener_specifier,
        } = listener;
        let use_original_dst = use_original_dst.is_some_and(|v| v.value);
        // Envoy: zero is never.
        let per_connection_buffer_high_watermark_timeout =
            per_connection_buffer_high_watermark_timeout.filter(|timeout| timeout.seconds != 0 || timeout.nanos != 0);
        let refused = refuse_set!(cx; stats_matcher, fcds_config, per_connection_buffer_high_watermark_timeout,
            api_listener);
        let internal = lower_internal(listener_specifier, address.is_some(), cx);
        let fast_open = tcp_fast_open_queue_length.map(|v| v.value);
        let sockets = Sockets {
            address,
            additional_addresses,
            transparent: transparent.is_some_and(|v| v.value),
            freebind: freebind.is_some_and(|v| v.value),
            socket_options,
            fast_open,
            backlog: tcp_backlog_size.map(|v| v.value),
            mptcp: enable_mptcp,
            keepalive: tcp_keepalive,
        };
        let balance = lower_balance(connection_balance_config, cx);
        let sockets = match &internal {
            Ok(None) => sockets.lower(cx),
            Ok(Some(_)) => {
                let is_exact = matches!(balance, Ok(ConnectionBalance::Exact));
                let others =
                    [("enable_reuse_port", enable_reuse_port.is_some()), ("connection_balance_config", is_exact)];
                sockets.refuse_all(others, cx).map(|()| Vec::new())
            }
            Err(Refused) => Ok(Vec::new()),
        };
        let refused = refused.and(check_mptcp(sockets.as_deref().unwrap_or_default(), cx));
        let refused = refused.and(check_fast_open(fast_open, sockets.as_deref().unwrap_or_default(), cx));
        let first = sockets.as_ref().ok().and_then(|s| s.first()).map(|s| s.address.address.to_string());
        let first = match &internal {
            Ok(Some(_)) => format!("envoy_internal_{name}"),
            _ => first.unwrap_or_default(),
        };
        let stat_prefix: Arc<str> = if stat_prefix.is_empty() { (*first).into() } else { stat_prefix.into() };
        let scope = cx.env.stats.scope("listener").scope(&stat_prefix);
        // What came before is another listener's.
        drop(cx.take_waits());
        let timeout = cx.opt("listener_filters_timeout", listener_filters_timeout, duration);
        let is_udp = sockets.as_ref().is_ok_and(|s| s.iter().any(|s| s.address.sends == Sends::Datagrams));
        let (datagram_filters, listener_filters) =
            if is_udp { (listener_filters, Vec::new()) } else { (Vec::new(), listener_filters) };
        let reuse_port = enable_reuse_port.is_none_or(|v| v.value);
        let udp = match is_udp {
            true => cx.in_listener(scope.clone(), |cx| {
                // Filter chains are right where QUIC is, and wrong without it: whether it is asked for comes first.
                let udp = UdpConfig::lower(udp_listener_config, datagram_filters, cx)?;
                udp::check(reuse_port, filter_chains.len() + usize::from(default_filter_chain.is_some()), cx)?;
                Ok(Some(udp))
            }),
            // Envoy: where there are connections it means nothing.
            false => Ok(None),
        };
        // Envoy: what the first chain says is for all; where there is none, what the default one says.
        let first_chain = filter_chains.first().or(default_filter_chain.as_ref());
        let has_header = first_chain.and_then(|chain| chain.use_proxy_proto).is_some_and(|v| v.value);
        let implied = [
            (use_original_dst, "envoy.filters.listener.original_dst", OriginalDst::full_name()),
            (has_header, "envoy.filters.listener.proxy_protocol", ProxyProtocol::full_name()),
        ];
        let implied = implied.into_iter().filter(|(is_wanted, ..)| *is_wanted);
        let implied = implied.map(|(_, name, message)| implied_filter(name, &message));
        let listener_filters = listener_filters.into_iter().chain(implied).collect();
        let lower_filters =
            |cx: &mut _| ListenerFilters::lower(listener_filters, timeout?, continue_on_listener_filters_timeout, cx);
        let listener_filters = cx.in_listener(scope.clone(), lower_filters);
        let lower_chains =
            |cx: &mut _| FilterChains::lower(filter_chains, default_filter_chain, filter_chain_matcher, cx);
        let mut waits_for = cx.take_waits();
        let filter_chains = if is_udp { Ok(FilterChains::none()) } else { cx.in_listener(scope.clone(), lower_chains) };
        let access_logs = cx.each("access_log", access_log, crate::access_log::lower);
        let direction = lower_direction(traffic_direction, cx);
        let drain_type = lower_drain_type(drain_type, cx);
        let batch = cx.opt(
            "max_connections_to_accept_per_socket_event",
            max_connections_to_accept_per_socket_event,
            |v, cx| {
                if v.value == 0 { Err(cx.invalid("must be greater than 0")) } else { Ok(v.value) }
            },
        );
        let metadata = metadata.and_then(lower_metadata);
        waits_for.extend(cx.take_waits());
        let limits = ConnectionLimits::lower(&name, ignore_global_conn_limit, cx);
        refused?;
        let internal = internal?;
        let mut sockets = sockets?;
        let mut unbound = Vec::new();
        if !bind_to_port.or(deprecated_v1.and_then(|v| v.bind_to_port)).is_none_or(|v: BoolValue| v.value) {
            unbound.extend(sockets.drain(..).map(|socket| socket.address.address));
        }
        Ok(Self {
            scope,
            name: if name.is_empty() { first.into() } else { name.into() },
            sockets,
            internal,
            listener_filters: listener_filters?,
            filter_chains: filter_chains?,
            udp: udp?,
            access_logs: access_logs?.into(),
            limits,
            buffer_limit: per_connection_buffer_limit_bytes.map_or(DEFAULT_BUFFER_LIMIT, |v| v.value),
            balance: balance?,
            reuse_port,
            accept_batch: batch?,
            drain_type: drain_type?,
            direction: direction?,
            origin: Origin { direction: traffic_direction.into(), node: cx.env.node.info.clone() },
            metadata,
            waits_for,
            use_original_dst,
            unbound: unbound.into(),
            shape,
        })
    }

    /// This listener as it follows `before`, which differs in its filter chains alone: those that say the same are those
    /// of `before`.
    pub fn inheriting(&self, before: &Self) -> Self {
        let mut next = self.clone();
        next.filter_chains.inherit(&before.filter_chains);
        next
    }

    /// All that must be there before it accepts.
    pub fn waits(&self) -> impl Iterator<Item = &Arc<Readiness>> {
        self.waits_for.iter().chain(self.filter_chains.all().iter().flat_map(|chain| &chain.waits_for))
    }
}

impl ConnectionLimits {
    fn lower(name: &str, ignores_global: bool, cx: &LowerCx<'_>) -> Self {
        let own = match name.is_empty() {
            true => RuntimeKey::NONE,
            false => cx.runtime(&format!("envoy.resource_limits.listener.{name}.connection_limit")),
        };
        let global = if ignores_global { "" } else { "overload.global_downstream_max_connections" };
        Self { own, global: cx.runtime(global) }
    }
}

/// A listener filter that is there because a field of the listener says so: the last one. Envoy: one that accepts for
/// others finds out for whom.
fn implied_filter(name: &str, message: &str) -> proto::ListenerFilter {
    let any = Any { type_url: format!("type.googleapis.com/{message}"), value: Vec::new() };
    proto::ListenerFilter {
        name: name.to_owned(),
        config_type: Some(proto::listener_filter::ConfigType::TypedConfig(any)),
        ..proto::ListenerFilter::default()
    }
}

/// The bytes that connections buffer, where the listener has no socket.
fn lower_internal(
    specifier: Option<proto::listener::ListenerSpecifier>,
    has_address: bool,
    cx: &mut LowerCx<'_>,
) -> Result<Option<u32>, Refused> {
    let Some(proto::listener::ListenerSpecifier::InternalListener(internal)) = specifier else { return Ok(None) };
    let proto::listener::InternalListenerConfig {} = internal;
    if has_address {
        let reason = "address should not be used when an internal listener config is provided";
        return Err(cx.at("address", |cx| cx.invalid(reason)));
    }
    let Some(buffer) = cx.env.internal_buffer.get() else {
        let reason = "InternalListener bootstrap extension is mandatory";
        return Err(cx.at("internal_listener", |cx| cx.invalid(reason)));
    };
    Ok(Some(*buffer))
}

/// Only connections bring data with their first packet.
fn check_fast_open(queue: Option<u32>, sockets: &[ListenSocket], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    match queue.is_some() && sockets.iter().any(|socket| socket.address.sends == Sends::Datagrams) {
        true => {
            let reason = "is for TCP, and this listener takes datagrams";
            Err(cx.at("tcp_fast_open_queue_length", |cx| cx.invalid(reason)))
        }
        false => Ok(()),
    }
}

fn check_mptcp(sockets: &[ListenSocket], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let is_tcp = |ListenAddress { address, sends, .. }: &ListenAddress| {
        matches!(address, Address::Ip(_)) && *sends == Sends::Streams
    };
    match sockets.iter().all(|socket| !socket.mptcp || is_tcp(&socket.address)) {
        true => Ok(()),
        false => Err(cx.at("enable_mptcp", |cx| cx.invalid("is for TCP at IP addresses alone"))),
    }
}

fn lower_balance(
    config: Option<proto::listener::ConnectionBalanceConfig>,
    cx: &mut LowerCx<'_>,
) -> Result<ConnectionBalance, Refused> {
    use proto::listener::connection_balance_config::BalanceType;
    let Some(config) = config else { return Ok(ConnectionBalance::Kernel) };
    cx.at("connection_balance_config", |cx| match config.balance_type {
        Some(BalanceType::ExactBalance(_)) => Ok(ConnectionBalance::Exact),
        Some(BalanceType::ExtendBalance(_)) => cx.at("extend_balance", |cx| Err(cx.not_implemented("this balance"))),
        Some(BalanceType::CpuLocalityBalance(_)) => {
            // Envoy: so it is where workers are not bound to CPUs, and here none is.
            tracing::info!(path = cx.path(), "workers are not bound to CPUs: the kernel balances connections");
            Ok(ConnectionBalance::Kernel)
        }
        None => Err(cx.invalid("a balance_type is required")),
    })
}

fn lower_direction(value: i32, cx: &mut LowerCx<'_>) -> Result<TrafficDirection, Refused> {
    match core::TrafficDirection::try_from(value) {
        Ok(core::TrafficDirection::Unspecified) => Ok(TrafficDirection::Unspecified),
        Ok(core::TrafficDirection::Inbound) => Ok(TrafficDirection::Inbound),
        Ok(core::TrafficDirection::Outbound) => Ok(TrafficDirection::Outbound),
        Err(_) => Err(cx.at("traffic_direction", |cx| cx.invalid("is not a traffic direction"))),
    }
}

fn lower_drain_type(value: i32, cx: &mut LowerCx<'_>) -> Result<DrainType, Refused> {
    match proto::listener::DrainType::try_from(value) {
        Ok(proto::listener::DrainType::Default) => Ok(DrainType::Default),
        Ok(proto::listener::DrainType::ModifyOnly) => Ok(DrainType::ModifyOnly),
        Err(_) => Err(cx.at("drain_type", |cx| cx.invalid("is not a drain type"))),
    }
}

/// The fields of a listener that make its sockets.
struct Sockets {
    address: Option<core::Address>,
    additional_addresses: Vec<proto::AdditionalAddress>,
    transparent: bool,
    freebind: bool,
    socket_options: Vec<core::SocketOption>,
    fast_open: Option<u32>,
    backlog: Option<u32>,
    mptcp: bool,
    keepalive: Option<core::TcpKeepalive>,
}

impl Sockets {
    /// Refuses what is asked of sockets, here and in `others`, by a listener that has none.
    fn refuse_all(self, others: [(&str, bool); 2], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let Self {
            // `lower_internal` has seen to it.
            address: _,
            additional_addresses,
            transparent,
            freebind,
            socket_options,
            fast_open,
            backlog,
            mptcp,
            // Envoy takes it and does nothing with it.
            keepalive: _,
        } = self;
        let own = [
            ("additional_addresses", !additional_addresses.is_empty()),
            ("transparent", transparent),
            ("freebind", freebind),
            ("socket_options", !socket_options.is_empty()),
            ("tcp_fast_open_queue_length", fast_open.is_some()),
            ("tcp_backlog_size", backlog.is_some()),
            ("enable_mptcp", mptcp),
        ];
        let mut refused = Ok(());
        for (field, _) in own.into_iter().chain(others).filter(|(_, is_set)| *is_set) {
            refused = Err(cx.at(field, |cx| cx.invalid("is not for an internal listener, which has no socket")));
        }
        refused
    }

    fn lower(self, cx: &mut LowerCx<'_>) -> Result<Vec<ListenSocket>, Refused> {
        let Some(address) = self.address else {
            return Err(cx.at("address", |cx| cx.invalid("an address is required")));
        };
        let first = cx.at("address", |cx| ListenAddress::lower(address, cx));
        let sends = first.as_ref().map_or(Sends::Streams, |first| first.sends);
        let common = lower_options(self.socket_options, sends, cx);
        let built_in = built_in_options(self.transparent, self.freebind, self.fast_open);
        let additional = cx.each("additional_addresses", self.additional_addresses, |proto, cx| {
            let proto::AdditionalAddress { address, socket_options, tcp_keepalive } = proto;
            let Some(address) = address else { return Err(cx.invalid("an address is required")) };
            let address = cx.at("address", |cx| match ListenAddress::lower(address, cx)? {
                address if address.sends == sends => Ok(address),
                _ => Err(cx.invalid("has another socket type than the listener's first address")),
            });
            let options = cx.opt("socket_options", socket_options, |v, cx| lower_options(v.socket_options, sends, cx));
            Ok((address?, options?, tcp_keepalive))
        });
        let (common, first, additional) = (common?, first?, additional?);
        let all = std::iter::once((first, None, None)).chain(additional);
        let sockets = all.map(|(address, options, keepalive)| ListenSocket {
            address,
            options: built_in.iter().cloned().chain(options.unwrap_or_else(|| common.clone())).collect(),
            keepalive: keepalive.or(self.keepalive).and_then(TcpKeepalive::lower),
            backlog: self.backlog,
            mptcp: self.mptcp,
        });
        Ok(sockets.collect())
    }
}

/// Options for sockets of this type; those that ask for the other are left out.
fn lower_options(
    protos: Vec<core::SocketOption>,
    sends: Sends,
    cx: &mut LowerCx<'_>,
) -> Result<Vec<SocketOption>, Refused> {
    let options = cx.each("socket_options", protos, SocketOption::lower)?;
    let applies = |option: &SocketOption| match sends {
        Sends::Streams => option.stream,
        Sends::Datagrams => option.datagram,
    };
    Ok(options.into_iter().filter(applies).collect())
}

/// The options behind `transparent`, `freebind` and `tcp_fast_open_queue_length`.
fn built_in_options(transparent: bool, freebind: bool, fast_open: Option<u32>) -> Vec<SocketOption> {
    let on = |level, name| SocketOption {
        level,
        name,
        value: SocketValue::Int(1),
        phase: SocketPhase::PreBind,
        stream: true,
        datagram: false,
        ipv4: level == libc::SOL_IP,
        ipv6: level == libc::SOL_IPV6,
    };
    let mut options = Vec::new();
    if transparent {
        options.extend([on(libc::SOL_IP, libc::IP_TRANSPARENT), on(libc::SOL_IPV6, libc::IPV6_TRANSPARENT)]);
    }
    if freebind {
        options.extend([on(libc::SOL_IP, libc::IP_FREEBIND), on(libc::SOL_IPV6, libc::IPV6_FREEBIND)]);
    }
    if let Some(queue) = fast_open {
        options.push(SocketOption {
            value: SocketValue::Int(i32::try_from(queue).unwrap_or(i32::MAX)),
            phase: SocketPhase::Listening,
            ipv4: true,
            ipv6: true,
            ..on(libc::SOL_TCP, libc::TCP_FASTOPEN)
        });
    }
    options
}
