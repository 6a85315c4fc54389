//! Hosts that called themselves degraded, and until when they are taken for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nuncio_config::cluster::OutlierDetection;
use tokio::time::Instant;

use crate::host::{HealthFlag, Host};

/// What is remembered of each.
#[derive(Default)]
pub(super) struct Degradations(HashMap<*const Host, Degradation>);

struct Degradation {
    /// So many times the base time lasts it.
    backoff: u32,
    since: Instant,
}

// === impl Degradations ===

impl Degradations {
    pub(super) fn retain(&mut self, present: &HashSet<*const Host>) {
        self.0.retain(|host, _| present.contains(host));
    }

    pub(super) fn begin(&mut self, host: &Arc<Host>, now: Instant) {
        let known = self.0.entry(Arc::as_ptr(host)).or_insert(Degradation { backoff: 0, since: now });
        *known = Degradation { backoff: known.backoff.saturating_add(1), since: now };
    }

    /// Takes those back whose time is over, and forgives those one time that were none since the last interval. Whether
    /// there was one to be taken back.
    pub(super) fn end(&mut self, hosts: &[Arc<Host>], config: &OutlierDetection, now: Instant) -> bool {
        let mut any = false;
        if self.0.is_empty() {
            return any;
        }
        for host in hosts {
            let Some(known) = self.0.get_mut(&Arc::as_ptr(host)) else { continue };
            let lasts = config.base_ejection_time.saturating_mul(known.backoff).min(config.max_ejection_time);
            if !host.flags().has(HealthFlag::DegradedOutlierDetection) {
                known.backoff = known.backoff.saturating_sub(1);
            } else if now.saturating_duration_since(known.since) >= lasts {
                any |= host.clear_flag(HealthFlag::DegradedOutlierDetection);
            }
        }
        any
    }
}
