use nuncio_config::cluster::{ClusterConfig, Endpoint, LbPolicy, Locality, LocalityWeight, RingHashFunction};
use nuncio_filter_api::{Clock, Rng};
use nuncio_telemetry::stats::Store;
use twox_hash::XxHash64;

use super::*;
use crate::cluster::Cluster;
use crate::lb::{Avoid, LoadBalancer};
use crate::runtime::RuntimeRules;
use crate::testing::{cluster_config, fixed};

const RING: HashTable = HashTable::Ring { function: RingHashFunction::Xx, min_size: 1024, max_size: 8 << 20 };
const MAGLEV: HashTable = HashTable::Maglev { size: 65_537 };

/// Hosts 127.0.0.1:1 and so on of these weights.
fn cluster(table: HashTable, weights: &[u32]) -> ClusterConfig {
    let endpoint = |(port, weight): (u16, &u32)| Endpoint { weight: *weight, ..fixed(([127, 0, 0, 1], port).into()) };
    let config = cluster_config("c", (1..).zip(weights).map(endpoint).collect());
    let hashing = HashingLb { table, use_hostname: false, balance_factor: 0, policies: None };
    ClusterConfig { lb: LbPolicy::Hashing(Box::new(hashing)), ..config }
}

/// As `cluster`, with each endpoint changed by its port.
fn with(table: HashTable, hosts: usize, change: impl Fn(u16, &mut Endpoint)) -> ClusterConfig {
    let mut config = cluster(table, &vec![1; hosts]);
    (1..).zip(&mut config.endpoints).for_each(|(port, endpoint)| change(port, endpoint));
    config
}

fn named(table: HashTable) -> ClusterConfig {
    let mut config = with(table, 5, |port, e| e.hostname = format!("host-{port}.example").into());
    let hashing = HashingLb { table, use_hostname: true, balance_factor: 0, policies: None };
    config.lb = LbPolicy::Hashing(Box::new(hashing));
    config
}

/// Zones a, b and c with the weights 1, 3 and none.
fn zoned(table: HashTable) -> ClusterConfig {
    let zone = |zone: &str| Some(Arc::new(Locality { zone: zone.into(), ..Locality::default() }));
    let mut config = with(table, 5, |port, e| e.locality = zone(["a", "a", "b", "b", "c"][usize::from(port) - 1]));
    let weight = |(name, weight)| LocalityWeight { locality: zone(name), priority: 0, weight };
    config.assignment.locality_weights = [("a", 1), ("b", 3)].map(weight).into();
    config.locality_lb = LocalityLb::Weighted;
    config
}

/// A place for each hash; with a host that is avoided, if there is one.
fn places(cluster: &Cluster, hashes: impl Iterator<Item = u64>, avoid: Option<Avoid<'_>>) -> Vec<usize> {
    picks(cluster, hashes.map(|hash| PickContext { hash: Some(hash), avoid, ..PickContext::default() }))
}

/// A place for each request.
fn picks<'a>(cluster: &Cluster, requests: impl Iterator<Item = PickContext<'a>>) -> Vec<usize> {
    let (set, rng) = (cluster.hosts(), Rng::seeded(1));
    let clock = Clock::default();
    let (slow_start, stats) = (None, &cluster.stats);
    let rules = RuntimeRules::default();
    let env = LbEnv {
        set: &set,
        groups: &set.groups,
        local: None,
        panic_threshold: 50,
        rules: &rules,
        slow_start,
        clock: &clock,
        rng: &rng,
        stats,
    };
    let lb = LoadBalancer::new(&cluster.config, env);
    requests.filter_map(|request| lb.pick(&request, env)).collect()
}

fn hashes(count: u32) -> impl Iterator<Item = u64> {
    (0..count).map(|n| XxHash64::oneshot(0, format!("k{n}").as_bytes()))
}

/// The ports of the hosts of header values k0 to k39 are those of Envoy 1.40.
#[track_caller]
fn is_as_envoy(config: ClusterConfig, ports: [usize; 40]) {
    let cluster = Cluster::new(config, &Store::new(), None);
    let ours: Vec<usize> = places(&cluster, hashes(40), None).iter().map(|place| place + 1).collect();
    assert_eq!(ours, ports);
}

#[test]
fn hosts_stand_on_the_ring_where_envoy_has_them() {
    is_as_envoy(
        cluster(RING, &[1; 10]),
        [
            6, 5, 6, 3, 9, 10, 5, 2, 1, 4, 9, 8, 5, 6, 3, 5, 5, 6, 9, 8, 5, 3, 3, 1, 10, 3, 2, 6, 5, 4, 8, 7, 5, 1, 7,
            7, 10, 7, 8, 4,
        ],
    );
    let small = HashTable::Ring { function: RingHashFunction::Xx, min_size: 1, max_size: 7 };
    is_as_envoy(
        cluster(small, &[1; 10]),
        [
            3, 10, 2, 3, 2, 1, 2, 2, 2, 1, 9, 2, 10, 2, 3, 2, 1, 2, 8, 10, 8, 10, 2, 2, 8, 10, 2, 8, 10, 1, 10, 8, 5,
            1, 2, 9, 10, 10, 1, 1,
        ],
    );
}

