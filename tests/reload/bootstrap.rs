//! The bootstrap itself is read again: on SIGHUP, and when its file changes.

use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, get};
use crate::support::proxy::{Dir, Running, binary, proxy};
use crate::support::split::Split;
use crate::support::upstream::http1;
use std::process::Command;

fn pieces(routes: &str, clusters: &str) -> String {
    Pieces { routes: routes.to_owned(), clusters: clusters.to_owned(), ..Pieces::default() }.yaml()
}

const TO_UP: &str = "- { match: { prefix: / }, route: { cluster: up } }\n";
const TO_NEW: &str = "- { match: { prefix: / }, route: { cluster: new } }\n";
const NEW: &str = "- name: new
  connect_timeout: 1s
  load_assignment:
    cluster_name: new
    endpoints:
    - lb_endpoints:
      - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: $UPSTREAM2 } } }
";

async fn started(arguments: &[&str]) -> Running {
    let mut proxy = proxy(pieces(TO_UP, ""));
    for argument in arguments {
        proxy = proxy.argument(argument);
    }
    proxy.upstream(http1().route("/", "first")).upstream(http1().route("/", "second")).run().await
}

#[tokio::test]
async fn a_signal_has_the_bootstrap_read_again_and_the_difference_applied() {
    let proxy = started(&["--drain-time-s", "1", "--drain-strategy", "immediate"]).await;
    let mut open = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    assert_eq!(open.request(request).await.expect("it answers").text(), "first");
    proxy.replace("bootstrap.yaml", &pieces(TO_NEW, NEW));
    proxy.signal(libc::SIGHUP);
    proxy.wait_for_stat("server.config_reload_success", 1).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("it answers").text(), "second", "at the same address");
    assert_eq!(open.request(request).await.expect("it ends well").header("connection"), Some("close"));
    let (added, modified) =
        (proxy.stat("cluster_manager.cluster_added").await, proxy.stat("cluster_manager.cluster_modified").await);
    assert_eq!((added, modified, proxy.stat("listener_manager.listener_modified").await), (2, 0, 1));
    assert!(proxy.admin("/config_dump").await.contains("\"cluster\": \"new\""));
    proxy.replace("bootstrap.yaml", &pieces(TO_UP, ""));
    proxy.signal(libc::SIGHUP);
    proxy.wait_for_stat("server.config_reload_success", 2).await;
    assert_eq!(proxy.stat("cluster_manager.cluster_removed").await, 1);
    assert_eq!(get(proxy.addr(), "/").await.expect("it answers").text(), "first");
}

#[tokio::test]
async fn an_invalid_bootstrap_changes_nothing_and_says_why() {
    let proxy = started(&[]).await;
    proxy.replace("bootstrap.yaml", &pieces("- { match: { prefix: / }, route: { cluster: none } }\n", NEW));
    proxy.signal(libc::SIGHUP);
    proxy.wait_for_stat("server.config_reload_failure", 1).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("it answers").text(), "first");
    assert_eq!(proxy.stat("cluster_manager.cluster_added").await, 1);
    let log = proxy.log();
    assert!(log.contains("bootstrap.yaml:") && log.contains("unknown cluster \"none\""), "{log}");
}

#[tokio::test]
async fn a_bootstrap_that_a_start_refuses_is_refused() {
    let proxy = started(&[]).await;
    proxy.replace("bootstrap.yaml", &pieces(TO_NEW, NEW));
    proxy.signal(libc::SIGHUP);
    proxy.wait_for_stat("server.config_reload_success", 1).await;
    // Its listener is as it was, and the cluster that it routes to is gone.
    proxy.replace("bootstrap.yaml", &pieces(TO_NEW, ""));
    proxy.signal(libc::SIGHUP);
    proxy.wait_for_stat("server.config_reload_failure", 1).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("it answers").text(), "second");
    let log = proxy.log();
    assert!(log.contains("unknown cluster \"new\""), "{log}");
}

#[tokio::test]
async fn nothing_takes_the_place_of_what_discovery_gave() {
    let found = NEW.replacen("- name", "- \"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\n  name", 1);
    let cds = "node: { id: me, cluster: us }\ndynamic_resources: { cds_config: { resource_api_version: V3, path_config_source: { path: $DIR/cds.yaml } } }\n";
    let pieces = |clusters: &str| {
        Pieces { clusters: clusters.to_owned(), bootstrap: cds.to_owned(), ..Pieces::default() }.yaml()
    };
    let proxy = proxy(pieces(""))
        .file("cds.yaml", &format!("version_info: '1'\nresources:\n{found}"))
        .upstream(http1().route("/", "first"))
        .upstream(http1().route("/", "second"))
        .run()
        .await;
    proxy.wait_for_stat("cluster_manager.active_clusters", 2).await;
    proxy.replace("bootstrap.yaml", &pieces(NEW));
    proxy.signal(libc::SIGHUP);
    proxy.wait_for_stat("server.config_reload_failure", 1).await;
    let log = proxy.log();
    assert!(log.contains("cluster 'new' has come by discovery"), "{log}");
    assert_eq!(proxy.stat("cluster_manager.cluster_modified").await, 0);
}

#[tokio::test]
async fn a_bootstrap_that_is_watched_is_followed() {
    let proxy = started(&["--watch-config"]).await;
    proxy.replace("bootstrap.yaml", &pieces(TO_NEW, NEW));
    proxy.wait_for_stat("server.config_reload_success", 1).await;
    assert_eq!(get(proxy.addr(), "/").await.expect("it answers").text(), "second");
}

#[test]
fn the_difference_of_two_bootstraps_is_told_and_a_bad_one_refused() {
    let dir = Dir::new();
    let write = |name: &str, yaml: &str| {
        let path = dir.0.join(name);
        std::fs::write(&path, yaml.replace("$UPSTREAM2", "2").replace("$UPSTREAM", "1")).expect("it is writable");
        path
    };
    let (old, new) = (write("old.yaml", &pieces(TO_UP, "")), write("new.yaml", &pieces(TO_NEW, NEW)));
    let run = |arguments: &[&std::ffi::OsStr]| {
        let output = Command::new(binary()).args(arguments).output().expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let (success, stdout, _) = run(&["diff".as_ref(), old.as_os_str(), new.as_os_str()]);
    assert_eq!((success, &*stdout), (true, "+ cluster new\n~ listener main\n"));
    let (success, stdout, _) = run(&["validate".as_ref(), "-c".as_ref(), new.as_os_str()]);
    assert!(success && stdout.contains("OK"), "{stdout}");
    let bad = write("bad.yaml", "static_resources: { clusters: [{ nam: c }] }");
    let (success, _, stderr) = run(&["validate".as_ref(), "-c".as_ref(), bad.as_os_str()]);
    assert!(!success && stderr.contains("bad.yaml:1:"), "{stderr}");
    let (success, _, stderr) = run(&["diff".as_ref(), old.as_os_str(), bad.as_os_str()]);
    assert!(!success && stderr.contains("bad.yaml:1:"), "{stderr}");
}
