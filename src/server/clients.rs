//! The services that the process asks by itself, on the control thread.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::control_plane::ControlPlane;
use nuncio_config::grpc::GrpcServiceConfig;
use nuncio_config::load::UnknownFields;
use nuncio_filter_api::{LowerEnv, Rng};
use nuncio_proto::envoy::config::core::v3::Node;
use nuncio_upstream::WorkerClusters;
use tokio::task::{JoinHandle, spawn_local};

use crate::health_discovery::HealthDelegate;
use crate::load_reports::LoadReporter;
use crate::update::{Kind, Updates};
use crate::worker::Shared;
use crate::xds::Sources;

/// Who is asked, and what for.
pub(crate) struct Servers<'a> {
    pub(crate) env: &'a Arc<LowerEnv>,
    pub(crate) shared: &'a Shared,
    pub(crate) updates: &'a Updates,
    /// Who asks.
    pub(crate) node: Node,
    pub(crate) ads: Option<Arc<ControlPlane>>,
    pub(crate) load_stats: Option<GrpcServiceConfig>,
    pub(crate) hds: Option<GrpcServiceConfig>,
    pub(crate) unknown: UnknownFields,
    /// What is asked for in the place of all that there is.
    pub(crate) collections: Arc<BTreeMap<Kind, String>>,
}

/// Those who ask.
pub(crate) struct Clients {
    sources: Sources,
    reporter: Option<LoadReporter>,
    delegate: Option<HealthDelegate>,
}

impl Clients {
    pub(crate) fn new(servers: Servers<'_>) -> Self {
        let Servers { env, shared, updates, node, ads, load_stats, hds, unknown, collections } = servers;
        let upstreams = Rc::new(WorkerClusters::new(shared.clusters.clone(), Rng::from_entropy()));
        let reporter =
            load_stats.map(|service| LoadReporter::new(shared, env, upstreams.clone(), service.target, &node));
        let delegate = hds.map(|service| HealthDelegate::new(shared, env, upstreams.clone(), service.target, &node));
        let (updates, store, warming) = (updates.clone(), shared.store.clone(), shared.clusters.warming());
        let sources = Sources { updates, upstreams, store, node, ads, unknown, collections, warming };
        Self { sources, reporter, delegate }
    }

    /// Has them begin, each as a task.
    pub(crate) fn spawn(self) -> Vec<JoinHandle<()>> {
        let mut tasks = vec![spawn_local(self.sources.run())];
        tasks.extend(self.reporter.map(|reporter| spawn_local(reporter.run())));
        tasks.extend(self.delegate.map(|delegate| spawn_local(delegate.run())));
        tasks
    }
}
