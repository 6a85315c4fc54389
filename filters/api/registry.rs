use std::sync::Arc;

use crate::{HttpFilterConfig, ListenerFilter, LowerCx, NetworkFilter, PerRoute, Refused, UdpListenerFilter};

/// An HTTP filter's row in the table of its crate.
pub struct HttpFilterRow {
    /// Envoy's canonical name, such as `envoy.filters.http.buffer`.
    pub name: &'static str,
    /// Full name of the configuration message, such as `envoy.extensions.filters.http.buffer.v3.Buffer`.
    pub config: &'static str,
    /// Lowers the encoded configuration message.
    pub lower: fn(&[u8], &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused>,
    /// Full name of the per-route message and its lowering, where the filter has one.
    pub per_route: Option<(&'static str, fn(&[u8], &mut LowerCx<'_>) -> Result<PerRoute, Refused>)>,
    /// Where it may stand.
    pub sides: Sides,
}

/// The chains that an HTTP filter may stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sides {
    /// Those of listeners.
    Downstream,
    /// Those of clusters and routers, which requests pass once per attempt.
    Upstream,
    /// All of them.
    Both,
}

/// A network filter's row in the table of its crate.
pub struct NetworkFilterRow {
    /// Envoy's canonical name, such as `envoy.filters.network.tcp_proxy`.
    pub name: &'static str,
    /// Full name of the configuration message.
    pub config: &'static str,
    /// Lowers the encoded configuration message.
    pub lower: fn(&[u8], &mut LowerCx<'_>) -> Result<Arc<dyn NetworkFilter>, Refused>,
}

/// A listener filter's row in the table of its crate.
pub struct ListenerFilterRow {
    /// Envoy's canonical name, such as `envoy.filters.listener.tls_inspector`.
    pub name: &'static str,
    /// Full name of the configuration message.
    pub config: &'static str,
    /// Lowers the encoded configuration message.
    pub lower: fn(&[u8], &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused>,
}

/// A UDP listener filter's row in the table of its crate.
pub struct UdpFilterRow {
    /// Envoy's canonical name, such as `envoy.filters.udp_listener.udp_proxy`.
    pub name: &'static str,
    /// Full name of the configuration message.
    pub config: &'static str,
    /// Lowers the encoded configuration message.
    pub lower: fn(&[u8], &mut LowerCx<'_>) -> Result<Arc<dyn UdpListenerFilter>, Refused>,
}

/// The tables of all crates, put together by the server.
#[derive(Clone, Default)]
pub struct Registry {
    /// HTTP filters.
    pub http: Vec<&'static [HttpFilterRow]>,
    /// Network filters.
    pub network: Vec<&'static [NetworkFilterRow]>,
    /// Listener filters.
    pub listener: Vec<&'static [ListenerFilterRow]>,
    /// Filters of UDP listeners.
    pub udp: Vec<&'static [UdpFilterRow]>,
}

impl Registry {
    /// The HTTP filter whose configuration message is `message`.
    pub fn http_filter(&self, message: &str) -> Option<&'static HttpFilterRow> {
        self.http.iter().copied().flatten().find(|row| row.config == message)
    }

    /// The HTTP filter whose per-route message is `message`.
    pub fn http_per_route(&self, message: &str) -> Option<&'static HttpFilterRow> {
        self.http.iter().copied().flatten().find(|row| row.per_route.is_some_and(|(name, _)| name == message))
    }

    /// The listener filter whose configuration message is `message`.
    pub fn listener_filter(&self, message: &str) -> Option<&'static ListenerFilterRow> {
        self.listener.iter().copied().flatten().find(|row| row.config == message)
    }

    /// The UDP listener filter whose configuration message is `message`.
    pub fn udp_filter(&self, message: &str) -> Option<&'static UdpFilterRow> {
        self.udp.iter().copied().flatten().find(|row| row.config == message)
    }

    /// The network filter whose configuration message is `message`.
    pub fn network_filter(&self, message: &str) -> Option<&'static NetworkFilterRow> {
        self.network.iter().copied().flatten().find(|row| row.config == message)
    }
}
