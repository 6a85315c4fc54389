//! Clusters that discovery is asked for when somebody wants them (ODCDS).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nuncio_filter_api::{LowerCx, Readiness, Refused};
use nuncio_proto::envoy::config::core::v3 as core;
use tokio::sync::Notify;

use super::ConfigSource;

/// Asks a source for clusters by their names, as those share it who have the same source.
pub struct OnDemandClusters {
    /// Where they come from.
    pub source: ConfigSource,
    asked: Mutex<BTreeMap<Arc<str>, Arc<Readiness>>>,
    teller: Arc<Notify>,
}

/// What became of a cluster that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundCluster {
    /// It can be used.
    There,
    /// There is none of this name, or no longer: whoever wants it asks again.
    Nowhere,
}

impl OnDemandClusters {
    /// Those of this source.
    pub fn lower(source: core::ConfigSource, cx: &mut LowerCx<'_>) -> Result<Arc<Self>, Refused> {
        let source = ConfigSource::lower(source, cx)?;
        if !source.is_delta(cx) {
            return Err(cx.invalid("only ADS and gRPC that tell changes (DELTA_GRPC) can be asked for single clusters"));
        }
        Ok(cx.env.slots.share(&format!("{source:?}"), || Self {
            source,
            asked: Mutex::default(),
            teller: cx.env.slots.teller(),
        }))
    }

    /// Asks for a cluster that is not there: whether it has come, or is known not to.
    pub fn demand(&self, name: &str) -> Arc<Readiness> {
        let mut asked = self.lock();
        if let Some(ready) = asked.get(name) {
            return ready.clone();
        }
        // Under the same lock: of two workers that ask at once, each waits for what is answered.
        let ready = Readiness::new(format!("OdCds {name}"));
        asked.insert(name.into(), ready.clone());
        self.teller.notify_one();
        ready
    }

    /// The names that are asked for.
    pub fn asked(&self) -> Vec<Arc<str>> {
        self.lock().keys().cloned().collect()
    }

    /// Whether somebody waits for this cluster.
    pub fn is_awaited(&self, name: &str) -> bool {
        self.lock().get(name).is_some_and(|ready| !ready.is_set())
    }

    /// Whoever waits for this cluster waits no longer.
    pub fn answer(&self, name: &str, found: FoundCluster) {
        let answered = match found {
            FoundCluster::There => self.lock().get(name).cloned(),
            // Names that clients make up are not kept.
            FoundCluster::Nowhere => self.lock().remove(name).inspect(|_| self.teller.notify_one()),
        };
        if let Some(ready) = answered {
            ready.set();
        }
    }

    /// Held to look at the names, by requests only where they want a cluster that is not there.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Readiness>>> {
        // Nothing that is done with it held can panic half way.
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::Origin;
    use std::sync::Barrier;

    #[test]
    fn those_who_ask_at_once_wait_for_the_same_answer() {
        let source = ConfigSource { origin: Origin::Ads, initial_fetch_timeout: None };
        let clusters = OnDemandClusters { source, asked: Mutex::default(), teller: Arc::default() };
        let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        let barrier = Barrier::new(2);
        let ask = || names.iter().map(|name| (barrier.wait(), clusters.demand(name)).1).collect::<Vec<_>>();
        let (first, second) = std::thread::scope(|scope| {
            let other = scope.spawn(ask);
            (ask(), other.join().expect("it asks"))
        });
        assert!(first.iter().zip(&second).all(|(first, second)| Arc::ptr_eq(first, second)));
    }
}
