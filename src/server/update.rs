//! Configuration that changes while traffic flows.
//!
//! In: resources as some source delivers them. Out: clusters, hosts, listeners and routes in force, and for each
//! delivery which resources were accepted and why the others were not. What was in force before stays so where
//! something is refused.
//!
//! ```text
//! source (files, a control plane) -- Push --> Updates -> lowering, on a thread of its own -> apply, on the control thread
//!        ^                                                                                       |
//!        +------------- Subscriptions: what is wanted, from where ---------------------------+
//! ```
//!
//! # What a source does
//!
//! A source serves the [`Target`]s of some [`Origin`]s and does all the I/O; nothing here knows how bytes travel.
//!
//! 1. It follows [`Updates::subscriptions`]. Each [`Target`] is wanted for as long as it is listed: `name: None` is
//!    the wildcard (CDS, LDS, SRDS); else one resource by its name (EDS, RDS), or those of a collection (LEDS). New targets
//!    come with listeners and clusters
//!    that need them, and go when the last of those is gone. Targets are sorted so that clusters come before endpoints,
//!    listeners and routes: asking and applying in this order is make-before-break.
//! 2. Whenever it asks, or asks anew, it says so with [`Updates::attempt`].
//! 3. What arrives it gives to [`Updates::apply`] as one [`Push`] for each kind, and waits: pushes of one source are
//!    taken in the order in which they are sent. A state-of-the-world response is `Removed::AllBut` of those whose
//!    heartbeat it holds, a delta response names what is gone. `version` is that of the response (`version_info`,
//!    `system_version_info`), each resource may have its own. Resources that are what they were are skipped by a hash of their bytes, before they are decoded.
//! 4. The [`Outcome`] says what to answer: ACK where nothing was rejected; else NACK with [`Outcome::error_detail`]. As
//!    in Envoy, resources beside those that were rejected are in force all the same.
//! 5. Where there is nothing to apply, because the source cannot be reached, answers rubbish, or lacks what was asked
//!    for, it calls [`Updates::failed`] or [`Updates::rejected`]. Either ends the wait of those who need the target.
//!    `initial_fetch_timeout` is kept here.
//!
//! Reconnecting, back-off, nonces and the node message are the source's own. `crate::files` is the first source.

mod apply;
mod cache;
mod lowering;
mod records;
mod stats;
mod status;
mod wanted;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nuncio_config::bootstrap::RuntimeConfig;
use nuncio_config::cluster::ClusterConfig;
use nuncio_config::discovery::Origin;
use nuncio_config::listener::ListenerConfig;
use nuncio_config::protocol::resource_name;
use nuncio_config::secret::Secret;
use nuncio_config::xdstp::is_member;
use nuncio_filter_api::{Invalid, InvalidKind};
use nuncio_proto::google::protobuf::Any;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use apply::{Initial, Parts, Updater};
pub(crate) use cache::Cache;
pub(crate) use lowering::says_its_name;
pub(crate) use records::{Accepted, Failed, Id, Record, Records};
pub(crate) use stats::PlaneCounted;
pub(crate) use status::{Answer, BOUNDS, Latency, PlaneState, Status};

/// Messages that may wait for the control thread; those who send more wait.
const MESSAGES: usize = 64;

/// What a resource is. In the order in which they are to be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// RTDS
    Runtime,
    /// CDS
    Cluster,
    /// EDS
    Endpoints,
    /// LEDS
    LocalityEndpoints,
    /// SDS
    Secret,
    /// LDS
    Listener,
    /// ECDS
    Extension,
    /// SRDS
    Scope,
    /// RDS
    Routes,
    /// VHDS
    VirtualHost,
}

/// Something that is wanted of a source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) kind: Kind,
    pub(crate) origin: Origin,
    /// `None`: all that there is.
    pub(crate) name: Option<Arc<str>>,
}

/// What is wanted now.
pub(crate) type Subscriptions = BTreeSet<Target>;

/// Resources that a source delivers.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) kind: Kind,
    pub(crate) origin: Origin,
    pub(crate) version: String,
    pub(crate) resources: Vec<Resource>,
    pub(crate) removed: Removed,
}

/// One resource as it was delivered.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) name: String,
    /// Other names by which it may have been asked for.
    pub(crate) aliases: Vec<String>,
    pub(crate) version: String,
    pub(crate) any: Any,
}

/// Which resources of the source are gone.
#[derive(Debug)]
pub(crate) enum Removed {
    /// All that are neither in the push nor among these, which are known to live.
    AllBut(HashSet<String>),
    /// These.
    Named(Vec<String>),
}

/// What became of a push.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Names of resources that are in force as they were delivered.
    pub(crate) accepted: Vec<String>,
    /// What is wrong with each of the others, by paths from the resource.
    pub(crate) rejected: Vec<Rejected>,
    /// Why nothing of the push was looked at.
    pub(crate) refused: Option<String>,
}