#[test]
fn hosts_are_placed_by_murmur_hash_2_where_asked() {
    let ring = HashTable::Ring { function: RingHashFunction::Murmur2, min_size: 1024, max_size: 8 << 20 };
    is_as_envoy(
        cluster(ring, &[1; 10]),
        [
            2, 2, 6, 3, 3, 9, 5, 9, 2, 2, 2, 4, 3, 6, 3, 2, 10, 9, 3, 4, 9, 4, 1, 1, 9, 9, 6, 6, 2, 9, 10, 4, 7, 10,
            10, 4, 9, 7, 2, 10,
        ],
    );
}

#[test]
fn heavier_hosts_have_more_places() {
    let ring = HashTable::Ring { function: RingHashFunction::Xx, min_size: 64, max_size: 8 << 20 };
    is_as_envoy(
        cluster(ring, &[1, 2, 3, 5, 9]),
        [
            4, 5, 5, 3, 5, 4, 5, 5, 5, 4, 4, 5, 5, 2, 3, 5, 5, 5, 2, 5, 4, 5, 3, 2, 5, 4, 5, 1, 5, 4, 4, 4, 5, 5, 5, 4,
            4, 5, 4, 4,
        ],
    );
    is_as_envoy(
        cluster(HashTable::Maglev { size: 101 }, &[1, 2, 3, 5, 9]),
        [
            2, 2, 4, 5, 5, 5, 2, 3, 5, 4, 4, 4, 4, 3, 5, 5, 5, 4, 5, 5, 5, 3, 4, 5, 3, 5, 5, 5, 3, 4, 4, 5, 2, 5, 5, 5,
            4, 4, 5, 1,
        ],
    );
}

#[test]
fn hosts_take_the_places_of_the_table_that_envoy_gives_them() {
    is_as_envoy(
        cluster(MAGLEV, &[1; 10]),
        [
            10, 5, 2, 4, 9, 10, 9, 2, 2, 9, 1, 5, 5, 3, 8, 2, 9, 8, 1, 1, 6, 5, 9, 7, 1, 7, 10, 1, 7, 7, 9, 5, 1, 1, 6,
            4, 2, 5, 9, 2,
        ],
    );
    is_as_envoy(
        cluster(HashTable::Maglev { size: 11 }, &[1; 10]),
        [
            8, 5, 6, 6, 3, 10, 5, 1, 7, 2, 3, 8, 9, 7, 1, 8, 6, 9, 8, 10, 8, 7, 1, 6, 9, 7, 2, 9, 5, 3, 1, 9, 7, 2, 2,
            1, 5, 5, 6, 1,
        ],
    );
}

#[test]
fn hosts_may_be_hashed_by_name() {
    is_as_envoy(
        named(RING),
        [
            2, 3, 1, 2, 2, 3, 3, 4, 5, 4, 2, 1, 1, 3, 4, 5, 1, 1, 1, 3, 5, 3, 5, 5, 1, 2, 3, 5, 3, 4, 2, 3, 5, 5, 1, 4,
            1, 4, 3, 5,
        ],
    );
    is_as_envoy(
        named(MAGLEV),
        [
            5, 1, 2, 1, 2, 3, 1, 4, 1, 5, 5, 1, 1, 2, 5, 2, 2, 4, 1, 1, 1, 5, 4, 5, 4, 2, 3, 2, 1, 5, 5, 3, 4, 3, 3, 3,
            5, 5, 5, 2,
        ],
    );
}

#[test]
fn metadata_may_give_the_key_of_a_host() {
    let keyed = with(RING, 5, |port, endpoint| {
        let fields = [("hash_key".to_owned(), format!("key{port}").into())].into_iter().collect();
        endpoint.metadata = (port % 2 == 1).then(|| Arc::new([("envoy.lb".into(), fields)].into_iter().collect()));
    });
    is_as_envoy(
        keyed,
        [
            1, 3, 3, 1, 3, 2, 3, 2, 5, 1, 4, 5, 2, 1, 1, 5, 3, 3, 4, 1, 4, 1, 4, 3, 4, 1, 2, 2, 3, 4, 5, 2, 1, 2, 2, 1,
            4, 3, 3, 4,
        ],
    );
}

#[test]
fn localities_share_the_places_by_weight() {
    is_as_envoy(
        zoned(RING),
        [
            4, 4, 3, 3, 4, 3, 3, 3, 1, 4, 4, 4, 4, 2, 3, 3, 4, 4, 4, 4, 3, 3, 3, 1, 4, 3, 2, 4, 4, 3, 4, 3, 1, 1, 3, 4,
            4, 4, 4, 4,
        ],
    );
    is_as_envoy(
        zoned(MAGLEV),
        [
            2, 3, 2, 4, 3, 3, 3, 2, 2, 4, 1, 4, 4, 3, 3, 2, 4, 3, 4, 3, 1, 1, 1, 3, 1, 4, 1, 4, 2, 2, 3, 4, 3, 1, 3, 4,
            2, 3, 3, 3,
        ],
    );
    let mut unweighted = zoned(RING);
    unweighted.assignment.locality_weights = Box::default();
    let cluster = Cluster::new(unweighted, &Store::new(), None);
    assert_eq!(places(&cluster, hashes(10), None), [0_usize; 0], "without weights there is nobody");
}

