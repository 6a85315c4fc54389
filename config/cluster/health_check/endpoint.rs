use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::endpoint::v3::endpoint::HealthCheckConfig;
use nuncio_telemetry::Address;

use crate::socket::{AddressConfig, lower_pipe};

/// How one endpoint is checked otherwise than its cluster says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointCheck {
    /// Whether it is not checked at all.
    pub is_disabled: bool,
    /// The host that a check names; empty takes that of the cluster's check.
    pub hostname: Arc<str>,
    /// Where it is checked, if not where it serves.
    pub address: Option<Address>,
    /// The port where it is checked, if not that of the address.
    pub port: Option<u16>,
}

// === impl EndpointCheck ===

impl EndpointCheck {
    pub(in crate::cluster) fn lower(proto: HealthCheckConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let HealthCheckConfig { port_value, hostname, address, disable_active_health_check } = proto;
        let port =
            u16::try_from(port_value).map_err(|_| cx.at("port_value", |cx| cx.invalid("must be no more than 65535")));
        let address = cx.opt("address", address, lower_address);
        Ok(Self {
            is_disabled: disable_active_health_check,
            hostname: hostname.into(),
            address: address?,
            port: port.map(|port| (port > 0).then_some(port))?,
        })
    }

    /// Where a host that serves at `address` is checked.
    pub fn address_of(&self, address: &Address) -> Address {
        match (self.address.as_ref().unwrap_or(address), self.port) {
            (Address::Ip(ip), Some(port)) => SocketAddr::new(ip.ip(), port).into(),
            (other, _) => other.clone(),
        }
    }
}

fn lower_address(proto: core::Address, cx: &mut LowerCx<'_>) -> Result<Address, Refused> {
    match proto.address {
        Some(core::address::Address::SocketAddress(address)) => cx.at("socket_address", |cx| {
            let AddressConfig { host, port } = AddressConfig::lower(address, cx)?;
            match host.parse::<IpAddr>() {
                Ok(ip) => Ok(SocketAddr::new(ip, port).into()),
                Err(_) => Err(cx.at("address", |cx| cx.invalid(format!("malformed IP address: {host}")))),
            }
        }),
        Some(core::address::Address::Pipe(core::Pipe { path, mode: _ })) => cx.at("pipe", |cx| lower_pipe(&path, cx)),
        Some(core::address::Address::EnvoyInternalAddress(_)) => {
            Err(cx.at("envoy_internal_address", |cx| cx.not_implemented("an internal address")))
        }
        None => Err(cx.invalid("needs a socket_address or pipe")),
    }
}
