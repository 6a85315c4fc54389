use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::cluster::v3::cluster::PreconnectPolicy;
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;

use crate::matcher::MetadataMatcher;
use crate::protocol::message_name;

/// How connections are pooled, otherwise than as many as are needed, for all who come.
#[derive(Clone, Debug, Default)]
pub struct Pooling {
    /// `per_upstream_preconnect_ratio`: streams that are expected of a host for each that there is; at least 1.
    pub per_host: f64,
    /// `predictive_preconnect_ratio`: the same, of the cluster as a whole.
    pub predictive: f64,
    /// `preconnect_enabled_metadata`: hosts that connections may be made to before they are needed.
    pub eligible: Option<MetadataMatcher>,
    /// `connection_pool_per_downstream_connection`
    pub per_downstream_connection: bool,
}

/// What becomes of requests on their way to the hosts of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamPool {
    /// They are sent by HTTP, but for tunnels that a route ends here.
    #[default]
    Generic,
    /// They are sent by HTTP, all of them.
    Http,
    /// What they carry is sent over a connection of its own, whatever they are.
    Tcp,
    /// They carry datagrams, which are sent from a socket of its own.
    Udp,
}

// === impl UpstreamPool ===

impl UpstreamPool {
    pub(super) fn lower(proto: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let TypedExtensionConfig { name: _, typed_config } = proto;
        let any = typed_config.ok_or_else(|| cx.invalid("typed_config is required"))?;
        cx.at("typed_config", |cx| match message_name(&any) {
            "envoy.extensions.upstreams.http.generic.v3.GenericConnectionPoolProto" => Ok(Self::Generic),
            // It is of tcp_proxy, which has no other; requests are sent as if there were none.
            "envoy.extensions.upstreams.tcp.generic.v3.GenericConnectionPoolProto" => Ok(Self::Generic),
            "envoy.extensions.upstreams.http.http.v3.HttpConnectionPoolProto" => Ok(Self::Http),
            "envoy.extensions.upstreams.http.tcp.v3.TcpConnectionPoolProto" => Ok(Self::Tcp),
            "envoy.extensions.upstreams.http.udp.v3.UdpConnectionPoolProto" => Ok(Self::Udp),
            other => Err(cx.not_implemented(format_args!("{other} as a pool of connections"))),
        })
    }
}

// === impl Pooling ===

impl Pooling {
    /// `None` where the configuration asks for nothing of the kind.
    pub(super) fn lower(
        preconnect: Option<PreconnectPolicy>,
        per_downstream_connection: bool,
        cx: &mut LowerCx<'_>,
    ) -> Result<Option<Self>, Refused> {
        if preconnect.is_none() && !per_downstream_connection {
            return Ok(None);
        }
        cx.at("preconnect_policy", |cx| {
            let PreconnectPolicy {
                per_upstream_preconnect_ratio,
                predictive_preconnect_ratio,
                preconnect_enabled_metadata,
            } = preconnect.unwrap_or_default();
            let eligible =
                cx.opt("preconnect_enabled_metadata", preconnect_enabled_metadata, MetadataMatcher::lower)?;
            Ok(Some(Self {
                per_host: per_upstream_preconnect_ratio.map_or(1.0, |v| v.value),
                predictive: predictive_preconnect_ratio.map_or(1.0, |v| v.value),
                eligible,
                per_downstream_connection,
            }))
        })
    }
}
