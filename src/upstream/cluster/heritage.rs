//! Hosts that stay the same while the configuration of their cluster changes.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nuncio_config::cluster::{AssignmentPolicy, ClusterConfig, Discovery, Endpoint, EndpointAddress, TransportSockets};
use nuncio_telemetry::Address;

use super::{Anew, Cluster, choose_transport};
use crate::discovery::outlives_its_name;
use crate::host::{Description, HealthFlag, Host};
use crate::host_set::HostSet;

/// Whether the hosts of a cluster can go on in the one that replaces it. What checks or ejects them writes to them: it
/// must be there in both, or in none. Each of them knows its transport socket: that must be the same.
pub(super) fn is_inherited(before: &ClusterConfig, after: &ClusterConfig) -> bool {
    let has_fixed_hosts = |config: &ClusterConfig| matches!(config.discovery, Discovery::Static | Discovery::Eds(_));
    has_fixed_hosts(before)
        && has_fixed_hosts(after)
        && before.health_check.is_some() == after.health_check.is_some()
        && before.outlier.is_some() == after.outlier.is_some()
        && (before.connections == after.connections || (before.transport.is_none() && after.transport.is_none()))
}

impl Cluster {
    /// Makes the hosts of `endpoints` those of the cluster.
    pub(super) fn take_endpoints(&self, endpoints: &[Endpoint], policy: Option<&AssignmentPolicy>) {
        let mut writer = self.lock();
        let inherited = writer.inherited.take();
        let current = self.hosts();
        let mut next = Hosts::new(inherited.as_deref().unwrap_or(&current), inherited.is_some(), &self.config);
        let is_discovered = self.config.discovery.eds().is_some();
        let mut seen = HashSet::new();
        for endpoint in endpoints {
            // Lowering refuses names where nobody resolves them.
            let EndpointAddress::Fixed(address) = &endpoint.address else { continue };
            // Envoy: of several endpoints at one address, the first is there.
            if !is_discovered || seen.insert(address) {
                next.add(endpoint, address);
            }
        }
        if is_discovered && inherited.is_none() {
            next.keep_those_that_pass(self);
        }
        let is_policy_new = policy.is_some_and(|policy| {
            let is_new = self.policy.load().as_deref().is_none_or(|before| before != policy);
            if is_new {
                self.policy.store(Some(Arc::new(policy.clone())));
            }
            is_new
        });
        let before: HashSet<_> = current.hosts.iter().map(Arc::as_ptr).collect();
        let is_same =
            next.hosts.len() == before.len() && next.hosts.iter().all(|host| before.contains(&Arc::as_ptr(host)));
        if is_discovered && is_same && !is_policy_new && !next.has_news {
            self.stats.update_no_rebuild().inc();
            return;
        }
        // Of those who are there already, something is known that was not.
        let is_of_those_there = is_discovered && is_same && !is_policy_new && inherited.is_none();
        if is_of_those_there && next.hosts.iter().zip(&*current.hosts).all(|(a, b)| Arc::ptr_eq(a, b)) {
            return self.tell_assigned(next.anew);
        }
        self.replace_hosts(next.hosts, &next.known, next.anew);
    }

    /// Lets go of hosts that discovery has no longer, once their checks fail. False if there is none.
    pub(super) fn drop_hosts_that_left(&self) -> bool {
        if self.config.discovery.eds().is_none() {
            return false;
        }
        let current = self.hosts();
        let leaves = |host: &Arc<Host>| {
            let flags = host.flags();
            flags.has(HealthFlag::PendingDynamicRemoval) && flags.has(HealthFlag::FailedActiveHc)
        };
        if !current.hosts.iter().any(leaves) {
            return false;
        }
        self.replace_hosts(
            current.hosts.iter().filter(|host| !leaves(host)).cloned().collect(),
            &HashSet::new(),
            Anew::No,
        );
        true
    }
}

