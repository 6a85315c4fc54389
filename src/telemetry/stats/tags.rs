//! Which parts of a name are tags: Envoy's default rules.
//!
//! Envoy finds tags in finished names, also where a name's own dots lead it astray (the cluster `a.b` has the tag `a`
//! and metrics called `cluster.b.*`), and dashboards are built on what it finds. So we look where it looks, but once
//! for each prefix and only when somebody reads.

mod rules;

pub(super) use rules::AllFound;
use rules::Found;
pub use rules::{TagError, TagRules};

use std::borrow::Cow;
use std::ops::Range;

/// A prefix without its tags.
#[derive(Debug, PartialEq)]
pub(super) struct Prefix<'a> {
    pub(super) name: String,
    /// Names and values, in Envoy's order.
    tags: Vec<(&'static str, Cow<'a, str>)>,
    /// How many of the tags are looked for in names of any beginning: Envoy tells them before those of fixed value.
    anywhere: usize,
    /// What was cut out.
    removed: Vec<Range<usize>>,
}

/// A metric's own name without what is a tag at its end: a response code, or what a TLS connection has agreed on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Suffix<'a> {
    /// Bytes of the whole name.
    length: usize,
    /// The name in two pieces, between which the tag was cut out.
    pub(super) name: [&'a str; 2],
    pub(super) tag: Option<(&'static str, &'a str)>,
}

/// Those of the tags of a prefix that are looked for in names of any beginning.
const ANYWHERE: [&str; 4] =
    ["envoy.worker_id", "envoy.tls_certificate", "envoy.local_http_ratelimit_prefix", "envoy.rbac_prefix"];

/// The tags of a suffix: they are looked for in names of any beginning too.
const OF_SUFFIX: [&str; 7] = [
    "envoy.response_code",
    "envoy.response_code_class",
    "envoy.ssl_cipher",
    "cipher_suite",
    "envoy.ssl_version",
    "envoy.ssl_curve",
    "envoy.ssl_sigalg",
];

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
    pub(super) fn new(prefix: &'a str, rules: &TagRules) -> Self {
        let mut tokens: Vec<&'a str> = prefix.split('.').collect();
        let mut tags = Tags { rules, found: Vec::new() };
        match tokens[0] {
            "listener" => listener(prefix, &mut tokens, &mut tags),
            "http" => route_config(prefix, &mut tokens, &mut tags),
            _ => worker(1, &mut tokens, &mut tags),
        }
        let wanted = RULES.iter().filter(|(tag, _)| rules.wants(tag));
        let tagged: Vec<_> = wanted.filter_map(|(tag, rule)| Some((*tag, find(rule, &tokens)?))).collect();
        tags.found.extend(tagged.iter().map(|(tag, at)| (*tag, tokens[*at])));
        tagged.iter().for_each(|(_, at)| tokens[*at] = "");
        of_cluster(prefix, &mut tokens, &mut tags);
        of_certificate(&mut tokens, &mut tags);
        of_proxy_protocol(&mut tokens, &mut tags);
        let mut found = tags.found;
        found.sort_by_key(|(tag, _)| !ANYWHERE.contains(tag));
        let anywhere = found.iter().filter(|(tag, _)| ANYWHERE.contains(tag)).count();
        let removed = removed(prefix, &tokens);
        tokens.retain(|token| !token.is_empty());
        let value = |tag, value| if tag == ENDPOINT { address(value) } else { Cow::Borrowed(value) };
        let tags = found.into_iter().map(|(tag, text)| (tag, value(tag, text))).collect();
        Self { name: tokens.join("."), tags, anywhere, removed }
    }

    /// Names and values, in Envoy's order: those looked for in names of any beginning, and the others.
    fn tags(&self) -> [Vec<(&str, &str)>; 2] {
        let (anywhere, others) = self.tags.split_at(self.anywhere);
        [anywhere, others].map(|tags| tags.iter().map(|(tag, value)| (*tag, &**value)).collect())
    }

    /// What is left of `name`, which is this prefix and a suffix, when all that was found is cut out.
    pub(super) fn name(&self, name: &str, suffix: &Suffix<'_>, found: &AllFound<'_>) -> String {
        let Some(found) = found else {
            let dot = if self.name.is_empty() || suffix.is_all_tag() { "" } else { "." };
            return [&self.name, dot, suffix.name[0], suffix.name[1]].concat();
        };
        let removed = self.removed.iter().cloned().chain([suffix.removed(name)]);
        let removed: Vec<_> = removed.chain(found.iter().flatten().map(Found::removed)).collect();
        let is_kept = |at: &usize| !removed.iter().any(|range| range.contains(at));
        let mut name: String = name.char_indices().filter(|(at, _)| is_kept(at)).map(|(_, c)| c).collect();
        // Envoy's table of names keeps no dots at the end.
        name.truncate(name.trim_end_matches('.').len());
        name
    }
}

