//! What the real binary asks name servers, where only they can tell.

use crate::support::bootstrap::Pieces;
use crate::support::client::get;
use crate::support::name_server::table;
use crate::support::proxy::{Running, proxy};
use crate::support::upstream::http1;
use std::time::Duration;

const CARES: &str = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";

/// A proxy whose cluster is `a.test`, as `names` has it, with further fields of its c-ares resolver.
async fn resolving(names: &str, resolver: &str, servers: &str) -> Running {
    let cluster = format!(
        "type: STRICT_DNS\ndns_lookup_family: V4_ONLY\ntyped_dns_resolver_config: {{ name: x, typed_config: {{ \
         \"@type\": {CARES}, {resolver} resolvers: [ {servers} ] }} }}\nload_assignment: {{ cluster_name: up, \
         endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: a.test, port_value: \
         $UPSTREAM }} }} }} }}] }}] }}\n"
    );
    let pieces = Pieces { cluster, ..Pieces::default() };
    proxy(pieces.yaml()).upstream(http1()).names(&table(names).expect("a sound table")).run().await
}

fn server(port: &str) -> String {
    format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}")
}

/// hickory's own resolver would never ask the second.
#[tokio::test]
async fn a_silent_name_server_does_not_hide_the_next() {
    let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.expect("a port is free");
    let port = silent.local_addr().expect("it is bound").port().to_string();
    let servers = format!("{}, {}", server(&port), server("$DNS"));
    let proxy = resolving("a.test 127.0.0.1", "query_timeout_seconds: 1,", &servers).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
    assert_eq!(proxy.stat("cluster.up.update_failure").await, 0);
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_again_over_tcp() {
    let proxy = resolving("a.test truncated 127.0.0.1", "", &server("$DNS")).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
    let over_tcp: Vec<_> = proxy.name_server().asked().iter().map(|question| question.over_tcp).collect();
    assert_eq!(over_tcp, [false, true]);
}

#[tokio::test]
async fn tcp_alone_asks_nothing_over_udp() {
    let options = "dns_resolver_options: { use_tcp_for_dns_lookups: true },";
    let proxy = resolving("a.test 127.0.0.1", options, &server("$DNS")).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200);
    assert!(proxy.name_server().asked().iter().all(|question| question.over_tcp));
}

#[tokio::test]
async fn a_server_that_fails_is_asked_as_often_as_it_may() {
    let proxy = resolving("a.test SERVFAIL", "query_tries: 3,", &server("$DNS")).await;
    assert_eq!(proxy.stat("dns.cares.get_addr_failure").await, 1);
    let asked = proxy.name_server().asked();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|question| question.name == "a.test" && !question.is_v6));
}

/// The hosts that were known serve on while DNS is broken.
#[tokio::test]
async fn stale_answers_are_better_than_none() {
    let names = |text: &str| table(text).expect("a sound table");
    let cluster = "type: STRICT_DNS\ndns_lookup_family: V4_ONLY\ndns_refresh_rate: 0.02s\ndns_resolvers: [ { \
                   socket_address: { address: 127.0.0.1, port_value: $DNS } } ]\nload_assignment: { cluster_name: up, \
                   endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: a.test, \
                   port_value: $UPSTREAM } } } }] }] }\n";
    let pieces = Pieces { cluster: cluster.to_owned(), ..Pieces::default() };
    let proxy = proxy(pieces.yaml()).upstream(http1()).names(&names("a.test 127.0.0.1")).run().await;
    for broken in ["a.test SERVFAIL", "a.test REFUSED", "a.test garbage", "a.test FORMERR"] {
        proxy.name_server().change(&names(broken));
        let failures = proxy.stat("cluster.up.update_failure").await;
        while proxy.stat("cluster.up.update_failure").await < failures + 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(get(proxy.addr(), "/").await.expect("the proxy answers").status(), 200, "{broken}");
    }
}
