//! Route tables that cannot be: each is refused with the path of what is wrong, by the binary itself.

use crate::support::bootstrap::Pieces;
use crate::support::proxy::binary;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the route configuration of `Pieces` lies.
const TABLE: &str = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.";

/// A bootstrap in a file, for as long as it is needed.
struct Bootstrap(PathBuf);

impl Bootstrap {
    fn write(yaml: &str) -> Self {
        let name = format!("nuncio-bad-routes-{}-{:?}.yaml", std::process::id(), std::thread::current().id());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, yaml.replace("$UPSTREAM", "1")).expect("the folder for temporary files is writable");
        Self(file)
    }
}

impl Drop for Bootstrap {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn validation(file: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(["--mode", "validate", "-c"]).arg(file);
    command
}

/// What the binary says of a bootstrap, and whether it takes it.
pub(crate) fn validate(yaml: &str) -> (bool, String) {
    let file = Bootstrap::write(yaml);
    let output = validation(&file.0).output().expect("the binary can be run");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The pieces are refused for these reasons and no others, each with its path.
#[track_caller]
fn check(pieces: &Pieces, expected: &[(&str, &str)]) {
    let (taken, text) = validate(&pieces.yaml());
    assert!(!taken, "{text}");
    let reasons: Vec<&str> = text.lines().filter(|line| line.contains(": static_resources.")).collect();
    assert_eq!(reasons.len(), expected.len(), "{text}");
    for (path, reason) in expected {
        let wanted = format!(": {TABLE}{path}: {reason}");
        assert!(reasons.iter().any(|line| line.ends_with(&wanted)), "no {wanted:?} in\n{text}");
    }
}

fn routes(routes: &str) -> Pieces {
    Pieces { routes: routes.to_owned(), ..Pieces::default() }
}

#[test]
fn a_cluster_that_does_not_exist_is_refused_unless_the_table_says_otherwise() {
    let unknown = "- match: { prefix: /a }\n  route: { cluster: nobody }\n- match: { prefix: /w }\n  route: { \
                   weighted_clusters: { clusters: [{ name: up, weight: 1 }, { name: noone, weight: 1 }] } }\n- match: { \
                   prefix: /m }\n  route: { cluster: up, request_mirror_policies: [{ cluster: nil }] }\n";
    let expected = [
        ("virtual_hosts[0].routes[0].route.cluster", "unknown cluster \"nobody\""),
        ("virtual_hosts[0].routes[1].route.weighted_clusters.clusters[1].name", "unknown cluster \"noone\""),
        ("virtual_hosts[0].routes[2].route.request_mirror_policies[0].cluster", "unknown cluster \"nil\""),
    ];
    check(&routes(unknown), &expected);
    for (validate_clusters, taken) in [("true", false), ("false", true)] {
        let route_config = format!("validate_clusters: {validate_clusters}\n");
        let pieces = Pieces { route_config, ..routes("- match: { prefix: /a }\n  route: { cluster: nobody }\n") };
        let (is_taken, text) = validate(&pieces.yaml());
        assert_eq!(is_taken, taken, "{text}");
    }
}

#[test]
fn a_bad_regular_expression_is_told_with_its_position() {
    let pieces = routes(
        "- match: { safe_regex: { regex: '/a/(b|c' } }\n  direct_response: { status: 200 }\n- match: { prefix: /, headers: \
         [{ name: x, string_match: { safe_regex: { regex: 'a{2,1}' } } }] }\n  route: { cluster: up, regex_rewrite: { \
         pattern: { regex: '^/[z-a]' }, substitution: x } }\n",
    );
    let expected = [
        (
            "virtual_hosts[0].routes[0].match.safe_regex.regex",
            "invalid regular expression \"/a/(b|c\" at position 3: unclosed group",
        ),
        (
            "virtual_hosts[0].routes[1].match.headers[0].string_match.safe_regex.regex",
            "invalid regular expression \"a{2,1}\" at position 1: invalid repetition count range, the start must be <= \
             the end",
        ),
        (
            "virtual_hosts[0].routes[1].route.regex_rewrite.pattern.regex",
            "invalid regular expression \"^/[z-a]\" at position 3: invalid character class range, the start must be <= \
             the end",
        ),
    ];
    check(&pieces, &expected);
}

#[test]
fn domains_that_overlap_are_refused() {
    let vhosts = "- name: a\n  domains: [a.test, '*']\n  routes: []\n- name: b\n  domains: [b.test, A.test]\n  routes: \
                  []\n- name: c\n  domains: ['*']\n  routes: []\n";
    let pieces = Pieces { vhosts: vhosts.to_owned(), ..Pieces::default() };
    let expected = [
        ("virtual_hosts[1].domains[1]", "duplicate entry of domain A.test; domains must be unique"),
        ("virtual_hosts[2].domains[0]", "only a single wildcard domain (`*`) is permitted"),
    ];
    check(&pieces, &expected);
}

#[test]
fn a_direct_response_that_is_too_long_is_refused() {
    let body = "x".repeat(4097);
    let long =
        format!("- match: {{ prefix: / }}\n  direct_response: {{ status: 200, body: {{ inline_string: {body} }} }}\n");
    let path = "virtual_hosts[0].routes[0].direct_response.body";
    check(&routes(&long), &[(path, "has 4097 bytes or more; the maximum is 4096")]);
    let allowed = Pieces { route_config: "max_direct_response_body_size_bytes: 4097\n".to_owned(), ..routes(&long) };
    let (taken, text) = validate(&allowed.yaml());
    assert!(taken, "{text}");
}

#[test]
fn rewrites_that_can_give_no_path_are_refused() {
    let pieces = routes(
        "- match: { prefix: /a }\n  route: { cluster: up, prefix_rewrite: \"/a\\nb\" }\n- match: { prefix: /b }\n  route: { \
         cluster: up, regex_rewrite: { pattern: { regex: '^/(.)' }, substitution: \"/a\\nb\" } }\n- match: { prefix: /c }\n  \
         redirect: { path_redirect: \"/\\r\\nx: y\" }\n- match: { prefix: /d }\n  route: { cluster: up, path_rewrite: \
         '%NO_SUCH%' }\n",
    );
    let (taken, text) = validate(&pieces.yaml());
    assert!(!taken);
    for path in [
        "routes[0].route.prefix_rewrite: ",
        "routes[1].route.regex_rewrite.substitution: ",
        "routes[2].redirect.path_redirect: ",
        "routes[3].route.path_rewrite: ",
    ] {
        assert!(text.contains(&format!(": {TABLE}virtual_hosts[0].{path}")), "no {path} in\n{text}");
    }
}

/// Routes that lead nowhere.
fn fifty_megabytes() -> String {
    let filling = "x".repeat(2_000);
    let mut all = String::with_capacity(ROUTES * 2_100);
    for number in 0..ROUTES {
        let _ = writeln!(all, "- {{ match: {{ prefix: /{number}/{filling} }}, direct_response: {{ status: 200 }} }}");
    }
    assert!(all.len() > 50_000_000);
    all
}

const ROUTES: usize = 25_000;

#[test]
fn one_route_in_fifty_megabytes_is_told_by_its_path() {
    let all = fifty_megabytes() + "- { match: { prefix: / }, route: { cluster: nobody } }\n";
    check(&routes(&all), &[("virtual_hosts[0].routes[25000].route.cluster", "unknown cluster \"nobody\"")]);
}

#[test]
fn fifty_megabytes_of_routes_load_in_bounded_time_and_memory() {
    let file = Bootstrap::write(&routes(&fifty_megabytes()).yaml());
    let start = Instant::now();
    let mut child = validation(&file.0).stdout(Stdio::null()).spawn().expect("the binary can be run");
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_kilobytes(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait().expect("it is a child of ours") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(status.success());
    // 20 bytes for each of the file, and a minute on a busy machine without optimisation.
    assert!((1..1_000_000).contains(&peak), "{peak} kB");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}

/// The most memory that a process has had, while it runs.
fn peak_kilobytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
}
