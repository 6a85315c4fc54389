//! Answers from what is known here: the table, and the hosts of clusters.

use std::net::IpAddr;

use nuncio_telemetry::Address;

use super::config::Config;
use super::message::{Answer, Kind, Question};
use super::table::{Entry, Service};
use crate::worker::WorkerClusters;

/// Looks names up.
pub(super) struct Lookup<'a> {
    pub(super) config: &'a Config,
    pub(super) clusters: &'a WorkerClusters,
}

impl Lookup<'_> {
    /// Whether other names of the domain are known, which is counted.
    pub(super) fn is_known(&self, question: &Question) -> bool {
        let table = &self.config.table;
        let is_known = table.is_known(&table.folded(&question.name));
        if is_known {
            self.config.stats.known_domain_queries().inc();
        }
        is_known
    }

    /// Answers. False where nothing was found; a name without an address of the kind that is asked for is found.
    pub(super) fn answer(&self, question: &Question, answer: &mut Answer) -> bool {
        let table = &self.config.table;
        let name = table.folded(&question.name);
        let entry = table.find(&name);
        match question.kind {
            Kind::A | Kind::Aaaa => {
                // Envoy: the case of a cluster's name counts in any case.
                self.answer_with_hosts(question.kind, &question.name, entry, answer)
                    || self.answer_with_addresses(question.kind, &name, entry, answer)
            }
            Kind::Srv => {
                let service = entry.and_then(|entry| entry.service.as_ref());
                service.is_some_and(|service| {
                    self.answer_with_cluster(service, answer) || self.answer_with_targets(service, answer)
                })
            }
            Kind::Other(_) => false,
        }
    }

    /// With the hosts of the cluster that the name leads to, or that has the name.
    fn answer_with_hosts(&self, kind: Kind, name: &str, entry: Option<&Entry>, answer: &mut Answer) -> bool {
        let (cluster, name) = match entry.and_then(|entry| entry.cluster.as_ref()) {
            Some(cluster) => (Some(cluster.id), &*cluster.name),
            None => (self.config.names.find(name).map(|found| found.id), name),
        };
        let ttl = self.config.table.ttl(name);
        let mut is_found = false;
        for (ip, _) in cluster.into_iter().flat_map(|id| self.hosts(id)) {
            if answer.add_address(kind, ttl, ip) {
                self.config.count_cluster(kind);
                is_found = true;
            }
        }
        is_found
    }

    fn answer_with_addresses(&self, kind: Kind, name: &str, entry: Option<&Entry>, answer: &mut Answer) -> bool {
        let addresses = entry.and_then(|entry| entry.addresses.as_deref()).unwrap_or_default();
        let ttl = self.config.table.ttl(name);
        for ip in addresses {
            if answer.add_address(kind, ttl, *ip) {
                self.config.count_local(kind);
            }
        }
        !addresses.is_empty()
    }

    /// Envoy: a service is at one cluster, or at none. Of several targets one is looked at, by the order of a hash table
    /// there and the first here.
    fn answer_with_cluster(&self, service: &Service, answer: &mut Answer) -> bool {
        let Some(target) = service.targets.first() else { return false };
        let Some(cluster) = &target.cluster else { return false };
        let hosts = self.hosts(cluster.id);
        let ttl = self.config.table.ttl(&target.name);
        let first = hosts.first().map(|(ip, _)| (*ip, ttl));
        for (ip, port) in &hosts {
            let port = if target.port == 0 { *port } else { target.port };
            answer.add_service(service.ttl, [target.priority, target.weight, port], &target.name, first);
            self.config.count_cluster(Kind::Srv);
            self.config.count_cluster(Kind::of(*ip));
        }
        !hosts.is_empty()
    }

    fn answer_with_targets(&self, service: &Service, answer: &mut Answer) -> bool {
        let table = &self.config.table;
        let mut is_found = false;
        for target in &service.targets {
            let entry = table.find(&target.name);
            let Some(addresses) = entry.and_then(|entry| entry.addresses.as_deref()) else { continue };
            self.config.count_local(Kind::Srv);
            let first = addresses.first().map(|ip| (*ip, table.ttl(&target.name)));
            let numbers = [target.priority, target.weight, target.port];
            answer.add_service(service.ttl, numbers, &target.name, first);
            addresses.iter().for_each(|ip| self.config.count_local(Kind::of(*ip)));
            is_found |= !addresses.is_empty();
        }
        is_found
    }

    /// Addresses and ports of the hosts of a cluster.
    fn hosts(&self, id: u32) -> Vec<(IpAddr, u16)> {
        let Some(cluster) = self.clusters.get(id) else { return Vec::new() };
        let set = cluster.shared.cluster.hosts();
        let ip = |host: &std::sync::Arc<crate::host::Host>| match host.address() {
            Address::Ip(address) => Some((address.ip(), address.port())),
            Address::Pipe(_) | Address::Internal(_) => None,
        };
        set.hosts.iter().filter_map(ip).collect()
    }
}
