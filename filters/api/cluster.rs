use std::any::Any;
use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use futures_util::future::LocalBoxFuture;
use nuncio_telemetry::ResponseFlag;

use crate::{Request, Response};

/// A cluster's name with the number that stands for it on the data path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterName {
    /// Dense and never reused, so that a worker finds its state of the cluster by index.
    pub id: u32,
    /// The name, as configured.
    pub name: Arc<str>,
}

/// Gives each cluster name its number. Names live as long as the process: a control plane that invents names without
/// end costs about 100 bytes for each.
#[derive(Debug, Default)]
pub struct ClusterNames(RwLock<HashMap<Arc<str>, Known>>);

#[derive(Clone, Copy, Debug)]
struct Known {
    id: u32,
    declared: bool,
}

impl ClusterNames {
    /// The number of `name`, made now if it is new. For lowering, not for the data path.
    pub fn intern(&self, name: &str) -> ClusterName {
        if let Some(known) = self.find(name) {
            return known;
        }
        let mut names = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let next = u32::try_from(names.len()).expect("fewer than 2^32 clusters");
        let name: Arc<str> = name.into();
        let id = names.entry(name.clone()).or_insert(Known { id: next, declared: false }).id;
        ClusterName { id, name }
    }

    /// Says that there is a cluster of this name: its configuration was lowered.
    pub fn declare(&self, name: &ClusterName) {
        let mut names = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = names.get_mut(&name.name) {
            known.declared = true;
        }
    }

    /// Says that there is no such cluster any more.
    pub fn withdraw(&self, name: &str) {
        let mut names = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(known) = names.get_mut(name) {
            known.declared = false;
        }
    }

    /// Says that there are no clusters but those for whose names `is_there` is true.
    pub fn withdraw_all_but(&self, mut is_there: impl FnMut(&str) -> bool) {
        let mut names = self.0.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        names.iter_mut().for_each(|(name, known)| known.declared &= is_there(name));
    }

    /// Whether there is a cluster of this name, for configuration that may only refer to those that exist
    /// (`validate_clusters`). Static clusters are lowered before the listeners that refer to them.
    pub fn is_declared(&self, name: &str) -> bool {
        let names = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        names.get(name).is_some_and(|known| known.declared)
    }

    /// The number of `name` if any configuration ever named it.
    pub fn find(&self, name: &str) -> Option<ClusterName> {
        // A read lock on the data path, for cluster_header only: writers come with configuration updates.
        let names = self.0.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        names.get_key_value(name).map(|(name, known)| ClusterName { id: known.id, name: name.clone() })
    }
}

/// Why a request sent through [`Upstreams`] got no response.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}{{{details}}}")]
pub struct UpstreamError {
    /// The response flag Envoy would set.
    pub flag: ResponseFlag,
    /// What a client would have read in the response.
    pub reason: String,
    /// Detail string.
    pub details: std::borrow::Cow<'static, str>,
}

/// Requests that nuncio itself makes to its clusters (authorisation, rate limits, mirrors). The one inversion of the
/// layers: the upstream crate implements it and filters receive it in their context.
pub trait Upstreams: Any {
    /// Whether there is such a cluster now.
    fn has_cluster(&self, cluster: &ClusterName) -> bool;

    /// Sends `request` to a host of `cluster`; dropping the future cancels the request. The caller sets its time-out.
    fn send(&self, cluster: &ClusterName, request: Request)
    -> LocalBoxFuture<'static, Result<Response, UpstreamError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_number_and_is_declared_when_its_cluster_is_there() {
        let names = ClusterNames::default();
        let (a, b) = (names.intern("a"), names.intern("b"));
        assert_eq!((a.id, b.id, names.intern("a").id), (0, 1, 0));
        assert_eq!(names.find("c"), None);
        assert!(!names.is_declared("a"));
        names.declare(&a);
        assert!(names.is_declared("a") && !names.is_declared("b") && !names.is_declared("c"));
        names.withdraw("a");
        assert!(!names.is_declared("a"));
        assert_eq!(names.intern("a").id, 0);
    }
}
