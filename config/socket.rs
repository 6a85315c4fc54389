//! Addresses and socket options, as listeners and upstream connections share them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as pb;
use nuncio_proto::envoy::config::core::v3::socket_option::{SocketIpVersion, SocketState};
use nuncio_telemetry::Address;

use crate::protocol::message_name;

/// When in the life of a socket an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketPhase {
    /// After creation, before bind.
    PreBind,
    /// After bind, before listen.
    Bound,
    /// After listen.
    Listening,
}

/// The value of a socket option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketValue {
    /// A C `int`.
    Int(i32),
    /// Bytes as they are.
    Bytes(Arc<[u8]>),
}

/// One call of setsockopt(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    /// Level, such as IPPROTO_TCP.
    pub level: i32,
    /// Number of the option.
    pub name: i32,
    /// Its value.
    pub value: SocketValue,
    /// When it is set.
    pub phase: SocketPhase,
    /// Stream sockets have it; others if `datagram`.
    pub stream: bool,
    /// Datagram sockets have it.
    pub datagram: bool,
    /// IPv4 sockets have it.
    pub ipv4: bool,
    /// IPv6 sockets have it.
    pub ipv6: bool,
}

/// TCP keep-alive; what is `None` is left to the operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpKeepalive {
    /// Unanswered probes after which the connection is dead.
    pub probes: Option<u32>,
    /// Seconds of silence before the first probe.
    pub time: Option<u32>,
    /// Seconds between probes.
    pub interval: Option<u32>,
}

/// How upstream sockets are bound.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BindConfig {
    /// Local address; port 0 lets the kernel choose.
    pub source: Option<SocketAddr>,
    /// That of the other IP version.
    pub extra: Option<ExtraSource>,
    /// IP_FREEBIND on or off; `None` leaves it alone.
    pub freebind: Option<bool>,
    /// Further options.
    pub options: Vec<SocketOption>,
}

/// An address for targets of the other IP version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraSource {
    /// Local address; port 0 lets the kernel choose.
    pub source: SocketAddr,
    /// Options instead of those of the [`BindConfig`].
    pub options: Option<Vec<SocketOption>>,
}

// === impl SocketOption ===

impl SocketOption {
    /// Lowers one option.
    pub fn lower(proto: pb::SocketOption, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // The description is for the reader of the configuration alone.
        let pb::SocketOption { description: _, level, name, state, r#type, ip_version, value } = proto;
        let phase = match SocketState::try_from(state) {
            Ok(SocketState::StatePrebind) => SocketPhase::PreBind,
            Ok(SocketState::StateBound) => SocketPhase::Bound,
            Ok(SocketState::StateListening) => SocketPhase::Listening,
            Err(_) => return Err(cx.at("state", |cx| cx.invalid("is no state of a socket"))),
        };
        let value = match value {
            Some(pb::socket_option::Value::IntValue(v)) => SocketValue::Int(lower_int("int_value", v, cx)?),
            Some(pb::socket_option::Value::BufValue(v)) => SocketValue::Bytes(v.into()),
            None => return Err(cx.invalid("needs int_value or buf_value")),
        };
        // Envoy: stream takes precedence over datagram where both are set.
        let (stream, datagram) = match r#type {
            None | Some(pb::socket_option::SocketType { stream: None, datagram: None }) => (true, true),
            Some(pb::socket_option::SocketType { stream, datagram: _ }) => (stream.is_some(), stream.is_none()),
        };
        let version = SocketIpVersion::try_from(ip_version).unwrap_or(SocketIpVersion::Unspecified);
        Ok(Self {
            level: lower_int("level", level, cx)?,
            name: lower_int("name", name, cx)?,
            value,
            phase,
            stream,
            datagram,
            ipv4: version != SocketIpVersion::Ipv6,
            ipv6: version != SocketIpVersion::Ipv4,
        })
    }
}

fn lower_int(field: &str, value: i64, cx: &mut LowerCx<'_>) -> Result<i32, Refused> {
    i32::try_from(value).map_err(|_| cx.at(field, |cx| cx.invalid("does not fit the 32 bits that the kernel takes")))
}

// === impl TcpKeepalive ===

impl TcpKeepalive {
    /// Lowers keep-alive settings. `None` where a zero turns keep-alive off.
    pub fn lower(proto: pb::TcpKeepalive) -> Option<Self> {
        let pb::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = proto;
        let [probes, time, interval] =
            [keepalive_probes, keepalive_time, keepalive_interval].map(|v| v.map(|v| v.value));
        let disabled = [probes, time, interval].contains(&Some(0));
        (!disabled).then_some(Self { probes, time, interval })
    }
}

// === impl BindConfig ===

impl BindConfig {
    /// Lowers the bind settings of upstream connections.
    pub fn lower(proto: pb::BindConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::BindConfig {
            source_address,
            freebind,
            socket_options,
            extra_source_addresses,
            additional_source_addresses,
            local_address_selector,
            validate_network_namespaces,
        } = proto;
        let selector = cx.opt("local_address_selector", local_address_selector, check_selector);
        let supported = crate::refuse_set!(cx; validate_network_namespaces).and(selector);
        let source = cx.opt("source_address", source_address, lower_source);
        let options = cx.each("socket_options", socket_options, lower_upstream_option);
        let extra = cx.each("extra_source_addresses", extra_source_addresses, ExtraSource::lower);
        // The same in the words of an older API.
        let additional = cx.each("additional_source_addresses", additional_source_addresses, |address, cx| {
            let source = lower_source(address, cx)?.ok_or_else(|| cx.invalid("an address is required"))?;
            Ok(ExtraSource { source, options: None })
        });
        supported?;
        let (source, mut extra) = (source?.flatten(), extra?);
        extra.extend(additional?);
        check_sources(source, &extra, cx)?;
        let extra = extra.pop();
        Ok(Self { source, extra, freebind: freebind.map(|b| b.value), options: options? })
    }

