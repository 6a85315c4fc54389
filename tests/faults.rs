//! The ways in which an upstream can fail, against HTTP/1 and HTTP/2, as the client, the access log and the stats see
//! them: the same as the real Envoy's, and nothing is left behind.

mod play;

use crate::parity;
use crate::support::DEADLINE;
use crate::support::bootstrap::Pieces;
use crate::support::client::Client;
use crate::support::h2_client::{H2Client, Outcome};
use crate::support::http1::{Kind, Message, parse};
use crate::support::name_server::table;
use crate::support::proxy::{Running, binary, proxy};
use crate::support::split::Split;
use play::{ALL, Fault, Faulty, Protocol};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// One fault with the protocol of the upstream. Its cluster is named by both.
type Case = (Fault, Protocol);

fn cases() -> Vec<Case> {
    let both = [Protocol::Http1, Protocol::Http2];
    both.iter().flat_map(|p| ALL.iter().filter(|f| f.is_of(*p)).map(|f| (*f, *p))).collect()
}

fn name((fault, protocol): Case) -> String {
    format!("{fault:?}-{protocol:?}")
}

fn yaml(upstreams: &[(Case, Faulty)]) -> String {
    let (mut routes, mut clusters) = (String::new(), String::new());
    for (case, upstream) in upstreams {
        let (name, port) = (name(*case), upstream.port);
        routes += &format!("- match: {{ prefix: /{name}/ }}\n  route: {{ cluster: {name}, timeout: 0.6s }}\n");
        let options = match case.1 {
            Protocol::Http1 => "http_protocol_options",
            Protocol::Http2 => "http2_protocol_options",
        };
        clusters += &format!(
            "- name: {name}\n  connect_timeout: 0.3s\n  load_assignment: {{ cluster_name: {name}, endpoints: [{{ \
             lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} \
             }} }} }}] }}] }}\n  typed_extension_protocol_options:\n    \
             envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n      \"@type\": \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n      explicit_http_config: \
             {{ {options}: {{}} }}\n"
        );
    }
    let hcm = access_log(
        "%REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
         %UPSTREAM_TRANSPORT_FAILURE_REASON% %BYTES_SENT%",
    );
    Pieces { hcm, routes, clusters, ..Pieces::default() }.yaml().replace("$UPSTREAM", "1")
}

fn access_log(format: &str) -> String {
    format!(
        "access_log:\n- name: file\n  typed_config:\n    \"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    path: $DIR/access.log\n    \
         log_format: {{ text_format_source: {{ inline_string: \"{format}\\n\" }} }}\n"
    )
}

/// What was seen of one program, by case.
#[derive(Default)]
struct Seen {
    client: BTreeMap<String, Vec<String>>,
    log: BTreeMap<String, Vec<String>>,
    stats: BTreeMap<String, Vec<String>>,
}

/// A program that is asked for trouble.
struct Asked {
    running: Running,
    seen: Seen,
    /// Gauges and open files before.
    base: (BTreeMap<String, String>, usize),
}

impl Asked {
    /// Sends each case `times` requests at once over HTTP/1 and one over HTTP/2, and waits for all answers.
    async fn ask(program: &Path, yaml: &str, times: usize) -> Self {
        let running = proxy(yaml).program(program).argument("-l").argument("warn").run().await;
        let base = (gauges(&running).await, running.open_files());
        let mut asked = JoinSet::new();
        for case in cases() {
            let to = running.addr();
            asked.spawn(async move {
                let mut over = JoinSet::new();
                (0..times).for_each(|_| drop(over.spawn(over_http1(to, case))));
                let mut lines = over.join_all().await;
                lines.push(over_http2(to, case).await);
                (name(case), lines)
            });
        }
        let client = asked.join_all().await.into_iter().collect();
        Self { seen: Seen { client, ..Seen::default() }, running, base }
    }

