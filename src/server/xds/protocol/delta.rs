//! Incremental xDS: requests and responses tell changes, and each resource has a version of its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use nuncio_config::xdstp::collection_of;
use nuncio_proto::envoy::service::discovery::v3 as proto;

use super::{
    ByType, Change, Identity, Interest, Protocol, Received, Resource, Update, Verdict, WILDCARD, errors, foreign,
    identifier, nack,
};

/// `DeltaAggregatedResources`, and the incremental streams of one type.
#[derive(Debug)]
pub(crate) struct Delta {
    identity: Identity,
    types: ByType<Subscription>,
}

#[derive(Debug, Default)]
struct Subscription {
    interest: Interest,
    /// Versions of the resources in force. They outlive the stream, so that the next one sends only what changed.
    versions: BTreeMap<String, String>,
    /// Whether this stream has told of the type.
    was_told: bool,
    subscribe: BTreeSet<String>,
    unsubscribe: BTreeSet<String>,
    /// Nonce and removed names of the response that waits for its verdict.
    offered: Option<(String, Vec<String>)>,
    /// The answers that are due: each a nonce, and the error of a NACK.
    answers: VecDeque<(String, Option<String>)>,
}

impl Delta {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, types: ByType::default() }
    }
}

impl Protocol for Delta {
    type Request = proto::DeltaDiscoveryRequest;
    type Response = proto::DeltaDiscoveryResponse;

    fn connect(&mut self) {
        self.identity.connect();
        for subscription in self.types.values_mut() {
            subscription.connect();
        }
    }

    fn change(&mut self, type_url: &Arc<str>, change: Change) {
        self.types.find_or_add(type_url).change(change);
    }

    fn is_due(&mut self) -> bool {
        self.types.sendable().any(|(_, s)| s.is_due())
    }

    fn next_request(&mut self) -> Option<proto::DeltaDiscoveryRequest> {
        let (type_url, subscription) = self.types.sendable().find(|(_, s)| s.is_due())?;
        let request = subscription.request(type_url);
        Some(proto::DeltaDiscoveryRequest { node: self.identity.for_message(), ..request })
    }

    fn receive(&mut self, response: proto::DeltaDiscoveryResponse) -> Received {
        let proto::DeltaDiscoveryResponse {
            system_version_info,
            resources,
            type_url,
            mut removed_resources,
            removed_resource_names,
            nonce,
            control_plane,
            resource_errors,
        } = response;
        let Some((type_url, subscription)) = self.types.find(&type_url) else { return Received::Unwanted(type_url) };
        let type_url = type_url.clone();
        removed_resources.extend(removed_resource_names.into_iter().map(|n| n.name));
        let resources: Vec<Resource> = resources.into_iter().map(Resource::new).collect();
        if let Some(reason) = contradiction(&type_url, &resources, &removed_resources) {
            subscription.answers.push_back((nonce, Some(reason.clone())));
            return Received::Refused { type_url, reason };
        }
        subscription.offered = Some((nonce, removed_resources.clone()));
        Received::Update(Update {
            type_url,
            version: system_version_info,
            resources,
            removed: removed_resources,
            is_whole: false,
            errors: errors(resource_errors),
            control_plane: identifier(control_plane),
        })
    }

    fn settle(&mut self, type_url: &str, verdict: Verdict) {
        let Some((_, subscription)) = self.types.find(type_url) else { return };
        let Some((nonce, removed)) = subscription.offered.take() else { return };
        for name in removed {
            subscription.versions.remove(&name);
        }
        subscription.versions.extend(verdict.accepted);
        subscription.answers.push_back((nonce, verdict.error));
    }

    fn hold(&mut self, type_url: Option<&'static str>) {
        self.types.held = type_url;
    }
}

impl Subscription {
    fn connect(&mut self) {
        self.was_told = false;
        self.subscribe.clear();
        self.unsubscribe.clear();
        self.offered = None;
        self.answers.clear();
    }

    fn change(&mut self, change: Change) {
        if !self.interest.apply(&change) {
            return;
        }
        match change {
            Change::Subscribe(name) => {
                // A name that was given up and is wanted again before anything was sent: told as new, since the server
                // may have it sent while nobody kept it.
                self.unsubscribe.remove(&name);
                self.subscribe.insert(name);
            }
            Change::Unsubscribe(name) => {
                if !self.interest.is_wildcard() {
                    self.versions.remove(&name);
                    self.versions.retain(|known, _| collection_of(known).is_none_or(|collection| collection != name));
                }
                if name == WILDCARD {
                    let names = &self.interest.names;
                    self.versions.retain(|known, _| names.contains(known));
                }
                if !self.subscribe.remove(&name) {
                    self.unsubscribe.insert(name);
                }
            }
        }
    }

    fn is_due(&self) -> bool {
        if self.offered.is_some() {
            return false;
        }
        let has_changes = !self.subscribe.is_empty() || !self.unsubscribe.is_empty();
        match self.was_told {
            true => has_changes || !self.answers.is_empty(),
            false => !self.interest.names.is_empty(),
        }
    }

    /// The request that is due, but for the node.
    fn request(&mut self, type_url: &str) -> proto::DeltaDiscoveryRequest {
        let mut request = proto::DeltaDiscoveryRequest { type_url: type_url.to_owned(), ..Default::default() };
        if let Some((nonce, error)) = self.answers.pop_front() {
            request.response_nonce = nonce;
            request.error_detail = error.map(nack);
        }
        if self.was_told {
            request.resource_names_subscribe = std::mem::take(&mut self.subscribe).into_iter().collect();
            request.resource_names_unsubscribe = std::mem::take(&mut self.unsubscribe).into_iter().collect();
            return request;
        }
        self.was_told = true;
        self.subscribe.clear();
        self.unsubscribe.clear();
        request.resource_names_subscribe = self.interest.listed();
        request.initial_resource_versions = self.versions.clone().into_iter().collect();
        request
    }
}

/// Why a response cannot be applied at all.
fn contradiction(type_url: &str, resources: &[Resource], removed: &[String]) -> Option<String> {
    let mut seen = BTreeSet::new();
    for name in resources.iter().filter_map(|r| r.name.as_deref()) {
        if !seen.insert(name) {
            return Some(format!("duplicate name {name} found among added/updated resources"));
        }
    }
    for name in removed {
        if !seen.insert(name) {
            return Some(format!("duplicate name {name} found in the union of added+removed resources"));
        }
    }
    let bodies = resources.iter().filter_map(|r| r.body.as_ref());
    foreign(type_url, bodies.map(|b| b.type_url.clone()))
}
