//! Which parts of a name are tags: Envoy's default rules.
//!
//! Envoy finds tags in finished names, also where a name's own dots lead it astray (the cluster `a.b` has the tag `a`
//! and metrics called `cluster.b.*`), and dashboards are built on what it finds. So we look where it looks, but once
//! for each prefix and only when somebody reads.

use std::borrow::Cow;

/// A prefix without its tags.
#[derive(Debug, PartialEq)]
pub(super) struct Prefix<'a> {
    pub(super) name: String,
    /// Names and values, in Envoy's order.
    tags: Vec<(&'static str, Cow<'a, str>)>,
}

/// A metric's own name without a response code at its end, which is a tag.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Suffix<'a> {
    /// The name in two pieces, between which the tag was cut out.
    pub(super) name: [&'a str; 2],
    pub(super) tag: Option<(&'static str, &'a str)>,
}

/// A tag is the token at `$`; `*` is any one token, and a rule holds for names that go on after it.
const RULES: [(&str, &str); 17] = [
    ("envoy.http_user_agent", "http.*.user_agent.$"),
    ("envoy.virtual_cluster", "vhost.*.vcluster.$"),
    ("envoy.fault_downstream_cluster", "http.*.fault.$"),
    ("envoy.tcp_prefix", "tcp.$"),
    ("envoy.udp_prefix", "udp.$"),
    ("envoy.ratelimit_prefix", "ratelimit.$"),
    ("envoy.cluster_name", "cluster.$"),
    ("envoy.http_conn_manager_prefix", "http.$"),
    ("envoy.virtual_host", "vhost.$"),
    ("envoy.route", "vhost.*.route.$"),
    ("envoy.dns_filter_prefix", "dns_filter.$"),
    ("envoy.connection_limit_prefix", "connection_limit.$"),
    ("envoy.local_http_ratelimit_prefix", "$.http_local_rate_limit"),
    ("envoy.local_network_ratelimit_prefix", "local_rate_limit.$"),
    ("envoy.local_listener_ratelimit_prefix", "listener_local_ratelimit.$"),
    ("envoy.rbac_prefix", "$.rbac"),
    ("envoy.xds_resource_name", "sds.$"),
];

impl<'a> Prefix<'a> {
    /// Finds the tags in what comes before the last part of a name.
    pub(super) fn new(prefix: &'a str) -> Self {
        let mut tokens: Vec<&'a str> = prefix.split('.').collect();
        let mut tags = Vec::new();
        match tokens[0] {
            "listener" => listener(prefix, &mut tokens, &mut tags),
            "http" => route_config(prefix, &mut tokens, &mut tags),
            _ => worker(1, &mut tokens, &mut tags),
        }
        let tagged: Vec<_> = RULES.iter().filter_map(|(tag, rule)| Some((*tag, find(rule, &tokens)?))).collect();
        tags.extend(tagged.iter().map(|(tag, at)| (*tag, tokens[*at])));
        tagged.iter().for_each(|(_, at)| tokens[*at] = "");
        of_cluster(prefix, &mut tokens, &mut tags);
        of_certificate(&mut tokens, &mut tags);
        of_proxy_protocol(&mut tokens, &mut tags);
        tokens.retain(|token| !token.is_empty());
        let value = |tag, value| if tag == ENDPOINT { address(value) } else { Cow::Borrowed(value) };
        let tags = tags.into_iter().map(|(tag, text)| (tag, value(tag, text))).collect();
        Self { name: tokens.join("."), tags }
    }

    /// Names and values, in Envoy's order.
    pub(super) fn tags(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.tags.iter().map(|(tag, value)| (*tag, &**value))
    }
}

/// Position of the token at `$`, where the rule holds for the beginning of the name.
fn find(rule: &str, tokens: &[&str]) -> Option<usize> {
    let (mut at, mut length) = (None, 0);
    for (position, pattern) in rule.split('.').enumerate() {
        let token = tokens.get(position).filter(|token| !token.is_empty())?;
        match pattern {
            "$" => at = Some(position),
            "*" => {}
            literal if literal != *token => return None,
            _ => {}
        }
        length = position;
    }
    at.filter(|at| *at <= length)
}

/// `listener.<address>.[http.<prefix>.|worker_<id>.]`: the address is an IPv4 address and port, or one token.
fn listener<'a>(prefix: &'a str, tokens: &mut [&'a str], tags: &mut Vec<(&'static str, &'a str)>) {
    if let Some(http) = tokens.iter().skip(1).position(|token| *token == "http").map(|at| at + 2)
        && http < tokens.len()
    {
        tags.push(("envoy.http_conn_manager_prefix", std::mem::take(&mut tokens[http])));
    }
    if tokens.get(1).is_none_or(|token| *token == "admin") {
        return;
    }
    let length = if is_ipv4_and_port(&tokens[1..]) { 4 } else { 1 };
    worker(1 + length, tokens, tags);
    let start = "listener.".len();
    let end = start + tokens[1..=length].iter().map(|token| token.len() + 1).sum::<usize>() - 1;
    tags.push(("envoy.listener_address", &prefix[start..end]));
    tokens[1..=length].fill("");
}

