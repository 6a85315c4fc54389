//! The process: its arguments, its refusals, its end.

use crate::support::bootstrap::Pieces;
use crate::support::client::{Client, get};
use crate::support::proxy::{binary, proxy};
use crate::support::split::Split;
use crate::support::upstream::{Answer, Then, http1};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

fn run(arguments: &[&str]) -> Output {
    Command::new(binary()).args(arguments).output().expect("the binary can be run")
}

fn validate(yaml: &str) -> Output {
    run(&["--mode", "validate", "--config-yaml", yaml])
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), output.stderr.as_slice()].concat()).into_owned()
}

/// A bootstrap without placeholders.
fn bootstrap() -> String {
    Pieces::default().yaml().replace("$UPSTREAM", "1")
}

#[test]
fn the_version_and_the_help_are_printed() {
    let version = run(&["--version"]);
    assert!(version.status.success() && text(&version).contains("version"), "{}", text(&version));
    let help = run(&["--help"]);
    assert!(help.status.success() && text(&help).contains("--config-yaml"), "{}", text(&help));
}

#[test]
fn a_valid_bootstrap_validates() {
    let output = validate(&bootstrap());
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("OK"), "{}", text(&output));
}

#[test]
fn an_unknown_field_is_refused_by_name() {
    let output = validate(&bootstrap().replace("stat_prefix: in", "stat_prefix: in\n          stat_prefiks: out"));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("stat_prefiks"), "{}", text(&output));
}

#[test]
fn all_that_is_wrong_is_told_at_once_with_its_place() {
    let yaml = bootstrap()
        .replace("stat_prefix: in", "stat_prefix: in\n          stat_prefiks: out")
        .replace("route: { cluster: up }", "route: { cluster: nobody }")
        .replace("name: main\n", "name: main\n    per_connection_buffer_high_watermark_timeout: 1s\n");
    let output = validate(&yaml);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let text = text(&output);
    assert!(text.contains("refused for 3 reasons"), "{text}");
    for (field, reason) in [
        ("stat_prefiks", "did you mean"),
        ("cluster", "nobody"),
        ("per_connection_buffer_high_watermark_timeout", "not implemented"),
    ] {
        let line = text.lines().find(|line| line.contains(field) && line.contains(reason));
        let line = line.unwrap_or_else(|| panic!("nothing of {field}:\n{text}"));
        assert!(line.trim_start().starts_with("--config-yaml:"), "{line}");
    }
}

/// A value that cannot be read keeps nobody from hearing what else is wrong, and draws no complaints after it.
#[test]
fn what_is_wrong_beside_values_that_cannot_be_read_is_told_too() {
    let yaml = bootstrap()
        .replace("stat_prefix: in", "stat_prefix: ''\n          codec_type: HTTP7\n          stream_idle_timeout: 5x")
        .replace("route: { cluster: up }", "route: { cluster: nobody }")
        .replace("name: main\n", "name: main\n    per_connection_buffer_high_watermark_timeout: 1s\n");
    let output = validate(&yaml);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let text = text(&output);
    assert!(text.contains("refused for 5 reasons"), "{text}");
    let lines: Vec<_> = text.lines().skip(1).collect();
    let wanted =
        ["per_connection_buffer_high_watermark_timeout", "stat_prefix", "codec_type", "stream_idle_timeout", "nobody"];
    for (line, wanted) in lines.iter().zip(wanted) {
        assert!(line.contains(wanted), "{wanted} is not told in the order of the text:\n{text}");
    }
}

/// Envoy: filter chains are chosen before anything could have said something of the connection.
#[test]
fn metadata_chooses_no_filter_chain() {
    let matcher = "filter_chain_matcher:
      matcher_tree:
        input: { name: i, typed_config: { '@type': type.googleapis.com/envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput, filter: f, path: [{ key: k }] } }
        exact_match_map: { map: { a: { action: { name: x, typed_config: { '@type': type.googleapis.com/google.protobuf.StringValue, value: main } } } } }";
    let output = validate(&bootstrap().replace("name: main\n", &format!("name: main\n    {matcher}\n")));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let path = "filter_chain_matcher.matcher_tree.input.typed_config";
    let text = text(&output);
    assert!(text.lines().any(|line| line.contains(path) && line.contains("DynamicMetadataInput")), "{text}");
}

