//! Bookkeeping of versions, nonces and subscriptions on one stream to a control plane, in both dialects of xDS.
//!
//! A stream carries any number of types (ADS) or one. For each response there is exactly one verdict, and no request of
//! its type goes out between the two: it would be taken for an ACK.
//!
//! ```text
//! connect -> next_request* -> receive -> (apply) -> settle -> next_request* -> receive -> ...
//!    ^------------------------------ the stream breaks off ------------------------------|
//! ```

mod delta;
mod sotw;
mod ttl;

pub(crate) use delta::Delta;
pub(crate) use sotw::Sotw;
pub(crate) use ttl::Expiry;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nuncio_config::protocol::{non_zero, read_duration};
use nuncio_proto::envoy::config::core::v3::{ControlPlane, Node};
use nuncio_proto::envoy::service::discovery::v3 as proto;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::google::rpc::Status;

/// `google.rpc.Code.INVALID_ARGUMENT`, which Envoy gives for every NACK.
const INVALID_ARGUMENT: i32 = 3;
/// The name that stands for all resources of a type.
pub(crate) const WILDCARD: &str = "*";
pub(crate) const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SCOPE: &str = "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration";
/// Types in the order in which their requests go out (make before break): a route is of no use before its cluster.
const ORDER: [&str; 10] = [
    "type.googleapis.com/envoy.service.runtime.v3.Runtime",
    CLUSTER,
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    "type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint",
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    LISTENER,
    "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    SCOPE,
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "type.googleapis.com/envoy.config.route.v3.VirtualHost",
];
/// Types of which a response names all that there are: what it lacks is gone.
const WHOLE: [&str; 3] = [CLUSTER, LISTENER, SCOPE];

/// One dialect of xDS, on one stream.
pub(crate) trait Protocol {
    /// What it sends.
    type Request: prost::Message;
    /// What it receives.
    type Response: prost::Message + Default;

    /// A new stream begins: the server knows nothing of what older ones said.
    fn connect(&mut self);
    /// What is wanted of a type has changed.
    fn change(&mut self, type_url: &Arc<str>, change: Change);
    /// Whether a message is due.
    fn is_due(&mut self) -> bool;
    /// The next message that is due, if any.
    fn next_request(&mut self) -> Option<Self::Request>;
    /// Takes in a response; [`Self::settle`] follows where it is an update.
    fn receive(&mut self, response: Self::Response) -> Received;
    /// How the last update of this type ended.
    fn settle(&mut self, type_url: &str, verdict: Verdict);
    /// From now on nothing is sent of this type, and of the others all that is due.
    fn hold(&mut self, type_url: Option<&'static str>);
}

/// A change of what is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// One more name; [`WILDCARD`] for all that there are.
    Subscribe(String),
    /// A name that nobody wants any longer.
    Unsubscribe(String),
}

/// What a response turned out to be.
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    /// Resources to apply; a verdict is due.
    Update(Update),
    /// Refused as a whole before any resource was looked at; the NACK is on its way.
    Refused {
        /// The type it is about.
        type_url: Arc<str>,
        /// What the server is told.
        reason: String,
    },
    /// Of a type that nobody asked for. Envoy answers nothing either.
    Unwanted(String),
}

/// Resources from a control plane.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Update {
    /// Type of all of them.
    pub(crate) type_url: Arc<str>,
    /// Version of the response (delta: `system_version_info`).
    pub(crate) version: String,
    /// Added and changed ones.
    pub(crate) resources: Vec<Resource>,
    /// Names that are gone.
    pub(crate) removed: Vec<String>,
    /// Whether what is not among `resources` is gone too.
    pub(crate) is_whole: bool,
    /// Names that the server could not serve, each with its reason.
    pub(crate) errors: Vec<(String, String)>,
    /// `control_plane.identifier`, where the server tells it.
    pub(crate) control_plane: Option<String>,
}

/// One resource as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Resource {
    /// Its name, where the message around it tells; else the resource itself does.
    pub(crate) name: Option<String>,
    /// Other names of it.
    pub(crate) aliases: Vec<String>,
    /// Its version.
    pub(crate) version: String,
    /// The resource; nothing in a heartbeat, which only prolongs its life.
    pub(crate) body: Option<Any>,
    /// How long it lives from now on.
    pub(crate) ttl: Option<Duration>,
}

/// How an update ended.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Names with versions of what is in force now, of those that the update held.
    pub(crate) accepted: Vec<(String, String)>,
    /// What was refused and why: makes the answer a NACK.
    pub(crate) error: Option<String>,
}