/// A resource that was rejected.
#[derive(Clone, Debug)]
pub(crate) struct Rejected {
    pub(crate) name: String,
    /// Its place in the push.
    pub(crate) index: usize,
    pub(crate) reasons: Vec<Invalid>,
}

/// Until what the server has come with its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Layers of the runtime are asked for.
    Runtime,
    /// Clusters and their endpoints are asked for.
    Clusters,
    /// And listeners with their routes.
    Listeners,
    /// Connections are accepted.
    Live,
}

enum Message {
    Plane(Kind, Origin, PlaneState),
    Push(Push, oneshot::Sender<Outcome>),
    Attempt(Target),
    Failed(Target),
    Unreachable(Target),
    Missing(Target),
    Empty(Target, String),
    Rejected(Target),
    Begin(Phase, oneshot::Sender<()>),
    Static(StaticChange, oneshot::Sender<Vec<String>>),
}

/// A change of what the bootstrap itself configures.
pub(crate) enum StaticChange {
    /// Clusters that are new, or others than before.
    PutClusters(Vec<ClusterConfig>),
    /// Listeners that are new, or others than before, and names of those that are gone.
    Listeners { put: Vec<Arc<ListenerConfig>>, removed: Vec<String> },
    /// The layers of the runtime.
    Runtime(RuntimeConfig),
    /// Secrets that are others than before.
    Secrets(Vec<Arc<Secret>>),
    /// Names of clusters that are gone.
    RemoveClusters(Vec<String>),
}

/// Where sources deliver to.
#[derive(Clone)]
pub(crate) struct Updates {
    messages: mpsc::Sender<Message>,
    wanted: watch::Receiver<Arc<Subscriptions>>,
}

/// How the type URLs of all kinds begin.
const TYPE_URLS: &str = "type.googleapis.com/";

// === impl Kind ===

impl Kind {
    /// All that there are.
    pub(crate) const ALL: [Self; 10] = [
        Self::Runtime,
        Self::Cluster,
        Self::Endpoints,
        Self::LocalityEndpoints,
        Self::Secret,
        Self::Listener,
        Self::Extension,
        Self::Scope,
        Self::Routes,
        Self::VirtualHost,
    ];

    /// The full name of the message.
    pub(crate) fn message_name(self) -> &'static str {
        match self {
            Self::Runtime => "envoy.service.runtime.v3.Runtime",
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::LocalityEndpoints => "envoy.config.endpoint.v3.LbEndpoint",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Extension => "envoy.config.core.v3.TypedExtensionConfig",
            Self::Scope => "envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Routes => "envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "envoy.config.route.v3.VirtualHost",
        }
    }

    /// The kind of resources with this type URL.
    pub(crate) fn of(type_url: &str) -> Option<Self> {
        let name = type_url.strip_prefix(TYPE_URLS)?;
        Self::ALL.into_iter().find(|kind| kind.message_name() == name)
    }

    /// Its type URL.
    pub(crate) fn type_url(self) -> String {
        format!("{TYPE_URLS}{}", self.message_name())
    }

    /// What its discovery is called.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Runtime => "RTDS",
            Self::Cluster => "CDS",
            Self::Endpoints => "EDS",
            Self::LocalityEndpoints => "LEDS",
            Self::Secret => "SDS",
            Self::Listener => "LDS",
            Self::Extension => "ECDS",
            Self::Scope => "SRDS",
            Self::Routes => "RDS",
            Self::VirtualHost => "VHDS",
        }
    }

    /// What one of them is called.
    fn noun(self) -> &'static str {
        match self {
            Self::Runtime => "runtime",
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::LocalityEndpoints => "endpoint",
            Self::Secret => "secret",
            Self::Listener => "listener",
            Self::Extension => "extension config",
            Self::Scope => "scoped route",
            Self::Routes => "route configuration",
            Self::VirtualHost => "virtual host",
        }
    }

    /// Envoy's words for a resource that is called `found` where `asked` was asked for.
    pub(crate) fn misnamed(self, asked: &str, found: &str) -> String {
        let noun = match self {
            Self::Runtime => "RTDS runtime",
            Self::Endpoints => "EDS cluster",
            Self::Secret => "SDS secret",
            Self::Extension => return format!("Unexpected resource name in ExtensionConfigDS response: {found}"),
            _ => "RDS configuration",
        };
        format!("Unexpected {noun} (expecting {asked}): {found}")
    }
}

// === impl Target ===

impl Target {
    /// One resource of a kind, by its name.
    pub(crate) fn named(kind: Kind, origin: &Origin, name: Arc<str>) -> Self {
        Self { kind, origin: origin.clone(), name: Some(name) }
    }

