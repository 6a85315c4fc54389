//! Names to addresses.
//!
//! The messages are those of hickory-proto. Who is asked, in which order, how often and for how long is decided here,
//! as c-ares does: hickory's own resolver gives all name servers one time limit together, so that behind a first one
//! that is silent no other is ever asked.

mod cache;
mod exchange;
mod registry;
mod servers;
mod system;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::rr::{Name, RecordType};
use nuncio_config::cluster::{DnsFamily, DnsResolverConfig, ResolverLibrary};
use nuncio_telemetry::stats::catalogue::CaresStats;
use tokio::runtime::Handle;

use cache::Cache;
use servers::Servers;
use system::{Interfaces, SystemFiles};

pub(crate) use registry::Resolvers;

/// Asks the name servers of one configuration. All queries run on the thread that it was made on; who asks may be on
/// any.
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    config: DnsResolverConfig,
    files: SystemFiles,
    /// Made anew when the system's files change.
    servers: ArcSwap<Servers>,
    /// Answers that may be given again. Only the control thread takes it, so that nobody waits.
    cache: Option<Mutex<Cache>>,
    /// What c-ares counts in Envoy; of other libraries nothing is counted.
    stats: Option<CaresStats>,
}

/// What DNS said of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    /// In the order of the answer, those of the preferred family first.
    pub(crate) addresses: Vec<IpAddr>,
    /// The shortest time-to-live among them.
    pub(crate) ttl: Option<Duration>,
    /// Families whose query failed: nothing is known of their addresses.
    pub(crate) failed_v4: bool,
    /// See `failed_v4`.
    pub(crate) failed_v6: bool,
}

/// Why nothing is known of a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The name cannot be asked for.
    #[error("not a domain name: {0}")]
    BadName(String),
    /// No name server answered in time.
    #[error("no name server answered in time")]
    Timeout,
    /// The last name server that was asked could not help.
    #[error("{0}")]
    Server(String),
    /// The process is about to end.
    #[error("no longer resolving")]
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Family {
    V4,
    V6,
}

/// Addresses of one family. A name that does not exist has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    addresses: Vec<IpAddr>,
    ttl: Option<Duration>,
}

// === impl Family ===

impl Family {
    fn record_type(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }

    fn has(self, ip: &IpAddr) -> bool {
        ip.is_ipv4() == (self == Self::V4)
    }

    fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

// === impl Resolver ===

impl Resolver {
    fn new(config: &DnsResolverConfig, files: SystemFiles, stats: Option<CaresStats>, runtime: Handle) -> Self {
        let servers = ArcSwap::from_pointee(Servers::new(config, &files));
        let cache = config.cache_ttl.map(|max| Mutex::new(Cache::new(max)));
        let stats = stats.filter(|_| config.library == ResolverLibrary::Cares);
        Self { shared: Arc::new(Shared { config: config.clone(), files, servers, cache, stats }), runtime }
    }

    /// Asks for the addresses of `name`. A name that does not exist is an answer without addresses, as in Envoy.
    pub(crate) async fn resolve(&self, name: &str, family: DnsFamily) -> Result<Answer, ResolveError> {
        let (shared, name) = (self.shared.clone(), name.to_owned());
        let mut task = AbortOnDrop(self.runtime.spawn(async move { shared.resolve(&name, family).await }));
        (&mut task.0).await.unwrap_or(Err(ResolveError::Stopped))
    }
}

/// A task that ends with who waits for it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Shared ===

impl Shared {
    async fn resolve(&self, name: &str, family: DnsFamily) -> Result<Answer, ResolveError> {
        self.follow_files();
        let (first, second) = match family {
            DnsFamily::V4Only => return one(self.ask(name, Family::V4).await),
            DnsFamily::V6Only => return one(self.ask(name, Family::V6).await),
            DnsFamily::Auto => (Family::V6, Family::V4),
            DnsFamily::V4Preferred => (Family::V4, Family::V6),
            DnsFamily::All => return self.resolve_both(name).await,
        };
        match self.ask(name, first).await {
            Ok(Found { addresses, ttl }) if !addresses.is_empty() => Ok(Answer { addresses, ttl, ..Answer::default() }),
            _ => one(self.ask(name, second).await),
        }
    }