#[test]
fn init_only_ends_well_once_everything_is_ready() {
    let output = run(&["--mode", "init_only", "--config-yaml", &bootstrap()]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn an_unknown_cluster_is_refused_by_name() {
    let output = validate(&bootstrap().replace("route: { cluster: up }", "route: { cluster: nobody }"));
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("nobody"), "{}", text(&output));
}

#[test]
fn no_bootstrap_at_all_is_refused() {
    assert_eq!(run(&[]).status.code(), Some(1));
    assert_eq!(run(&["-c", "/nowhere/bootstrap.yaml"]).status.code(), Some(1));
}

/// An address of this machine that cannot be bound: another process of this test holds it.
#[tokio::test]
async fn a_failure_to_bind_names_listener_and_address() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = taken.local_addr().expect("a bound socket has an address").port();
    let yaml = Pieces::default().yaml().replacen(
        "name: main\n    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }",
        &format!("name: main\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}"),
        1,
    );
    let Err(refused) = proxy(yaml).upstream(http1()).start().await else { panic!("started on a port that is taken") };
    assert_eq!(refused.status.code(), Some(1), "{refused}");
    assert!(refused.log.contains("main") && refused.log.contains(&port.to_string()), "{refused}");
}

/// As Envoy: connections are closed, not drained, and the exit is a success.
#[tokio::test]
async fn sigterm_ends_the_process_promptly_under_load() {
    let upstream = http1().answer("/silent", Answer::bytes("").then(Then::Hang)).route("/", "ok");
    let mut proxy = proxy(Pieces::default().yaml()).upstream(upstream).run().await;
    let mut waiting = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    waiting.send(b"GET /silent HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy reads");
    get(proxy.addr(), "/").await.expect("the proxy answers");
    let before = Instant::now();
    assert!(proxy.stop().await.success(), "{}", proxy.log());
    assert!(before.elapsed() < Duration::from_secs(5), "took {:?}", before.elapsed());
}

#[tokio::test]
async fn access_logs_are_complete_when_the_process_has_ended() {
    let hcm = "access_log:\n- name: file\n  typed_config:\n    \
               \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    \
               path: $DIR/access.log\n    log_format: { text_format_source: { inline_string: \"%REQ(:PATH)%\\n\" } }\n";
    let pieces = Pieces { hcm: hcm.to_owned(), ..Pieces::default() };
    let mut proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let wanted: Vec<String> = (0..200).map(|n| format!("/{n}")).collect();
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    for path in &wanted {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        client.request(request.as_bytes()).await.expect("the proxy answers");
    }
    proxy.stop().await;
    let log = proxy.file("access.log");
    assert_eq!(log.lines().map(str::to_owned).collect::<Vec<_>>(), wanted);
}

/// A device that is always full: every request is served, what could not be written is counted.
#[tokio::test]
async fn a_full_disk_stalls_no_traffic() {
    let hcm = "access_log:\n- name: file\n  typed_config:\n    \
               \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: /dev/full\n";
    let pieces = Pieces { hcm: hcm.to_owned(), ..Pieces::default() };
    let mut proxy = proxy(pieces.yaml()).upstream(http1()).run().await;
    let mut client = Client::connect(proxy.addr(), Split::Whole).await.expect("the proxy accepts");
    for _ in 0..1000 {
        let response = client.request(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("the proxy answers");
        assert_eq!(response.status(), 200);
    }
    assert!(proxy.stop().await.success(), "{}", proxy.log());
}

#[tokio::test]
async fn a_bootstrap_given_in_two_halves_is_merged() {
    let proxy = proxy(Pieces::default().yaml())
        .argument("--config-yaml")
        .argument("node: { id: merged, cluster: testers }")
        .upstream(http1())
        .run()
        .await;
    let info = get(proxy.admin, "/server_info").await.expect("admin answers").text();
    assert!(info.contains("merged") && info.contains("testers"), "{info}");
}
