//! `core.v3.Address` where it is an address to listen on, and IP addresses as text.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_telemetry::Address;

use crate::socket::lower_pipe;

/// What is sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sends {
    /// Bytes, over connections.
    Streams,
    /// Datagrams.
    Datagrams,
}

/// An address to bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    /// Whether it is one of TCP or of UDP; paths take connections.
    pub sends: Sends,
    /// IP address and port, or path of a unix-domain socket.
    pub address: Address,
    /// Whether an IPv6 socket takes IPv4 connections too.
    pub ipv4_compat: bool,
    /// Permissions of the socket's file; `None` keeps those of the umask.
    pub mode: Option<u32>,
    /// The file of the network namespace that it is in, if not that of the process.
    pub namespace: Option<Arc<str>>,
}

/// Where one listener alone may listen.
pub type Place<'a> = (Sends, &'a Address, Option<&'a str>);

/// An IP address, that of IPv6 with its scope: a number or the name of an interface.
pub fn parse_ip(host: &str, port: u16) -> Option<SocketAddr> {
    match host.split_once('%') {
        None => Some(SocketAddr::new(host.parse().ok()?, port)),
        Some((ip, scope)) => {
            let of_interface = || std::fs::read_to_string(format!("/sys/class/net/{scope}/ifindex"));
            let is_name = !scope.is_empty() && !scope.contains(['/', '.']);
            let number = scope.parse().ok();
            let number = number.or_else(|| of_interface().ok().filter(|_| is_name)?.trim().parse().ok())?;
            Some(SocketAddrV6::new(ip.parse().ok()?, port, 0, number).into())
        }
    }
}

impl ListenAddress {
    /// The place that it takes, in its network namespace; none at port 0, which is another port each time.
    pub fn place(&self) -> Option<Place<'_>> {
        let is_fixed = self.address.port() != Some(0);
        is_fixed.then_some((self.sends, &self.address, self.namespace.as_deref()))
    }

    /// Lowers the address of a listener.
    pub fn lower(proto: core::Address, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        use core::address::Address as Oneof;
        match proto.address {
            None => Err(cx.invalid("an address is required")),
            Some(Oneof::SocketAddress(proto)) => cx.at("socket_address", |cx| {
                use core::socket_address::Protocol;
                let sends = match Protocol::try_from(proto.protocol) {
                    Ok(Protocol::Tcp) => Sends::Streams,
                    Ok(Protocol::Udp) => Sends::Datagrams,
                    Err(_) => return Err(cx.at("protocol", |cx| cx.invalid("is not a protocol"))),
                };
                let ipv4_compat = proto.ipv4_compat;
                let path = proto.network_namespace_filepath.clone();
                let address = socket_address(proto, cx)?;
                let takes_ipv4 = |address: Ipv6Addr| address.is_unspecified() || address.to_ipv4_mapped().is_some();
                if ipv4_compat && !matches!(address.ip(), IpAddr::V6(address) if takes_ipv4(address)) {
                    let reason = "only `::` and IPv4 addresses that are mapped into IPv6 can be open to IPv4";
                    return Err(cx.at("ipv4_compat", |cx| cx.invalid(reason)));
                }
                let address = address.into();
                let namespace = (!path.is_empty()).then(|| path.into());
                Ok(Self { sends, address, ipv4_compat, mode: None, namespace })
            }),
            Some(Oneof::Pipe(proto)) => cx.at("pipe", |cx| Self::lower_pipe(proto, cx)),
            Some(Oneof::EnvoyInternalAddress(_)) => {
                cx.at("envoy_internal_address", |cx| Err(cx.not_implemented("an internal address")))
            }
        }
    }

    fn lower_pipe(proto: core::Pipe, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let core::Pipe { path, mode } = proto;
        if path.starts_with('@') && mode != 0 {
            return Err(cx.at("mode", |cx| cx.invalid("an abstract socket has no file, so no mode")));
        }
        if mode > 0o777 {
            return Err(cx.at("mode", |cx| cx.invalid("is not a set of permission bits (0 to 0777)")));
        }
        if path.is_empty() || path.contains('\0') {
            return Err(cx.at("path", |cx| cx.invalid("must be a path without zero bytes")));
        }
        let address = lower_pipe(&path, cx)?;
        let mode = (mode != 0).then_some(mode);
        Ok(Self { sends: Sends::Streams, address, ipv4_compat: false, mode, namespace: None })
    }
}

/// Lowers an IP address with port.
fn socket_address(proto: core::SocketAddress, cx: &mut LowerCx<'_>) -> Result<SocketAddr, Refused> {
    use core::socket_address::PortSpecifier;
    let core::SocketAddress {
        // Looked at by the caller.
        protocol: _,
        address,
        resolver_name,
        ipv4_compat: _,
        // `ListenAddress` has it.
        network_namespace_filepath: _,
        port_specifier,
    } = proto;
    if !matches!(&*resolver_name, "" | "envoy.ip") {
        return Err(cx.at("resolver_name", |cx| cx.not_implemented(format_args!("the resolver {resolver_name:?}"))));
    }
    let port = match port_specifier {
        None => return Err(cx.invalid("a port_value is required")),
        Some(PortSpecifier::NamedPort(_)) => {
            return Err(cx.at("named_port", |cx| cx.invalid("an IP address takes a port_value, not a named port")));
        }
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(port).map_err(|_| cx.at("port_value", |cx| cx.invalid("is not a port (0 to 65535)")))?
        }
    };
    let ip: IpAddr = address.parse().map_err(|_| {
        let reason =
            format!("malformed IP address {address:?}; host names work in STRICT_DNS and LOGICAL_DNS clusters");
        cx.at("address", |cx| cx.invalid(reason))
    })?;
    Ok(SocketAddr::new(ip, port))
}
/// The message that says `address`.
pub fn to_proto(address: &Address) -> core::Address {
    use core::address::Address as Oneof;
    use core::envoy_internal_address::AddressNameSpecifier;
    use core::socket_address::PortSpecifier;
    let oneof = match address {
        Address::Ip(ip) => Oneof::SocketAddress(core::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(ip.port().into())),
            ..core::SocketAddress::default()
        }),
        Address::Pipe(path) => Oneof::Pipe(core::Pipe { path: path.to_string(), mode: 0 }),
        Address::Internal(internal) => Oneof::EnvoyInternalAddress(core::EnvoyInternalAddress {
            endpoint_id: internal.endpoint.to_string(),
            address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(internal.listener.to_string())),
        }),
    };
    core::Address { address: Some(oneof) }
}