/// Tags as they are found, of those that are wanted.
struct Tags<'r, 'a> {
    rules: &'r TagRules,
    found: Vec<(&'static str, &'a str)>,
}

impl<'a> Tags<'_, 'a> {
    /// Whether the tag was wanted, and so its value is to be cut out.
    fn add(&mut self, tag: &'static str, value: &'a str) -> bool {
        let is_wanted = self.rules.wants(tag);
        self.found.extend(is_wanted.then_some((tag, value)));
        is_wanted
    }
}

/// Where `prefix` has something that the tokens, of which some are cut short or empty, no longer have.
fn removed(prefix: &str, tokens: &[&str]) -> Vec<Range<usize>> {
    let mut removed = Vec::new();
    let mut start = 0;
    for (before, after) in prefix.split('.').zip(tokens) {
        let end = start + before.len();
        match after.len() {
            // With its dot, which is behind the prefix where the token is its last.
            0 => removed.push(start..end + 1),
            length if length < before.len() => removed.push(start + length..end),
            _ => {}
        }
        start = end + 1;
    }
    removed
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
fn listener<'a>(prefix: &'a str, tokens: &mut [&'a str], tags: &mut Tags<'_, 'a>) {
    if let Some(http) = tokens.iter().skip(1).position(|token| *token == "http").map(|at| at + 2)
        && http < tokens.len()
        && tags.add("envoy.http_conn_manager_prefix", tokens[http])
    {
        tokens[http] = "";
    }
    if tokens.get(1).is_none_or(|token| *token == "admin") {
        return;
    }
    let length = if is_ipv4_and_port(&tokens[1..]) { 4 } else { 1 };
    worker(1 + length, tokens, tags);
    let start = "listener.".len();
    let end = start + tokens[1..=length].iter().map(|token| token.len() + 1).sum::<usize>() - 1;
    if tags.add("envoy.listener_address", &prefix[start..end]) {
        tokens[1..=length].fill("");
    }
}

fn is_ipv4_and_port(tokens: &[&str]) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let [a, b, c, rest, ..] = tokens else { return false };
    let Some((d, port)) = rest.split_once('_') else { return false };
    [a, b, c, d, port].into_iter().all(digits)
}

/// `worker_<id>` at a position becomes `worker` and the tag.
fn worker<'a>(at: usize, tokens: &mut [&'a str], tags: &mut Tags<'_, 'a>) {
    let Some(id) = tokens.get(at).and_then(|token| token.strip_prefix("worker_")) else { return };
    if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit()) && tags.add("envoy.worker_id", id) {
        tokens[at] = "worker";
    }
}

/// `http.<prefix>.rds.<route configuration>` or `http.<prefix>.scoped_rds.<name>`; both names may have dots.
fn route_config<'a>(prefix: &'a str, tokens: &mut [&'a str], tags: &mut Tags<'_, 'a>) {
    let tag = match tokens.get(2) {
        Some(&"rds") => "envoy.rds_route_config",
        Some(&"scoped_rds") => "envoy.scoped_rds_config",
        _ => return,
    };
    if tokens.len() > 3 {
        let start = tokens[..3].iter().map(|token| token.len() + 1).sum::<usize>();
        if tags.add(tag, &prefix[start..]) {
            tokens[3..].fill("");
        }
    }
}

/// `cluster.<name>.endpoint.<address>`, which may have dots, and `cluster.<name>.health_check.name.<name>`.
fn of_cluster<'a>(prefix: &'a str, tokens: &mut [&'a str], tags: &mut Tags<'_, 'a>) {
    match (tokens, prefix.splitn(4, '.').nth(3)) {
        (["cluster", _, "endpoint", rest @ ..], Some(address)) => {
            tags.found.push((ENDPOINT, address));
            rest.fill("");
        }
        (["cluster", _, "health_check", literal @ "name", name, ..], _)
            if tags.add("envoy.health_check_name", name) =>
        {
            (*literal, *name) = ("", "");
        }
        _ => {}
    }
}

/// `....ssl.certificate.<name>`
fn of_certificate<'a>(tokens: &mut [&'a str], tags: &mut Tags<'_, 'a>) {
    if let ["listener" | "cluster", .., "ssl", "certificate", name] = tokens
        && tags.add("envoy.tls_certificate", name)
    {
        *name = "";
    }
}