#[test]
fn the_sizes_of_tables_are_told() {
    let of = |table| Cluster::new(cluster(table, &[1; 10]), &Store::new(), None);
    let ring = of(RING);
    let stats = RingStats::new(&ring.scope().scope("ring_hash_lb"));
    let gauges = [stats.size(), stats.min_hashes_per_host(), stats.max_hashes_per_host()];
    assert_eq!(gauges.map(|gauge| gauge.value()), [1030, 103, 103]);
    let maglev = of(MAGLEV);
    let stats = MaglevStats::new(&maglev.scope().scope("maglev_lb"));
    assert_eq!((stats.min_entries_per_host().value(), stats.max_entries_per_host().value()), (6553, 6554));
}

#[test]
fn a_host_that_leaves_takes_few_hashes_with_it() {
    for table in [RING, MAGLEV] {
        let of = |count| Cluster::new(cluster(table, &vec![1; count]), &Store::new(), None);
        let (before, after) = (places(&of(10), hashes(1000), None), places(&of(9), hashes(1000), None));
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after && **before != 9).count();
        assert!(moved < 120, "{table:?}: {moved}");
    }
}

#[test]
fn an_avoided_host_gives_way_to_another() {
    for table in [RING, MAGLEV] {
        let cluster = Cluster::new(cluster(table, &[1; 10]), &Store::new(), None);
        let first = cluster.hosts().hosts[0].clone();
        let is_avoided = |host: &Host| std::ptr::eq(host, &*first);
        let avoid = Some(Avoid { is_avoided: &is_avoided, selections: 20 });
        assert!(places(&cluster, hashes(100), None).contains(&0));
        assert!(!places(&cluster, hashes(100), avoid).contains(&0));
    }
}

#[test]
fn an_overloaded_host_gives_way_to_the_same_other_for_the_same_hash() {
    let mut config = cluster(MAGLEV, &[1; 10]);
    let hashing = HashingLb { table: MAGLEV, use_hostname: false, balance_factor: 100, policies: None };
    config.lb = LbPolicy::Hashing(Box::new(hashing));
    let cluster = Cluster::new(config, &Store::new(), None);
    let before = places(&cluster, hashes(200), None);
    let busy = before[0];
    for _ in 0..3 {
        cluster.hosts().hosts[busy].stats.rq_active.inc();
    }
    let after = places(&cluster, hashes(200), None);
    assert!(!after.contains(&busy));
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *before == busy));
    assert_eq!(places(&cluster, hashes(200), None), after);
}

#[test]
fn without_hash_any_host_is_chosen() {
    let cluster = Cluster::new(cluster(MAGLEV, &[1; 10]), &Store::new(), None);
    let requests = (0..200).map(|_| PickContext::default());
    let seen: std::collections::BTreeSet<_> = picks(&cluster, requests).into_iter().collect();
    assert_eq!(seen.len(), 10);
}

/// Where `hosts` are found is the same, whether their table grew out of others or was made for them.
#[track_caller]
fn is_as_made_anew(grown: &Cluster, config: &ClusterConfig) {
    let fresh = Cluster::new(ClusterConfig { endpoints: Box::default(), ..config.clone() }, &Store::new(), None);
    fresh.set_hosts(grown.hosts().hosts.to_vec());
    let of = |cluster: &Cluster| places(cluster, hashes(3000).chain([0, u64::MAX]), None);
    assert_eq!(of(grown), of(&fresh));
}

/// Hosts come, go, fail and are replaced, some of which have equal keys.
#[test]
fn a_table_that_grew_is_as_one_made_anew() {
    let weights: Vec<u32> = (0..300).map(|n| n % 7 + 1).collect();
    let small = HashTable::Maglev { size: 251 };
    for (table, equal_keys) in [(RING, false), (RING, true), (MAGLEV, false), (MAGLEV, true), (small, false)] {
        let config = cluster(table, &weights);
        let mut rng = fastrand::Rng::with_seed(7);
        let host = |port: u16, weight: u32| {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            Arc::new(Host::new(&Endpoint { weight, ..fixed(address) }, address.into()))
        };
        let grown = Cluster::new(config.clone(), &Store::new(), None);
        for round in 0..60_u16 {
            let mut hosts = grown.hosts().hosts.to_vec();
            let at = rng.usize(..hosts.len());
            match round % 5 {
                0 => drop(hosts.remove(at)),
                1 => hosts.insert(at, host(1000 + round, rng.u32(1..9))),
                2 => hosts[at] = host(1000 + if equal_keys { 1 } else { round }, rng.u32(1..9)),
                3 => _ = hosts[at].set_flag(crate::host::HealthFlag::FailedActiveHc),
                _ => hosts.rotate_left(at),
            }
            grown.set_hosts(hosts);
            is_as_made_anew(&grown, &config);
        }
    }
}
