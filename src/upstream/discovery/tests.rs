use nuncio_config::cluster::DnsFamily;
use nuncio_telemetry::stats::Store;

use super::*;
use crate::testing::{NameServer, Zone, cluster_config, named};

struct Fixture {
    clusters: Arc<Clusters>,
    server: NameServer,
    discovery: tokio::task::JoinHandle<()>,
}

impl Fixture {
    /// A cluster of `name.test:80`, which the name server knows at `addresses`, once it is warm.
    async fn new(logical: bool, family: DnsFamily, zone: Zone) -> Self {
        let server = NameServer::default();
        server.set("name.test", zone);
        let dns = Box::new(server.start(family).await);
        let mut config = cluster_config("c", vec![named("name.test", 80)]);
        config.discovery = if logical { Discovery::LogicalDns(dns) } else { Discovery::StrictDns(dns) };
        let clusters = Clusters::new(&Store::new(), None);
        clusters.update([config]);
        let discovery = tokio::spawn(clusters.clone().run_discovery());
        clusters.warmed().await;
        Self { clusters, server, discovery }
    }

    fn cluster(&self) -> Arc<Cluster> {
        self.clusters.snapshot().get(0).unwrap().clone()
    }

    fn addresses(&self) -> Vec<String> {
        self.cluster().hosts().hosts.iter().map(|h| h.address().to_string()).collect()
    }

