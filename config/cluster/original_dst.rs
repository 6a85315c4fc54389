//! ORIGINAL_DST: requests go where their connection was going before it was redirected to this proxy.

use std::time::Duration;

use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::cluster::v3 as cluster;
use nuncio_proto::envoy::extensions::clusters::original_dst::v3 as extension;
use nuncio_proto::envoy::r#type::metadata::v3 as metadata;
use nuncio_proto::google::protobuf::UInt32Value;

use crate::matcher::{Field, MetadataKey};
use crate::protocol::duration;

/// Where the destination of a request comes from, and how long it is a host.
#[derive(Clone, Debug)]
pub struct OriginalDst {
    /// A header that takes its place.
    header: Option<Field>,
    /// Metadata that takes its place.
    pub metadata: Option<MetadataKey>,
    /// Takes the place of its port.
    pub port: Option<u16>,
    /// How often hosts that nobody uses are dropped.
    pub cleanup_interval: Duration,
}

/// The fields of both messages.
struct Fields {
    use_http_header: bool,
    http_header_name: String,
    upstream_port_override: Option<UInt32Value>,
    metadata_key: Option<metadata::MetadataKey>,
}

const DEFAULT_HEADER: &str = "x-envoy-original-dst-host";
/// Envoy's `cleanup_interval`.
const DEFAULT_CLEANUP_INTERVAL: Duration = Duration::from_secs(5);
/// Envoy counts in milliseconds.
const MIN_CLEANUP_INTERVAL: Duration = Duration::from_millis(1);

impl OriginalDst {
    /// Lowers that of the type ORIGINAL_DST.
    pub(super) fn lower(proto: &cluster::Cluster, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        if proto.load_assignment.is_some() {
            let reason = "ORIGINAL_DST clusters must have no load assignment configured";
            return Err(cx.at("load_assignment", |cx| cx.invalid(reason)));
        }
        let config = match &proto.lb_config {
            Some(cluster::cluster::LbConfig::OriginalDstLbConfig(config)) => config.clone(),
            // Envoy passes over the configuration of other policies.
            _ => cluster::cluster::OriginalDstLbConfig::default(),
        };
        let cluster::cluster::OriginalDstLbConfig {
            use_http_header,
            http_header_name,
            upstream_port_override,
            metadata_key,
        } = config;
        let fields = Fields { use_http_header, http_header_name, upstream_port_override, metadata_key };
        let interval = cleanup_interval(proto, cx);
        cx.at("original_dst_lb_config", |cx| fields.lower(interval?, cx))
    }

    /// Lowers that of the extension.
    pub(super) fn lower_extension(
        proto: extension::OriginalDstCluster,
        cleanup_interval: Duration,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let extension::OriginalDstCluster { use_http_header, http_header_name, upstream_port_override, metadata_key } =
            proto;
        Fields { use_http_header, http_header_name, upstream_port_override, metadata_key }.lower(cleanup_interval, cx)
    }

    /// Found by the header that Envoy names.
    pub fn by_header(cleanup_interval: Duration) -> Self {
        let header = Some(Field::Header(http::HeaderName::from_static(DEFAULT_HEADER)));
        Self { header, metadata: None, port: None, cleanup_interval }
    }

    /// What the header of a request says, if there is one that may.
    pub fn header<'a>(&self, head: &'a RequestHead) -> Option<&'a str> {
        self.header.as_ref()?.first_in_request(head)
    }
}

/// Lowers `cleanup_interval`.
pub(super) fn cleanup_interval(proto: &cluster::Cluster, cx: &mut LowerCx<'_>) -> Result<Duration, Refused> {
    let given = cx.opt("cleanup_interval", proto.cleanup_interval, duration)?;
    Ok(given.unwrap_or(DEFAULT_CLEANUP_INTERVAL).max(MIN_CLEANUP_INTERVAL))
}

// === impl Fields ===

impl Fields {
    fn lower(self, cleanup_interval: Duration, cx: &mut LowerCx<'_>) -> Result<OriginalDst, Refused> {
        let name = match (self.use_http_header, &*self.http_header_name) {
            (false, "") => None,
            (false, name) => {
                let reason = format!(
                    "ORIGINAL_DST cluster: invalid config http_header_name={name} and use_http_header is false. Set \
                     use_http_header to true if http_header_name is desired."
                );
                return Err(cx.at("http_header_name", |cx| cx.invalid(reason)));
            }
            (true, "") => Some(DEFAULT_HEADER),
            (true, name) => Some(name),
        };
        let header = cx.opt("http_header_name", name, Field::lower);
        let port = cx.opt("upstream_port_override", self.upstream_port_override, |port, cx| {
            u16::try_from(port.value).map_err(|_| cx.invalid("value must be less than or equal to 65535"))
        });
        let metadata = self.metadata_key.map(|key| MetadataKey::lower(Some(key), cx)).transpose();
        Ok(OriginalDst { header: header?, metadata: metadata?, port: port?, cleanup_interval })
    }
}