    /// Waits until nothing is left of the requests, once the upstreams are gone: no connection, no gauge, no file.
    async fn settle(&self) {
        let until = Instant::now() + DEADLINE;
        loop {
            let now = (gauges(&self.running).await, self.running.open_files());
            if now == self.base {
                return;
            }
            let (base, files) = &self.base;
            let left: Vec<_> = now.0.iter().filter(|(name, value)| base.get(*name) != Some(value)).collect();
            assert!(Instant::now() < until, "left behind: {left:?}, {} files instead of {files}", now.1);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the program; its access log is complete then.
    async fn end(mut self) -> Seen {
        assert!(self.running.stop().await.success());
        for line in self.running.file("access.log").lines() {
            let (path, rest) = line.split_once(' ').unwrap_or((line, ""));
            self.seen.log.entry(path.trim_matches('/').to_owned()).or_default().push(rest.to_owned());
        }
        self.seen
    }
}

/// Every gauge that counts what is under way, where it is not 0.
async fn gauges(running: &Running) -> BTreeMap<String, String> {
    let counts = |name: &str| name.ends_with("_active") || name.ends_with("_open") || name.ends_with("_buffered");
    let of_requests = |name: &str| name.starts_with("cluster.") || name.starts_with("http.in.");
    let stats = running.stats().await.into_iter();
    stats.filter(|(name, value)| counts(name) && of_requests(name) && value != "0").collect()
}

async fn over_http1(to: SocketAddr, case: Case) -> String {
    ask(to, &format!("/{}/", name(case))).await
}

async fn ask(to: SocketAddr, path: &str) -> String {
    let mut client = Client::connect(to, Split::Whole).await.expect("the proxy accepts");
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    client.send(request.as_bytes()).await.expect("the proxy reads");
    let (bytes, _) = client.until_quiet(DEADLINE).await.expect("the proxy answers");
    parse(&bytes, Kind::Response).await.map_or_else(|| String::from_utf8_lossy(&bytes).into_owned(), |m| line(&m))
}

async fn over_http2(to: SocketAddr, case: Case) -> String {
    let mut client = H2Client::connect(to, Split::Whole).await.expect("the proxy accepts");
    let head = http::Request::get(format!("http://a/{}/", name(case))).body(()).expect("a request");
    match client.request(head, b"", None).await {
        Outcome::Response(message) => line(&message),
        Outcome::Reset(reason) => format!("reset {reason}"),
    }
}

fn line(message: &Message) -> String {
    let mut fields: Vec<_> = message.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    fields.retain(|f| !f.starts_with("date:") && !f.starts_with("x-envoy-upstream-service-time:"));
    fields.sort();
    let end = if message.truncated { " (truncated)" } else { "" };
    format!("{} {} {:?}{end}", message.start, fields.join(", "), message.text())
}

/// Counters and gauges of each cluster that are not 0, but for those of bytes, of which the kernel drops some where a
/// connection is reset, and Envoy's own of the library it uses.
async fn stats_by_cluster(running: &Running) -> BTreeMap<String, Vec<String>> {
    let mut by_cluster: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (stat, value) in running.stats().await {
        let Some((cluster, rest)) = stat.strip_prefix("cluster.").and_then(|s| s.split_once('.')) else { continue };
        let is_told = !rest.contains("bytes") && !rest.contains("nghttp2");
        if is_told && value.parse::<u64>().is_ok_and(|value| value > 0) {
            by_cluster.entry(cluster.to_owned()).or_default().push(format!("{rest}: {value}"));
        }
    }
    by_cluster
}

/// What differs from Envoy, and why it may.
fn deviates(case: Case, line: &str) -> bool {
    match case {
        // The h2 crate ends a connection whose header block is too long, where Envoy ends the stream and then, with the
        // next fragments, the connection: it depends on which request gets which.
        (Fault::EndlessHeaders, Protocol::Http2) => true,
        // Envoy finds fault with what comes behind the last response of a connection that is going away.
        (Fault::Leaves, Protocol::Http2) => line.contains("upstream_cx_protocol_error"),
        // A reset behind the GOAWAY is all that the h2 crate remembers.
        (Fault::GoawayMidBody, Protocol::Http2) => line.contains("upstream_cx_close_notify"),
        _ => false,
    }
}

/// Status, flags and details that Envoy logs.
fn expected((fault, protocol): Case) -> &'static str {
    use Fault::*;
    let over_http1 = protocol == Protocol::Http1;
    match fault {
        ConnectRefused => {
            "503 UF upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused}"
        }
        ConnectHang => "503 UF upstream_reset_before_response_started{connection_timeout}",
        Silence | StalledHeaders => "504 UT response_timeout",
        RstMidHeaders | FinMidHeaders if over_http1 => "502 UPE upstream_reset_before_response_started{protocol_error}",
        RstBeforeHeaders | FinBeforeHeaders | RstMidHeaders | FinMidHeaders => {
            "503 UC upstream_reset_before_response_started{connection_termination}"
        }
        RstMidBody | FinMidBody if over_http1 => "200 UPE upstream_reset_after_response_started{protocol_error}",
        RstMidBody | FinMidBody | GoawayMidBody => {
            "200 UC upstream_reset_after_response_started{connection_termination}"
        }
        Garbage | EndlessHeaders => "502 UPE upstream_reset_before_response_started{protocol_error}",
        GarbageMidBody => "200 UPE upstream_reset_after_response_started{protocol_error}",
        SlowBody | Leaves => "200 - via_upstream",
        StalledBody => "200 UT response_timeout",
        Status503 => "503 - via_upstream",
        GoawayBefore | StreamRefused => "503 UR upstream_reset_before_response_started{remote_refused_stream_reset}",
        StreamReset => "503 UR upstream_reset_before_response_started{remote_reset}",
        StreamResetMidBody => "200 UR upstream_reset_after_response_started{remote_reset}",
    }
}

fn differences(theirs: &Seen, ours: &Seen) -> String {
    let mut text = String::new();
    for case in cases() {
        let name = name(case);
        let kinds = [(&theirs.client, &ours.client), (&theirs.log, &ours.log), (&theirs.stats, &ours.stats)];
        for (theirs, ours) in kinds {
            let [theirs, ours] = [theirs, ours].map(|lines| {
                let mut lines = lines.get(&name).cloned().unwrap_or_default();
                lines.retain(|line| !deviates(case, line));
                lines
            });
            let lacks = theirs.iter().filter(|line| !ours.contains(line)).map(|line| format!("{name} - {line}\n"));
            let has = ours.iter().filter(|line| !theirs.contains(line)).map(|line| format!("{name} + {line}\n"));
            text.extend(lacks.chain(has));
        }
    }
    text
}

async fn upstreams() -> Vec<(Case, Faulty)> {
    let mut upstreams = Vec::new();
    for case in cases() {
        upstreams.push((case, Faulty::start(case.0, case.1).await));
    }
    upstreams
}

#[tokio::test]
async fn every_fault_is_told_as_envoy_tells_it() {
    let upstreams = upstreams().await;
    let yaml = yaml(&upstreams);
    let nuncio = binary();
    let Some(envoy) = parity::envoy::find() else {
        return check_expected(&Asked::ask(&nuncio, &yaml, 1).await.end().await);
    };
    let (mut ours, mut theirs) = tokio::join!(Asked::ask(&nuncio, &yaml, 1), Asked::ask(&envoy, &yaml, 1));
    let until = Instant::now() + DEADLINE;
    loop {
        // Connections that end are counted when they have ended.
        ours.seen.stats = stats_by_cluster(&ours.running).await;
        theirs.seen.stats = stats_by_cluster(&theirs.running).await;
        if differences(&theirs.seen, &ours.seen).is_empty() || Instant::now() > until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (theirs, ours) = (theirs.end().await, ours.end().await);
    check_expected(&ours);
    let differences = differences(&theirs, &ours);
    assert!(differences.is_empty(), "\n{differences}");
}

fn check_expected(seen: &Seen) {
    for case in cases() {
        let lines = &seen.log[&name(case)];
        let wrong = lines.iter().find(|line| !line.contains(&format!(" {} ", expected(case))));
        assert_eq!((wrong, lines.len()), (None, 2), "{}", name(case));
    }
}

/// Ten requests at once, which share a connection of HTTP/2.
#[tokio::test]
async fn no_fault_leaves_anything_behind() {
    let upstreams = upstreams().await;
    let asked = Asked::ask(&binary(), &yaml(&upstreams), 10).await;
    drop(upstreams);
    asked.settle().await;
    let seen = asked.end().await;
    for case in cases() {
        assert_eq!(seen.log[&name(case)].len(), 11, "{}", name(case));
    }
}

/// The name of a cluster's hosts, as the name server has it.
const NAME: &str = "up.test";

/// Its fields that have names resolved by the name server, often.
const STRICT_DNS: &str = r#"type: STRICT_DNS
dns_lookup_family: V4_ONLY
dns_refresh_rate: 0.1s
typed_dns_resolver_config:
  name: envoy.network.dns_resolver.cares
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig
    resolvers: [{ socket_address: { address: 127.0.0.1, port_value: $DNS } }]
    dns_resolver_options: { no_default_search_domain: true }
"#;

/// What a request is told before, while and after the name of its cluster does not exist, and one that was under way.
async fn without_name(program: &Path, protocol: Protocol) -> Vec<String> {
    let upstream = Faulty::start(Fault::SlowBody, protocol).await;
    let options = if protocol == Protocol::Http2 { "http2_protocol_options: {}\n" } else { "" };
    let endpoint = format!(
        "{{ endpoint: {{ address: {{ socket_address: {{ address: {NAME}, port_value: {} }} }} }} }}",
        upstream.port
    );
    let cluster = format!(
        "{STRICT_DNS}{options}load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{endpoint}] }}] }}\n"
    );
    let [known, unknown] =
        [format!("{NAME} 127.0.0.1"), format!("{NAME} NXDOMAIN")].map(|t| table(&t).expect("a table"));
    let hcm = access_log("%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST_NAME%");
    let pieces = Pieces { cluster, hcm, ..Pieces::default() };
    let mut running = proxy(pieces.yaml()).program(program).names(&known).run().await;
    let base = gauges(&running).await;
    running.wait_for_stat("cluster.up.membership_total", 1).await;
    let to = running.addr();
    let mut seen = vec![ask(to, "/").await];
    let under_way = tokio::spawn(async move { ask(to, "/").await });
    running.wait_for_stat("cluster.up.upstream_rq_active", 1).await;
    running.name_server().change(&unknown);
    running.wait_for_stat("cluster.up.membership_total", 0).await;
    seen.push(under_way.await.expect("it does not panic"));
    seen.push(ask(to, "/").await);
    running.wait_for_stat("cluster.up.upstream_cx_active", 0).await;
    running.name_server().change(&known);
    running.wait_for_stat("cluster.up.membership_total", 1).await;
    seen.push(ask(to, "/").await);
    for stat in ["upstream_cx_total", "upstream_cx_none_healthy", "upstream_rq_total", "upstream_cx_destroy_local"] {
        seen.push(format!("{stat} {}", running.stat(&format!("cluster.up.{stat}")).await));
    }
    drop(upstream);
    running.wait_for_stat("cluster.up.upstream_cx_active", 0).await;
    assert_eq!(gauges(&running).await, base);
    running.stop().await;
    seen.extend(running.file("access.log").lines().map(str::to_owned));
    seen
}

#[tokio::test]
async fn requests_fail_while_the_name_is_gone_and_none_that_is_under_way() {
    let nuncio = binary();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let ours = without_name(&nuncio, protocol).await;
        let statuses: Vec<_> = ours.iter().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
        assert!(
            matches!(&statuses[..], [a, b, c, d] if [a, b, d].iter().all(|s| s.starts_with("200")) && c.starts_with("503")),
            "{ours:#?}"
        );
        if let Some(envoy) = parity::envoy::find() {
            assert_eq!(without_name(&envoy, protocol).await, ours, "Envoy, then nuncio");
        }
    }
}
