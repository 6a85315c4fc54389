//! The state of the world: each response of a type tells the version that the client then is at.

use std::sync::Arc;

use nuncio_proto::envoy::service::discovery::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::google::rpc::Status;
use prost::Message;

use super::{
    ByType, Change, Identity, Interest, Protocol, Received, Resource, Update, Verdict, WHOLE, errors, foreign,
    identifier, nack,
};

/// Type URL of the message around a resource that has a time to live.
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// `StreamAggregatedResources`, and the streams of one type.
#[derive(Debug)]
pub(crate) struct Sotw {
    identity: Identity,
    types: ByType<Subscription>,
}

#[derive(Debug, Default)]
struct Subscription {
    interest: Interest,
    /// Version of the last response that was accepted. It outlives the stream.
    version: String,
    /// Version of the response that waits for its verdict.
    offered: Option<String>,
    nonce: String,
    is_due: bool,
    error: Option<Status>,
}

impl Subscription {
    fn is_next(&self) -> bool {
        self.is_due && self.offered.is_none()
    }
}

impl Sotw {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, types: ByType::default() }
    }
}

impl Protocol for Sotw {
    type Request = proto::DiscoveryRequest;
    type Response = proto::DiscoveryResponse;

    fn connect(&mut self) {
        self.identity.connect();
        for subscription in self.types.values_mut() {
            subscription.nonce.clear();
            subscription.offered = None;
            subscription.error = None;
            subscription.is_due = !subscription.interest.names.is_empty();
        }
    }

    fn change(&mut self, type_url: &Arc<str>, change: Change) {
        let subscription = self.types.find_or_add(type_url);
        subscription.is_due |= subscription.interest.apply(&change);
    }

    fn is_due(&mut self) -> bool {
        self.types.sendable().any(|(_, s)| s.is_next())
    }

    fn next_request(&mut self) -> Option<proto::DiscoveryRequest> {
        let (type_url, subscription) = self.types.sendable().find(|(_, s)| s.is_next())?;
        subscription.is_due = false;
        Some(proto::DiscoveryRequest {
            version_info: subscription.version.clone(),
            node: self.identity.for_message(),
            resource_names: subscription.interest.listed(),
            resource_locators: Vec::new(),
            type_url: type_url.to_string(),
            response_nonce: subscription.nonce.clone(),
            error_detail: subscription.error.take(),
        })
    }

    fn receive(&mut self, response: proto::DiscoveryResponse) -> Received {
        let proto::DiscoveryResponse {
            version_info,
            resources,
            // Of use to people who roll out by hand.
            canary: _,
            type_url,
            nonce,
            control_plane,
            resource_errors,
        } = response;
        let Some((type_url, subscription)) = self.types.find(&type_url) else { return Received::Unwanted(type_url) };
        let type_url = type_url.clone();
        subscription.nonce = nonce;
        match unwrap(&type_url, &version_info, resources) {
            Err(reason) => {
                subscription.is_due = true;
                subscription.error = Some(nack(reason.clone()));
                Received::Refused { type_url, reason }
            }
            Ok(resources) => {
                subscription.offered = Some(version_info.clone());
                Received::Update(Update {
                    is_whole: WHOLE.contains(&&*type_url),
                    type_url,
                    version: version_info,
                    resources,
                    removed: Vec::new(),
                    errors: errors(resource_errors),
                    control_plane: identifier(control_plane),
                })
            }
        }
    }

    fn settle(&mut self, type_url: &str, verdict: Verdict) {
        let Some((_, subscription)) = self.types.find(type_url) else { return };
        let Some(offered) = subscription.offered.take() else { return };
        subscription.is_due = true;
        match verdict.error {
            Some(error) => subscription.error = Some(nack(error)),
            None => {
                // What was refused before, and was not told yet, is not what this answer is about.
                subscription.error = None;
                subscription.version = offered;
            }
        }
    }

    fn hold(&mut self, type_url: Option<&'static str>) {
        self.types.held = type_url;
    }
}

fn unwrap(type_url: &str, version: &str, resources: Vec<Any>) -> Result<Vec<Resource>, String> {
    let mut all = Vec::with_capacity(resources.len());
    for any in resources {
        let resource = match any.type_url == WRAPPER {
            true => {
                let wrapped = proto::Resource::decode(&*any.value);
                Resource::new(wrapped.map_err(|e| format!("a Resource cannot be decoded: {e}"))?)
            }
            false => Resource { body: Some(any), ..Resource::default() },
        };
        all.push(Resource { version: version.to_owned(), ..resource });
    }
    match foreign(type_url, all.iter().filter_map(|r| r.body.as_ref()).map(|b| b.type_url.clone())) {
        Some(reason) => Err(reason),
        None => Ok(all),
    }
}
