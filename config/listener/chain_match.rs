//! `FilterChainMatch`: which filter chain a connection gets, compiled.
//!
//! The criteria are looked at in Envoy's order. At each of them the most precise value decides, for good: where the
//! criteria behind it do not fit, a less precise one is not tried.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr};

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::listener::v3 as proto;
use nuncio_telemetry::{Address, ConnectionInfo};
use proto::filter_chain_match::ConnectionSourceType;

use crate::matcher::{Cidr, bits};
use crate::matching::is_local;
use crate::refuse_set;

/// Stands for the address of a unix-domain socket, which is in no range.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

/// Finds the number of a chain.
#[derive(Debug, Default)]
pub(super) struct Table(Exact<u16, Prefixes<Names>>);

type Names = Exact<Box<str>, Exact<Box<str>, Exact<Box<str>, Prefixes<SourceTypes>>>>;
type Sources = Prefixes<Exact<u16, Leaf>>;

#[derive(Debug, Default)]
struct SourceTypes {
    any: Option<Box<Sources>>,
    local: Option<Box<Sources>>,
    external: Option<Box<Sources>>,
}

#[derive(Debug, Default)]
struct Leaf(Option<u32>);

/// By a value that has to be equal.
#[derive(Debug)]
struct Exact<K, N> {
    by: HashMap<K, N>,
    any: Option<Box<N>>,
}

/// By the longest prefix of an address.
#[derive(Debug)]
struct Prefixes<N> {
    /// Of IPv4 and IPv6, by length, the longest first.
    families: [Vec<(u8, HashMap<u128, N>)>; 2],
    any: Option<Box<N>>,
}

/// The criteria of one chain.
#[derive(Debug)]
pub(super) struct Criteria {
    port: Option<u16>,
    prefixes: Vec<Cidr>,
    server_names: Vec<Box<str>>,
    transport_protocol: Option<Box<str>>,
    application_protocols: Vec<Box<str>>,
    direct_sources: Vec<Cidr>,
    source_type: ConnectionSourceType,
    sources: Vec<Cidr>,
    source_ports: Vec<u16>,
}

// === impl Criteria ===

impl Criteria {
    pub(super) fn lower(proto: proto::FilterChainMatch, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::FilterChainMatch {
            destination_port,
            prefix_ranges,
            address_suffix,
            suffix_len,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
            server_names,
            transport_protocol,
            application_protocols,
        } = proto;
        // Envoy does not implement them either.
        let refused = refuse_set!(cx; address_suffix, suffix_len);
        let prefixes = cx.each("prefix_ranges", prefix_ranges, Cidr::lower);
        let direct_sources = cx.each("direct_source_prefix_ranges", direct_source_prefix_ranges, Cidr::lower);
        let sources = cx.each("source_prefix_ranges", source_prefix_ranges, Cidr::lower);
        let server_names = cx.each("server_names", server_names, |name, cx| lower_server_name(&name, cx));
        let source_type = ConnectionSourceType::try_from(source_type)
            .map_err(|_| cx.at("source_type", |cx| cx.invalid("is not a source type")));
        refused?;
        Ok(Self {
            port: destination_port.and_then(|v| u16::try_from(v.value).ok()),
            prefixes: prefixes?,
            server_names: server_names?,
            transport_protocol: (!transport_protocol.is_empty()).then(|| transport_protocol.into()),
            application_protocols: application_protocols.into_iter().map(Into::into).collect(),
            direct_sources: direct_sources?,
            source_type: source_type?,
            sources: sources?,
            source_ports: source_ports.into_iter().filter_map(|port| u16::try_from(port).ok()).collect(),
        })
    }
}

impl Criteria {
    /// Whether every connection fulfils them.
    pub(super) fn is_none(&self) -> bool {
        let Self {
            port,
            prefixes,
            server_names,
            transport_protocol,
            application_protocols,
            direct_sources,
            source_type,
            sources,
            source_ports,
        } = self;
        let ranges = prefixes.len() + direct_sources.len() + sources.len();
        let names = server_names.len() + application_protocols.len() + source_ports.len();
        let has_one = port.is_some() || transport_protocol.is_some() || *source_type != ConnectionSourceType::Any;
        ranges + names == 0 && !has_one
    }
}

/// `*.example.com` is kept as `.example.com`.
fn lower_server_name(name: &str, cx: &mut LowerCx<'_>) -> Result<Box<str>, Refused> {
    match name.strip_prefix('*').filter(|rest| rest.starts_with('.')) {
        // Envoy: the rest of a wildcard is taken as it is, stars and all.
        Some(ending) => Ok(ending.to_ascii_lowercase().into()),
        None if name.contains('*') => {
            Err(cx.invalid(format!("{name:?}: partial wildcards are not supported in \"server_names\"")))
        }
        None => Ok(name.to_ascii_lowercase().into()),
    }
}

// === impl Table ===

impl Table {
    /// Has `criteria` lead to the chain numbered `chain`, or tells of the chain that they lead to already.
    pub(super) fn add(&mut self, criteria: &Criteria, chain: u32) -> Result<(), u32> {
        let mut taken = None;
        let leaf = &mut |leaf: &mut Leaf| match leaf.0 {
            Some(other) => taken = Some(other),
            None => leaf.0 = Some(chain),
        };
        self.0.each(criteria.port.as_slice(), |prefixes| {
            prefixes.each(&criteria.prefixes, |names| {
                names.each(&criteria.server_names, |transports| {
                    transports.each(criteria.transport_protocol.as_slice(), |protocols| {
                        protocols.each(&criteria.application_protocols, |sources| {
                            sources.each(&criteria.direct_sources, |types| {
                                let sources = types.of(criteria.source_type);
                                sources.each(&criteria.sources, |ports| ports.each(&criteria.source_ports, &mut *leaf));
                            });
                        });
                    });
                });
            });
        });
        taken.map_or(Ok(()), Err)
    }

