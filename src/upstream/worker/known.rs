//! The hosts that a worker has chosen, across the changes of its cluster's hosts.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use super::{ClusterShare, WorkerHost};
use crate::host::Host;
use crate::host_set::{ByAddress, HostSet};
use crate::pool::Load;

/// What a worker keeps of hosts. They stay where they are while hosts come and go around them: a change of one host in
/// 100,000 costs a worker no look at the others.
pub(super) struct KnownHosts {
    /// By address, which each keeps from being used again.
    hosts: RefCell<HashMap<usize, Rc<WorkerHost>, ByAddress>>,
    /// How many hosts the cluster had lost when those were last let go of.
    lost: Cell<u64>,
}

// === impl KnownHosts ===

impl KnownHosts {
    /// For a cluster with these hosts; what was known of them `before`, in the cluster that it takes the place of, goes
    /// on.
    pub(super) fn new(set: &HostSet, before: Option<&Self>) -> Self {
        let mut hosts = HashMap::default();
        if let Some(before) = before {
            let before = before.hosts.borrow();
            let kept = set.hosts.iter().filter_map(|host| before.get_key_value(&Arc::as_ptr(host).addr()));
            hosts.extend(kept.map(|(address, host)| (*address, host.clone())));
        }
        Self { hosts: RefCell::new(hosts), lost: Cell::new(set.lost.count()) }
    }

    pub(super) fn get(&self, host: &Arc<Host>, share: &Rc<ClusterShare>) -> Rc<WorkerHost> {
        let mut hosts = self.hosts.borrow_mut();
        hosts
            .entry(Arc::as_ptr(host).addr())
            .or_insert_with(|| Rc::new(WorkerHost::new(host.clone(), share.clone())))
            .clone()
    }

    /// What the pools of all hosts do together.
    pub(super) fn load(&self) -> Load {
        self.hosts.borrow().values().map(|host| host.pools.load()).fold(Load::default(), Load::and)
    }

    /// Lets go of the hosts that are not in `set`.
    pub(super) fn update(&self, set: &HostSet) {
        let before = self.lost.replace(set.lost.count());
        // What the pools of a host do when they go must find the hosts whole.
        let gone: Vec<Rc<WorkerHost>> = {
            let mut hosts = self.hosts.borrow_mut();
            match set.lost.since(before) {
                Some(lost) => lost.iter().filter_map(|host| hosts.remove(host)).collect(),
                // So many that each is looked for.
                None => {
                    let is_in: HashSet<usize, ByAddress> = set.hosts.iter().map(|h| Arc::as_ptr(h).addr()).collect();
                    hosts.extract_if(|host, _| !is_in.contains(host)).map(|(_, host)| host).collect()
                }
            }
        };
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Clusters;
    use crate::lb::PickContext;
    use crate::testing::{OneCluster, cluster_config, fixed};

    fn hosts(ports: std::ops::Range<u16>) -> Vec<Arc<Host>> {
        let address = |port: u16| nuncio_telemetry::Address::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)));
        ports.map(|port| Arc::new(Host::new(&fixed(([127, 0, 0, 1], port).into()), address(port)))).collect()
    }

    /// Chooses often enough for each host to be known.
    fn known(f: &OneCluster) -> usize {
        let cluster = f.worker.get(0).unwrap();
        let picked: HashSet<_> =
            (0..2000).map(|_| Rc::as_ptr(&cluster.pick(&PickContext::default()).unwrap())).collect();
        assert_eq!(picked.len(), cluster.known.hosts.borrow().len());
        picked.len()
    }

    #[test]
    fn hosts_that_are_gone_are_let_go_of_and_the_others_stay_the_same() {
        let f = OneCluster::new(cluster_config("c", Vec::new()));
        let all = hosts(1..1000);
        let cluster = Clusters::snapshot(&f.clusters).get(0).unwrap().clone();
        cluster.set_hosts(all[..900].to_vec());
        assert_eq!(known(&f), 900);
        let mine = f.worker.get(0).unwrap();
        let before = Rc::downgrade(&mine.known.get(&all[450], &mine.shared));
        // Several changes at once, few of them and many.
        cluster.set_hosts([&all[..400], &all[401..900]].concat());
        cluster.set_hosts([&all[..100], &all[101..400], &all[401..]].concat());
        assert_eq!(known(&f), 997);
        assert!(before.upgrade().is_some());
        cluster.set_hosts(all[..300].to_vec());
        assert_eq!(known(&f), 300);
        assert!(before.upgrade().is_none(), "nobody keeps a host that is gone");
        cluster.set_hosts(all[..450].to_vec());
        assert_eq!(known(&f), 450);
    }
}
