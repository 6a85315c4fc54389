//! The names that are known, and what is known of them.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use nuncio_config::protocol::duration;
use nuncio_filter_api::{ClusterName, LowerCx, Refused};
use nuncio_proto::envoy::data::dns::v3 as proto;
use proto::dns_table::dns_endpoint::EndpointConfig;
use proto::dns_table::dns_service_protocol::ProtocolConfig;
use proto::dns_table::dns_service_target::EndpointType;
use proto::dns_table::{DnsEndpoint, DnsService, DnsServiceProtocol, DnsServiceTarget, DnsVirtualDomain};

/// What is known of names.
#[derive(Debug)]
pub(super) struct Table {
    /// A name that begins with a dot stands for those that end in it.
    names: HashMap<Box<str>, Entry>,
    /// The last two labels of each name.
    suffixes: HashSet<Box<str>>,
    /// In seconds.
    ttls: HashMap<Box<str>, u32>,
    case: Case,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Counts,
    Ignored,
}

/// What is known of one name.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) addresses: Option<Vec<IpAddr>>,
    pub(super) cluster: Option<ClusterName>,
    pub(super) service: Option<Service>,
}

/// Where a service is.
#[derive(Debug)]
pub(super) struct Service {
    /// In seconds.
    pub(super) ttl: u32,
    /// At least one.
    pub(super) targets: Vec<Target>,
}

/// One of the places where a service is.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) name: Box<str>,
    /// Where it is a cluster.
    pub(super) cluster: Option<ClusterName>,
    pub(super) priority: u16,
    pub(super) weight: u16,
    pub(super) port: u16,
}

/// Envoy's default of `answer_ttl`, in seconds.
const TTL: u32 = 300;

/// Names of protocols by number, as getprotobynumber(3) knows them; services over others are passed over.
const PROTOCOLS: [(u32, &str); 6] =
    [(1, "icmp"), (6, "tcp"), (17, "udp"), (33, "dccp"), (132, "sctp"), (136, "udplite")];

// === impl Table ===

impl Table {
    #[allow(deprecated)]
    pub(super) fn lower(table: proto::DnsTable, ignore_case: bool, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::DnsTable {
            // Told apart by the caller.
            external_retry_count: _,
            virtual_domains,
            // Envoy does not look at them any more: what is known follows from the domains.
            known_suffixes: _,
        } = table;
        let mut lowered = Self {
            names: HashMap::new(),
            suffixes: HashSet::new(),
            ttls: HashMap::new(),
            case: if ignore_case { Case::Ignored } else { Case::Counts },
        };
        cx.each("virtual_domains", virtual_domains, |domain, cx| lowered.add(domain, cx))?;
        Ok(lowered)
    }

    fn add(&mut self, domain: DnsVirtualDomain, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        let DnsVirtualDomain { name: full_name, endpoint, answer_ttl } = domain;
        let full_name = self.folded(&full_name).into_owned();
        let name: Box<str> = full_name.strip_prefix('*').unwrap_or(&full_name).into();
        let ttl = cx.opt("answer_ttl", answer_ttl, duration)?;
        let DnsEndpoint { endpoint_config } = endpoint.unwrap_or_default();
        match endpoint_config {
            None => {}
            Some(EndpointConfig::AddressList(list)) => {
                let addresses = cx.at("endpoint", |cx| {
                    cx.at("address_list", |cx| {
                        cx.each("address", list.address, |text, cx| {
                            text.parse::<IpAddr>().map_err(|_| cx.invalid(format!("malformed IP address: {text}")))
                        })
                    })
                })?;
                self.entry(&name).addresses.get_or_insert_default().extend(addresses);
            }
            // Envoy: the first says where a name leads.
            Some(EndpointConfig::ClusterName(cluster)) if cluster.is_empty() || self.names.contains_key(&name) => {}
            Some(EndpointConfig::ClusterName(cluster)) => {
                self.entry(&name).cluster = Some(cx.env.clusters.intern(&cluster));
            }
            Some(EndpointConfig::ServiceList(list)) => {
                cx.at("endpoint", |cx| {
                    cx.at("service_list", |cx| {
                        cx.each("services", list.services, |service, cx| {
                            self.add_service(service, &full_name, &name, cx)
                        })
                    })
                })?;
            }
        }
        let seconds = ttl.map_or(TTL, seconds);
        self.ttls.entry(name).or_insert(seconds);
        Ok(())
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        self.suffixes.insert(suffix(name).into());
        self.names.entry(name.into()).or_default()
    }

