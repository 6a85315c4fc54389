//! `listener.v3.FilterChain`: the network filters that a connection passes through.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nuncio_filter_api::{LowerCx, NetworkFilter, Readiness, Refused};
use nuncio_proto::envoy::config::core::v3::{TransportSocket, transport_socket};
use nuncio_proto::envoy::config::listener::v3 as proto;
use nuncio_proto::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use nuncio_proto::envoy::extensions::transport_sockets::starttls::v3::StartTlsConfig;
use nuncio_proto::envoy::extensions::transport_sockets::tap::v3::Tap as TapProto;
use nuncio_proto::envoy::extensions::transport_sockets::tcp_stats::v3::Config as TcpStatsProto;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use nuncio_proto::google::protobuf::Any;
use nuncio_telemetry::Metadata;
use prost::Name;

use crate::extension;
use crate::extension::{Category, Discovered, DiscoveredNetworkFilter};
use crate::fingerprint::fingerprint;
use crate::metadata::lower_metadata;
use crate::protocol::{any_as, duration, message_name, non_zero};
use crate::tap::SocketTap;
use crate::tls::DownstreamTls;
use crate::transport_socket::TcpStatsConfig;

/// Plain bytes.
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// The network filters of a connection, in order.
#[derive(Clone)]
pub struct FilterChainConfig {
    /// Its name; empty if it has none.
    pub name: Arc<str>,
    /// The filters; without any, connections are closed as they come.
    pub filters: Arc<[Arc<dyn NetworkFilter>]>,
    /// TLS, where connections begin with it.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Whether and where the kernel's knowledge of its connections is counted.
    pub tcp_stats: Option<TcpStatsConfig>,
    /// Where its bytes are copied to, if anywhere.
    pub tap: Option<SocketTap>,
    /// `transport_socket_connect_timeout`: how long a handshake may take.
    pub handshake_timeout: Option<Duration>,
    /// For formatters.
    pub metadata: Option<Arc<Metadata>>,
    /// What must be there before connections may get it.
    pub waits_for: Vec<Arc<Readiness>>,
    /// A hash of all that it says: what becomes of it when its listener changes.
    pub fingerprint: u64,
}

impl FilterChainConfig {
    /// Lowers the chain, but not its criteria.
    pub(super) fn lower(proto: proto::FilterChain, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let fingerprint = fingerprint(&proto, &[]);
        let proto::FilterChain {
            // `FilterChains` has it.
            filter_chain_match: _,
            filters,
            // The listener has it.
            use_proxy_proto: _,
            metadata,
            transport_socket,
            transport_socket_connect_timeout,
            name,
        } = proto;
        let transport = cx.opt("transport_socket", transport_socket, lower_transport);
        let last = filters.len().saturating_sub(1);
        let filters = cx.at("filters", |cx| {
            let lowered: Vec<_> = filters
                .into_iter()
                .enumerate()
                .map(|(i, filter)| cx.at_index(i, |cx| lower_filter(filter, i == last, cx)))
                .collect();
            lowered.into_iter().collect::<Result<Arc<[_]>, Refused>>()
        });
        let metadata = metadata.and_then(lower_metadata);
        let timeout = cx.opt("transport_socket_connect_timeout", transport_socket_connect_timeout, duration);
        let Transport { tls, tcp_stats, tap } = transport?.unwrap_or_default();
        Ok(Self {
            name: name.into(),
            filters: filters?,
            tls: tls.map(Arc::new),
            tcp_stats,
            tap,
            handshake_timeout: timeout?.and_then(non_zero),
            metadata,
            waits_for: cx.take_waits(),
            fingerprint,
        })
    }
}

impl fmt::Debug for FilterChainConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "filter chain {:?} of {} filters", self.name, self.filters.len())
    }
}

/// What lies between the bytes of a connection and its socket.
#[derive(Default)]
struct Transport {
    tls: Option<DownstreamTls>,
    tcp_stats: Option<TcpStatsConfig>,
    tap: Option<SocketTap>,
}

