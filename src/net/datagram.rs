//! Datagrams, many in one system call.
//!
//! Own code over libc: quinn-udp, the one well-kept crate for this, sets sockets up for QUIC (path MTU probing, ECN) and
//! sends but one destination's datagrams at a time.

mod receive;
mod send;
mod socket;

pub use receive::{Received, Receiver};
pub use send::Sender;
pub use socket::{DatagramSocket, Readiness};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The most bytes that one datagram has.
pub(crate) const LONGEST: usize = 65_535;

/// Room for the control messages of one datagram: an address and the length of segments, with their headers.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 96]);

impl Control {
    const EMPTY: Self = Self([0; 96]);
}

/// An address as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy)]
union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    const EMPTY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: 0,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    fn new(address: SocketAddr) -> (Self, libc::socklen_t) {
        match address {
            SocketAddr::V4(v4) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (Self { v4: name }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(v6) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                (Self { v6: name }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// The address, that of IPv4 in an IPv6 socket as one of IPv4.
    fn get(&self, length: libc::socklen_t) -> Option<SocketAddr> {
        if (length as usize) < size_of::<libc::sockaddr_in>() {
            return None;
        }
        // SAFETY: both variants are plain numbers, begin with the family, and were zero before the kernel wrote to them.
        unsafe {
            match i32::from(self.v4.sin_family) {
                libc::AF_INET => Some(SocketAddr::V4(SocketAddrV4::new(
                    Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes()),
                    u16::from_be(self.v4.sin_port),
                ))),
                libc::AF_INET6 => Some(canonical(SocketAddr::V6(SocketAddrV6::new(
                    Ipv6Addr::from(self.v6.sin6_addr.s6_addr),
                    u16::from_be(self.v6.sin6_port),
                    0,
                    self.v6.sin6_scope_id,
                )))),
                _ => None,
            }
        }
    }
}

/// An IPv4 address that came in through an IPv6 socket is an IPv4 address.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests;