    fn add_service(
        &mut self,
        service: DnsService,
        domain: &str,
        name: &str,
        cx: &mut LowerCx<'_>,
    ) -> Result<(), Refused> {
        let DnsService { service_name, protocol, ttl, targets } = service;
        let DnsServiceProtocol { protocol_config } = protocol.unwrap_or_default();
        let protocol = match protocol_config {
            Some(ProtocolConfig::Name(name)) => name,
            Some(ProtocolConfig::Number(number)) => match PROTOCOLS.iter().find(|(known, _)| *known == number) {
                Some((_, name)) => (*name).to_owned(),
                None => return Ok(()),
            },
            None => return Ok(()),
        };
        // Envoy: a service is known where a name before it is known that ends in the same two labels.
        if !self.suffixes.contains(suffix(name)) {
            tracing::warn!(target: "config", service_name, domain, "no name of this domain comes before its service, \
                which is not known therefore");
            return Ok(());
        }
        let underlined = |name: &str| if name.starts_with('_') { name.to_owned() } else { format!("_{name}") };
        let key = format!("{}.{}.{domain}", underlined(&service_name), underlined(&protocol));
        let key = self.folded(&key).into_owned().into_boxed_str();
        let ttl = cx.opt("ttl", ttl, duration)?.map_or(0, seconds);
        let targets = targets.into_iter().filter_map(|target| Target::lower(target, cx)).collect();
        self.names.entry(key).or_insert_with(|| Entry { service: Some(Service { ttl, targets }), ..Entry::default() });
        Ok(())
    }

    /// The name in the form in which it is looked up.
    pub(super) fn folded<'a>(&self, name: &'a str) -> Cow<'a, str> {
        match self.case {
            Case::Ignored if name.bytes().any(|byte| byte.is_ascii_uppercase()) => name.to_ascii_lowercase().into(),
            _ => name.into(),
        }
    }

    /// Whether a name of the same domain is known.
    pub(super) fn is_known(&self, name: &str) -> bool {
        self.suffixes.contains(suffix(name))
    }

    /// What is known of a name, or of all that end as it does.
    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        if let Some(entry) = self.names.get(name) {
            return Some(entry);
        }
        name.match_indices('.').find_map(|(dot, _)| self.names.get(&name[dot..]))
    }

    /// For how many seconds what is said of a name is good. Envoy: a name that a wildcard stands for has none of its own.
    pub(super) fn ttl(&self, name: &str) -> u32 {
        self.ttls.get(name).copied().unwrap_or(TTL)
    }
}

/// The last two labels of a name.
fn suffix(name: &str) -> &str {
    let mut dots = name.rmatch_indices('.');
    match (dots.next(), dots.next()) {
        (Some(_), Some((dot, _))) => &name[dot + 1..],
        // Of a name that begins with a dot what comes after it.
        (Some(_), None) => name.strip_prefix('.').unwrap_or(name),
        _ => name,
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

// === impl Target ===

impl Target {
    fn lower(target: DnsServiceTarget, cx: &LowerCx<'_>) -> Option<Self> {
        let DnsServiceTarget { endpoint_type, priority, weight, port } = target;
        let (name, cluster) = match endpoint_type? {
            EndpointType::HostName(name) => (name, None),
            EndpointType::ClusterName(name) => {
                let cluster = cx.env.clusters.intern(&name);
                (name, Some(cluster))
            }
        };
        // Rules of the message hold them below 65536.
        let [priority, weight, port] = [priority, weight, port].map(|n| u16::try_from(n).unwrap_or(u16::MAX));
        Some(Self { name: name.into(), cluster, priority, weight, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_is_the_last_two_labels() {
        for (name, expected) in [("a.b.c", "b.c"), ("b.c", "b.c"), ("c", "c"), (".b.c", "b.c"), ("", ""), (".c", "c")] {
            assert_eq!(suffix(name), expected, "{name}");
        }
    }
}