fn is_ipv4_and_port(tokens: &[&str]) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let [a, b, c, rest, ..] = tokens else { return false };
    let Some((d, port)) = rest.split_once('_') else { return false };
    [a, b, c, d, port].into_iter().all(digits)
}

/// `worker_<id>` at a position becomes `worker` and the tag.
fn worker<'a>(at: usize, tokens: &mut [&'a str], tags: &mut Vec<(&'static str, &'a str)>) {
    let Some(id) = tokens.get(at).and_then(|token| token.strip_prefix("worker_")) else { return };
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) {
        tags.push(("envoy.worker_id", id));
        tokens[at] = "worker";
    }
}

/// `http.<prefix>.rds.<route configuration>` or `http.<prefix>.scoped_rds.<name>`; both names may have dots.
fn route_config<'a>(prefix: &'a str, tokens: &mut [&'a str], tags: &mut Vec<(&'static str, &'a str)>) {
    let tag = match tokens.get(2) {
        Some(&"rds") => "envoy.rds_route_config",
        Some(&"scoped_rds") => "envoy.scoped_rds_config",
        _ => return,
    };
    if tokens.len() > 3 {
        let start = tokens[..3].iter().map(|token| token.len() + 1).sum::<usize>();
        tags.push((tag, &prefix[start..]));
        tokens[3..].fill("");
    }
}

/// `cluster.<name>.endpoint.<address>`, which may have dots, and `cluster.<name>.health_check.name.<name>`.
fn of_cluster<'a>(prefix: &'a str, tokens: &mut [&'a str], tags: &mut Vec<(&'static str, &'a str)>) {
    match (tokens, prefix.splitn(4, '.').nth(3)) {
        (["cluster", _, "endpoint", rest @ ..], Some(address)) => {
            tags.push((ENDPOINT, address));
            rest.fill("");
        }
        (["cluster", _, "health_check", literal @ "name", name, ..], _) => {
            *literal = "";
            tags.push(("envoy.health_check_name", std::mem::take(name)));
        }
        _ => {}
    }
}

/// `....ssl.certificate.<name>`
fn of_certificate<'a>(tokens: &mut [&'a str], tags: &mut Vec<(&'static str, &'a str)>) {
    if let ["listener" | "cluster", .., "ssl", "certificate", name] = tokens {
        tags.push(("envoy.tls_certificate", std::mem::take(name)));
    }
}

/// `proxy_proto.[<prefix>.]versions.v<version>`
fn of_proxy_protocol<'a>(tokens: &mut [&'a str], tags: &mut Vec<(&'static str, &'a str)>) {
    let ["proxy_proto", prefix @ .., versions @ "versions", version] = tokens else { return };
    let Some(number) = version.strip_prefix('v') else { return };
    if let [one] = prefix {
        tags.push(("envoy.proxy_protocol_prefix", std::mem::take(one)));
    }
    tags.push(("envoy.proxy_protocol_version", number));
    (*versions, *version) = ("", "");
}

/// An address of which a name has made `1.2.3.4_80`, or `[__1]_80`.
fn address(name: &str) -> Cow<'_, str> {
    let tokens: Vec<&str> = name.split('.').collect();
    match name.starts_with('[') || (tokens.len() == 4 && is_ipv4_and_port(&tokens)) {
        true => name.replace('_', ":").into(),
        false => name.into(),
    }
}

const ENDPOINT: &str = "envoy.endpoint_address";

