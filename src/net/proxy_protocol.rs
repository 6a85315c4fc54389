//! The header of the PROXY protocol, as it is sent: it tells a host who the peers of the connection before it are.

use std::net::{IpAddr, SocketAddr};

/// Who a header speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxiedEnds {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// A value of the second version's, and its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tlv<'a> {
    /// One of the specification's, or of one's own.
    pub kind: u8,
    /// What it says.
    pub value: &'a [u8],
}

const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of another.
const PROXY: u8 = 0x21;
/// Version 2, on one's own behalf.
const LOCAL: u8 = 0x20;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// Bytes of type and length before each value.
const TLV_HEAD: usize = 3;

/// A header of version 1; `None`: who the peers are is not known, or they have no addresses of this protocol.
pub fn proxy_v1(ends: Option<ProxiedEnds>) -> Vec<u8> {
    let Some(ends) = ends.map(ProxiedEnds::of_one_family) else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let ProxiedEnds { source, destination } = ends;
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

/// A header of version 2 with these values, those that fit; `None`: the connection is the proxy's own.
pub fn proxy_v2(ends: Option<ProxiedEnds>, tlvs: &[Tlv<'_>]) -> Vec<u8> {
    let mut header = SIGNATURE_V2.to_vec();
    let mut rest = Vec::new();
    match ends.map(ProxiedEnds::of_one_family) {
        None => header.extend([LOCAL, 0]),
        Some(ProxiedEnds { source, destination }) => {
            header.extend([PROXY, if source.is_ipv4() { TCP_OVER_IPV4 } else { TCP_OVER_IPV6 }]);
            for end in [source, destination] {
                match end.ip() {
                    IpAddr::V4(ip) => rest.extend(ip.octets()),
                    IpAddr::V6(ip) => rest.extend(ip.octets()),
                }
            }
            rest.extend(source.port().to_be_bytes());
            rest.extend(destination.port().to_be_bytes());
        }
    }
    for tlv in tlvs {
        let (Ok(length), room) = (u16::try_from(tlv.value.len()), usize::from(u16::MAX) - rest.len()) else { continue };
        if TLV_HEAD + tlv.value.len() > room {
            continue;
        }
        rest.push(tlv.kind);
        rest.extend(length.to_be_bytes());
        rest.extend(tlv.value);
    }
    header.extend(u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend(rest);
    header
}

// === impl ProxiedEnds ===

impl ProxiedEnds {
    /// A header has one family for both ends: where they differ, which only a listener filter can bring about, both are
    /// told as IPv6.
    fn of_one_family(self) -> Self {
        let Self { source, destination } = self;
        if source.is_ipv4() == destination.is_ipv4() {
            return self;
        }
        Self { source: mapped(source), destination: mapped(destination) }
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Option<ProxiedEnds> {
        Some(ProxiedEnds { source: source.parse().unwrap(), destination: destination.parse().unwrap() })
    }

    #[test]
    fn version_1_is_a_line_of_text() {
        let v4 = proxy_v1(ends("1.2.3.4:5", "10.0.0.1:65535"));
        assert_eq!(v4, b"PROXY TCP4 1.2.3.4 10.0.0.1 5 65535\r\n");
        assert_eq!(proxy_v1(ends("[1::2]:5", "[::1]:6")), b"PROXY TCP6 1::2 ::1 5 6\r\n");
        assert_eq!(proxy_v1(None), b"PROXY UNKNOWN\r\n");
    }

    #[test]
    fn version_2_is_binary() {
        let v4 = proxy_v2(ends("1.2.3.4:5", "10.0.0.1:258"), &[]);
        assert_eq!(v4, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x02\x03\x04\x0a\0\0\x01\0\x05\x01\x02");
        let v6 = proxy_v2(ends("[::1]:5", "[::2]:6"), &[]);
        assert_eq!(v6[12..16], [0x21, 0x21, 0, 36]);
        assert_eq!(v6.len(), 16 + 36);
        assert_eq!(proxy_v2(None, &[]), b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    }

    #[test]
    fn values_follow_the_addresses() {
        let header = proxy_v2(None, &[Tlv { kind: 0xea, value: b"ab" }, Tlv { kind: 4, value: b"" }]);
        assert_eq!(header[14..], *b"\0\x08\xea\0\x02ab\x04\0\0");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let value = vec![0; 65_535];
        let small = Tlv { kind: 2, value: b"x" };
        assert_eq!(proxy_v2(None, &[Tlv { kind: 1, value: &value }, small])[14..], *b"\0\x04\x02\0\x01x");
        let most = proxy_v2(None, &[Tlv { kind: 1, value: &value[..65_532] }, small]);
        assert_eq!((most[14..17].to_vec(), most.len()), (vec![0xff, 0xff, 1], 16 + 65_535));
    }

    #[test]
    fn ends_of_different_families_are_told_as_one() {
        let header = proxy_v1(ends("1.2.3.4:5", "[::1]:6"));
        assert_eq!(header, b"PROXY TCP6 ::ffff:1.2.3.4 ::1 5 6\r\n");
    }
}