    /// Whether a resource of this name is a part of it, or the whole.
    fn covers(&self, name: &str) -> bool {
        let Some(asked) = self.name.as_deref() else { return true };
        asked == name || is_member(asked, name)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind.short();
        match &self.name {
            Some(name) => write!(f, "{kind} of {name}"),
            None => f.write_str(kind),
        }
    }
}

// === impl Resource ===

impl Resource {
    /// The resource in `any`, which says its name itself.
    pub(crate) fn new(any: Any, version: &str) -> Self {
        let name = resource_name(&any.value).unwrap_or_default();
        Self { name, aliases: Vec::new(), version: version.to_owned(), any }
    }
}

// === impl Removed ===

impl Removed {
    /// All that are not in the push.
    pub(crate) fn all_others() -> Self {
        Self::AllBut(HashSet::new())
    }

    /// Whether the resource of this name is gone, where the push holds those that are `present`.
    fn takes(&self, name: &str, present: &HashSet<String>) -> bool {
        match self {
            // What is broken beyond its name may be any of them.
            Self::AllBut(living) => !present.contains("") && !present.contains(name) && !living.contains(name),
            Self::Named(names) => names.iter().any(|gone| gone == name),
        }
    }
}

// === impl Outcome ===

impl Outcome {
    /// Whether all of it was accepted.
    fn is_accepted(&self) -> bool {
        self.rejected.is_empty() && self.refused.is_none()
    }

    /// Why not everything was accepted, in one text; `None` where it was.
    pub(crate) fn error_detail(&self, kind: Kind) -> Option<String> {
        if self.is_accepted() {
            return None;
        }
        if let Some(refused) = &self.refused {
            return Some(refused.clone());
        }
        let each: Vec<_> = self.rejected.iter().map(|r| format!("{}: {}", r.name, details(&r.reasons))).collect();
        Some(format!("Error adding/updating {}(s) {}", kind.noun(), each.join("\n")))
    }
}

// === impl Updates ===

impl Updates {
    /// Sees to it that the resources are in force, or says why they are not. Returns when they are, but for those that
    /// wait for others.
    pub(crate) async fn apply(&self, push: Push) -> Outcome {
        let (done, outcome) = oneshot::channel();
        if self.messages.send(Message::Push(push, done)).await.is_err() {
            return Outcome::default();
        }
        outcome.await.unwrap_or_default()
    }

    /// A source asks for `target`.
    pub(crate) async fn attempt(&self, target: &Target) {
        self.tell(Message::Attempt(target.clone())).await;
    }

    /// A source could not get `target`.
    pub(crate) async fn failed(&self, target: &Target) {
        self.tell(Message::Failed(target.clone())).await;
    }

    /// The server of `target` cannot be reached; whoever waits goes on waiting, as in Envoy.
    pub(crate) async fn unreachable(&self, target: &Target) {
        self.tell(Message::Unreachable(target.clone())).await;
    }

    /// The server has no such resource as `target`; whoever waits for it waits no longer, and nothing is counted.
    pub(crate) async fn missing(&self, target: &Target) {
        self.tell(Message::Missing(target.clone())).await;
    }

    /// The server has no such resource as `target` in this version. What is in force stays.
    pub(crate) async fn empty(&self, target: &Target, version: String) {
        self.tell(Message::Empty(target.clone(), version)).await;
    }

    /// A source got something for `target` that is something else.
    pub(crate) async fn rejected(&self, target: &Target) {
        self.tell(Message::Rejected(target.clone())).await;
    }

    /// The state of a stream that is for one kind alone.
    pub(crate) async fn plane(&self, kind: Kind, origin: &Origin, state: PlaneState) {
        self.tell(Message::Plane(kind, origin.clone(), state)).await;
    }

    /// Goes on with the start; returns when it is known what is wanted.
    pub(crate) async fn begin(&self, phase: Phase) {
        let (done, wait) = oneshot::channel();
        self.tell(Message::Begin(phase, done)).await;
        // Where the process ends meanwhile, nobody waits for anything.
        let _ = wait.await;
    }

    /// Changes what the bootstrap configures. Returns why not, where something could not be done.
    pub(crate) async fn change(&self, change: StaticChange) -> Vec<String> {
        let (done, failures) = oneshot::channel();
        self.tell(Message::Static(change, done)).await;
        failures.await.unwrap_or_default()
    }

    /// What is wanted, and each change of it.
    pub(crate) fn subscriptions(&self) -> watch::Receiver<Arc<Subscriptions>> {
        self.wanted.clone()
    }

    async fn tell(&self, message: Message) {
        // Nobody listens only while the process ends.
        let _ = self.messages.send(message).await;
    }
}

/// What is wrong, in one text.
pub(crate) fn details(reasons: &[Invalid]) -> String {
    reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn invalid(path: &str, reason: String) -> Invalid {
    Invalid { path: path.to_owned(), reason, kind: InvalidKind::Value }
}

pub(crate) fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    // A poisoned lock means that a change panicked between two records: each is whole.
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
