//! Changes alone: what a stream was told is not told again.

use std::collections::{BTreeMap, BTreeSet};

use nuncio_config::xdstp::collection_of;
use nuncio_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};

use super::{Asked, Dialect, Kind, State, is_asked_for};

#[derive(Default)]
pub(super) struct Delta {
    types: BTreeMap<String, DeltaType>,
    nonce: u64,
    /// Responses that are neither accepted nor refused yet, by nonce.
    unanswered: BTreeMap<String, Told>,
}

/// What a response took the place of: names with the versions that were known before.
struct Told {
    /// The state's version.
    version: u64,
    before: Vec<(String, Option<String>)>,
}

#[derive(Default)]
struct DeltaType {
    names: BTreeSet<String>,
    is_wildcard: bool,
    known: BTreeMap<String, String>,
    is_told: bool,
    is_of_hosts: bool,
    /// Virtual hosts of which it was told that there are none.
    missing: BTreeSet<String>,
    /// Names of which this was denied.
    denied: BTreeSet<String>,
    /// The state's version of which a response was refused: nothing of it is told again.
    refused: Option<u64>,
}

impl DeltaType {
    /// Forgets what was told, for it was refused; with the next change it is told again.
    fn forget(&mut self, told: Told) {
        self.refused = self.refused.max(Some(told.version));
        for (name, version) in told.before {
            match version {
                Some(version) => drop(self.known.insert(name, version)),
                None => drop(self.known.remove(&name)),
            }
        }
    }
}

impl Dialect for Delta {
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn asked(request: &DeltaDiscoveryRequest) -> Asked {
        Asked {
            type_url: request.type_url.clone(),
            version: String::new(),
            nonce: request.response_nonce.clone(),
            names: request.resource_names_subscribe.clone(),
            unsubscribed: request.resource_names_unsubscribe.clone(),
            error: request.error_detail.as_ref().map(|e| e.message.clone()),
            node: request.node.as_ref().map(|n| n.id.clone()),
            known: request.initial_resource_versions.keys().cloned().collect(),
        }
    }

    fn take(&mut self, request: DeltaDiscoveryRequest) {
        let is_first = !self.types.contains_key(&request.type_url);
        let of = self.types.entry(request.type_url.clone()).or_default();
        let answered = self.unanswered.remove(&request.response_nonce);
        if let Some(told) = answered.filter(|_| request.error_detail.is_some()) {
            of.forget(told);
        }
        of.is_of_hosts = request.type_url == Kind::VirtualHost.type_url();
        if is_first {
            // Virtual hosts are given to those who ask for them.
            of.is_wildcard = request.resource_names_subscribe.is_empty() && !of.is_of_hosts;
            of.known = request.initial_resource_versions.into_iter().collect();
        }
        for name in request.resource_names_subscribe {
            of.is_wildcard |= name == "*";
            // Whoever asks again is sent it again.
            of.known.retain(|known, _| *known != name && collection_of(known).is_none_or(|folder| folder != name));
            of.denied.remove(&name);
            of.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            of.is_wildcard &= name != "*";
            of.names.remove(&name);
            of.known.remove(&name);
        }
    }

    fn respond(&mut self, state: &State) -> Vec<DeltaDiscoveryResponse> {
        let mut due = Vec::new();
        for (type_url, of) in &mut self.types {
            if of.refused >= Some(state.version) {
                continue;
            }
            let empty = BTreeMap::new();
            let all = state.resources.get(&**type_url).unwrap_or(&empty);
            let takes_all = of.is_wildcard || (of.is_of_hosts && state.gives_all_hosts);
            let wanted: BTreeMap<_, _> =
                all.iter().filter(|(name, _)| takes_all || is_asked_for(&of.names, name)).collect();
            let changed =
                wanted.iter().filter(|(name, (version, _))| of.known.get(**name) != Some(&version.to_string()));
            let mut resources: Vec<Resource> = changed
                .map(|(name, (version, any))| Resource {
                    name: (*name).clone(),
                    version: version.to_string(),
                    resource: Some(any.clone()),
                    ..Default::default()
                })
                .collect();
            if of.is_of_hosts {
                of.missing.retain(|name| of.names.contains(name));
                let missing = of.names.iter().filter(|name| !all.contains_key(*name) && !of.known.contains_key(*name));
                let new: Vec<String> = missing.filter(|name| !of.missing.contains(*name)).cloned().collect();
                let nothing =
                    |name: &String| Resource { name: name.clone(), aliases: vec![name.clone()], ..Default::default() };
                resources.extend(new.iter().map(nothing));
                of.missing.extend(new);
            }
            let mut removed: Vec<String> = of.known.keys().filter(|name| !wanted.contains_key(name)).cloned().collect();
            let denied: Vec<_> = state.denied.intersection(&of.names).filter(|n| !of.denied.contains(*n)).collect();
            removed.extend(denied.iter().map(|name| (*name).clone()));
            of.denied.extend(denied.into_iter().cloned());
            let is_told = std::mem::replace(&mut of.is_told, true);
            if resources.is_empty() && removed.is_empty() && (is_told || !(of.is_wildcard || of.is_of_hosts)) {
                continue;
            }
            let mut before = Vec::new();
            for given in resources.iter().filter(|resource| resource.resource.is_some()) {
                before.push((given.name.clone(), of.known.insert(given.name.clone(), given.version.clone())));
            }
            before.extend(removed.iter().map(|name| (name.clone(), of.known.remove(name))));
            self.nonce += 1;
            if state.resends_refused {
                self.unanswered.insert(self.nonce.to_string(), Told { version: state.version, before });
            }
            due.push(DeltaDiscoveryResponse {
                system_version_info: state.version.to_string(),
                resources,
                type_url: type_url.clone(),
                removed_resources: removed,
                nonce: self.nonce.to_string(),
                control_plane: state.itself(),
                ..Default::default()
            });
        }
        due
    }
}
