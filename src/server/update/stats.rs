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

use super::lowering::hash;

/// The stats of one target.
pub(super) enum Counted {
    List(ListCounted),
    /// Of all that have the same source.
    Several(Vec<ListCounted>),
    /// Of all clusters that are given the same endpoints.
    Endpoints(Vec<EndpointsCounted>),
}

pub(super) struct ListCounted {
    stats: SubscriptionStats,
    version: TextReadout,
    reload: Option<ReloadStats>,
    secret: Option<SecretStats>,
    extension: Option<ExtensionStats>,
    /// Of routes; held for as long as it is to be listed.
    _empty: Option<RouteSubscriptionStats>,
}

pub(super) struct EndpointsCounted {
    cluster: Arc<Cluster>,
    stats: EndpointSubscriptionStats,
    version: TextReadout,
}

/// Something that happens to a target.
#[derive(Clone, Copy)]
pub(super) enum Event<'a> {
    Attempt,
    TimedOut,
    Failed,
    Rejected,
    /// Files of a secret have another content, which cannot be used.
    RotationFailed,
    Accepted {
        version: &'a str,
        took: Duration,
        is_change: bool,
    },
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
        let counted = |slot: Arc<HostSlot>| ListCounted::of_routes(&store.scope("vhds").scope(&slot.name));
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
            }
        };
        Self::Endpoints(clusters.iter().map(counted).collect())
    }

    pub(super) fn note(&self, event: Event<'_>) {
        match self {
            Self::List(counted) => counted.note(event),
            Self::Several(all) => all.iter().for_each(|counted| counted.note(event)),
            Self::Endpoints(all) => all.iter().for_each(|counted| counted.note(event)),
        }
    }
}

// === impl ListCounted ===

impl ListCounted {
    fn new(scope: &Scope) -> Self {
        Self {
            stats: SubscriptionStats::new(scope),
            version: scope.text_readout("version_text"),
            reload: None,
            secret: None,
            extension: None,
            _empty: None,
        }
    }

    fn of_routes(scope: &Scope) -> Self {
        let empty = Some(RouteSubscriptionStats::new(scope));
        Self { reload: Some(ReloadStats::new(scope)), _empty: empty, ..Self::new(scope) }
    }

    fn note(&self, event: Event<'_>) {
        let Self { stats, version, reload, secret, extension, _empty } = self;
        note_list(stats, version, reload.as_ref(), event);
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
        Event::Attempt | Event::RotationFailed | Event::Accepted { .. } => {}
    }
}

fn note_list(stats: &SubscriptionStats, text: &TextReadout, reload: Option<&ReloadStats>, event: Event<'_>) {
    match event {
        Event::Attempt => stats.update_attempt().inc(),
        Event::TimedOut => stats.init_fetch_timeout().inc(),
        Event::Failed => stats.update_failure().inc(),
        Event::Rejected => stats.update_rejected().inc(),
        Event::RotationFailed => {}
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
            Event::Failed => of_cluster.update_failure().inc(),
            Event::Rejected => self.stats.update_rejected().inc(),
            Event::RotationFailed => {}
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
