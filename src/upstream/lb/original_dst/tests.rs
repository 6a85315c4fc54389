use std::sync::Arc;
use std::time::Duration;

use nuncio_config::cluster::{ClusterConfig, Discovery, LbPolicy, OriginalDst};
use nuncio_filter_api::{RequestHead, Scheme};
use nuncio_telemetry::ConnectionInfo;
use nuncio_telemetry::LifeSpan;
use tokio::time::Instant;

use super::*;
use crate::testing::{OneCluster, cluster_config, on_worker, until};

struct Fixture {
    one: OneCluster,
    head: RequestHead,
    info: StreamInfo,
}

impl Fixture {
    fn new(config: OriginalDst) -> Self {
        let discovery = Discovery::OriginalDst(Arc::new(config));
        let lb = LbPolicy::ClusterProvided;
        let one = OneCluster::new(ClusterConfig { discovery, lb, ..cluster_config("c", Vec::new()) });
        let head = RequestHead::new(http::Method::GET, Scheme::Http, "a".into(), "/".into());
        let now = Instant::now();
        let address = |text: &str| Address::Ip(text.parse().unwrap());
        let mut connection = ConnectionInfo::new(0, address("127.0.0.1:5"), address("10.0.0.9:80"), now);
        connection.is_local_restored = true;
        let info = StreamInfo::new(Rc::new(connection), now, std::time::SystemTime::now());
        Self { one, head, info }
    }

    fn picked(&self) -> Option<String> {
        let cx = PickContext { head: Some(&self.head), info: Some(&self.info), ..PickContext::default() };
        let host = self.one.worker.get(0).unwrap().pick(&cx)?;
        Some(host.host.address().to_string())
    }

    fn ask_for(&mut self, destination: &str) {
        self.head.headers.insert("x-envoy-original-dst-host", destination.parse().unwrap());
    }
}

fn config() -> OriginalDst {
    OriginalDst::by_header(Duration::from_millis(20))
}

#[test]
fn a_request_goes_where_its_connection_was_going() {
    on_worker(async {
        let mut fixture = Fixture::new(config());
        assert_eq!(fixture.picked().as_deref(), Some("10.0.0.9:80"));
        fixture.ask_for("[::1]:81");
        assert_eq!(fixture.picked().as_deref(), Some("[::1]:81"));
        fixture.ask_for("nowhere");
        assert_eq!(fixture.picked().as_deref(), Some("10.0.0.9:80"));
        assert_eq!(fixture.one.stats().original_dst_host_invalid().value(), 1);
    });
}

#[test]
fn what_filters_left_comes_before_the_header_and_the_port_before_all() {
    on_worker(async {
        let mut config = config();
        config.port = Some(99);
        let mut fixture = Fixture::new(config);
        fixture.ask_for("10.0.0.1:80");
        assert_eq!(fixture.picked().as_deref(), Some("10.0.0.1:99"));
        let left = FilterValue::Address(Address::Ip("10.0.0.2:80".parse().unwrap()));
        fixture.info.filter_state.borrow_mut().set(ORIGINAL_DST_ADDRESS, left, LifeSpan::Request);
        assert_eq!(fixture.picked().as_deref(), Some("10.0.0.2:99"));
    });
}

#[test]
fn who_was_not_redirected_and_says_nothing_goes_nowhere() {
    on_worker(async {
        let mut fixture = Fixture::new(config());
        Rc::get_mut(&mut fixture.info.connection).unwrap().is_local_restored = false;
        assert_eq!(fixture.picked(), None);
    });
}

#[test]
fn hosts_come_with_requests_and_go_when_nobody_asks() {
    on_worker(async {
        let mut fixture = Fixture::new(config());
        let cluster = fixture.one.clusters.snapshot().get(0).unwrap().clone();
        let discovery = tokio::spawn(fixture.one.clusters.clone().run_discovery());
        fixture.picked().unwrap();
        fixture.ask_for("10.0.0.1:80");
        fixture.picked().unwrap();
        until(|| cluster.hosts().hosts.len() == 2).await;
        assert_eq!(&*cluster.hosts().hosts[1].hostname, "c10.0.0.1:80");
        until(|| cluster.hosts().hosts.is_empty()).await;
        fixture.picked().unwrap();
        until(|| cluster.hosts().hosts.len() == 1).await;
        discovery.abort();
    });
}
