//! Names to addresses.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
    ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::{TokioResolver, system_conf};
use nuncio_config::cluster::{DnsFamily, DnsResolverConfig};

/// Asks the name servers of one configuration. Nothing is cached: whoever asks decides how often.
pub(crate) struct Resolver {
    v4: TokioResolver,
    v6: TokioResolver,
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
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The resolver could not be set up.
    #[error("cannot set up a resolver: {0}")]
    Setup(NetError),
    /// No name server answered as it should.
    #[error("{0}")]
    Query(NetError),
}

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

/// Addresses with their shortest time-to-live. A name that does not exist has none.
type FamilyAnswer = Result<(Vec<IpAddr>, Option<Duration>), NetError>;

// === impl Resolver ===

impl Resolver {
    pub(crate) fn new(config: &DnsResolverConfig) -> Result<Self, ResolveError> {
        let build = |strategy| build(config, strategy).map_err(ResolveError::Setup);
        Ok(Self { v4: build(LookupIpStrategy::Ipv4Only)?, v6: build(LookupIpStrategy::Ipv6Only)? })
    }

    /// Asks for the addresses of `name`. A name that does not exist is an answer without addresses, as in Envoy.
    pub(crate) async fn resolve(&self, name: &str, family: DnsFamily) -> Result<Answer, ResolveError> {
        let (first, second) = match family {
            DnsFamily::V4Only => return one(self.ask(name, Family::V4).await),
            DnsFamily::V6Only => return one(self.ask(name, Family::V6).await),
            DnsFamily::Auto => (Family::V6, Family::V4),
            DnsFamily::V4Preferred => (Family::V4, Family::V6),
            DnsFamily::All => return self.resolve_both(name).await,
        };
        match self.ask(name, first).await {
            Ok((addresses, ttl)) if !addresses.is_empty() => Ok(Answer { addresses, ttl, ..Answer::default() }),
            _ => one(self.ask(name, second).await),
        }
    }

    async fn resolve_both(&self, name: &str) -> Result<Answer, ResolveError> {
        let (v4, v6) = tokio::join!(self.ask(name, Family::V4), self.ask(name, Family::V6));
        let (failed_v4, failed_v6) = (v4.is_err(), v6.is_err());
        match (v4, v6) {
            (Err(error), Err(_)) => Err(ResolveError::Query(error)),
            (v4, v6) => {
                let (mut addresses, ttl_v4) = v4.unwrap_or_default();
                let (more, ttl_v6) = v6.unwrap_or_default();
                addresses.extend(more);
                let ttl = ttl_v4.into_iter().chain(ttl_v6).min();
                Ok(Answer { addresses, ttl, failed_v4, failed_v6 })
            }
        }
    }

    async fn ask(&self, name: &str, family: Family) -> FamilyAnswer {
        let resolver = match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let ttls = found.as_lookup().answers().iter().map(|r| Duration::from_secs(r.ttl.into()));
                Ok((found.iter().collect(), ttls.min()))
            }
            Err(error) if is_empty_answer(&error) => Ok((Vec::new(), None)),
            Err(error) => Err(error),
        }
    }
}

fn one(answer: FamilyAnswer) -> Result<Answer, ResolveError> {
    let (addresses, ttl) = answer.map_err(ResolveError::Query)?;
    Ok(Answer { addresses, ttl, ..Answer::default() })
}

/// NXDOMAIN, or a name without addresses of the family.
fn is_empty_answer(error: &NetError) -> bool {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
        }
        _ => error.is_nx_domain(),
    }
}

fn build(config: &DnsResolverConfig, strategy: LookupIpStrategy) -> Result<TokioResolver, NetError> {
    let (servers, options) = servers(config);
    let options = options_of(config, strategy, options);
    TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default()).with_options(options).build()
}

fn servers(config: &DnsResolverConfig) -> (ResolverConfig, ResolverOpts) {
    // c-ares asks the local host where /etc/resolv.conf names no server.
    let fallback = || {
        let local = NameServerConfig::udp_and_tcp(Ipv4Addr::LOCALHOST.into());
        (ResolverConfig::from_parts(None, Vec::new(), vec![local]), ResolverOpts::default())
    };
    let (system, options) = system_conf::read_system_conf().unwrap_or_else(|_| fallback());
    let (domain, search, mut servers) = system.into_parts();
    if !config.servers.is_empty() {
        let server = |at: &std::net::SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
            let at_port = |mut connection: ConnectionConfig| {
                connection.port = at.port();
                connection
            };
            NameServerConfig::new(at.ip(), false, connections.into_iter().map(at_port).collect())
        };
        servers = config.servers.iter().map(server).collect();
    }
    if config.use_tcp {
        for server in &mut servers {
            server.connections.retain(|c| matches!(c.protocol, hickory_resolver::config::ProtocolConfig::Tcp));
        }
    }
    let (domain, search) = if config.no_search { (None, Vec::new()) } else { (domain, search) };
    (ResolverConfig::from_parts(domain, search, servers), options)
}

fn options_of(config: &DnsResolverConfig, strategy: LookupIpStrategy, mut options: ResolverOpts) -> ResolverOpts {
    options.ip_strategy = strategy;
    options.cache_size = 0;
    options.timeout = config.timeout;
    options.attempts = config.tries.saturating_sub(1) as usize;
    options.use_hosts_file = ResolveHosts::Always;
    // One after the other, in the order given, as c-ares asks them.
    options.num_concurrent_reqs = 1;
    options.server_ordering_strategy =
        if config.rotate { ServerOrderingStrategy::RoundRobin } else { ServerOrderingStrategy::UserProvidedOrder };
    options
}
