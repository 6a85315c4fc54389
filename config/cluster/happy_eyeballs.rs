use std::net::SocketAddr;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::upstream_connection_options::{
    FirstAddressFamilyVersion, HappyEyeballsConfig,
};

/// In which order the addresses of one host are tried: RFC 8305 §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HappyEyeballs {
    /// Whether IPv4 comes first; `None` lets the first address say.
    pub ipv4_first: Option<bool>,
    /// So many of the family that comes first stand before each of the other.
    pub first_count: u32,
}

impl Default for HappyEyeballs {
    fn default() -> Self {
        Self { ipv4_first: None, first_count: 1 }
    }
}

impl HappyEyeballs {
    pub(super) fn lower(proto: HappyEyeballsConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let HappyEyeballsConfig { first_address_family_version, first_address_family_count } = proto;
        let ipv4_first = match FirstAddressFamilyVersion::try_from(first_address_family_version) {
            Ok(FirstAddressFamilyVersion::V4) => Some(true),
            Ok(FirstAddressFamilyVersion::V6) => Some(false),
            // Envoy: the other kinds of addresses say nothing of the order.
            Ok(_) => None,
            Err(_) => return Err(cx.at("first_address_family_version", |cx| cx.invalid("is no version"))),
        };
        Ok(Self { ipv4_first, first_count: first_address_family_count.map_or(1, |count| count.value) })
    }

    /// `addresses` in the order in which they are tried.
    pub fn sort(self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let Some(first) = addresses.first() else { return Vec::new() };
        let ipv4_first = self.ipv4_first.unwrap_or(first.is_ipv4());
        let (first, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
            addresses.iter().partition(|a| a.is_ipv4() == ipv4_first);
        let (mut first, mut other) = (first.into_iter(), other.into_iter());
        let mut sorted = Vec::with_capacity(addresses.len());
        while sorted.len() < addresses.len() {
            sorted.extend(first.by_ref().take(self.first_count.max(1) as usize));
            sorted.extend(other.next());
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(config: HappyEyeballs, addresses: &[&str], expected: &[&str]) {
        let parse = |list: &[&str]| list.iter().map(|a| a.parse().unwrap()).collect::<Vec<SocketAddr>>();
        assert_eq!(config.sort(&parse(addresses)), parse(expected), "{config:?}");
    }

    #[test]
    fn families_take_turns() {
        let (a, b, c, d, e) = ("1.1.1.1:1", "1.1.1.2:1", "1.1.1.3:1", "[::1]:1", "[::2]:1");
        let default = HappyEyeballs::default();
        check(default, &[a, b, c, d, e], &[a, d, b, e, c]);
        check(default, &[d, e, a, b, c], &[d, a, e, b, c]);
        check(default, &[a, b], &[a, b]);
        let two_of_v4 = HappyEyeballs { ipv4_first: Some(true), first_count: 2 };
        check(two_of_v4, &[d, e, a, b, c], &[a, b, d, c, e]);
        check(two_of_v4, &[d, e], &[d, e]);
        check(HappyEyeballs { ipv4_first: Some(false), first_count: 1 }, &[a, d], &[d, a]);
    }
}
