//! Secrets that come by discovery: what they make changes for new handshakes, and nothing else.

use super::parity::envoy::programs;
use super::support::DEADLINE;
use super::support::client::get;
use super::support::control_plane::{ControlPlane, Kind, WAYS, Way};
use super::support::proxy::{CERTIFICATES, Proxy, Running, proxy};
use super::support::upstream::http1;
use std::path::Path;
use std::time::{Duration, Instant};

/// A proxy that speaks TLS with itself: what comes to `/kept` goes over a connection that is kept, what comes to `/new`
/// over another each time, to a listener whose TLS context has `server` in it. That answers which certificate it shows.
pub(super) fn looped(server: &str, client: &str, rest: &str) -> Proxy {
    let hcm = |prefix: &str, rest: &str| {
        format!(
            "- name: hcm
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: {prefix}
          http_filters: [{{ name: router, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }} }}]
          {rest}"
        )
    };
    let front = hcm(
        "front",
        "route_config: { virtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: /kept }, route: { cluster: kept } }, { match: { prefix: /new }, route: { cluster: new } }] }] }",
    );
    let secure = hcm(
        "secure",
        "route_config: { response_headers_to_add: [{ header: { key: x-shown, value: '%DOWNSTREAM_LOCAL_SUBJECT%' } }, { header: { key: x-client, value: '%DOWNSTREAM_PEER_SUBJECT%' } }], virtual_hosts: [{ name: all, domains: ['*'], routes: [{ match: { prefix: / }, direct_response: { status: 200 } }] }] }",
    );
    let cluster = |name: &str, protocol: &str| {
        format!(
            "  - name: {name}
    connect_timeout: 2s
    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ pipe: {{ path: $DIR/secure }} }} }} }}] }}] }}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {{ {protocol} }}
        explicit_http_config: {{ http_protocol_options: {{}} }}
    transport_socket:
      name: tls
      typed_config:
        '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        max_session_keys: 0
        common_tls_context: {{ {client} }}
"
        )
    };
    let (kept, new) = (cluster("kept", ""), cluster("new", "max_requests_per_connection: 1"));
    proxy(format!(
        "node: {{ id: me, cluster: us }}
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }} }}
static_resources:
  listeners:
  - name: front
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}
    filter_chains:
    - filters:
      {front}
  - name: secure
    stat_prefix: secure
    address: {{ pipe: {{ path: $DIR/secure }} }}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          {server}
      filters:
      {secure}
  clusters:
{kept}{new}{rest}"
    ))
}

fn certificates() -> &'static Path {
    Path::new(CERTIFICATES)
}

fn pem(name: &str) -> String {
    std::fs::read_to_string(certificates().join(name)).expect("the certificates are there")
}

/// A secret that names its files.
fn certificate(name: &str, key: &str) -> String {
    let folder = certificates();
    let folder = folder.display();
    format!(
        "name: cert
tls_certificate: {{ certificate_chain: {{ filename: {folder}/{name}.pem }}, private_key: {{ filename: {folder}/{key}.key }} }}"
    )
}

/// A file that holds a secret.
fn file(secret: &str) -> String {
    let indented = secret.replace('\n', "\n  ");
    format!(
        "resources:\n- '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret\n  {indented}\n"
    )
}

const FROM_FILE: &str = "common_tls_context: { tls_certificate_sds_secret_configs: [{ name: cert, sds_config: { path_config_source: { path: $DIR/cert.yaml } } }] }";

/// The subject of the certificate that is shown to whoever asks for this path.
async fn shown(proxy: &Running, path: &str) -> String {
    let answer = get(proxy.listener("front"), path).await.expect("it answers");
    answer.header("x-shown").unwrap_or_else(|| panic!("{answer:?}\n{}", proxy.log())).to_owned()
}