    /// Waits until the name server was asked twice more, so that an answer to a whole query was taken in.
    async fn refreshed(&self) {
        let stats = self.cluster().stats.clone();
        let goal = stats.update_attempt().value() + 2;
        while stats.update_attempt().value() < goal {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.discovery.abort();
    }
}

fn ips(list: &[&str]) -> Zone {
    Zone::Addresses(list.iter().map(|ip| ip.parse().unwrap()).collect())
}

#[tokio::test]
async fn every_address_of_a_strict_name_is_a_host() {
    let f = Fixture::new(false, DnsFamily::V4Only, ips(&["192.0.2.1", "192.0.2.2"])).await;
    assert_eq!(f.addresses(), ["192.0.2.1:80", "192.0.2.2:80"]);
    assert_eq!(&*f.cluster().hosts().hosts[0].hostname, "name.test");
    let stats = &f.cluster().stats;
    assert_eq!((stats.membership_total().value(), stats.update_success().value()), (2, 1));
}

#[tokio::test]
async fn a_host_that_stays_is_the_same_host() {
    let f = Fixture::new(false, DnsFamily::V4Only, ips(&["192.0.2.1", "192.0.2.2"])).await;
    let second = f.cluster().hosts().hosts[1].clone();
    f.server.set("name.test", ips(&["192.0.2.3", "192.0.2.2"]));
    f.refreshed().await;
    assert_eq!(f.addresses(), ["192.0.2.3:80", "192.0.2.2:80"]);
    assert!(Arc::ptr_eq(&f.cluster().hosts().hosts[1], &second));
}

#[tokio::test]
async fn a_host_whose_checks_pass_outlives_its_name() {
    let f = Fixture::new(false, DnsFamily::V4Only, ips(&["192.0.2.1"])).await;
    let cluster = f.cluster();
    let mut config = cluster.config.clone();
    config.health_check = Some(crate::testing::tcp_check());
    let checked = Cluster::new(config, &Store::new(), None);
    let mut target = Target::named(&named("name.test", 80), "name.test".into(), 80);
    let answer = |ips: &[&str]| Answer {
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: None,
        failed_v4: false,
        failed_v6: false,
    };
    target.update_strict(&checked, &answer(&["192.0.2.1", "192.0.2.2"]));
    target.hosts[1].set_flag(HealthFlag::FailedActiveHc);
    assert!(target.update_strict(&checked, &answer(&[])), "the host that fails is gone");
    let kept = target.hosts[0].clone();
    assert_eq!((target.hosts.len(), kept.flags().to_string()), (1, "/pending_dynamic_removal".to_owned()));
    target.update_strict(&checked, &answer(&["192.0.2.1"]));
    assert!(Arc::ptr_eq(&target.hosts[0], &kept));
    assert_eq!(kept.flags().to_string(), "healthy");
    assert!(target.update_strict(&cluster, &answer(&[])), "without checks none outlives its name");
}

#[tokio::test]
async fn a_failure_keeps_the_hosts_and_a_missing_name_removes_them() {
    let f = Fixture::new(false, DnsFamily::V4Only, ips(&["192.0.2.1"])).await;
    f.server.set("name.test", Zone::ServerFailure);
    f.refreshed().await;
    assert_eq!(f.addresses(), ["192.0.2.1:80"]);
    assert!(f.cluster().stats.update_failure().value() > 0);
    f.server.set("name.test", Zone::NoSuchName);
    f.refreshed().await;
    assert_eq!(f.addresses(), [] as [&str; 0]);
}

#[tokio::test]
async fn a_name_that_does_not_exist_does_not_hold_up_the_start() {
    let f = Fixture::new(false, DnsFamily::Auto, Zone::NoSuchName).await;
    assert_eq!(f.addresses(), [] as [&str; 0]);
    let f = Fixture::new(false, DnsFamily::Auto, Zone::ServerFailure).await;
    assert_eq!(f.addresses(), [] as [&str; 0]);
}

#[tokio::test]
async fn families_are_preferred_as_configured() {
    let both = || ips(&["192.0.2.1", "2001:db8::1"]);
    for (family, expected) in [
        (DnsFamily::Auto, vec!["[2001:db8::1]:80"]),
        (DnsFamily::V4Preferred, vec!["192.0.2.1:80"]),
        (DnsFamily::V6Only, vec!["[2001:db8::1]:80"]),
        (DnsFamily::All, vec!["192.0.2.1:80", "[2001:db8::1]:80"]),
    ] {
        assert_eq!(Fixture::new(false, family, both()).await.addresses(), expected, "{family:?}");
    }
    assert_eq!(Fixture::new(false, DnsFamily::Auto, ips(&["192.0.2.1"])).await.addresses(), ["192.0.2.1:80"]);
}

#[tokio::test]
async fn a_logical_host_moves_and_survives_a_missing_name() {
    let f = Fixture::new(true, DnsFamily::V4Only, ips(&["192.0.2.1", "192.0.2.2"])).await;
    assert_eq!(f.addresses(), ["192.0.2.1:80"]);
    let host = f.cluster().hosts().hosts[0].clone();
    f.server.set("name.test", ips(&["192.0.2.2"]));
    f.refreshed().await;
    assert_eq!(f.addresses(), ["192.0.2.2:80"]);
    assert_eq!(host.description().addresses.as_deref().map(<[_]>::len), Some(2));
    assert_eq!(f.cluster().hosts().hosts[0].description().addresses, None);
    f.server.set("name.test", Zone::NoSuchName);
    f.refreshed().await;
    assert_eq!(f.addresses(), ["192.0.2.2:80"]);
}

#[tokio::test]
async fn localhost_needs_no_name_server() {
    let server = NameServer::default();
    let dns = Box::new(server.start(DnsFamily::V4Only).await);
    let mut config = cluster_config("c", vec![named("localhost", 80)]);
    config.discovery = Discovery::StrictDns(dns);
    let clusters = Clusters::new(&Store::new(), None);
    clusters.update([config]);
    let discovery = tokio::spawn(clusters.clone().run_discovery());
    clusters.warmed().await;
    let hosts = clusters.snapshot().get(0).unwrap().hosts();
    assert_eq!(hosts.hosts[0].address().to_string(), "127.0.0.1:80");
    discovery.abort();
}

#[tokio::test]
async fn a_cluster_that_is_removed_is_no_longer_resolved() {
    let f = Fixture::new(false, DnsFamily::V4Only, ips(&["192.0.2.1"])).await;
    let cluster = f.cluster();
    assert!(f.clusters.remove("c"));
    tokio::task::yield_now().await;
    let weak = Arc::downgrade(&cluster);
    drop(cluster);
    // What is left is with those who will free it.
    while weak.strong_count() > 1 {
        sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn failures_back_off_between_the_two_times() {
    let (base, max) = (Duration::from_secs(1), Duration::from_secs(4));
    let dns = DnsConfig {
        refresh: Duration::from_secs(60),
        jitter: Duration::ZERO,
        respect_ttl: true,
        min_refresh: Duration::from_secs(2),
        failure: Some(RefreshRate { base, max }),
        family: DnsFamily::Auto,
        resolver: None,
    };
    let mut schedule = Schedule::new(&dns);
    for expected in [1, 2, 4, 4] {
        let wait = schedule.after_failure();
        let backoff = Duration::from_secs(expected);
        assert!(wait >= backoff / 2 && wait < backoff, "{wait:?}");
    }
    assert_eq!(schedule.after_answer(Some(Duration::from_secs(7))), Duration::from_secs(7));
    assert_eq!(schedule.after_answer(Some(Duration::ZERO)), Duration::from_secs(60));
    assert_eq!(schedule.after_answer(Some(Duration::from_secs(1))), Duration::from_secs(2), "the shortest");
}
