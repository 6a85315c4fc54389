//! Connections to the hosts that are likely to be chosen next (`predictive_preconnect_ratio`).

use std::rc::Rc;

use nuncio_config::cluster::{ClusterConfig, LbPolicy, Priority, UpstreamProtocol};

use super::{Balanced, WorkerCluster, WorkerHost};
use crate::lb::PickContext;

/// Connections that one request may have made for others.
const AT_ONCE: usize = 3;

/// How many streams are expected for each that there is, where the next choices can be known before they are made.
#[inline]
pub(super) fn ratio(config: &ClusterConfig) -> Option<f64> {
    let ratio = config.pooling.as_ref()?.predictive;
    // Envoy: other policies depend on what happens until then.
    let is_foreseeable = matches!(config.lb, LbPolicy::RoundRobin | LbPolicy::Random) && config.subset.is_none();
    (ratio > 1.0 && is_foreseeable).then_some(ratio)
}

impl WorkerCluster {
    /// As `pick`, and has connections made to the hosts that come after the one that is chosen.
    #[cold]
    pub(super) fn pick_and_predict(
        &self,
        balanced: &Balanced,
        ratio: f64,
        cx: &PickContext<'_>,
    ) -> Option<Rc<WorkerHost>> {
        let is_foreseen = cx.avoid.is_none() && cx.load.is_none() && cx.wanted.is_none();
        let predicted = if is_foreseen { balanced.predicted.borrow_mut().pop_front() } else { None };
        let at = match predicted {
            Some(at) => at,
            None => balanced.balancer.pick(&self.shared.cluster.config, cx, balanced.env(&self.shared))?,
        };
        for _ in 0..AT_ONCE {
            if !self.known.load().falls_short(ratio, 1) || !self.expect_next(balanced) {
                break;
            }
        }
        Some(self.host(balanced, at))
    }

    /// Makes a connection to the host that will be chosen after those that are known. False where there is none.
    fn expect_next(&self, balanced: &Balanced) -> bool {
        let config = &self.shared.cluster.config;
        // Envoy: no host is expected to be chosen twice before all others.
        if balanced.predicted.borrow().len() >= balanced.set.healthy() {
            return false;
        }
        let Some(at) = balanced.balancer.pick(config, &PickContext::default(), balanced.env(&self.shared)) else {
            return false;
        };
        balanced.predicted.borrow_mut().push_back(at);
        let next = self.host(balanced, at);
        let WorkerHost { host, share, pools } = &*next;
        match share.protocol() {
            UpstreamProtocol::Http2 => {
                pools.http2(share, host, Priority::Default, None).is_ok_and(|pool| pool.expect())
            }
            UpstreamProtocol::Auto => pools.mixed(share, host, Priority::Default, None).is_ok_and(|pool| pool.expect()),
            UpstreamProtocol::Http1 | UpstreamProtocol::Downstream => {
                pools.http1(share, host, Priority::Default, None).is_ok_and(|pool| pool.expect())
            }
        }
    }
}
