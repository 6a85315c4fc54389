//! `dynamic_resources`: where what is not in the bootstrap comes from.

use std::collections::BTreeMap;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::bootstrap::v3 as proto;
use nuncio_proto::envoy::config::cluster::v3::Cluster;
use nuncio_proto::envoy::config::core::v3::Node;
use nuncio_proto::envoy::config::listener::v3::Listener;
use prost::Name;

use super::Authorities;
use crate::control_plane::ControlPlane;
use crate::discovery::{ConfigSource, Origin};
use crate::xdstp::{ResourceName, node_context};

/// Where clusters and listeners come from that are not in the bootstrap.
#[derive(Clone, Debug, Default)]
pub struct DynamicResources {
    /// Of clusters.
    pub cds: Option<ConfigSource>,
    /// Of listeners.
    pub lds: Option<ConfigSource>,
    /// The server that all are asked of whose source is ADS.
    pub ads: Option<Arc<ControlPlane>>,
    /// The clusters that are asked for, where it is not all of them.
    pub cds_collection: Option<ResourceName>,
    /// The same of listeners.
    pub lds_collection: Option<ResourceName>,
    /// Who is asked for resources whose names tell an authority.
    pub authorities: Authorities,
    /// What the context of each collection has of the node.
    pub context: BTreeMap<String, String>,
    pub(super) context_params: Vec<String>,
}

impl DynamicResources {
    pub(super) fn lower(proto: proto::bootstrap::DynamicResources, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::bootstrap::DynamicResources {
            lds_config,
            lds_resources_locator,
            cds_config,
            cds_resources_locator,
            ads_config,
        } = proto;
        let ads = cx.opt("ads_config", ads_config, ControlPlane::lower_itself);
        let lds = cx.opt("lds_config", lds_config, ConfigSource::lower);
        let cds = cx.opt("cds_config", cds_config, ConfigSource::lower);
        let (lds, cds) = (lds?, cds?);
        let lds_collection =
            lower_locator::<Listener>("lds_resources_locator", &lds_resources_locator, lds.as_ref(), cx);
        let cds_collection =
            lower_locator::<Cluster>("cds_resources_locator", &cds_resources_locator, cds.as_ref(), cx);
        let (cds_collection, lds_collection) = (cds_collection?, lds_collection?);
        let this = Self { cds, lds, ads: ads?.map(Arc::new), cds_collection, lds_collection, ..Self::default() };
        for (field, source) in [("cds_config", &this.cds), ("lds_config", &this.lds)] {
            if this.ads.is_none() && source.as_ref().is_some_and(|source| source.origin == Origin::Ads) {
                return Err(cx.at(field, |cx| cx.invalid("ads needs ads_config beside it")));
            }
        }
        Ok(this)
    }
}

impl DynamicResources {
    /// Takes over what control planes are told of the node.
    pub fn identify(&mut self, node: &Node) {
        self.context = node_context(&self.context_params, node);
    }
}

/// A collection that a source is asked for; `None` where it is all that there is.
fn lower_locator<T: Name>(
    field: &str,
    locator: &str,
    source: Option<&ConfigSource>,
    cx: &mut LowerCx<'_>,
) -> Result<Option<ResourceName>, Refused> {
    if locator.is_empty() {
        return Ok(None);
    }
    cx.at(field, |cx| {
        let name = ResourceName::parse_collection(locator, &T::full_name()).map_err(|reason| cx.invalid(reason))?;
        match source {
            // Envoy asks an ADS of either dialect.
            Some(source) if source.origin == Origin::Ads || source.is_delta(cx) => Ok(Some(name)),
            Some(_) => Err(cx.invalid("only ADS and gRPC that tell changes (DELTA_GRPC) can be asked for collections")),
            None => Err(cx.invalid("needs a config source beside it")),
        }
    })
}