/// Hosts being chosen from those before.
struct Hosts<'a> {
    by_address: HashMap<Address, &'a Arc<Host>>,
    /// Those at an address that is another host's.
    superseded: Vec<&'a Arc<Host>>,
    /// Whether those before are of another cluster.
    is_inherited: bool,
    /// Whether they are checked actively.
    is_checked: bool,
    hosts: Vec<Arc<Host>>,
    /// Those whose health is known.
    known: HashSet<*const Host>,
    /// Whether something else is said of one that stays.
    has_news: bool,
    /// Whether that is what tables are made by.
    anew: Anew,
    sockets: Option<&'a TransportSockets>,
}

impl<'a> Hosts<'a> {
    fn new(before: &'a HostSet, is_inherited: bool, config: &'a ClusterConfig) -> Self {
        let mut by_address = HashMap::with_capacity(before.hosts.len());
        let mut superseded = Vec::new();
        for host in before.hosts.iter() {
            match by_address.entry(host.address()) {
                Entry::Vacant(place) => _ = place.insert(host),
                Entry::Occupied(mut place) if place.get().flags().has(HealthFlag::PendingDynamicRemoval) => {
                    superseded.push(place.insert(host));
                }
                Entry::Occupied(_) => superseded.push(host),
            }
        }
        let is_checked = config.health_check.is_some();
        Self {
            by_address,
            superseded,
            is_inherited,
            is_checked,
            hosts: Vec::new(),
            known: HashSet::new(),
            has_news: false,
            anew: Anew::No,
            sockets: config.transport.as_deref(),
        }
    }

    fn add(&mut self, endpoint: &Endpoint, address: &Address) {
        let host = match self.by_address.remove(address) {
            Some(before) if self.stays(before, endpoint) => {
                if !before.description().is_of(endpoint) {
                    before.describe(Description::of(endpoint));
                    (self.has_news, self.anew) = (true, Anew::Yes);
                }
                let returns = before.clear_flag(HealthFlag::PendingDynamicRemoval);
                self.has_news |= before.set_configured(endpoint.health) || returns;
                self.has_news |= before.set_assigned_weight(endpoint.weight);
                self.known.insert(Arc::as_ptr(before));
                before.clone()
            }
            // Envoy: what its checks found is not what others would find. It stays beside while they pass.
            Some(before) if self.is_checked && !before.is_checked_as(endpoint) => {
                self.superseded.push(before);
                Arc::new(Host::new(endpoint, address.clone()))
            }
            Some(before) => {
                let host = Arc::new(Host::succeeding(endpoint, address.clone(), before));
                self.known.insert(Arc::as_ptr(&host));
                host
            }
            None => Arc::new(Host::new(endpoint, address.clone())),
        };
        self.hosts.push(host);
    }

    /// Whether a host goes on as this endpoint. Envoy leaves it the connections that it has even where its metadata
    /// wants another transport socket for those to come; here such a host is another one.
    fn stays(&self, host: &Host, endpoint: &Endpoint) -> bool {
        let has_same_socket = || {
            let described = host.description();
            described.is_of(endpoint)
                || self.sockets.is_none_or(|sockets| {
                    let next = Description::of(endpoint);
                    choose_transport(sockets, host, &described) == choose_transport(sockets, host, &next)
                })
        };
        host.is_of(endpoint) && !(self.is_inherited && is_ejected(host)) && has_same_socket()
    }

    /// Envoy: a host that discovery has no longer stays while its health checks pass.
    fn keep_those_that_pass(&mut self, cluster: &Cluster) {
        let left = std::mem::take(&mut self.by_address);
        let left = left.into_values().chain(std::mem::take(&mut self.superseded));
        self.hosts.extend(left.filter(|host| outlives_its_name(cluster, host)).cloned());
    }
}

/// Only the one that ejected a host takes it back.
fn is_ejected(host: &Host) -> bool {
    let flags = host.flags();
    flags.has(HealthFlag::FailedOutlierCheck) || flags.has(HealthFlag::DegradedOutlierDetection)
}

#[cfg(test)]
mod tests;
