//! Endpoints that are discovered one by one: `LedsClusterLocalityConfig` (LEDS).

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::endpoint::v3 as pb;
use nuncio_telemetry::{Address, Metadata};
use prost::Name;

use super::endpoint::{Place, lower_endpoint};
use super::{Discovery, Endpoint, Locality};
use crate::discovery::ConfigSource;
use crate::xdstp::ResourceName;

/// A locality whose endpoints are resources of their own.
#[derive(Clone, Debug)]
pub struct LedsLocality {
    /// Where they come from.
    pub source: ConfigSource,
    /// Which they are.
    pub collection: ResourceName,
    locality: Option<Arc<Locality>>,
    priority: u32,
    metadata: Option<Arc<Metadata>>,
    proxy: Option<Arc<Address>>,
}

/// Lowers an endpoint that is a resource of its own; its locality is [to be told](LedsLocality::place).
pub fn lower_local_endpoint(proto: pb::LbEndpoint, cx: &mut LowerCx<'_>) -> Result<Endpoint, Refused> {
    let nowhere = Place { locality: &None, metadata: &None, proxy: &None, priority: 0 };
    lower_endpoint(proto, nowhere, Some(&Discovery::Static), cx)
}

// === impl LedsLocality ===

impl LedsLocality {
    pub(super) fn lower(
        proto: pb::LedsClusterLocalityConfig,
        place: Place<'_>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let pb::LedsClusterLocalityConfig { leds_config, leds_collection_name } = proto;
        let collection = ResourceName::parse_collection(&leds_collection_name, &pb::LbEndpoint::full_name());
        let collection = collection.map_err(|reason| cx.at("leds_collection_name", |cx| cx.invalid(reason)));
        let Some(source) = leds_config else {
            return Err(cx.at("leds_config", |cx| cx.invalid("is required")));
        };
        let source = cx.at("leds_config", |cx| {
            let source = ConfigSource::lower(source, cx)?;
            match source.is_delta(cx) {
                true => Ok(source),
                // Envoy asks an ADS of the other dialect too, and then takes none of the endpoints.
                false => Err(cx.invalid("only ADS and gRPC that tell changes (DELTA_GRPC) can be asked for endpoints")),
            }
        })?;
        let Place { locality, metadata, proxy, priority } = place;
        let (locality, metadata, proxy) = (locality.clone(), metadata.clone(), proxy.clone());
        Ok(Self { source, collection: collection?, locality, priority, metadata, proxy })
    }

    /// The endpoint as one of this locality.
    pub fn place(&self, endpoint: &Endpoint) -> Endpoint {
        Endpoint {
            locality: self.locality.clone(),
            priority: self.priority,
            locality_metadata: self.metadata.clone(),
            proxy: endpoint.proxy.clone().or_else(|| self.proxy.clone()),
            ..endpoint.clone()
        }
    }
}
