//! The name servers of a resolver, and in which order they are asked.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::rr::Name;
use nuncio_config::cluster::{DnsResolverConfig, ResolverLibrary};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::exchange::{self, Reply, Ways};
use super::system::{Signature, SystemFiles};
use super::{Family, Found, ResolveError};

/// getaddrinfo(3) does not tell how long an address is good for; Envoy takes this.
const GETADDRINFO_TTL: Duration = Duration::from_secs(60);

/// So many questions are under way at once, each with a socket of its own; the others wait for their turn. At the start
/// all names of all clusters are asked for together.
const MOST_AT_ONCE: usize = 256;

/// Whom a resolver asks, by its configuration and the system's files as they were read.
pub(super) struct Servers {
    servers: Vec<Server>,
    ways: Ways,
    timeout: Duration,
    tries: u32,
    rotate: bool,
    next: AtomicUsize,
    search: Vec<Name>,
    ndots: usize,
    /// Names of the hosts file, in lower case.
    hosts: HashMap<String, Vec<IpAddr>>,
    library: ResolverLibrary,
    read_from: Signature,
    sockets: Semaphore,
}

struct Server {
    address: SocketAddr,
    /// Failures since it last helped: those that have the fewest are asked first, as c-ares does.
    failures: AtomicU32,
}

// === impl Servers ===

impl Servers {
    pub(super) fn new(config: &DnsResolverConfig, files: &SystemFiles) -> Self {
        let read_from = files.signature();
        let system = files.resolv_conf();
        let own = if config.servers_are_fallback && !system.servers.is_empty() { &[][..] } else { &config.servers };
        let mut addresses = if own.is_empty() { system.servers } else { own.to_vec() };
        if addresses.is_empty() {
            // c-ares asks the local host where nothing names a server.
            addresses.push((Ipv4Addr::LOCALHOST, 53).into());
        }
        let server = |address| Server { address, failures: AtomicU32::new(0) };
        Self {
            servers: addresses.into_iter().map(server).collect(),
            ways: Ways { use_tcp: config.use_tcp, udp_payload: config.udp_payload },
            timeout: config.timeout,
            tries: config.tries.max(1),
            rotate: config.rotate,
            next: AtomicUsize::new(0),
            search: if config.no_search { Vec::new() } else { system.search },
            ndots: system.ndots,
            hosts: files.hosts(),
            library: config.library,
            read_from,
            sockets: Semaphore::new(MOST_AT_ONCE),
        }
    }

    /// Whether `files` are no longer what it was made of.
    pub(super) fn files_changed(&self, files: &SystemFiles) -> bool {
        self.read_from != files.signature()
    }

    /// What is known of `name` without asking anyone.
    pub(super) fn known(&self, name: &str, family: Family) -> Option<Found> {
        // As in c-ares, an address is the answer to a question for the other family, too.
        if let Ok(ip) = name.parse::<IpAddr>() {
            return Some(Found { addresses: vec![ip], ttl: None });
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let mut addresses: Vec<_> =
            self.hosts.get(&name).into_iter().flatten().filter(|ip| family.has(ip)).copied().collect();
        // RFC 6761 §6.3: name servers are never asked for localhost.
        if addresses.is_empty() && (name == "localhost" || name.ends_with(".localhost")) {
            addresses.push(family.loopback());
        }
        (!addresses.is_empty()).then_some(Found { addresses, ttl: None })
    }

    /// The names that `name` may be short for, in the order in which they are asked for.
    pub(super) fn full_names(&self, name: &str) -> Result<Vec<Name>, ResolveError> {
        let bad = || ResolveError::BadName(name.to_owned());
        let mut own = Name::from_str_relaxed(name).map_err(|_| bad())?;
        if own.num_labels() == 0 {
            return Err(bad());
        }
        if own.is_fqdn() {
            return Ok(vec![own]);
        }
        let mut names: Vec<_> =
            self.search.iter().filter_map(|domain| own.clone().append_domain(domain).ok()).collect();
        let has_dots = name.matches('.').count() >= self.ndots;
        own.set_fqdn(true);
        names.insert(if has_dots { 0 } else { names.len() }, own);
        Ok(names)
    }

    /// Asks one server after the other until one helps.
    pub(super) async fn ask(
        self: &Arc<Self>,
        name: &Name,
        family: Family,
        timeouts: &mut u64,
    ) -> Result<Reply, ResolveError> {
        let count = self.servers.len();
        let start = if self.rotate { self.next.fetch_add(1, Ordering::Relaxed) % count } else { 0 };
        let mut error = ResolveError::Timeout;
        for attempt in 0..count.saturating_mul(self.tries as usize) {
            let at = self.preferred(start);
            let server = &self.servers[at];
            let limit = patience(self.timeout, attempt / count);
            // It is never closed.
            let turn = self.sockets.acquire().await;
            let answer = timeout(limit, exchange::ask(server.address, name, family, self.ways)).await;
            drop(turn);
            match answer {
                Ok(Ok(reply)) => {
                    server.failures.store(0, Ordering::Relaxed);
                    self.probe_others(at, name, family);
                    return Ok(self.with_ttl(reply));
                }
                Ok(Err(fault)) => error = ResolveError::Server(format!("{}: {fault}", server.address)),
                Err(_) => {
                    *timeouts += 1;
                    error = ResolveError::Timeout;
                }
            }
            tracing::debug!(server = %server.address, %name, %error, "name server did not help");
            server.failures.fetch_add(1, Ordering::Relaxed);
        }
        Err(error)
    }

    /// That which failed least often of late; of those alike the first from `start` on.
    fn preferred(&self, start: usize) -> usize {
        let count = self.servers.len();
        let in_order = (0..count).map(|n| (start + n) % count);
        in_order.min_by_key(|at| self.servers[*at].failures.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Finds out whether servers that failed are back, beside the questions that others wait for.
    fn probe_others(self: &Arc<Self>, but: usize, name: &Name, family: Family) {
        /// Of so many answers, one makes for a probe: c-ares' `retry_chance`.
        const CHANCE: u32 = 10;
        let failed = |(at, server): &(usize, &Server)| *at != but && server.failures.load(Ordering::Relaxed) > 0;
        let Some((at, server)) = self.servers.iter().enumerate().find(failed) else { return };
        if fastrand::u32(..CHANCE) != 0 {
            return;
        }
        let (servers, name, address) = (self.clone(), name.clone(), server.address);
        tokio::spawn(async move {
            if let Ok(Ok(_)) = timeout(servers.timeout, exchange::ask(address, &name, family, servers.ways)).await {
                servers.servers[at].failures.store(0, Ordering::Relaxed);
            }
        });
    }

    #[cfg(test)]
    pub(super) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.servers.iter().map(|server| server.address)
    }

    #[cfg(test)]
    pub(super) fn failures(&self, at: usize) -> u32 {
        self.servers[at].failures.load(Ordering::Relaxed)
    }

    fn with_ttl(&self, mut reply: Reply) -> Reply {
        if self.library == ResolverLibrary::GetAddrInfo {
            reply.found.ttl = reply.found.ttl.map(|_| GETADDRINFO_TTL);
        }
        reply
    }
}

/// How long a server may take: twice as long each time that all were asked in vain, and then a random part less, so
/// that many who ask do not do it at once.
fn patience(first: Duration, round: usize) -> Duration {
    let doubled = first.saturating_mul(1 << round.min(16));
    match round {
        0 => doubled,
        _ => doubled.mul_f64(1.0 - fastrand::f64() / 2.0),
    }
}
