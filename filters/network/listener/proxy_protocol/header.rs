//! The header of the PROXY protocol, both versions (proxy-protocol.txt of HAProxy), as Envoy reads it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use nuncio_config::address::parse_ip;

/// Bytes that are looked at first: a line of version 1 fits, as do the addresses of version 2.
pub(super) const FIRST_LOOK: usize = 256;

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Of version 2: signature, version and command, family, length.
const FIXED: usize = 16;
/// How long Envoy lets a line of version 1 be, with its end.
const MAX_LINE: usize = 108;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// They may become a header; so many are needed at least.
    More(usize),
    /// No header.
    Nothing,
    /// A header that is malformed, or speaks of something else than TCP.
    Broken(Version),
    Header(Version, Header),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The client and where it connected to; `None`: those of the connection itself.
    pub(super) ends: Option<(SocketAddr, SocketAddr)>,
    pub(super) tlvs: Vec<Tlv>,
    /// Bytes it takes.
    pub(super) length: usize,
}

/// A value, and its type.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tlv {
    pub(super) kind: u8,
    pub(super) value: Box<[u8]>,
}

impl Version {
    pub(super) fn signature(self) -> &'static [u8] {
        match self {
            Self::V1 => SIGNATURE_V1,
            Self::V2 => SIGNATURE_V2,
        }
    }
}

/// Reads what is there of a header.
pub(super) fn parse(bytes: &[u8]) -> Found {
    if bytes.len() >= FIXED {
        if bytes.starts_with(SIGNATURE_V2) {
            return parse_v2(bytes);
        }
        if !bytes.starts_with(SIGNATURE_V1) {
            return Found::Nothing;
        }
    }
    // A header of version 2 begins with the end of a line.
    let end = bytes.windows(2).skip(1).position(|pair| pair == b"\r\n").map(|at| at + 3);
    match end {
        Some(end) if end > MAX_LINE => Found::Broken(Version::V1),
        // Too short for version 2, whose signature has such a line in it.
        Some(_) if bytes.len() < FIXED && SIGNATURE_V2.starts_with(&bytes[..bytes.len().min(12)]) => Found::More(FIXED),
        Some(end) => parse_v1(&bytes[..end]).map_or(Found::Broken(Version::V1), |h| Found::Header(Version::V1, h)),
        None if bytes.len() > MAX_LINE => Found::Nothing,
        None => Found::More(bytes.len() + 1),
    }
}

fn parse_v1(line: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(line).ok()?.trim_end();
    let words: Vec<&str> = text.split(' ').collect();
    if *words.first()? != "PROXY" {
        return None;
    }
    let ends = match (*words.get(1)?, &words[2..]) {
        ("UNKNOWN", _) => None,
        (family @ ("TCP4" | "TCP6"), [source, destination, source_port, destination_port]) => {
            let address = |ip: &str, port: &str| {
                // The port may have a plus before it, as it may in Envoy.
                parse_ip(ip, port.parse().ok()?).filter(|address| address.is_ipv4() == (family == "TCP4"))
            };
            Some(unicast(address(source, source_port)?, address(destination, destination_port)?)?)
        }
        _ => return None,
    };
    Some(Header { ends, tlvs: Vec::new(), length: line.len() })
}

fn parse_v2(bytes: &[u8]) -> Found {
    let broken = Found::Broken(Version::V2);
    let (version, command) = (bytes[12] >> 4, bytes[12] & 0x0f);
    let (family, transport) = (bytes[13] >> 4, bytes[13] & 0x0f);
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    // 0: on its own behalf; 1: on behalf of another.
    let addresses = match (command, family) {
        (0, _) => 0,
        (_, 1) => 12,
        (_, 2) => 36,
        _ => return broken,
    };
    if version != 2 || length < addresses || command > 1 || (command == 1 && !(1..=2).contains(&transport)) {
        return broken;
    }
    let whole = FIXED + length;
    let Some(body) = bytes.get(FIXED..whole) else { return Found::More(whole) };
    let header = || {
        if command == 0 {
            return Some(Header { ends: None, tlvs: Vec::new(), length: whole });
        }
        let (addresses, rest) = body.split_at_checked(addresses)?;
        let ends = if family == 1 { ends::<4>(addresses)? } else { ends::<16>(addresses)? };
        Some(Header { tlvs: tlvs(rest)?, ends: Some(unicast(ends.0, ends.1)?), length: whole })
    };
    header().map_or(broken, |header| Found::Header(Version::V2, header))
}

/// Two addresses of `N` bytes, then two ports.
fn ends<const N: usize>(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = bytes.split_first_chunk::<N>()?;
    let (destination, rest) = rest.split_first_chunk::<N>()?;
    let [a, b, c, d] = *rest else { return None };
    let source = SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes([a, b]));
    Some((source, SocketAddr::new(IpAddr::from(*destination), u16::from_be_bytes([c, d]))))
}

/// The ends of a TCP connection are hosts, each of them one.
fn unicast(source: SocketAddr, destination: SocketAddr) -> Option<(SocketAddr, SocketAddr)> {
    let is_one = |address: SocketAddr| {
        let ip = address.ip();
        !ip.is_multicast() && !ip.is_unspecified() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
    };
    (is_one(source) && is_one(destination)).then_some((source, destination))
}

fn tlvs(mut rest: &[u8]) -> Option<Vec<Tlv>> {
    let mut all = Vec::new();
    while let Some((kind, after)) = rest.split_first() {
        let (length, after) = after.split_first_chunk::<2>()?;
        let (value, after) = after.split_at_checked(u16::from_be_bytes(*length).into())?;
        all.push(Tlv { kind: *kind, value: value.into() });
        rest = after;
    }
    Some(all)
}

#[cfg(test)]
mod tests;