/// Who is asking.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    node: Node,
    /// `set_node_on_first_message_only`
    only_once: bool,
    was_sent: bool,
}

impl Identity {
    pub(crate) fn new(node: Node, only_once: bool) -> Self {
        Self { node, only_once, was_sent: false }
    }

    fn connect(&mut self) {
        self.was_sent = false;
    }

    /// The node, for messages that carry it.
    fn for_message(&mut self) -> Option<Node> {
        let sends = !(self.only_once && self.was_sent);
        self.was_sent = true;
        sends.then(|| self.node.clone())
    }
}

/// What is wanted of one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Interest {
    names: BTreeSet<String>,
    /// Whether it ever was anything but "all of them": then that has to be said by name.
    was_explicit: bool,
}

impl Interest {
    /// False if it changes nothing.
    fn apply(&mut self, change: &Change) -> bool {
        match change {
            Change::Subscribe(name) => {
                self.was_explicit |= name != WILDCARD;
                self.names.insert(name.clone())
            }
            Change::Unsubscribe(name) => self.names.remove(name),
        }
    }

    fn is_wildcard(&self) -> bool {
        self.names.contains(WILDCARD)
    }

    /// The names as a request tells them: none stands for all, as long as none but all were ever asked for.
    fn listed(&self) -> Vec<String> {
        match !self.was_explicit && self.is_wildcard() {
            true => Vec::new(),
            false => self.names.iter().cloned().collect(),
        }
    }
}

/// The subscriptions of a stream by type, in the order of their requests.
#[derive(Debug)]
struct ByType<T> {
    all: Vec<(Arc<str>, T)>,
    /// Of which nothing is sent for now.
    held: Option<&'static str>,
}

impl<T> Default for ByType<T> {
    fn default() -> Self {
        Self { all: Vec::new(), held: None }
    }
}

impl<T: Default> ByType<T> {
    fn find(&mut self, type_url: &str) -> Option<(&Arc<str>, &mut T)> {
        self.all.iter_mut().find(|(known, _)| **known == *type_url).map(|(known, value)| (&*known, value))
    }

    fn find_or_add(&mut self, type_url: &Arc<str>) -> &mut T {
        let rank = |of: &str| ORDER.iter().position(|t| *t == of).unwrap_or(ORDER.len());
        let at = match self.all.iter().position(|(known, _)| known == type_url) {
            Some(at) => at,
            None => {
                let at = self.all.partition_point(|(known, _)| rank(known) <= rank(type_url));
                self.all.insert(at, (type_url.clone(), T::default()));
                at
            }
        };
        &mut self.all[at].1
    }

    fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.iter_mut().map(|(_, value)| value)
    }

    /// Those of which something may be sent now.
    fn sendable(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut T)> {
        let held = self.held;
        let sendable = self.all.iter_mut().filter(move |(type_url, _)| held != Some(&**type_url));
        sendable.map(|(type_url, value)| (&*type_url, value))
    }
}

/// A time to live; one that is none, or negative, is as if it were not there.
fn life(ttl: nuncio_proto::google::protobuf::Duration) -> Option<Duration> {
    read_duration(ttl).and_then(non_zero)
}

fn nack(message: String) -> Status {
    Status { code: INVALID_ARGUMENT, message, details: Vec::new() }
}

fn identifier(control_plane: Option<ControlPlane>) -> Option<String> {
    control_plane.map(|c| c.identifier).filter(|id| !id.is_empty())
}

fn errors(errors: Vec<proto::ResourceError>) -> Vec<(String, String)> {
    let text = |e: proto::ResourceError| {
        let name = e.resource_name.map(|n| n.name).unwrap_or_default();
        (name, e.error_detail.map(|d| d.message).unwrap_or_default())
    };
    errors.into_iter().map(text).collect()
}

/// The first resource that is not of the type that its response tells, as the reason to refuse all of it.
fn foreign(type_url: &str, mut bodies: impl Iterator<Item = String>) -> Option<String> {
    let other = bodies.find(|found| found != type_url)?;
    Some(format!("type URL {other} of a resource does not match the type URL {type_url} of the response that holds it"))
}

impl Resource {
    fn new(resource: proto::Resource) -> Self {
        let proto::Resource {
            name,
            resource_name,
            aliases,
            version,
            resource: body,
            ttl,
            // Hints for caches on the way.
            cache_control: _,
            metadata: _,
        } = resource;
        let name = resource_name.map(|n| n.name).filter(|n| !n.is_empty()).unwrap_or(name);
        Self { name: Some(name).filter(|n| !n.is_empty()), aliases, version, body, ttl: ttl.and_then(life) }
    }
}

#[cfg(test)]
mod tests;
