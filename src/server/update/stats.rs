//! What is counted of each target, under Envoy's names.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nuncio_config::extension::ExtensionSlot;
use nuncio_config::route::{HostSlot, ScopeSlot};
use nuncio_telemetry::stats::catalogue::{
    EndpointSubscriptionStats, ExtensionStats, ReloadStats, RouteSubscriptionStats, SecretStats, SubscriptionStats,
};
use nuncio_telemetry::stats::{Scope, Store, TextReadout};
use nuncio_upstream::Cluster;

use super::PlaneState;
use super::lowering::hash;

/// The stats of one target.
pub(super) enum Counted {
    List(ListCounted),
    /// Of all that have the same source.
    Several(Vec<ListCounted>),
    /// Of all clusters that are given the same endpoints.
    Endpoints(Vec<EndpointsCounted>),
}

nuncio_telemetry::stats! {
    /// `control_plane`, alone for streams of all kinds and else under what is counted of a target.
    pub(crate) struct ControlPlaneStats {
        /// 1 while there is a stream.
        connected_state: Gauge,
        /// Requests that wait for a token of the rate limit.
        pending_requests: Gauge,
        /// Requests that the rate limit held back.
        rate_limit_enforced: Counter,
    }
}

/// What is counted of a stream.
pub(crate) struct PlaneCounted {
    stats: ControlPlaneStats,
    identifier: TextReadout,
    /// How often it was held back when it was told last.
    enforced: u64,
}

pub(super) struct ListCounted {
    scope: Scope,
    plane: Option<PlaneCounted>,
    stats: SubscriptionStats,
    version: TextReadout,
    reload: Option<ReloadStats>,
    secret: Option<SecretStats>,
    extension: Option<ExtensionStats>,
    /// Of routes.
    empty: Option<RouteSubscriptionStats>,
}

pub(super) struct EndpointsCounted {
    cluster: Arc<Cluster>,
    scope: Scope,
    plane: Option<PlaneCounted>,
    stats: EndpointSubscriptionStats,
    version: TextReadout,
}

/// Something that happens to a target.
#[derive(Clone, Copy)]
pub(super) enum Event<'a> {
    Attempt,
    TimedOut,
    Failed,
    /// The stream broke off. Whoever waits goes on waiting.
    Unreachable,
    Rejected,
    /// Files of a secret have another content, which cannot be used.
    RotationFailed,
    Accepted {
        version: &'a str,
        took: Duration,
        is_change: bool,
    },
    /// The source has nothing of it, and what there is stays.
    Empty {
        version: &'a str,
        took: Duration,
    },
}

// === impl Event ===

impl Event<'_> {
    /// Whether it tells what came of an attempt.
    pub(super) fn ends_attempt(self) -> bool {
        !matches!(self, Self::Attempt | Self::RotationFailed)
    }
}

// === impl Counted ===

impl Counted {
    pub(super) fn runtime(store: &Store) -> Self {
        Self::List(ListCounted::new(&store.scope("runtime")))
    }

    pub(super) fn clusters(store: &Store) -> Self {
        let scope = store.scope("cluster_manager.cds");
        Self::List(ListCounted { reload: Some(ReloadStats::new(&scope)), ..ListCounted::new(&scope) })
    }

    pub(super) fn on_demand_clusters(store: &Store) -> Self {
        Self::List(ListCounted::new(&store.scope("cluster_manager.odcds")))
    }

    pub(super) fn listeners(store: &Store) -> Self {
        Self::List(ListCounted::new(&store.scope("listener_manager.lds")))
    }

    pub(super) fn scopes(slots: impl Iterator<Item = Arc<ScopeSlot>>) -> Self {
        Self::Several(slots.map(|slot| ListCounted::of_routes(&slot.stats_scope())).collect())
    }

    pub(super) fn virtual_hosts(slots: impl Iterator<Item = Arc<HostSlot>>, store: &Store) -> Self {
        let counted = |slot: Arc<HostSlot>| ListCounted::of_routes(&slot.stats_scope(store));
        Self::Several(slots.map(counted).collect())
    }

    pub(super) fn routes(scope: &Scope, name: &str) -> Self {
        Self::List(ListCounted::of_routes(&scope.scope("rds").scope(name)))
    }

    pub(super) fn secret(name: &str, store: &Store) -> Self {
        let scope = store.scope("sds").scope(name);
        Self::List(ListCounted { secret: Some(SecretStats::new(&scope)), ..ListCounted::new(&scope) })
    }

    pub(super) fn extensions(slots: impl Iterator<Item = Arc<ExtensionSlot>>, store: &Store) -> Self {
        let counted = |slot: Arc<ExtensionSlot>| {
            let scope = slot.category.scope(&slot.name, store);
            ListCounted { extension: Some(ExtensionStats::new(&scope)), ..ListCounted::new(&scope) }
        };
        Self::Several(slots.map(counted).collect())
    }

    pub(super) fn endpoints(clusters: &[Arc<Cluster>], store: &Store) -> Self {
        let counted = |cluster: &Arc<Cluster>| {
            let scope = store.scope(&format!("cluster.{}", cluster.config.observable_name));
            EndpointsCounted {
                cluster: cluster.clone(),
                stats: EndpointSubscriptionStats::new(&scope),
                version: scope.text_readout("version_text"),
                plane: None,
                scope,
            }
        };
        Self::Endpoints(clusters.iter().map(counted).collect())
    }

    pub(super) fn locality_endpoints(clusters: &[Arc<Cluster>], store: &Store) -> Self {
        let counted = |cluster: &Arc<Cluster>| {
            let scope = store.scope(&format!("cluster.{}", cluster.config.observable_name)).scope("leds");
            ListCounted { empty: Some(RouteSubscriptionStats::new(&scope)), ..ListCounted::new(&scope) }
        };
        Self::Several(clusters.iter().map(counted).collect())
    }

