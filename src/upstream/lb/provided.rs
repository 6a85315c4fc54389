//! Balancers that types of clusters bring (`CLUSTER_PROVIDED`): who is chosen need not be a host of the cluster's own.

use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use nuncio_config::cluster::{ClusterConfig, Discovery};

use super::PickContext;
use super::aggregate::AggregateBalancer;
use super::forward_proxy::ForwardProxyBalancer;
use super::original_dst::OriginalDstBalancer;
use crate::failure::Failure;
use crate::host_set::{Ability, PriorityHosts};
use crate::worker::{ClusterShare, WorkerHost};

/// How a cluster of a certain type chooses a host. A worker has one for each such cluster, as long as it has the cluster:
/// it outlives changes of the hosts, and may keep hosts and their pools.
pub(crate) trait ClusterBalancer {
    /// The host for the next request; `None` if there is none to choose from.
    fn pick(&self, cx: &PickContext<'_>, share: &Rc<ClusterShare>) -> Option<Rc<WorkerHost>>;

    /// Whether requests may have to wait for `prepare`.
    fn prepares(&self) -> bool {
        false
    }

    /// What a request waits for before `pick` can have a host for it, if it has to.
    fn prepare(
        &self,
        cx: &PickContext<'_>,
        share: &Rc<ClusterShare>,
    ) -> Option<LocalBoxFuture<'static, Result<(), Failure>>> {
        let _ = (cx, share);
        None
    }

    /// Whether the hash of a request counts for which host it gets.
    fn is_by_hash(&self, share: &ClusterShare) -> bool {
        let _ = share;
        false
    }

    /// What the hosts of each priority can do.
    fn abilities(&self, share: &ClusterShare) -> Vec<Ability> {
        share.cluster.hosts().groups.priorities.iter().map(PriorityHosts::ability).collect()
    }

    /// The priority of a host that was chosen, among those of `abilities`; `None` where it has left them.
    fn priority_of(&self, host: &WorkerHost) -> Option<usize> {
        Some(host.host.priority as usize)
    }
}

/// The balancer that the type of the cluster brings, for one worker; `None` where it brings none. Configuration holds
/// `Discovery::brings_balancer` to be the same.
pub(crate) fn provided(config: &ClusterConfig) -> Option<Box<dyn ClusterBalancer>> {
    match &config.discovery {
        Discovery::Static | Discovery::StrictDns(_) | Discovery::LogicalDns(_) | Discovery::Eds(_) => None,
        Discovery::Aggregate(aggregate) => {
            Some(Box::new(AggregateBalancer::new(aggregate, config.common_lb.panic_threshold)))
        }
        Discovery::ForwardProxy(_) => Some(Box::new(ForwardProxyBalancer::default())),
        Discovery::OriginalDst(original_dst) => Some(Box::new(OriginalDstBalancer::new(original_dst.clone()))),
    }
}
