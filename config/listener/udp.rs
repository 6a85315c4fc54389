//! What a listener does with datagrams: `udp_listener_config`, and its listener filters.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused, UdpListenerFilter};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::listener::v3 as proto;

use crate::protocol::message_name;
use crate::{extension, refuse_set};

/// Envoy's `max_rx_datagram_size`, in bytes.
const DEFAULT_DATAGRAM: usize = 1500;

/// Writers of datagrams. Which of them is configured changes nothing that a client could see: where the kernel takes
/// several datagrams in one call, or cuts them out of one buffer, it gets them so.
const WRITERS: [&str; 2] = [
    "envoy.extensions.udp_packet_writer.v3.UdpDefaultWriterFactory",
    "envoy.extensions.udp_packet_writer.v3.UdpGsoBatchWriterFactory",
];

/// What becomes of datagrams.
#[derive(Clone)]
pub struct UdpConfig {
    /// How they are received.
    pub socket: UdpSocketConfig,
    /// Who gets them, in order.
    pub filters: Vec<Arc<dyn UdpListenerFilter>>,
}

/// `core.v3.UdpSocketConfig`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpSocketConfig {
    /// Longer datagrams are dropped, where the kernel joins none.
    pub max_datagram: usize,
    /// Whether the kernel may hand over datagrams of one sender as one (UDP_GRO).
    pub prefers_gro: bool,
}

// === impl UdpConfig ===

impl UdpConfig {
    pub(super) fn lower(
        config: Option<proto::UdpListenerConfig>,
        filters: Vec<proto::ListenerFilter>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::UdpListenerConfig {
            downstream_socket_config,
            quic_options,
            udp_packet_packet_writer_config: writer,
        } = config.unwrap_or_default();
        let socket = cx.at("udp_listener_config", |cx| {
            let refused = refuse_set!(cx; quic_options);
            let writer = cx.opt("udp_packet_packet_writer_config", writer, check_writer);
            let socket =
                cx.at("downstream_socket_config", |cx| UdpSocketConfig::lower(downstream_socket_config, false, cx));
            refused.and(writer.map(drop)).and(socket)
        });
        let filters = cx.each("listener_filters", filters, lower_filter);
        Ok(Self { socket: socket?, filters: filters? })
    }
}

/// What else a listener of datagrams may not be.
pub(super) fn check(reuse_port: bool, chains: usize, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    if chains > 0 {
        let reason = format!("{chains} filter chain(s) specified for connection-less UDP listener");
        return Err(cx.at("filter_chains", |cx| cx.invalid(reason)));
    }
    if !reuse_port && cx.env.concurrency > 1 {
        let reason = "must not be off where there is more than one worker: clients would not stay with one of them";
        return Err(cx.at("enable_reuse_port", |cx| cx.invalid(reason)));
    }
    Ok(())
}

fn check_writer(writer: core::TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let core::TypedExtensionConfig { name: _, typed_config } = writer;
    let any = typed_config.unwrap_or_default();
    let message = message_name(&any);
    match WRITERS.contains(&message) {
        true => Ok(()),
        false => Err(cx.at("typed_config", |cx| extension::refuse_unknown("UDP packet writer", message, WRITERS, cx))),
    }
}

fn lower_filter(filter: proto::ListenerFilter, cx: &mut LowerCx<'_>) -> Result<Arc<dyn UdpListenerFilter>, Refused> {
    use proto::listener_filter::ConfigType;
    // Envoy asks filter_disabled about connections alone.
    let proto::ListenerFilter { name, filter_disabled: _, config_type } = filter;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            let reason = format!("UDP listener filter: {name} is configured with unsupported dynamic configuration");
            return Err(cx.at("config_discovery", |cx| cx.invalid(reason)));
        }
        None => return Err(cx.invalid(format!("listener filter {name:?} has no typed_config"))),
    };
    cx.at("typed_config", |cx| {
        let message = message_name(&any);
        if let Some(row) = cx.env.registry.udp_filter(message) {
            return (row.lower)(&any.value, cx);
        }
        if cx.env.registry.listener_filter(message).is_some() {
            return Err(cx.invalid(format!("{message} is a filter of listeners that take connections")));
        }
        let known = cx.env.registry.udp.iter().copied().flatten().map(|row| row.config);
        Err(extension::refuse_unknown("UDP listener filter", message, known, cx))
    })
}

// === impl UdpSocketConfig ===

impl UdpSocketConfig {
    /// Lowers the message; where it does not say, the kernel may join datagrams if `prefers_gro`.
    pub fn lower(
        proto: Option<core::UdpSocketConfig>,
        prefers_gro: bool,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let core::UdpSocketConfig { max_rx_datagram_size, prefer_gro } = proto.unwrap_or_default();
        let max_datagram = match max_rx_datagram_size.map(|size| size.value) {
            None => DEFAULT_DATAGRAM,
            Some(size @ 1..65536) => size as usize,
            Some(_) => return Err(cx.at("max_rx_datagram_size", |cx| cx.invalid("must be from 1 to 65535"))),
        };
        Ok(Self { max_datagram, prefers_gro: prefer_gro.map_or(prefers_gro, |prefer| prefer.value) })
    }
}

impl UdpSocketConfig {
    /// The longest datagram that is taken. Envoy: where the kernel may join datagrams there is room for several, which
    /// one alone may take as well.
    pub fn longest(&self) -> usize {
        if self.prefers_gro { usize::MAX } else { self.max_datagram }
    }
}
