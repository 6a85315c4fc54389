//! Configuration that changes while traffic flows: files that are replaced by moves.

mod bootstrap;
mod files;

use crate::support::DEADLINE;
use crate::support::client::{Client, get};
use crate::support::proxy::{Running, proxy};
use crate::support::split::Split;
use crate::support::upstream::http1;
use files::{ALL, Cds, Eds, Lds, Rds, bootstrap};
use std::time::{Duration, Instant};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A proxy all of whose configuration comes from files: one listener, one table, cluster `a` to the first of two
/// upstreams.
async fn discovered(arguments: &[&str]) -> Running {
    let mut proxy = proxy(bootstrap());
    for argument in arguments {
        proxy = proxy.argument(argument);
    }
    for (name, content) in ALL {
        proxy = proxy.file(name, content);
    }
    proxy.upstream(http1().route("/", "first")).upstream(http1().route("/", "second")).run().await
}

/// Asks until the answer is `wanted`.
async fn until_answered(proxy: &Running, wanted: &str) {
    let until = Instant::now() + DEADLINE;
    loop {
        let answer = get(proxy.listener_now("l").await.expect("there is a listener"), "/").await;
        if answer.as_ref().is_ok_and(|answer| answer.text() == wanted) {
            return;
        }
        assert!(Instant::now() < until, "{answer:?}, not {wanted:?}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn everything_comes_from_files_and_follows_them() {
    let proxy = discovered(&[]).await;
    until_answered(&proxy, "first").await;
    proxy.replace("eds.yaml", &Eds::to("$UPSTREAM2").version("2").yaml());
    until_answered(&proxy, "second").await;
    proxy.wait_for_stat("cluster.a.update_success", 2).await;
    proxy.replace("rds.yaml", &Rds::answering("from rds").version("2").yaml());
    until_answered(&proxy, "from rds").await;
    for (stat, value) in [
        ("cluster_manager.cds.update_success", 1),
        ("listener_manager.lds.update_success", 1),
        ("http.in.rds.r.update_success", 2),
        ("http.in.rds.r.config_reload", 2),
        ("cluster.a.update_attempt", 2),
        ("cluster.a.update_rejected", 0),
        ("cluster_manager.cluster_added", 1),
        ("listener_manager.listener_added", 1),
    ] {
        assert_eq!(proxy.stat(stat).await, value, "{stat}");
    }
    let stats = proxy.admin("/stats?filter=version_text").await;
    assert!(stats.contains("cluster.a.version_text: \"2\""), "{stats}");
    let dump = proxy.admin("/config_dump?include_eds").await;
    for part in ["dynamic_active_clusters", "dynamic_listeners", "active_state", "dynamic_route_configs", "from rds"] {
        assert!(dump.contains(part), "{part} in {dump}");
    }
}

#[tokio::test]
async fn an_assignment_that_no_other_follows_in_time_is_given_up() {
    let proxy = discovered(&[]).await;
    until_answered(&proxy, "first").await;
    let stale = "  cluster_name: s\n  policy: { endpoint_stale_after: 0.2s }\n";
    let to_second = Eds::to("$UPSTREAM2").version("2").yaml();
    proxy.replace("eds.yaml", &to_second.replace("  cluster_name: s\n", stale));
    proxy.wait_for_stat("cluster.a.assignment_stale", 1).await;
    until_answered(&proxy, "no healthy upstream").await;
    assert_eq!(proxy.stat("cluster.a.membership_total").await, 0);
    proxy.replace("eds.yaml", &to_second.replace("version_info: '2'", "version_info: '3'"));
    until_answered(&proxy, "second").await;
    assert_eq!(proxy.stat("cluster.a.assignment_timeout_received").await, 1);
}

#[tokio::test]
async fn routes_change_for_live_connections_and_keep_them() {
    let proxy = discovered(&[]).await;
    let mut open = Client::connect(proxy.listener("l"), Split::Whole).await.expect("the proxy accepts");
    assert_eq!(open.request(GET).await.expect("it answers").text(), "first");
    proxy.replace("rds.yaml", &Rds::answering("other").version("2").yaml());
    until_answered(&proxy, "other").await;
    assert_eq!(open.request(GET).await.expect("it answers").text(), "other");
}

#[tokio::test]
async fn what_is_refused_leaves_all_as_it_is_and_is_told_with_its_place() {
    let proxy = discovered(&[]).await;
    proxy.replace("rds.yaml", "version_info: '2'\nresources:\n- [\n");
    proxy.wait_for_stat("http.in.rds.r.update_failure", 1).await;
    proxy.replace("rds.yaml", &Rds::answering("x").yaml().replace("name: r", "name: other"));
    proxy.wait_for_stat("http.in.rds.r.update_rejected", 1).await;
    let rejected =
        "transport_socket: { name: t, typed_config: { '@type': type.googleapis.com/google.protobuf.Struct } }";
    proxy.replace("cds.yaml", &Cds::one("a").with("b").yaml().replace("name: b", &format!("name: b\n  {rejected}")));
    proxy.wait_for_stat("cluster_manager.cds.update_rejected", 1).await;
    until_answered(&proxy, "first").await;
    let log = proxy.log();
    assert!(log.contains("rds.yaml:"), "{log}");
    assert!(log.contains("Unexpected RDS configuration (expecting r): other"), "{log}");
    assert!(log.contains("cds.yaml:") && log.contains("resources[1].transport_socket"), "{log}");
}

#[tokio::test]
async fn clusters_come_and_go() {
    let proxy = discovered(&[]).await;
    proxy.replace("cds.yaml", &Cds::one("a").with("b").version("2").yaml());
    proxy.wait_for_stat("cluster_manager.active_clusters", 2).await;
    proxy.replace("rds.yaml", &Rds::to("b").version("2").yaml());
    proxy.wait_for_stat("http.in.rds.r.update_success", 2).await;
    until_answered(&proxy, "first").await;
    proxy.replace("cds.yaml", &Cds::one("b").version("3").yaml());
    proxy.wait_for_stat("cluster_manager.cluster_removed", 1).await;
    until_answered(&proxy, "first").await;
    assert!(!proxy.admin("/clusters").await.contains("a::"));
    assert!(proxy.admin("/clusters").await.contains("b::added_via_api::true"));
}

#[tokio::test]
async fn a_cluster_that_changes_keeps_its_connections() {
    let proxy = discovered(&[]).await;
    until_answered(&proxy, "first").await;
    let connections = proxy.stat("cluster.a.upstream_cx_total").await;
    proxy.replace("cds.yaml", &Cds::one("a").field("lb_policy: RANDOM").version("2").yaml());
    proxy.wait_for_stat("cluster_manager.cluster_modified", 1).await;
    until_answered(&proxy, "first").await;
    assert_eq!(proxy.stat("cluster.a.upstream_cx_total").await, connections);
}

#[tokio::test]
async fn a_listener_that_changes_keeps_its_socket_and_drains_its_connections() {
    let proxy = discovered(&["--drain-time-s", "1", "--drain-strategy", "immediate"]).await;
    let address = proxy.listener("l");
    let mut open = Client::connect(address, Split::Whole).await.expect("the proxy accepts");
    assert_eq!(open.request(GET).await.expect("it answers").text(), "first");
    proxy.replace("lds.yaml", &Lds::one("l").hcm("server_name: changed").version("2").yaml());
    proxy.wait_for_stat("listener_manager.listener_modified", 1).await;
    proxy.wait_for_stat("listener_manager.listener_in_place_updated", 1).await;
    let drained = open.request(GET).await.expect("the connection lives");
    assert_eq!((drained.header("server"), drained.header("connection")), (Some("envoy"), Some("close")));
    assert_eq!(proxy.listener_now("l").await, Some(address));
    assert_eq!(get(address, "/").await.expect("it answers").header("server"), Some("changed"));
    proxy.wait_for_stat("listener_manager.total_filter_chains_draining", 0).await;
}

#[tokio::test]
async fn listeners_come_and_go() {
    let proxy = discovered(&["--drain-time-s", "1"]).await;
    let first = proxy.listener("l");
    proxy.replace("lds.yaml", &Lds::one("l").with("m").version("2").yaml());
    proxy.wait_for_stat("listener_manager.total_listeners_active", 2).await;
    let second = proxy.listener_now("m").await.expect("it is there");
    assert_eq!(get(second, "/").await.expect("it answers").text(), "first");
    proxy.replace("lds.yaml", &Lds::one("m").version("3").yaml());
    proxy.wait_for_stat("listener_manager.listener_removed", 1).await;
    proxy.wait_for_stat("listener_manager.total_listeners_draining", 0).await;
    assert!(get(first, "/").await.is_err(), "nobody listens there");
    assert_eq!(get(second, "/").await.expect("it answers").text(), "first");
}

#[tokio::test]
async fn a_listener_waits_for_its_routes() {
    let proxy = discovered(&[]).await;
    // A file that is no table answers the wait as well as one that is.
    proxy.replace("late.yaml", "version_info: '1'\n");
    proxy.replace("lds.yaml", &Lds::one("l").version("2").yaml().replace("rds.yaml", "late.yaml"));
    proxy.wait_for_stat("listener_manager.listener_modified", 1).await;
    proxy.wait_for_stat("listener_manager.total_listeners_warming", 0).await;
    let until = Instant::now() + DEADLINE;
    while get(proxy.listener("l"), "/").await.expect("it answers").status() != 404 {
        assert!(Instant::now() < until);
    }
    proxy.replace("late.yaml", &Rds::answering("late").yaml());
    until_answered(&proxy, "late").await;
}

#[tokio::test]
async fn a_config_map_is_followed_through_its_symbolic_link() {
    use std::os::unix::fs::symlink;
    let path = "path_config_source: { path: $DIR/rds.yaml }";
    let watched = "path_config_source: { path: $DIR/map/rds.yaml, watched_directory: { path: $DIR/map } }";
    let proxy = discovered(&[]).await;
    let map = proxy.dir().join("map");
    let write = |folder: &str, table: Rds| {
        std::fs::create_dir_all(map.join(folder)).expect("the folder is writable");
        std::fs::write(map.join(folder).join("rds.yaml"), table.yaml()).expect("the folder is writable");
    };
    write("..1", Rds::answering("one"));
    symlink("..1", map.join("..data")).expect("links can be made");
    symlink("..data/rds.yaml", map.join("rds.yaml")).expect("links can be made");
    proxy.replace("lds.yaml", &Lds::one("l").version("2").yaml().replace(path, watched));
    until_answered(&proxy, "one").await;
    write("..2", Rds::answering("two").version("2"));
    symlink("..2", map.join("..data_tmp")).expect("links can be made");
    std::fs::rename(map.join("..data_tmp"), map.join("..data")).expect("the folder is writable");
    until_answered(&proxy, "two").await;
}