    /// Sorts what was added.
    pub(super) fn finish(&mut self) {
        self.0.each_mut(&mut |prefixes| {
            prefixes.finish(&mut |names| {
                names.each_mut(&mut |transports| {
                    transports.each_mut(&mut |protocols| {
                        protocols.each_mut(&mut |sources| {
                            sources.finish(&mut |types: &mut SourceTypes| {
                                for sources in [&mut types.any, &mut types.local, &mut types.external] {
                                    sources.iter_mut().for_each(|sources| sources.finish(&mut |_| {}));
                                }
                            });
                        });
                    });
                });
            });
        });
    }

    /// The number of the chain of a connection.
    pub(super) fn find(&self, connection: &ConnectionInfo) -> Option<u32> {
        let name = connection.server_name.borrow();
        let inspected = connection.inspected.as_deref();
        let prefixes = self.0.find(connection.local.port().as_ref())?;
        let names = prefixes.find(&connection.local)?;
        let transports = find_name(names, name.as_deref().unwrap_or_default())?;
        let protocols = transports.find(Some(connection.transport_protocol()))?;
        let offered = inspected.map_or(&[][..], |inspected| &inspected.application_protocols);
        let known = offered.iter().find_map(|protocol| protocols.by.get(protocol));
        let types = known.or(protocols.any.as_deref())?.find(&connection.direct_remote)?;
        let ports = types.find(connection)?.find(&connection.remote)?;
        ports.find(connection.remote.port().as_ref())?.0
    }
}

/// The name itself, or else the longest of the wildcards that it is below.
fn find_name<'n, N>(names: &'n Exact<Box<str>, N>, name: &str) -> Option<&'n N> {
    let end = name.len().saturating_sub(1);
    let below = || {
        let dots = memchr::memchr_iter(b'.', name.as_bytes()).filter(|dot| (1..end).contains(dot));
        dots.into_iter().find_map(|dot| names.by.get(&name[dot..]))
    };
    names.by.get(name).or_else(below).or(names.any.as_deref())
}

// === impl SourceTypes ===

impl SourceTypes {
    fn of(&mut self, source_type: ConnectionSourceType) -> &mut Sources {
        let sources = match source_type {
            ConnectionSourceType::Any => &mut self.any,
            ConnectionSourceType::SameIpOrLoopback => &mut self.local,
            ConnectionSourceType::External => &mut self.external,
        };
        sources.get_or_insert_default()
    }

    fn find(&self, connection: &ConnectionInfo) -> Option<&Sources> {
        let (local, external) = (self.local.as_deref(), self.external.as_deref());
        let by_type = match local.is_some() || external.is_some() {
            true if is_local(&connection.remote, &connection.local) => local,
            true => external,
            false => None,
        };
        by_type.or(self.any.as_deref())
    }
}

// === impl Exact ===

impl<K, N> Default for Exact<K, N> {
    fn default() -> Self {
        Self { by: HashMap::new(), any: None }
    }
}

impl<K: Clone + Eq + Hash, N: Default> Exact<K, N> {
    /// Calls `f` with what each of `keys` leads to, or with what any value does where there are none.
    fn each(&mut self, keys: &[K], mut f: impl FnMut(&mut N)) {
        match keys {
            [] => f(self.any.get_or_insert_default()),
            keys => keys.iter().for_each(|key| f(self.by.entry(key.clone()).or_default())),
        }
    }

    fn each_mut(&mut self, f: &mut dyn FnMut(&mut N)) {
        self.by.values_mut().for_each(&mut *f);
        self.any.as_deref_mut().into_iter().for_each(f);
    }

    fn find<Q: Eq + Hash + ?Sized>(&self, key: Option<&Q>) -> Option<&N>
    where
        K: std::borrow::Borrow<Q>,
    {
        // Most tables have no values at all, and a hash costs.
        let by = key.filter(|_| !self.by.is_empty()).and_then(|key| self.by.get(key));
        by.or(self.any.as_deref())
    }
}

// === impl Prefixes ===

impl<N> Default for Prefixes<N> {
    fn default() -> Self {
        Self { families: Default::default(), any: None }
    }
}

impl<N: Default> Prefixes<N> {
    /// As [`Exact::each`].
    fn each(&mut self, ranges: &[Cidr], mut f: impl FnMut(&mut N)) {
        if ranges.is_empty() {
            return f(self.any.get_or_insert_default());
        }
        for range in ranges {
            let family = &mut self.families[usize::from(!range.is_v4)];
            let at = family.iter().position(|(len, _)| *len == range.len).unwrap_or_else(|| {
                family.push((range.len, HashMap::new()));
                family.len() - 1
            });
            f(family[at].1.entry(range.network).or_default());
        }
    }

    fn finish(&mut self, f: &mut dyn FnMut(&mut N)) {
        for family in &mut self.families {
            family.sort_unstable_by_key(|(len, _)| std::cmp::Reverse(*len));
            family.iter_mut().for_each(|(_, networks)| networks.values_mut().for_each(&mut *f));
        }
        self.any.as_deref_mut().into_iter().for_each(f);
    }

    fn find(&self, address: &Address) -> Option<&N> {
        let address = address.ip().unwrap_or(NO_ADDRESS);
        let (family, (bits, width)) = (&self.families[usize::from(address.is_ipv6())], bits(address));
        let found = family.iter().find_map(|(len, networks)| networks.get(&Cidr::network(bits, *len, width)));
        found.or(self.any.as_deref())
    }
}

#[cfg(test)]
mod tests;