impl<'a> Suffix<'a> {
    /// Cuts `_503` out of `upstream_rq_503`, and the `5` out of `upstream_rq_5xx`.
    pub(super) fn new(name: &'a str) -> Self {
        let whole = Self { name: [name, ""], tag: None };
        let Some((start, end)) = name.len().checked_sub(3).and_then(|at| name.split_at_checked(at)) else {
            return whole;
        };
        if !start.ends_with("_rq_") {
            return whole;
        }
        match end.as_bytes() {
            [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => {
                Self { name: [&start[..start.len() - 1], ""], tag: Some(("envoy.response_code", end)) }
            }
            [b'0'..=b'9', b'x', b'x'] => {
                Self { name: [start, &end[1..]], tag: Some(("envoy.response_code_class", &end[..1])) }
            }
            _ => whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefix: &str, name: &str, tags: &[(&str, &str)]) {
        let found = Prefix::new(prefix);
        let found_tags: Vec<_> = found.tags.iter().map(|(tag, value)| (&tag["envoy.".len()..], &**value)).collect();
        assert_eq!((&*found.name, &*found_tags), (name, tags), "{prefix}");
    }

    #[test]
    fn envoy_finds_the_same_tags() {
        check("server", "server", &[]);
        check("server.worker_1", "server.worker", &[("worker_id", "1")]);
        check("server.main_thread", "server.main_thread", &[]);
        check("cluster.c", "cluster", &[("cluster_name", "c")]);
        check("cluster.a.b.external", "cluster.b.external", &[("cluster_name", "a")]);
        check("cluster_manager", "cluster_manager", &[]);
        let of_endpoint = |address| [("cluster_name", "c"), ("endpoint_address", address)];
        check("cluster.c.endpoint.1.2.3.4_80", "cluster.endpoint", &of_endpoint("1.2.3.4:80"));
        check("cluster.c.endpoint.[__1]_80", "cluster.endpoint", &of_endpoint("[::1]:80"));
        check("cluster.c.endpoint.one.two_3", "cluster.endpoint", &of_endpoint("one.two_3"));
        let of_check = [("cluster_name", "c"), ("health_check_name", "web")];
        check("cluster.c.health_check.name.web", "cluster.health_check", &of_check);
        check("http.in", "http", &[("http_conn_manager_prefix", "in")]);
        check("tcp.my.tcp", "tcp.tcp", &[("tcp_prefix", "my")]);
        check("http.in.rds.ro.ute", "http.rds", &[("rds_route_config", "ro.ute"), ("http_conn_manager_prefix", "in")]);
        check(
            "http.in.fault.k",
            "http.fault",
            &[("fault_downstream_cluster", "k"), ("http_conn_manager_prefix", "in")],
        );
        let of_scopes = [("scoped_rds_config", "x.y"), ("http_conn_manager_prefix", "in")];
        check("http.in.scoped_rds.x.y", "http.scoped_rds", &of_scopes);
        check("sds.a.b", "sds.b", &[("xds_resource_name", "a")]);
        check("vhost.v.vcluster.x", "vhost.vcluster", &[("virtual_cluster", "x"), ("virtual_host", "v")]);
        check("vhost.v.route.x", "vhost.route", &[("virtual_host", "v"), ("route", "x")]);
        check("r.rbac", "rbac", &[("rbac_prefix", "r")]);
        check("connection_limit.c", "connection_limit", &[("connection_limit_prefix", "c")]);
        check("in.http_local_rate_limit", "http_local_rate_limit", &[("local_http_ratelimit_prefix", "in")]);
        check("proxy_proto.versions.v1", "proxy_proto", &[("proxy_protocol_version", "1")]);
        let of_proxy = [("proxy_protocol_prefix", "p"), ("proxy_protocol_version", "2")];
        check("proxy_proto.p.versions.v2", "proxy_proto", &of_proxy);
        let of_certificate = [("listener_address", "l"), ("tls_certificate", "c_1")];
        check("listener.l.ssl.certificate.c_1", "listener.ssl.certificate", &of_certificate);
    }

    #[test]
    fn a_listener_is_known_by_address_or_first_token() {
        check("listener.127.0.0.1_80", "listener", &[("listener_address", "127.0.0.1_80")]);
        check("listener.[__1]_80", "listener", &[("listener_address", "[__1]_80")]);
        check("listener./tmp/u.sock", "listener.sock", &[("listener_address", "/tmp/u")]);
        check("listener.admin.main_thread", "listener.admin.main_thread", &[]);
        check(
            "listener.127.0.0.1_80.worker_0",
            "listener.worker",
            &[("worker_id", "0"), ("listener_address", "127.0.0.1_80")],
        );
        check("listener.a.b.worker_0", "listener.b.worker_0", &[("listener_address", "a")]);
        check(
            "listener.127.0.0.1_80.http.in",
            "listener.http",
            &[("http_conn_manager_prefix", "in"), ("listener_address", "127.0.0.1_80")],
        );
        check("listener.admin.http.admin", "listener.admin.http", &[("http_conn_manager_prefix", "admin")]);
    }

    #[test]
    fn a_response_code_at_the_end_is_a_tag() {
        let code = Suffix { name: ["upstream_rq", ""], tag: Some(("envoy.response_code", "503")) };
        assert_eq!(Suffix::new("upstream_rq_503"), code);
        let class = Suffix { name: ["downstream_rq_", "xx"], tag: Some(("envoy.response_code_class", "5")) };
        assert_eq!(Suffix::new("downstream_rq_5xx"), class);
        for whole in ["upstream_rq_total", "rq_1234", "rq", "upstream_rq_é"] {
            assert_eq!(Suffix::new(whole), Suffix { name: [whole, ""], tag: None });
        }
    }
}