    /// One question, as c-ares counts it, though name servers are asked two.
    async fn resolve_both(&self, name: &str) -> Result<Answer, ResolveError> {
        let _pending = self.stats.as_ref().map(Pending::new);
        let ((v4, timeouts_v4), (v6, timeouts_v6)) =
            tokio::join!(self.look_up(name, Family::V4), self.look_up(name, Family::V6));
        let (failed_v4, failed_v6) = (v4.is_err(), v6.is_err());
        let both = match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => {
                let (v4, v6) = (v4.unwrap_or_default(), v6.unwrap_or_default());
                let ttl = v4.ttl.into_iter().chain(v6.ttl).min();
                let mut addresses = v4.addresses;
                // A literal is the answer to both.
                addresses.extend(v6.addresses.into_iter().filter(|ip| ip.is_ipv6()));
                addresses.dedup();
                Ok(Found { addresses, ttl })
            }
        };
        self.count(&both, timeouts_v4 + timeouts_v6);
        let Found { addresses, ttl } = both?;
        Ok(Answer { addresses, ttl, failed_v4, failed_v6 })
    }

    /// Takes notice of changes of the system's files.
    fn follow_files(&self) {
        if self.servers.load().files_changed(&self.files) {
            self.servers.store(Arc::new(Servers::new(&self.config, &self.files)));
            if let Some(cache) = &self.cache {
                cache.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
        }
    }

    async fn ask(&self, name: &str, family: Family) -> Result<Found, ResolveError> {
        let _pending = self.stats.as_ref().map(Pending::new);
        let (result, timeouts) = self.look_up(name, family).await;
        self.count(&result, timeouts);
        result
    }

    /// What is known of `name`, or what name servers say; and how often one of them was silent.
    async fn look_up(&self, name: &str, family: Family) -> (Result<Found, ResolveError>, u64) {
        if self.config.filter_unroutable && !Interfaces::now().has(family) {
            return (Ok(Found::default()), 0);
        }
        let servers = self.servers.load_full();
        match servers.known(name, family) {
            Some(found) => (Ok(found), 0),
            None => self.ask_servers(&servers, name, family).await,
        }
    }

    fn count(&self, result: &Result<Found, ResolveError>, timeouts: u64) {
        let Some(stats) = &self.stats else { return };
        match result {
            Ok(found) if found.addresses.is_empty() => stats.not_found().inc(),
            Ok(_) | Err(ResolveError::Stopped) => {}
            Err(ResolveError::Timeout) => stats.timeouts().add(timeouts),
            Err(ResolveError::BadName(_) | ResolveError::Server(_)) => stats.get_addr_failure().inc(),
        }
    }

    /// Asks for each of the names that `name` may be short for, until one is there.
    async fn ask_servers(
        &self,
        servers: &Arc<Servers>,
        name: &str,
        family: Family,
    ) -> (Result<Found, ResolveError>, u64) {
        let names = match servers.full_names(name) {
            Ok(names) => names,
            Err(error) => return (Err(error), 0),
        };
        let mut last = Ok(Found::default());
        let mut timeouts = 0;
        for name in names {
            last = match self.cached(&name, family) {
                Some(found) => Ok(found),
                None => servers.ask(&name, family, &mut timeouts).await.map(|answer| self.keep(&name, family, answer)),
            };
            match &last {
                Ok(found) if found.addresses.is_empty() => {}
                // The next may have another server behind it.
                Err(ResolveError::Server(_)) => {}
                _ => break,
            }
        }
        (last, timeouts)
    }

    fn cached(&self, name: &Name, family: Family) -> Option<Found> {
        self.cache.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).get(name, family)
    }

    fn keep(&self, name: &Name, family: Family, answer: exchange::Reply) -> Found {
        let exchange::Reply { found, negative_ttl } = answer;
        if let Some(cache) = &self.cache {
            let ttl = found.ttl.or(negative_ttl).unwrap_or_default();
            cache.lock().unwrap_or_else(PoisonError::into_inner).put(name.clone(), family, found.clone(), ttl);
        }
        found
    }
}

fn one(found: Result<Found, ResolveError>) -> Result<Answer, ResolveError> {
    let Found { addresses, ttl } = found?;
    Ok(Answer { addresses, ttl, ..Answer::default() })
}

/// Counts a resolution under way.
struct Pending<'a>(&'a CaresStats);

impl<'a> Pending<'a> {
    fn new(stats: &'a CaresStats) -> Self {
        stats.resolve_total().inc();
        stats.pending_resolutions().inc();
        Self(stats)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.pending_resolutions().dec();
    }
}

#[cfg(test)]
mod tests;
