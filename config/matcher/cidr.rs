use std::net::IpAddr;

use nuncio_filter_api::{LowerCx, Refused};

/// `CidrRange`: an IP prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    len: u8,
}

impl Cidr {
    /// Reads the fields of the message; without a length every address of the family is in the range.
    pub fn lower(address: &str, len: Option<u32>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let address = address.parse().map_err(|_| cx.invalid(format!("{address:?} is not an IP address")))?;
        Ok(Self { address, len: len.map_or(0, |len| u8::try_from(len).unwrap_or(u8::MAX)) })
    }

    /// Whether `ip` is in the range; an IPv4-mapped IPv6 address counts as IPv4.
    pub fn contains(self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.len.min(32));
                (u64::from(u32::from(net) ^ u32::from(ip)) >> shift) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.len.min(128));
                (u128::from(net) ^ u128::from(ip)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}
