//! `metadata_match`: what endpoints must say of themselves to be chosen, where the cluster has subsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use serde_json::Value;

use crate::metadata::lower_metadata;

/// The namespace whose fields endpoints are held against.
const LOAD_BALANCER: &str = "envoy.lb";

/// Fields and values by which the endpoints of a subset are known, sorted by name.
#[derive(Clone, Debug, PartialEq)]
pub struct MetadataMatch(BTreeMap<Box<str>, Value>);

impl MetadataMatch {
    /// Lowers the message; `None` where it says nothing to load balancers.
    pub(super) fn lower(message: core::Metadata, cx: &mut LowerCx<'_>) -> Result<Option<Arc<Self>>, Refused> {
        let metadata = lower_metadata(message, cx)?;
        let fields = metadata.as_ref().and_then(|metadata| metadata.get(LOAD_BALANCER));
        Ok(fields.map(|fields| {
            Arc::new(Self(fields.iter().map(|(name, value)| (name.as_str().into(), value.clone())).collect()))
        }))
    }

    /// The criteria in the order of their names.
    pub fn criteria(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// What a weighted cluster asks for in addition to its route, or in place of it.
    pub(super) fn over(&self, route: &Self) -> Self {
        let mut merged = route.clone();
        merged.0.extend(self.0.iter().map(|(name, value)| (name.clone(), value.clone())));
        merged
    }
}
