//! The names under which values lie in the filter state that several parts of nuncio know.

/// Text: the cluster that tcp_proxy sends a connection to.
pub const TCP_PROXY_CLUSTER: &str = "envoy.tcp_proxy.cluster";
/// Number or text: how long a connection of tcp_proxy may do nothing, in milliseconds.
pub const TCP_PROXY_IDLE_TIMEOUT: &str = "envoy.tcp_proxy.per_connection_idle_timeout_ms";
/// Flag or text: a connection of tcp_proxy needs no tunnel.
pub const TCP_PROXY_DISABLE_TUNNELING: &str = "envoy.tcp_proxy.disable_tunneling";
/// Text: what hosts are asked for in TLS.
pub const UPSTREAM_SERVER_NAME: &str = "envoy.network.upstream_server_name";
/// Text: the protocols that hosts are offered in TLS, with commas between them.
pub const APPLICATION_PROTOCOLS: &str = "envoy.network.application_protocols";
/// Text: names one of which the certificates of hosts must have, with commas between them.
pub const UPSTREAM_SUBJECT_ALT_NAMES: &str = "envoy.network.upstream_subject_alt_names";
/// Text: the secret that hosts are shown the certificate of, where that is asked for on demand.
pub const UPSTREAM_SECRET: &str = "envoy.tls.certificate_mappers.on_demand_secret";
/// Text: the trust domain of the workload for which peers are held against the bundles of SPIFFE.
pub const WORKLOAD_TRUST_DOMAIN: &str = "envoy.tls.cert_validator.spiffe.workload_trust_domain";
/// Text: the host that a dynamic forward proxy goes to.
pub const DYNAMIC_HOST: &str = "envoy.upstream.dynamic_host";
/// Number or text: its port.
pub const DYNAMIC_PORT: &str = "envoy.upstream.dynamic_port";
/// Address or text: where a cluster of original destinations goes to.
pub const ORIGINAL_DST_ADDRESS: &str = "envoy.network.transport_socket.original_dst_address";
/// Filter state: where a connection without a socket was going.
pub const ORIGINAL_LOCAL_ADDRESS: &str = "envoy.filters.listener.original_dst.local_ip";
/// Filter state: where it came from.
pub const ORIGINAL_REMOTE_ADDRESS: &str = "envoy.filters.listener.original_dst.remote_ip";
/// Address: where a dynamic forward proxy went to.
pub const UPSTREAM_ADDRESS: &str = "envoy.stream.upstream_address";
/// Fields: values of a PROXY header by their keys.
pub const PROXY_FIELDS: &str = "envoy.network.proxy_protocol.tlv";
/// [`ProxyTlvs`]: values of a PROXY header that are passed on to hosts.
pub const PROXY_TLVS: &str = "envoy.network.proxy_protocol_options";

/// Values for the PROXY headers that hosts are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyTlvs(pub Vec<ProxyTlv>);

/// A value of a PROXY header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyTlv {
    /// Its type.
    pub kind: u8,
    /// What it says.
    pub value: Box<[u8]>,
}
