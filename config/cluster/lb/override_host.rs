use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::extensions::load_balancing_policies::override_host::v3 as pb;
use nuncio_telemetry::Metadata;
use pb::override_host::OverrideHostSource;

use super::LoweredLb;
use crate::matcher::{Field, MetadataKey};

/// Requests name the hosts that they are for.
#[derive(Clone, Debug)]
pub struct OverrideHostLb {
    /// Where, the first choice before the others.
    pub sources: Box<[HostSource]>,
    /// Where the address of the chosen host is left for others to read.
    pub selected_key: Option<MetadataKey>,
}

/// Where a request names hosts: addresses with port, with commas between them.
#[derive(Clone, Debug)]
pub struct HostSource(Place);

#[derive(Clone, Debug)]
enum Place {
    Header(Field),
    /// Of dynamic metadata.
    Metadata(MetadataKey),
}

// === impl OverrideHostLb ===

impl OverrideHostLb {
    /// The policy `OverrideHost`, with the one that chooses where a request names none.
    pub(super) fn lower(proto: pb::OverrideHost, cluster: &str, cx: &mut LowerCx<'_>) -> Result<LoweredLb, Refused> {
        let pb::OverrideHost { override_host_sources, selected_host_key, fallback_policy } = proto;
        let sources = cx.each("override_host_sources", override_host_sources, HostSource::lower);
        let selected_key = cx.opt("selected_host_key", selected_host_key, MetadataKey::new);
        let fallback = cx.at("fallback_policy", |cx| {
            let list = fallback_policy.unwrap_or_default();
            LoweredLb::lower_list(list, cluster, cx, |names| {
                format!(
                    "dynamic forwarding LB: didn't find a registered fallback load balancer factory with names from \
                     {names}"
                )
            })
        })?;
        if fallback.override_host.is_some() {
            return Err(cx.at("fallback_policy", |cx| cx.not_implemented("override_host within override_host")));
        }
        let config = Self { sources: sources?.into(), selected_key: selected_key? };
        Ok(LoweredLb { override_host: Some(Box::new(config)), ..fallback })
    }
}

// === impl HostSource ===

impl HostSource {
    fn lower(proto: OverrideHostSource, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let OverrideHostSource { header, metadata } = proto;
        match (header.is_empty(), metadata) {
            (true, None) => Err(cx.invalid("Empty override source")),
            (false, Some(_)) => Err(cx.invalid("Only one override source must be set")),
            (false, None) => cx.at("header", |cx| Field::lower(&header, cx)).map(|field| Self(Place::Header(field))),
            (true, Some(key)) => {
                cx.at("metadata", |cx| MetadataKey::new(key, cx)).map(|key| Self(Place::Metadata(key)))
            }
        }
    }

    /// The hosts that a request names here.
    pub fn hosts<'a>(&self, head: &'a RequestHead, metadata: Option<&'a Metadata>) -> Option<&'a str> {
        match &self.0 {
            Place::Header(field) => field.first_in_request(head),
            Place::Metadata(key) => key.find(metadata?)?.as_str(),
        }
    }
}
