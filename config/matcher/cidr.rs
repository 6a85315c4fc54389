use std::net::IpAddr;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as envoy;
use nuncio_proto::xds::core::v3 as xds;

/// `CidrRange`: an IP prefix, whose other bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    pub(crate) network: u128,
    pub(crate) len: u8,
    pub(crate) is_v4: bool,
}

impl Cidr {
    /// Lowers Envoy's message.
    pub fn lower(range: envoy::CidrRange, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let envoy::CidrRange { address_prefix, prefix_len } = range;
        Self::new(&address_prefix, prefix_len.map(|len| len.value), cx)
    }

    /// Lowers the message of xDS, which says the same.
    pub(crate) fn lower_xds(range: xds::CidrRange, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let xds::CidrRange { address_prefix, prefix_len } = range;
        Self::new(&address_prefix, prefix_len.map(|len| len.value), cx)
    }

    /// Envoy: no length is none at all, and one that is too long stands for the whole address.
    fn new(address: &str, len: Option<u32>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Ok(address) = address.parse::<IpAddr>() else {
            return Err(cx.at("address_prefix", |cx| cx.invalid(format!("{address:?} is no IP address"))));
        };
        let (bits, width) = bits(address);
        let len = len.map_or(0, |len| u8::try_from(len).unwrap_or(u8::MAX)).min(width);
        Ok(Self { network: Self::network(bits, len, width), len, is_v4: address.is_ipv4() })
    }

    /// Whether `ip` is in the range; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        let (bits, width) = bits(ip);
        ip.is_ipv4() == self.is_v4 && Self::network(bits, self.len, width) == self.network
    }

    /// The first `len` of the `width` bits of an address; the others are 0.
    pub(crate) fn network(bits: u128, len: u8, width: u8) -> u128 {
        let host = u32::from(width - len);
        bits.checked_shr(host).map_or(0, |network| network << host)
    }
}

/// The bits of an address, and how many there are.
pub(crate) fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
        IpAddr::V6(address) => (u128::from(address), 128),
    }
}