/// `proxy_proto.[<prefix>.][versions.v<version>]`
fn of_proxy_protocol<'a>(tokens: &mut [&'a str], tags: &mut Tags<'_, 'a>) {
    let ["proxy_proto", rest @ ..] = tokens else { return };
    let (prefix, versions) = match rest {
        [prefix @ .., versions @ "versions", version] => (prefix, Some((versions, version))),
        prefix => (prefix, None),
    };
    if let [one] = prefix
        && tags.add("envoy.proxy_protocol_prefix", one)
    {
        *one = "";
    }
    if let Some((versions, version)) = versions
        && let Some(number) = version.strip_prefix('v')
        && tags.add("envoy.proxy_protocol_version", number)
    {
        (*versions, *version) = ("", "");
    }
}

/// An address of which a name has made `1.2.3.4_80`, or `[__1]_80`.
fn address(name: &str) -> Cow<'_, str> {
    let tokens: Vec<&str> = name.split('.').collect();
    match name.starts_with('[') || (tokens.len() == 4 && is_ipv4_and_port(&tokens)) {
        true => name.replace('_', ":").into(),
        false => name.into(),
    }
}

/// Not looked for: Envoy has it from whoever makes the metric.
const ENDPOINT: &str = "envoy.endpoint_address";

/// A whole name as prefix and last part.
pub(super) fn split(whole: &str) -> (&str, &str) {
    const VERSIONS: &str = ".ssl.versions";
    // `TLSv1.3` is one part.
    let version = whole.rfind(VERSIONS).map(|at| at + VERSIONS.len());
    let version = version.and_then(|at| Some((&whole[..at], whole[at..].strip_prefix('.')?)));
    version.or_else(|| whole.rsplit_once('.')).unwrap_or(("", whole))
}

impl<'a> Suffix<'a> {
    /// Finds the tag in the last part of a name.
    pub(super) fn new(prefix: &str, name: &'a str, rules: &TagRules) -> Self {
        let found = of_handshake(prefix, name).or_else(|| of_response(name));
        let wanted = found.filter(|((tag, _), _)| rules.wants(tag));
        let (tag, name_without) = wanted.map_or((None, [name, ""]), |(tag, name)| (Some(tag), name));
        Self { length: name.len(), name: name_without, tag }
    }

    fn is_all_tag(&self) -> bool {
        self.name == ["", ""]
    }

    /// What was cut out, as a part of `name`, of which this is the end; with its dot where nothing is left.
    fn removed(&self, name: &str) -> Range<usize> {
        let start = name.len() - self.length;
        let start = if self.is_all_tag() { start.saturating_sub(1) } else { start + self.name[0].len() };
        start..name.len() - self.name[1].len()
    }
}

/// A tag, and the name in two pieces, between which it was.
type Cut<'a> = ((&'static str, &'a str), [&'a str; 2]);

/// Cuts `_503` out of `upstream_rq_503`, and the `5` out of `upstream_rq_5xx`.
fn of_response(name: &str) -> Option<Cut<'_>> {
    let (start, end) = name.split_at_checked(name.len().checked_sub(3)?)?;
    let without_dash = start.strip_suffix('_').filter(|start| start.ends_with("_rq"))?;
    match end.as_bytes() {
        [b'0'..=b'9', b'0'..=b'9', b'0'..=b'9'] => Some((("envoy.response_code", end), [without_dash, ""])),
        [b'0'..=b'9', b'x', b'x'] => Some((("envoy.response_code_class", &end[..1]), [start, &end[1..]])),
        _ => None,
    }
}

/// The name behind `....ssl.versions` and the like is all tag.
fn of_handshake<'a>(prefix: &str, name: &'a str) -> Option<Cut<'a>> {
    let (scope, kind) = prefix.rsplit_once(".ssl.")?;
    let tag = match (scope.split('.').next(), kind) {
        (Some("listener"), "ciphers") => "envoy.ssl_cipher",
        (Some("cluster"), "ciphers") => "cipher_suite",
        (Some("listener" | "cluster"), "versions") => "envoy.ssl_version",
        (Some("listener" | "cluster"), "curves") => "envoy.ssl_curve",
        (Some("listener" | "cluster"), "sigalgs") => "envoy.ssl_sigalg",
        _ => return None,
    };
    Some(((tag, name), ["", ""]))
}

#[cfg(test)]
mod tests;
