use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One end of a connection: an IP address and port, a unix-domain socket, or a listener of this process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// IPv4 or IPv6 with port.
    Ip(SocketAddr),
    /// Path of a unix-domain socket; an abstract one starts with `@`; empty for an unnamed peer.
    Pipe(Arc<str>),
    /// A listener that connections of this process reach without a socket.
    Internal(Arc<InternalAddress>),
}

/// Envoy's internal address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InternalAddress {
    /// Name of the listener.
    pub listener: Arc<str>,
    /// What tells endpoints at the same listener apart; mostly empty.
    pub endpoint: Arc<str>,
}

impl Address {
    /// The IP address, without port; `None` for all else.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(a) => Some(a.ip()),
            Self::Pipe(_) | Self::Internal(_) => None,
        }
    }

    /// The port; `None` for all else.
    pub fn port(&self) -> Option<u16> {
        match self {
            Self::Ip(a) => Some(a.port()),
            Self::Pipe(_) | Self::Internal(_) => None,
        }
    }

    /// The listener of this name in this process.
    pub fn internal(listener: impl Into<Arc<str>>, endpoint: impl Into<Arc<str>>) -> Self {
        Self::Internal(Arc::new(InternalAddress { listener: listener.into(), endpoint: endpoint.into() }))
    }

    /// What tells endpoints at the same internal listener apart; `None` for all else.
    pub fn endpoint_id(&self) -> Option<&str> {
        match self {
            Self::Ip(_) | Self::Pipe(_) => None,
            Self::Internal(address) => Some(&address.endpoint),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(a) => a.fmt(f),
            Self::Pipe(p) => f.write_str(p),
            Self::Internal(a) => write!(f, "envoy://{}/{}", a.listener, a.endpoint),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(a: SocketAddr) -> Self {
        Self::Ip(a)
    }
}