fn lower_transport(proto: TransportSocket, cx: &mut LowerCx<'_>) -> Result<Transport, Refused> {
    let TransportSocket { name, config_type } = proto;
    let any = match config_type {
        Some(transport_socket::ConfigType::TypedConfig(any)) => any,
        None if name == "envoy.transport_sockets.raw_buffer" => return Ok(Transport::default()),
        None => return Err(cx.invalid("a typed_config is required")),
    };
    cx.at("typed_config", |cx| match message_name(&any) {
        RAW_BUFFER => Ok(Transport::default()),
        message if message == DownstreamTlsContext::full_name() => {
            let tls = DownstreamTls::lower(any_as(&any, cx)?, cx)?;
            Ok(Transport { tls: Some(tls), ..Transport::default() })
        }
        message if message == TapProto::full_name() => {
            let (tap, inner) = SocketTap::lower(any_as(&any, cx)?, cx)?;
            let inner = cx.opt("transport_socket", inner, lower_transport)?.unwrap_or_default();
            match inner.tap {
                None => Ok(Transport { tap: Some(tap), ..inner }),
                Some(_) => Err(cx.not_implemented("a tap within a tap")),
            }
        }
        message if message == TcpStatsProto::full_name() => {
            let TcpStatsProto { transport_socket, update_period } = any_as(&any, cx)?;
            let inner = cx.opt("transport_socket", transport_socket, lower_transport)?.unwrap_or_default();
            let scope = cx.listener().unwrap_or_else(|| cx.scope()).clone();
            let stats = TcpStatsConfig::lower(update_period, &scope, cx)?;
            Ok(Transport { tcp_stats: Some(stats), ..inner })
        }
        message if message == StartTlsConfig::full_name() => {
            // It is for filters to tell when TLS begins. None does: not one of Envoy's own, nor of ours.
            let StartTlsConfig { cleartext_socket_config, tls_socket_config } = any_as(&any, cx)?;
            let RawBuffer {} = cleartext_socket_config.unwrap_or_default();
            cx.opt("tls_socket_config", tls_socket_config, DownstreamTls::lower)?;
            tracing::warn!(
                path = cx.path(),
                "there is no filter that starts TLS: these connections stay in clear text"
            );
            Ok(Transport::default())
        }
        message => Err(cx.not_implemented(format_args!("the transport socket {message}"))),
    })
}

fn lower_filter(proto: proto::Filter, is_last: bool, cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let proto::Filter { name, config_type } = proto;
    match config_type {
        Some(proto::filter::ConfigType::TypedConfig(any)) => {
            let filter = cx.at("typed_config", |cx| lower_typed(&any, cx))?;
            check_place(&name, filter, is_last, cx)
        }
        Some(proto::filter::ConfigType::ConfigDiscovery(source)) => cx.at("config_discovery", |cx| {
            let own = name.clone();
            let lower = move |any: &Any, cx: &mut LowerCx<'_>| {
                let filter = lower_typed(any, cx)?;
                check_place(&own, filter, is_last, cx)
            };
            let filter = Discovered::lower(&name, Category::NetworkFilter, source, lower, cx)?;
            Ok(Arc::new(DiscoveredNetworkFilter { filter, is_terminal: is_last }) as Arc<dyn NetworkFilter>)
        }),
        None => Err(cx.invalid(format!("filter {name:?} has no typed_config"))),
    }
}

fn lower_typed(any: &Any, cx: &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused> {
    let message = message_name(any);
    let Some(row) = cx.env.registry.network_filter(message) else { return Err(unknown_filter(message, cx)) };
    (row.lower)(&any.value, cx)
}

fn check_place(
    name: &str,
    filter: Arc<dyn NetworkFilter>,
    is_last: bool,
    cx: &mut LowerCx<'_>,
) -> Result<Arc<dyn NetworkFilter>, Refused> {
    match (filter.is_terminal(), is_last) {
        (true, false) => Err(cx.invalid(format!("terminal filter {name:?} must be the last of its filter chain"))),
        (false, true) => Err(cx.invalid(format!("non-terminal filter {name:?} is the last of its filter chain"))),
        _ => Ok(filter),
    }
}

fn unknown_filter(message: &str, cx: &mut LowerCx<'_>) -> Refused {
    let known = cx.env.registry.network.iter().copied().flatten().map(|row| row.config);
    extension::refuse_unknown("network filter", message, known, cx)
}
