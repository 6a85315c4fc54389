use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use nuncio_config::cluster::DnsResolverConfig;
use nuncio_telemetry::stats::Store;
use nuncio_telemetry::stats::catalogue::CaresStats;
use tokio::runtime::Handle;

use super::Resolver;
use super::system::SystemFiles;

/// One resolver for all that ask the same servers in the same way.
pub(crate) struct Resolvers {
    /// That of the bootstrap, for those who say nothing of theirs.
    default: Arc<DnsResolverConfig>,
    stats: CaresStats,
    files: SystemFiles,
    /// Of the thread that asks for all others.
    runtime: OnceLock<Handle>,
    /// Taken by those who begin to ask, never for a question.
    known: Mutex<HashMap<Arc<DnsResolverConfig>, Arc<Resolver>>>,
}

// === impl Resolvers ===

impl Resolvers {
    pub(crate) fn new(default: DnsResolverConfig, store: &Store) -> Self {
        Self {
            default: Arc::new(default),
            stats: CaresStats::new(&store.scope("dns.cares")),
            files: SystemFiles::default(),
            runtime: OnceLock::new(),
            known: Mutex::default(),
        }
    }

    /// Questions are asked on the runtime that calls this first.
    pub(crate) fn run_here(&self) {
        self.runtime.get_or_init(Handle::current);
    }

    /// The resolver for `config`, or that of the bootstrap. To be called on a runtime.
    pub(crate) fn resolver(&self, config: Option<&Arc<DnsResolverConfig>>) -> Arc<Resolver> {
        let config = config.unwrap_or(&self.default);
        // A poisoned lock means that an insertion panicked: what is there is whole.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = known.get(config) {
            return resolver.clone();
        }
        let runtime = self.runtime.get_or_init(Handle::current).clone();
        let made = Resolver::new(config, self.files.clone(), Some(self.stats.clone()), runtime);
        let made = Arc::new(made);
        known.insert(config.clone(), made.clone());
        made
    }
}