/// Waits until new connections are shown something else than `before`.
async fn until_other(proxy: &Running, before: &str) -> String {
    let until = Instant::now() + DEADLINE;
    loop {
        let now = shown(proxy, "/new").await;
        if now != before {
            return now;
        }
        assert!(Instant::now() < until, "{now}\n{}", proxy.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_certificate_is_swapped_for_new_handshakes_alone_and_a_bad_one_is_refused() {
    let proxy = looped(FROM_FILE, "", "").file("cert.yaml", &file(&certificate("server", "server"))).run().await;
    let first = shown(&proxy, "/new").await;
    assert_eq!(shown(&proxy, "/kept").await, first);
    proxy.replace("cert.yaml", &file(&certificate("client", "client")));
    let second = until_other(&proxy, &first).await;
    assert_eq!(shown(&proxy, "/kept").await, first, "the connection is the same");
    assert_eq!(proxy.stat("cluster.kept.upstream_cx_total").await, 1);
    proxy.replace("cert.yaml", &file(&certificate("server", "client")));
    proxy.wait_for_stat("sds.cert.update_rejected", 1).await;
    assert_eq!(shown(&proxy, "/new").await, second, "the old one serves");
    for (stat, value) in [
        ("sds.cert.update_attempt", 3),
        ("sds.cert.update_success", 2),
        ("sds.cert.key_rotation_failed", 0),
        ("listener.secure.server_ssl_socket_factory.ssl_context_update_by_sds", 2),
        ("listener.secure.server_ssl_socket_factory.downstream_context_secrets_not_ready", 0),
        ("listener.secure.ssl.connection_error", 0),
    ] {
        assert_eq!(proxy.stat(stat).await, value, "{stat}");
    }
    let dump = proxy.admin("/config_dump").await;
    assert!(dump.contains("dynamic_active_secrets") && dump.contains("W3JlZGFjdGVkXQ=="), "{dump}");
}

#[tokio::test]
async fn files_that_a_secret_names_are_followed_as_kubernetes_moves_them() {
    let secret = "name: cert
tls_certificate: { certificate_chain: { filename: $DIR/map/tls.pem }, private_key: { filename: $DIR/map/tls.key }, watched_directory: { path: $DIR/map } }";
    let map = tempfolder("map");
    let write = |folder: &str, chain: &str, key: &str| {
        std::fs::create_dir_all(map.join(folder)).expect("the folder is writable");
        std::fs::write(map.join(folder).join("tls.pem"), pem(chain)).expect("the folder is writable");
        std::fs::write(map.join(folder).join("tls.key"), pem(key)).expect("the folder is writable");
    };
    let point_to = |folder: &str| {
        std::os::unix::fs::symlink(folder, map.join("..tmp")).expect("links can be made");
        std::fs::rename(map.join("..tmp"), map.join("..data")).expect("the folder is writable");
    };
    write("..1", "server.pem", "server.key");
    point_to("..1");
    for name in ["tls.pem", "tls.key"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), map.join(name)).expect("links can be made");
    }
    let secret = secret.replace("$DIR/map", &map.display().to_string());
    let proxy = looped(FROM_FILE, "", "").file("cert.yaml", &file(&secret)).run().await;
    let first = shown(&proxy, "/new").await;
    write("..2", "client.pem", "server.key");
    point_to("..2");
    proxy.wait_for_stat("sds.cert.key_rotation_failed", 1).await;
    assert_eq!(shown(&proxy, "/new").await, first);
    write("..3", "client.pem", "client.key");
    point_to("..3");
    until_other(&proxy, &first).await;
    assert_eq!(proxy.stat("sds.cert.update_attempt").await, 1, "nobody was asked again");
    std::fs::remove_dir_all(map).expect("it is there");
}

#[tokio::test]
async fn files_that_are_written_in_place_are_followed_where_that_is_asked_for() {
    let source = "{ path: $DIR/cert.yaml, watched_directory: { path: $DIR, watch_modify: true } }";
    let server = FROM_FILE.replace("{ path: $DIR/cert.yaml }", source);
    let folder = tempfolder("written");
    let watched = format!("watched_directory: {{ path: {}, watch_modify: true }}", folder.display());
    for program in programs() {
        let write = |name: &str| {
            for kind in ["pem", "key"] {
                std::fs::write(folder.join(format!("tls.{kind}")), pem(&format!("{name}.{kind}")))
                    .expect("it is writable");
            }
        };
        write("server");
        let own = certificate("tls", "tls").replace(CERTIFICATES, &folder.display().to_string());
        let own = own.replace(".key } }", &format!(".key }}, {watched} }}"));
        let proxy = looped(&server, "", "").file("cert.yaml", &file(&own)).program(&program).run().await;
        let first = shown(&proxy, "/new").await;
        write("client");
        let second = until_other(&proxy, &first).await;
        let other = file(&certificate("says-authority", "says-authority"));
        std::fs::write(proxy.dir().join("cert.yaml"), other).expect("the folder is writable");
        until_other(&proxy, &second).await;
    }
    std::fs::remove_dir_all(folder).expect("it is there");
}

fn tempfolder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("nuncio-sds-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}

#[tokio::test]
async fn both_sides_may_have_all_of_it_from_secrets() {
    let server = "require_client_certificate: true
          session_ticket_keys_sds_secret_config: { name: tickets, sds_config: { path_config_source: { path: $DIR/tickets.yaml } } }
          common_tls_context: { tls_certificate_sds_secret_configs: [{ name: cert, sds_config: { path_config_source: { path: $DIR/cert.yaml } } }], validation_context_sds_secret_config: { name: ca, sds_config: { path_config_source: { path: $DIR/ca.yaml } } } }";
    let client = "tls_certificate_sds_secret_configs: [{ name: own, sds_config: { path_config_source: { path: $DIR/own.yaml } } }], combined_validation_context: { default_validation_context: { match_typed_subject_alt_names: [{ san_type: DNS, matcher: { exact: server.test } }] }, validation_context_sds_secret_config: { name: ca, sds_config: { path_config_source: { path: $DIR/ca.yaml } } } }";
    let authority = |name: &str| {
        format!("name: ca\nvalidation_context: {{ trusted_ca: {{ filename: {}/{name} }} }}", certificates().display())
    };
    let tickets =
        format!("name: tickets\nsession_ticket_keys: {{ keys: [{{ inline_string: '{}' }}] }}", "k".repeat(80));
    let own = certificate("client", "client").replace("name: cert", "name: own");
    let proxy = looped(server, client, "")
        .file("cert.yaml", &file(&certificate("server", "server")))
        .file("own.yaml", &file(&own))
        .file("ca.yaml", &file(&authority("ca.pem")))
        .file("tickets.yaml", &file(&tickets))
        .run()
        .await;
    let answer = get(proxy.listener("front"), "/new").await.expect("it answers");
    assert_eq!(answer.status(), 200, "{answer:?}\n{}", proxy.log());
    assert!(answer.header("x-client").is_some_and(|subject| subject.len() > 1), "{answer:?}");
    // Another authority: neither side believes the other.
    proxy.replace("ca.yaml", &file(&authority("other-ca.pem")));
    let until = Instant::now() + DEADLINE;
    while get(proxy.listener("front"), "/new").await.expect("it answers").status() != 503 {
        assert!(Instant::now() < until);
    }
    // A key that has another length than it should is refused.
    proxy.replace("tickets.yaml", &file(&tickets.replace("kk", "k")));
    proxy.wait_for_stat("sds.tickets.update_rejected", 1).await;
    assert!(proxy.stat("cluster.new.client_ssl_socket_factory.ssl_context_update_by_sds").await >= 2);
}

/// The cluster of a control plane, indented as the others.
fn xds(plane: &ControlPlane) -> String {
    format!("  {}\n", plane.cluster().trim_end().replace('\n', "\n  "))
}

async fn a_control_plane_gives_secrets(source: &str, rest: &str) {
    let plane = ControlPlane::start().await;
    plane.set(Kind::Secret, "cert", &certificate("server", "server"));
    let server = format!(
        "common_tls_context: {{ tls_certificate_sds_secret_configs: [{{ name: cert, sds_config: {{ resource_api_version: V3, {source} }} }}] }}"
    );
    let proxy = looped(&server, "", &format!("{}{rest}", xds(&plane))).run().await;
    let first = shown(&proxy, "/new").await;
    assert_eq!(shown(&proxy, "/kept").await, first);
    plane.set(Kind::Secret, "cert", &certificate("server", "client"));
    let nack = plane.wait_for(Kind::Secret, |asked| asked.error.is_some()).await;
    assert!(nack.error.is_some_and(|error| error.contains("private_key: does not belong")));
    assert_eq!(shown(&proxy, "/new").await, first, "the old one serves");
    plane.set(Kind::Secret, "cert", &certificate("client", "client"));
    until_other(&proxy, &first).await;
    assert_eq!(shown(&proxy, "/kept").await, first);
    // Its going leaves it in force, as in Envoy.
    plane.remove(Kind::Secret, "cert");
    assert_ne!(shown(&proxy, "/new").await, first);
}

fn ads(api_type: &str) -> String {
    format!(
        "dynamic_resources: {{ ads_config: {{ api_type: {api_type}, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}] }} }}\n"
    )
}

#[tokio::test]
async fn secrets_come_over_aggregated_discovery() {
    a_control_plane_gives_secrets("ads: {}", &ads("GRPC")).await;
}

#[tokio::test]
async fn secrets_come_as_changes_over_aggregated_discovery() {
    a_control_plane_gives_secrets("ads: {}", &ads("DELTA_GRPC")).await;
}

#[tokio::test]
async fn secrets_come_from_a_server_of_their_own() {
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let source = format!(
            "api_config_source: {{ api_type: {api_type}, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}] }}"
        );
        a_control_plane_gives_secrets(&source, "").await;
    }
}

#[tokio::test]
async fn a_secret_that_does_not_come_closes_connections_and_is_counted() {
    let plane = ControlPlane::start().await;
    let source = "initial_fetch_timeout: 0.2s, ads: {}";
    let reference = format!("tls_certificate_sds_secret_configs: [{{ name: cert, sds_config: {{ {source} }} }}]");
    let server = format!("common_tls_context: {{ {reference} }}");
    let proxy = looped(&server, &reference, &format!("{}{}", xds(&plane), ads("GRPC"))).run().await;
    let answer = get(proxy.listener("front"), "/new").await.expect("it answers");
    assert_eq!(answer.status(), 503);
    assert!(proxy.stat("cluster.new.client_ssl_socket_factory.upstream_context_secrets_not_ready").await >= 1);
    assert_eq!(proxy.stat("sds.cert.init_fetch_timeout").await, 1);
    assert!(proxy.admin("/config_dump").await.contains("dynamic_warming_secrets"));
    plane.set(Kind::Secret, "cert", &certificate("server", "server"));
    let until = Instant::now() + DEADLINE;
    while get(proxy.listener("front"), "/new").await.expect("it answers").status() != 200 {
        assert!(Instant::now() < until, "{}", proxy.log());
    }
}

#[tokio::test]
async fn clusters_and_listeners_wait_for_their_secrets() {
    let plane = ControlPlane::start().await;
    let upstream = http1().route("/", "there").start().await;
    let rest = format!(
        "{}dynamic_resources: {{ cds_config: {{ ads: {{}} }}, lds_config: {{ ads: {{}} }}, ads_config: {{ api_type: GRPC, transport_api_version: V3, grpc_services: [{{ envoy_grpc: {{ cluster_name: xds }} }}] }} }}\n",
        xds(&plane)
    );
    plane.set(Kind::Cluster, "first", "{ name: first, load_assignment: { cluster_name: first } }");
    plane.set(
        Kind::Listener,
        "first",
        "{ name: first, address: { socket_address: { address: 127.0.0.1, port_value: 0 } }, filter_chains: [{}] }",
    );
    let proxy = looped(FROM_FILE, "", &rest).file("cert.yaml", &file(&certificate("server", "server"))).run().await;
    let context = |side: &str| {
        format!(
            "transport_socket: {{ name: tls, typed_config: {{ '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext, common_tls_context: {{ tls_certificate_sds_secret_configs: [{{ name: late, sds_config: {{ ads: {{}} }} }}] }} }} }}"
        )
    };
    let port = upstream.port();
    plane.set(Kind::Cluster, "late", &format!("{{ name: late, {}, load_assignment: {{ cluster_name: late, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }} }}", context("Upstream")));
    plane.set(Kind::Listener, "late", &format!("{{ name: late, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}, filter_chains: [{{ {} }}] }}", context("Downstream")));
    proxy.wait_for_stat("cluster_manager.warming_clusters", 1).await;
    proxy.wait_for_stat("listener_manager.total_listeners_warming", 1).await;
    plane.wait_for(Kind::Secret, |asked| asked.names == ["late"]).await;
    plane.set(Kind::Secret, "late", &certificate("server", "server").replace("name: cert", "name: late"));
    proxy.wait_for_stat("cluster_manager.warming_clusters", 0).await;
    proxy.wait_for_stat("listener_manager.total_listeners_warming", 0).await;
    proxy.wait_for_stat("cluster_manager.active_clusters", 5).await;
}

#[tokio::test]
async fn secrets_of_the_bootstrap_change_with_it() {
    let secret = |name: &str| format!("  secrets:\n  - {}\n", certificate(name, name).replace('\n', "\n    "));
    let server = "common_tls_context: { tls_certificate_sds_secret_configs: [{ name: cert }] }";
    let proxy = looped(server, "", &secret("server")).run().await;
    let first = shown(&proxy, "/new").await;
    let now = proxy.file("bootstrap.yaml").replace("server.pem", "client.pem").replace("server.key", "client.key");
    proxy.replace("bootstrap.yaml", &now);
    proxy.signal(libc::SIGHUP);
    until_other(&proxy, &first).await;
    proxy.wait_for_stat("server.config_reload_success", 1).await;
}

/// A selector of the certificate that this secret is.
fn selector(secret: &str, way: Way) -> String {
    let types = "type.googleapis.com/envoy.extensions.transport_sockets.tls";
    format!(
        "custom_tls_certificate_selector: {{ name: on_demand, typed_config: {{ '@type': {types}.cert_selectors.on_demand_secret.v3.Config, config_source: {}, certificate_mapper: {{ name: fixed, typed_config: {{ '@type': {types}.cert_mappers.static_name.v3.StaticName, name: {secret} }} }} }} }}",
        way.source("")
    )
}

async fn handshakes_ask_for_certificates(way: Way) {
    let plane = ControlPlane::start().await;
    let server = format!(
        "disable_stateless_session_resumption: true
          disable_stateful_session_resumption: true
          require_client_certificate: true
          common_tls_context: {{ {}, validation_context: {{ trusted_ca: {{ filename: {CERTIFICATES}/ca.pem }} }} }}",
        selector("cert", way)
    );
    let dynamic = if way.is_aggregated { format!("dynamic_resources: {{ {} }}\n", way.ads()) } else { String::new() };
    let proxy = looped(&server, &selector("own", way), &format!("{}{dynamic}", xds(&plane))).run().await;
    let stat = |name: &str| format!("listener.secure.on_demand_secret.{name}");
    assert_eq!(proxy.stat(&stat("cert_requested")).await, 0, "nobody has asked");
    // Both sides wait: the client's before it greets.
    let addr = proxy.listener("front");
    let waiting = tokio::spawn(async move { get(addr, "/new").await });
    plane.wait_for(Kind::Secret, |asked| asked.names.iter().any(|name| name == "own")).await;
    let own = certificate("client", "client").replace("name: cert", "name: own");
    plane.set(Kind::Secret, "own", &own);
    plane.set(Kind::Secret, "cert", &certificate("server", "server"));
    let answer = waiting.await.expect("it ends").expect("it answers");
    assert_eq!(answer.status(), 200, "{way:?} {answer:?}\n{}", proxy.log());
    assert!(answer.header("x-client").is_some_and(|subject| subject.contains("client.test")), "{answer:?}");
    let first = shown(&proxy, "/new").await;
    plane.set(Kind::Secret, "cert", &certificate("says-authority", "says-authority"));
    until_other(&proxy, &first).await;
    assert_eq!(proxy.stat(&stat("cert_updated")).await, 2);
    assert_eq!(proxy.stat(&stat("cert_active")).await, 1);
    assert_eq!(proxy.stat("cluster.new.on_demand_secret.cert_updated").await, 1);
    if !way.is_delta() {
        // The state of the world does not tell what is gone.
        return;
    }
    plane.remove(Kind::Secret, "cert");
    proxy.wait_for_stat(&stat("cert_active"), 0).await;
    assert_eq!(get(addr, "/new").await.expect("it answers").status(), 503);
    plane.set(Kind::Secret, "cert", &certificate("server", "server"));
    let until = Instant::now() + DEADLINE;
    while get(addr, "/new").await.expect("it answers").status() != 200 {
        assert!(Instant::now() < until, "{}", proxy.log());
    }
    assert_eq!(shown(&proxy, "/new").await, first);
}

#[tokio::test]
async fn certificates_are_asked_for_over_streams_of_their_own() {
    for way in WAYS.into_iter().filter(|way| !way.is_aggregated) {
        handshakes_ask_for_certificates(way).await;
    }
}

#[tokio::test]
async fn certificates_are_asked_for_over_aggregated_discovery() {
    for way in WAYS.into_iter().filter(|way| way.is_aggregated) {
        handshakes_ask_for_certificates(way).await;
    }
}