    /// The address to bind to before connecting to `to`, and the options to set: of the extra address, where that alone
    /// is of the version of `to`.
    pub fn for_target(&self, to: IpAddr) -> (Option<SocketAddr>, &[SocketOption]) {
        match (&self.source, &self.extra) {
            (Some(source), Some(extra)) if source.is_ipv4() != to.is_ipv4() => {
                (Some(extra.source), extra.options.as_deref().unwrap_or(&self.options))
            }
            (source, _) => (*source, &self.options),
        }
    }
}

impl ExtraSource {
    fn lower(proto: pb::ExtraSourceAddress, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::ExtraSourceAddress { address, socket_options } = proto;
        let source = cx.opt("address", address, lower_source);
        let options = cx.opt("socket_options", socket_options, |options, cx| {
            let pb::SocketOptionsOverride { socket_options } = options;
            cx.each("socket_options", socket_options, lower_upstream_option)
        });
        let source = source?.flatten().ok_or_else(|| cx.at("address", |cx| cx.invalid("an address is required")))?;
        Ok(Self { source, options: options? })
    }
}

/// Accepts the choice that is made without a word.
fn check_selector(proto: pb::TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    const DEFAULT: &str = "envoy.config.upstream.local_address_selector.v3.DefaultLocalAddressSelector";
    let pb::TypedExtensionConfig { name: _, typed_config } = proto;
    let any = typed_config.unwrap_or_default();
    match message_name(&any) {
        DEFAULT => Ok(()),
        other => Err(cx.not_implemented(format!("local address selector {other}"))),
    }
}

/// Envoy's default choice is by IP version, and knows of one address for each.
fn check_sources(source: Option<SocketAddr>, extra: &[ExtraSource], cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let reason = match (source, extra) {
        (_, []) => return Ok(()),
        (None, _) => "there are extra source addresses, but no source_address",
        (_, [_, _, ..]) => "more than one extra source address",
        (Some(source), [extra]) if source.is_ipv4() == extra.source.is_ipv4() => {
            "source_address and the extra source address have the same IP version"
        }
        (Some(_), [_]) => return Ok(()),
    };
    Err(cx.invalid(reason))
}

fn lower_source(proto: pb::SocketAddress, cx: &mut LowerCx<'_>) -> Result<Option<SocketAddr>, Refused> {
    let AddressConfig { host, port } = AddressConfig::lower(proto, cx)?;
    // Envoy: "If the address and port are empty, no bind will be performed."
    if host.is_empty() && port == 0 {
        return Ok(None);
    }
    match host.parse::<IpAddr>() {
        Ok(ip) => Ok(Some(SocketAddr::new(ip, port))),
        Err(_) => Err(cx.at("address", |cx| cx.invalid(format!("malformed IP address: {host}")))),
    }
}

fn lower_upstream_option(option: pb::SocketOption, cx: &mut LowerCx<'_>) -> Result<SocketOption, Refused> {
    let option = SocketOption::lower(option, cx)?;
    if option.phase == SocketPhase::Listening {
        return Err(cx.at("state", |cx| cx.invalid("an upstream socket never listens")));
    }
    Ok(option)
}

/// Host and port of a `SocketAddress`, not yet resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AddressConfig {
    /// IP literal or DNS name.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
}

impl AddressConfig {
    /// Lowers a `SocketAddress` of TCP.
    pub(crate) fn lower(proto: pb::SocketAddress, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::SocketAddress {
            protocol,
            address,
            resolver_name,
            ipv4_compat,
            network_namespace_filepath,
            port_specifier,
        } = proto;
        if protocol == pb::socket_address::Protocol::Udp as i32 {
            return Err(cx.at("protocol", |cx| cx.not_implemented("UDP")));
        }
        crate::refuse_set!(cx; resolver_name, ipv4_compat, network_namespace_filepath)?;
        let port = match port_specifier {
            Some(pb::socket_address::PortSpecifier::PortValue(port)) => {
                u16::try_from(port).map_err(|_| cx.at("port_value", |cx| cx.invalid("a port is at most 65535")))?
            }
            Some(pb::socket_address::PortSpecifier::NamedPort(_)) => {
                return Err(cx.at("named_port", |cx| cx.invalid("a port is a port_value here, not a name")));
            }
            None => 0,
        };
        Ok(Self { host: address, port })
    }
}

/// Lowers the path of a unix-domain socket; an abstract one starts with `@`.
pub(crate) fn lower_pipe(path: &str, cx: &mut LowerCx<'_>) -> Result<Address, Refused> {
    // sun_path holds 108 bytes, a terminating zero among them.
    const MAX: usize = 107;
    if path.len() > MAX {
        return Err(cx.at("path", |cx| {
            cx.invalid(format!("path {path:?} exceeds maximum UNIX domain socket path size of {MAX}"))
        }));
    }
    Ok(Address::Pipe(path.into()))
}
