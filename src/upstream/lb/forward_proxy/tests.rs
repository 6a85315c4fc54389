use std::time::Duration;

use nuncio_config::cluster::{
    ClusterConfig, Discovery, DnsCacheConfig, DnsFamily, ForwardHosts, ForwardProxy, LbPolicy,
};
use nuncio_filter_api::Scheme;

use super::*;
use crate::testing::{NameServer, OneCluster, Zone, cluster_config, on_worker, until};

async fn forward_proxy(names: &NameServer) -> OneCluster {
    let cache = DnsCacheConfig {
        name: "c".into(),
        family: DnsFamily::V4Only,
        resolver: names.start(DnsFamily::V4Only).await.resolver,
        refresh: Duration::from_millis(20),
        min_refresh: Duration::from_millis(20),
        failure: None,
        refreshes_failures: true,
        host_ttl: Duration::from_millis(200),
        max_hosts: 2,
        max_pending: 10,
        query_timeout: Some(Duration::from_secs(5)),
        preresolved: Box::default(),
        filter: None,
    };
    let discovery = Discovery::ForwardProxy(Arc::new(ForwardProxy { hosts: ForwardHosts::Cache(Arc::new(cache)) }));
    let lb = LbPolicy::ClusterProvided;
    OneCluster::new(ClusterConfig { discovery, lb, ..cluster_config("c", Vec::new()) })
}

/// The host that a request for `authority` goes to, or why there is none.
async fn picked(one: &OneCluster, authority: &str) -> Result<String, String> {
    let head = RequestHead::new(http::Method::GET, Scheme::Http, authority.to_owned().into(), "/".into());
    let cx = PickContext { head: Some(&head), ..PickContext::default() };
    let cluster = one.worker.get(0).unwrap();
    if let Some(preparing) = cluster.prepare(|| cx) {
        preparing.await.map_err(|failure| failure.details().into_owned())?;
    }
    Ok(cluster.pick(&cx).unwrap().host.address().to_string())
}

#[test]
fn a_request_waits_for_the_host_that_it_names() {
    on_worker(async {
        let names = NameServer::default();
        names.set("a.test", Zone::Addresses(vec![[127, 0, 0, 7].into()]));
        let one = forward_proxy(&names).await;
        let discovery = tokio::spawn(one.clusters.clone().run_discovery());
        assert_eq!(picked(&one, "a.test").await.as_deref(), Ok("127.0.0.7:80"));
        assert_eq!(picked(&one, "").await.unwrap_err(), "empty_host_header");
        let missing = picked(&one, "no.test:81").await.unwrap_err();
        assert_eq!(missing, "dns_resolution_failure{cares_norecords:Domain_name_not_found}");
        assert_eq!(picked(&one, "b.test").await.unwrap_err(), "dns_cache_overflow");
        let cluster = one.clusters.snapshot().get(0).unwrap().clone();
        until(|| cluster.hosts().hosts.len() == 1).await;
        assert_eq!(&*cluster.hosts().hosts[0].hostname, "a.test:80");
        discovery.abort();
    });
}
