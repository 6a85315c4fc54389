use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One end of a connection: an IP address and port, or a unix-domain socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 with port.
    Ip(SocketAddr),
    /// Path of a unix-domain socket; an abstract one starts with `@`; empty for an unnamed peer.
    Pipe(Arc<str>),
}

impl Address {
    /// The IP address, without port; `None` for a unix-domain socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(a) => Some(a.ip()),
            Self::Pipe(_) => None,
        }
    }

    /// The port; `None` for a unix-domain socket.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(a) => Some(a.port()),
            Self::Pipe(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(a) => a.fmt(f),
            Self::Pipe(p) => f.write_str(p),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(a: SocketAddr) -> Self {
        Self::Ip(a)
    }
}