    pub(super) fn note(&self, event: Event<'_>) {
        match self {
            Self::List(counted) => counted.note(event),
            Self::Several(all) => all.iter().for_each(|counted| counted.note(event)),
            Self::Endpoints(all) => all.iter().for_each(|counted| counted.note(event)),
        }
    }
}

impl Counted {
    /// Takes over the state of the stream by which the target is asked for, of which nothing was told before.
    pub(super) fn show(&mut self, state: &PlaneState) {
        self.show_since(state, 0);
    }

    /// The same where others are asked for by the stream already, or this was under the same name: how often requests
    /// were held back until now is counted there.
    pub(super) fn join(&mut self, state: &PlaneState) {
        self.show_since(state, state.rate_limit_enforced);
    }

    fn show_since(&mut self, state: &PlaneState, enforced: u64) {
        let show = |plane: &mut Option<PlaneCounted>, scope: &Scope| {
            plane.get_or_insert_with(|| PlaneCounted { enforced, ..PlaneCounted::new(scope) }).show(state);
        };
        match self {
            Self::List(ListCounted { plane, scope, .. }) => show(plane, scope),
            Self::Several(all) => all.iter_mut().for_each(|one| show(&mut one.plane, &one.scope)),
            Self::Endpoints(all) => all.iter_mut().for_each(|one| show(&mut one.plane, &one.scope)),
        }
    }
}

// === impl PlaneCounted ===

impl PlaneCounted {
    /// What is counted at `control_plane` of the scope.
    pub(crate) fn new(scope: &Scope) -> Self {
        let scope = scope.scope("control_plane");
        Self { stats: ControlPlaneStats::new(&scope), identifier: scope.text_readout("identifier"), enforced: 0 }
    }

    pub(crate) fn show(&mut self, state: &PlaneState) {
        let PlaneState { is_connected, failures: _, pending_requests, rate_limit_enforced, identifier } = state;
        self.stats.connected_state().set(u64::from(*is_connected));
        self.stats.pending_requests().set(*pending_requests);
        self.stats.rate_limit_enforced().add(rate_limit_enforced.saturating_sub(self.enforced));
        self.enforced = *rate_limit_enforced;
        self.identifier.set(identifier);
    }
}

// === impl ListCounted ===

impl ListCounted {
    fn new(scope: &Scope) -> Self {
        Self {
            scope: scope.clone(),
            plane: None,
            stats: SubscriptionStats::new(scope),
            version: scope.text_readout("version_text"),
            reload: None,
            secret: None,
            extension: None,
            empty: None,
        }
    }

    fn of_routes(scope: &Scope) -> Self {
        let empty = Some(RouteSubscriptionStats::new(scope));
        Self { reload: Some(ReloadStats::new(scope)), empty, ..Self::new(scope) }
    }

    fn note(&self, event: Event<'_>) {
        let Self { scope: _, plane: _, stats, version, reload, secret, extension, empty } = self;
        note_list(stats, version, reload.as_ref(), event);
        if let (Some(empty), Event::Empty { .. }) = (empty, event) {
            empty.update_empty().inc();
        }
        if let (Some(secret), Event::RotationFailed) = (secret, event) {
            secret.key_rotation_failed().inc();
        }
        if let Some(extension) = extension {
            note_extension(extension, event);
        }
    }
}

fn note_extension(stats: &ExtensionStats, event: Event<'_>) {
    match event {
        Event::Accepted { is_change: true, .. } => stats.config_reload().inc(),
        Event::Failed | Event::Rejected | Event::TimedOut => stats.config_fail().inc(),
        Event::Attempt | Event::Unreachable | Event::RotationFailed | Event::Accepted { .. } | Event::Empty { .. } => {}
    }
}

fn note_list(stats: &SubscriptionStats, text: &TextReadout, reload: Option<&ReloadStats>, event: Event<'_>) {
    match event {
        Event::Attempt => stats.update_attempt().inc(),
        Event::TimedOut => stats.init_fetch_timeout().inc(),
        Event::Failed | Event::Unreachable => stats.update_failure().inc(),
        Event::Rejected => stats.update_rejected().inc(),
        Event::RotationFailed => {}
        Event::Empty { version, took } => {
            note_list(stats, text, reload, Event::Accepted { version, took, is_change: false });
        }
        Event::Accepted { version, took, is_change } => {
            stats.update_success().inc();
            stats.update_time().set(now());
            stats.update_duration().record(millis(took));
            stats.version().set(hash(version.as_bytes()));
            text.set(version);
            if let (Some(reload), true) = (reload, is_change) {
                reload.config_reload().inc();
                reload.config_reload_time_ms().set(now());
            }
        }
    }
}

impl EndpointsCounted {
    fn note(&self, event: Event<'_>) {
        let of_cluster = &self.cluster.stats;
        match event {
            Event::Attempt => of_cluster.update_attempt().inc(),
            Event::TimedOut => self.stats.init_fetch_timeout().inc(),
            Event::Failed | Event::Unreachable => of_cluster.update_failure().inc(),
            Event::Rejected => self.stats.update_rejected().inc(),
            Event::RotationFailed => {}
            Event::Empty { version, took } => {
                of_cluster.update_empty().inc();
                self.note(Event::Accepted { version, took, is_change: false });
            }
            Event::Accepted { version, took, is_change: _ } => {
                of_cluster.update_success().inc();
                self.stats.update_time().set(now());
                self.stats.update_duration().record(millis(took));
                of_cluster.version().set(hash(version.as_bytes()));
                self.version.set(version);
            }
        }
    }
}

/// Milliseconds of the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
