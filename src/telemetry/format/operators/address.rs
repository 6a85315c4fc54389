//! Operators that print one end of a connection.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::Address;
use crate::format::FormatCx;
use crate::format::escape::push_int;

use super::{Form, Written};

/// Which address.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    UpstreamHost,
    UpstreamLocal,
    UpstreamRemote,
    DownstreamRemote,
    DownstreamDirectRemote,
    DownstreamLocal,
    DownstreamDirectLocal,
}

/// Which part of it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Whole,
    WithoutPort(Mask),
    Port,
}

/// The argument of `%..._WITHOUT_PORT(MASK_PREFIX_LEN)%`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mask {
    /// The whole address.
    None,
    /// The address in CIDR notation, its other bits cleared; a length too long for the family counts as all of it.
    Prefix(u8),
    /// A negative number, for which Envoy prints nothing.
    Nothing,
}

impl Mask {
    /// Envoy takes what is no number for no argument.
    pub(super) fn parse(argument: &str) -> Self {
        match argument.parse::<i64>() {
            Ok(n) if n < 0 => Self::Nothing,
            Ok(n) => Self::Prefix(u8::try_from(n).unwrap_or(u8::MAX)),
            Err(_) => Self::None,
        }
    }
}

/// An address operator.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressOp {
    pub(super) end: End,
    pub(super) part: Part,
}

impl AddressOp {
    pub(super) fn write(self, cx: &FormatCx<'_>, form: Form, out: &mut Vec<u8>) -> Written {
        let info = cx.info;
        let connection = &info.connection;
        let of = |address: Option<&Address>, out: &mut Vec<u8>| match address {
            // A record of no connection has none.
            Some(Address::Pipe(path)) if path.is_empty() => Written::Missing,
            Some(address) => self.part.write(address, form, out),
            None => Written::Missing,
        };
        match self.end {
            End::UpstreamHost => of(info.upstream.borrow().host.as_ref(), out),
            End::UpstreamLocal => of(info.upstream.borrow().local.as_ref(), out),
            End::UpstreamRemote => of(info.upstream.borrow().remote.as_ref(), out),
            End::DownstreamRemote => of(Some(&info.remote.borrow()), out),
            End::DownstreamDirectRemote => of(Some(&connection.direct_remote), out),
            End::DownstreamLocal => of(Some(&connection.local), out),
            End::DownstreamDirectLocal => of(Some(&connection.direct_local), out),
        }
    }
}

impl Part {
    fn write(self, address: &Address, form: Form, out: &mut Vec<u8>) -> Written {
        match self {
            Self::Whole => push(address, out),
            Self::WithoutPort(Mask::None) => push_without_port(address, out),
            Self::WithoutPort(Mask::Nothing) => {}
            Self::WithoutPort(Mask::Prefix(length)) => match address.ip() {
                Some(ip) => push_masked(ip, length, out),
                None => push(address, out),
            },
            Self::Port => {
                return match address.port() {
                    Some(port) => {
                        push_int(out, port);
                        Written::Json
                    }
                    // A unix-domain socket has no port: nothing in text, null in JSON.
                    None if form == Form::Text => Written::Text,
                    None => Written::Missing,
                };
            }
        }
        Written::Text
    }
}

/// Appends an address with its port: `1.2.3.4:80`, `[::1]:80`, or the path.
pub(super) fn push(address: &Address, out: &mut Vec<u8>) {
    match address {
        Address::Ip(socket) => {
            let brackets = socket.is_ipv6();
            if brackets {
                out.push(b'[');
            }
            push_host(socket, out);
            if brackets {
                out.push(b']');
            }
            out.push(b':');
            push_int(out, socket.port());
        }
        Address::Pipe(path) => out.extend_from_slice(path.as_bytes()),
        Address::Internal(_) => write!(out, "{address}").expect("writing to a Vec cannot fail"),
    }
}

/// Appends an address without its port.
pub(super) fn push_without_port(address: &Address, out: &mut Vec<u8>) {
    match address {
        Address::Ip(socket) => push_host(socket, out),
        Address::Pipe(_) | Address::Internal(_) => push(address, out),
    }
}

/// The IP address, with its scope where it has one.
fn push_host(socket: &SocketAddr, out: &mut Vec<u8>) {
    push_ip(socket.ip(), out);
    if let SocketAddr::V6(v6) = socket
        && v6.scope_id() != 0
    {
        out.push(b'%');
        push_int(out, v6.scope_id());
    }
}

fn push_ip(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        // Not by Display, which goes through a padding buffer; this line is in most access logs.
        IpAddr::V4(v4) => {
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                push_int(out, octet);
            }
        }
        IpAddr::V6(v6) => write!(out, "{v6}").expect("writing to a Vec cannot fail"),
    }
}

fn push_masked(ip: IpAddr, length: u8, out: &mut Vec<u8>) {
    let (masked, length) = match ip {
        IpAddr::V4(v4) => {
            let length = length.min(32);
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask)), length)
        }
        IpAddr::V6(v6) => {
            let length = length.min(128);
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            (IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask)), length)
        }
    };
    push_ip(masked, out);
    out.push(b'/');
    push_int(out, length);
}
