//! Whether another connection is made, for who waits or for who is expected (`preconnect_policy`).

use nuncio_config::cluster::Pooling;

use crate::host::{CoarseHealth, Host};
use crate::worker::ClusterShare;

/// Connections made at once.
pub(super) const AT_ONCE: usize = 3;

/// What one pool does, or several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    /// Requests that wait for a connection.
    pub(crate) pending: usize,
    /// Requests on connections.
    pub(crate) active: usize,
    /// Requests that the connections that are being made will take.
    pub(crate) connecting: usize,
    /// Requests that those that are there could take as well.
    pub(crate) room: usize,
}

// === impl Load ===

impl Load {
    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            pending: self.pending + other.pending,
            active: self.active + other.active,
            connecting: self.connecting + other.connecting,
            room: self.room.saturating_add(other.room),
        }
    }

    /// Whether nobody uses it, or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.active == 0 && self.pending == 0
    }

    /// Whether who waits needs another connection.
    pub(super) fn needs_another(&self) -> bool {
        self.pending > self.connecting
    }

    /// Envoy's rule: whether so many streams for each one, and one that is expected, would be more than have room.
    pub(crate) fn falls_short(&self, ratio: f64, expected: usize) -> bool {
        let anticipated = (self.pending + self.active + expected) as f64 * ratio;
        anticipated > (self.connecting + self.room + self.active) as f64
    }
}

/// Whether a pool of `host` makes another connection.
pub(super) fn wants_another(share: &ClusterShare, host: &Host, load: Load) -> bool {
    let Some(pooling) = &share.cluster.config.pooling else { return load.needs_another() };
    load.needs_another()
        || (pooling.per_host > 1.0 && load.falls_short(pooling.per_host, 0) && may_be_expected(share, pooling, host))
}

/// Whether a pool of `host` makes a connection for a request that is expected to be the next.
pub(super) fn expects_another(share: &ClusterShare, host: &Host, load: Load) -> bool {
    let Some(pooling) = &share.cluster.config.pooling else { return false };
    load.falls_short(pooling.predictive, 1) && may_be_expected(share, pooling, host)
}

/// Envoy: connections are made to healthy hosts alone before they are needed.
fn may_be_expected(share: &ClusterShare, pooling: &Pooling, host: &Host) -> bool {
    if host.health() != CoarseHealth::Healthy {
        return false;
    }
    let is_eligible = pooling.eligible.as_ref().is_none_or(|matcher| matcher.matches(host.metadata().as_deref()));
    if !is_eligible {
        share.cluster.stats.upstream_cx_preconnect_skipped().inc();
    }
    is_eligible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_streams_is_expected() {
        let load = |pending, active, connecting, room| Load { pending, active, connecting, room };
        assert!(load(1, 0, 0, 0).falls_short(1.0, 0));
        assert!(!load(1, 0, 1, 0).falls_short(1.0, 0));
        assert!(load(1, 0, 1, 0).falls_short(1.5, 0));
        assert!(!load(1, 0, 2, 0).falls_short(1.5, 0));
        assert!(load(0, 2, 0, 0).falls_short(1.1, 0));
        assert!(!load(0, 2, 0, 1).falls_short(1.1, 0));
        assert!(load(0, 0, 0, 1).falls_short(2.0, 1));
    }
}
