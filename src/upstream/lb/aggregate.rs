//! An aggregate chooses a priority among those of all its members, one member after the other, and leaves it to the
//! member's own balancer to choose a host of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use nuncio_config::cluster::Aggregate;

use super::{ClusterBalancer, PickContext};
use crate::cluster::Cluster;
use crate::host_set::{Ability, Availability, PriorityHosts, PriorityLoad};
use crate::worker::{ClusterShare, WorkerEnv, WorkerHost};

/// The balancer of an aggregate, for one worker.
pub(crate) struct AggregateBalancer {
    config: Aggregate,
    /// Below this percentage of healthy hosts a priority gets its share whether it can do it or not.
    panic_threshold: u8,
    line: RefCell<Rc<Line>>,
}

/// The priorities of all members in one line.
#[derive(Default)]
struct Line {
    /// Of the clusters; members may have come and gone since.
    generation: u64,
    members: Box<[Member]>,
    /// Those that have hosts, in order.
    priorities: Box<[LinePriority]>,
    abilities: Box<[Ability]>,
    load: PriorityLoad,
}

/// A member as it was seen.
struct Member {
    /// Number of its name.
    id: u32,
    /// `None` where it is not there.
    cluster: Option<Arc<Cluster>>,
    /// Of its hosts.
    version: u64,
}

/// One priority of a member.
struct LinePriority {
    /// Place in `members`.
    member: usize,
    /// Priority within the member.
    priority: u32,
    /// A load that leads there, to the healthy and to the degraded hosts.
    healthy: PriorityLoad,
    degraded: PriorityLoad,
}

// === impl AggregateBalancer ===

impl AggregateBalancer {
    pub(super) fn new(config: &Aggregate, panic_threshold: u8) -> Self {
        // The generation of clusters begins at 1: that of the default is never theirs.
        Self { config: config.clone(), panic_threshold, line: RefCell::default() }
    }

    fn line(&self, share: &ClusterShare) -> Rc<Line> {
        let (env, rules) = (&share.env, &share.cluster.rules);
        let current = self.line.borrow().clone();
        if current.is_current(env) {
            return current;
        }
        let next = Rc::new(Line::new(&self.config, rules.panic_threshold(self.panic_threshold), env));
        *self.line.borrow_mut() = next.clone();
        next
    }
}

impl ClusterBalancer for AggregateBalancer {
    fn pick(&self, cx: &PickContext<'_>, share: &Rc<ClusterShare>) -> Option<Rc<WorkerHost>> {
        let env = &share.env;
        let line = self.line(share);
        if line.priorities.is_empty() {
            return None;
        }
        let (at, availability) = cx.load.unwrap_or(&line.load).choose(env.rng.u64());
        let priority = line.priorities.get(at)?;
        let load = match availability {
            Availability::Healthy => &priority.healthy,
            Availability::Degraded => &priority.degraded,
        };
        let member = env.cluster(line.members[priority.member].id)?;
        member.pick(&PickContext { load: Some(load), ..*cx })
    }

    fn is_by_hash(&self, share: &ClusterShare) -> bool {
        let is_by_hash = |cluster: &Arc<Cluster>| cluster.config.lb.is_by_hash();
        self.line(share).members.iter().any(|member| member.cluster.as_ref().is_some_and(is_by_hash))
    }

    fn abilities(&self, share: &ClusterShare) -> Vec<Ability> {
        self.line(share).abilities.to_vec()
    }

    fn priority_of(&self, host: &WorkerHost) -> Option<usize> {
        let line = self.line.borrow();
        let is_there = |p: &LinePriority| {
            p.priority == host.host.priority && line.members[p.member].id == host.share.cluster.config.name.id
        };
        line.priorities.iter().position(is_there)
    }
}

// === impl Line ===

impl Line {
    fn new(config: &Aggregate, panic_threshold: u8, env: &WorkerEnv) -> Self {
        // The generation and the versions first: what changes meanwhile is then looked at again.
        let generation = env.clusters.generation();
        let snapshot = env.clusters.snapshot();
        let mut line = Self { generation, ..Self::default() };
        let (mut members, mut priorities, mut abilities) = (Vec::new(), Vec::new(), Vec::new());
        for name in &config.clusters {
            let cluster = snapshot.get(name.id).cloned();
            let version = cluster.as_ref().map_or(0, |c| c.version());
            if let Some(cluster) = &cluster {
                let set = cluster.hosts();
                let count = set.groups.priorities.len();
                // Envoy: a priority without hosts has no place in the line, and so no aggregate has one.
                let filled = |p: &(u32, &PriorityHosts)| !p.1.all.is_empty();
                for (priority, hosts) in (0..).zip(&set.groups.priorities[..]).filter(filled) {
                    let load = |availability| PriorityLoad::all_to(priority as usize, availability, count);
                    let (healthy, degraded) = (load(Availability::Healthy), load(Availability::Degraded));
                    priorities.push(LinePriority { member: members.len(), priority, healthy, degraded });
                    abilities.push(hosts.ability());
                }
            }
            members.push(Member { id: name.id, cluster, version });
        }
        if !abilities.is_empty() {
            line.load = PriorityLoad::distribute(&abilities, panic_threshold).0;
        }
        Self { members: members.into(), priorities: priorities.into(), abilities: abilities.into(), ..line }
    }

    fn is_current(&self, env: &WorkerEnv) -> bool {
        let same_hosts = |m: &Member| m.cluster.as_ref().is_none_or(|cluster| cluster.version() == m.version);
        self.generation == env.clusters.generation() && self.members.iter().all(same_hosts)
    }
}

#[cfg(test)]
mod tests;
