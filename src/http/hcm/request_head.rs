//! Envoy's contract for request headers between the codec and the filters: whose word about the client is taken, what
//! an outsider may not say, and what is added for those behind us.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::header::{CONNECTION, Entry, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VIA};
use http::{HeaderMap, Method, StatusCode};
use nuncio_config::protocol::UnderscoresAction;
use nuncio_filter_api::{ByteStr, LocalReply, RequestHead, Scheme, Worker};
use nuncio_telemetry::{Address, ConnectionInfo, Protocol, ResponseFlag, StreamInfo};

use super::config::{ClientAddress, HeadOptions, StripPort};
use super::stats::HcmStats;
use crate::path::{self, Normalized};
use crate::request_id::{self, TraceReason};

/// Names of headers that Envoy defines.
pub(crate) mod name {
    use http::HeaderName;

    pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    pub(crate) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    pub(crate) const FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
    pub(crate) const FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
    pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    pub(crate) const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
    pub(crate) const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
    pub(crate) const SERVICE_CLUSTER: HeaderName = HeaderName::from_static("x-envoy-downstream-service-cluster");
    pub(crate) const SERVICE_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
    pub(crate) const FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
    pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
}

/// Headers that only an internal caller may send.
const INTERNAL_ONLY: [HeaderName; 15] = [
    HeaderName::from_static("x-envoy-retriable-status-codes"),
    HeaderName::from_static("x-envoy-retriable-header-names"),
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    name::FORCE_TRACE,
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-url"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    name::INTERNAL,
];

/// `headers_with_underscores_action`; what HTTP/2 refuses never gets here, since its codec resets the stream.
pub(crate) fn apply_underscores(
    headers: &mut HeaderMap,
    action: UnderscoresAction,
    version: Protocol,
    stats: &HcmStats,
) -> Result<(), LocalReply> {
    if action == UnderscoresAction::Allow {
        return Ok(());
    }
    let with: Vec<HeaderName> = headers.keys().filter(|k| has_underscore(k)).cloned().collect();
    if with.is_empty() {
        return Ok(());
    }
    if action == UnderscoresAction::RejectRequest {
        stats.http1.requests_rejected_with_underscores_in_headers().inc();
        let reply = LocalReply::new(StatusCode::BAD_REQUEST, "http1.unexpected_underscore").body("Bad Request");
        return Err(reply.flag(ResponseFlag::DownstreamProtocolError));
    }
    for name in with {
        match version {
            Protocol::Http2 => stats.http2.dropped_headers_with_underscores().inc(),
            _ => stats.http1.dropped_headers_with_underscores().inc(),
        }
        headers.remove(name);
    }
    Ok(())
}

pub(crate) fn has_underscore(name: &HeaderName) -> bool {
    name.as_str().contains('_')
}

/// Headers that must not cross the edge, which is where `use_remote_address` is on.
const EDGE_ONLY: [HeaderName; 5] = [
    HeaderName::from_static("x-envoy-original-host"),
    HeaderName::from_static("x-envoy-decorator-operation"),
    HeaderName::from_static("x-envoy-downstream-service-cluster"),
    HeaderName::from_static("x-envoy-downstream-service-node"),
    HeaderName::from_static("x-envoy-original-path"),
];

/// Refuses a head that no route may see, and normalises its target: path, then host.
pub(crate) fn normalize_target(
    head: &mut RequestHead,
    options: &HeadOptions,
    connection: &ConnectionInfo,
    stats: &HcmStats,
) -> Result<(), LocalReply> {
    super::connect_udp::aim(head)?;
    let is_connect = head.method == Method::CONNECT && head.protocol.is_none();
    if !is_connect || !head.path.is_empty() {
        normalize_path(head, options, stats)?;
    }
    normalize_host(head, options, connection, is_connect);
    Ok(())
}

fn normalize_path(head: &mut RequestHead, options: &HeadOptions, stats: &HcmStats) -> Result<(), LocalReply> {
    if head.path.is_empty() {
        return Err(LocalReply::new(StatusCode::NOT_FOUND, "missing_path_rejected"));
    }
    if !head.path.starts_with('/') {
        return Err(LocalReply::new(StatusCode::NOT_FOUND, "absolute_path_rejected"));
    }
    if head.path.contains('#') {
        return Err(LocalReply::new(StatusCode::BAD_REQUEST, "path_with_fragment_rejected"));
    }
    match path::normalize(&head.path, options.path.options()) {
        Normalized::Unchanged => Ok(()),
        Normalized::Changed(path) => {
            head.path = path.into();
            Ok(())
        }
        Normalized::Rejected => Err(unnormalizable(stats)),
        // Envoy: a gRPC client follows no redirects.
        Normalized::Redirect(_) if head.is_grpc() => Err(unnormalizable(stats)),
        Normalized::Redirect(path) => {
            stats.http.downstream_rq_redirected_with_normalized_path().inc();
            let mut reply = LocalReply::new(StatusCode::TEMPORARY_REDIRECT, "path_normalization_failed");
            if let Ok(location) = HeaderValue::try_from(path) {
                reply.headers.insert(http::header::LOCATION, location);
            }
            Err(reply)
        }
    }
}

fn unnormalizable(stats: &HcmStats) -> LocalReply {
    stats.http.downstream_rq_failed_path_normalization().inc();
    LocalReply::new(StatusCode::BAD_REQUEST, "path_normalization_failed")
}

fn normalize_host(head: &mut RequestHead, options: &HeadOptions, connection: &ConnectionInfo, is_connect: bool) {
    if options.strip_trailing_dot {
        strip_trailing_dot(&mut head.authority);
    }
    // A CONNECT's port says where to, so it stays.
    if options.strip_port == StripPort::Never || is_connect {
        return;
    }
    if let Some((host, port)) = split_port(&head.authority)
        && (options.strip_port == StripPort::Any || connection.local.port() == Some(port))
    {
        head.authority = head.authority.slice(..host);
    }
}

/// Where the host ends and which port follows, if one does.
fn split_port(authority: &str) -> Option<(usize, u16)> {
    let colon = authority.rfind(':')?;
    let host = &authority[..colon];
    // The last colon of an IPv6 literal without port lies within its brackets.
    if host.starts_with('[') && !host.ends_with(']') {
        return None;
    }
    Some((colon, authority[colon + 1..].parse().ok()?))
}

fn strip_trailing_dot(authority: &mut ByteStr) {
    match split_port(authority) {
        None => {
            if authority.ends_with('.') {
                *authority = authority.slice(..authority.len() - 1);
            }
        }
        Some((host, _)) => {
            if let Some(name) = authority[..host].strip_suffix('.') {
                *authority = format!("{name}{}", &authority[host..]).into();
            }
        }
    }
}

/// Applies the contract to `head`, whose target is normal already, and notes the client's address in `info`. From an
/// outsider's request `sanitize_by_routes` takes what the routes keep for insiders. Returns whether the request is
/// internal.
pub(crate) fn prepare(
    head: &mut RequestHead,
    options: &HeadOptions,
    info: &StreamInfo,
    worker: &Worker,
    local_ip: &ByteStr,
    has_scheme: bool,
    sanitize_by_routes: impl FnOnce(&mut RequestHead),
) -> bool {
    let connection = &*info.connection;
    let seen = Seen::of(&head.headers);
    let client = apply_client_address(head, seen, &options.client, connection, local_ip);
    if seen.envoy {
        sanitize(&mut head.headers, client.internal, client.edge);
    }
    match client.internal {
        true => drop(head.headers.insert(name::INTERNAL, HeaderValue::from_static("true"))),
        false => sanitize_by_routes(head),
    }
    if client.edge
        && let Some(value) = address_value(&client.address)
    {
        head.headers.insert(name::EXTERNAL_ADDRESS, value);
    }
    set_scheme(head, seen, options, has_scheme);
    options.client_certificate.apply(head, seen.client_cert, info);
    add_identity(head, options);
    set_request_id(head, options, client.edge, worker);
    *info.remote.borrow_mut() = client.address;
    client.internal
}

/// Drops what concerns one connection only (RFC 9110 §7.6.1). An upgrade asks for itself in the client's words, as in
/// Envoy. For heads that came through no codec: HTTP/1's takes these fields out, and HTTP/2's refuses them.
pub(crate) fn remove_hop_by_hop(head: &mut RequestHead) {
    let headers = &mut head.headers;
    for name in [TRANSFER_ENCODING, name::KEEP_ALIVE, name::PROXY_CONNECTION] {
        headers.remove(name);
    }
    if head.protocol.is_none() {
        headers.remove(CONNECTION);
        headers.remove(UPGRADE);
    }
    if let Some(te) = headers.get(TE) {
        // RFC 9110 §10.1.4: "trailers" is the one member that means something end to end.
        let trailers = te.as_bytes().split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"trailers"));
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        } else {
            headers.remove(TE);
        }
    }
}

/// Which of the headers that the contract speaks of a client sent: most send none, and one look at all names is cheaper
/// than to look each of these up.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// x-envoy-*
    envoy: bool,
    forwarded_for: bool,
    forwarded_proto: bool,
    client_cert: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        let mut seen = Self::default();
        for name in headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("x-")) {
            match name {
                "x-forwarded-for" => seen.forwarded_for = true,
                "x-forwarded-proto" => seen.forwarded_proto = true,
                "x-forwarded-client-cert" => seen.client_cert = true,
                name => seen.envoy |= name.starts_with("x-envoy-"),
            }
        }
        seen
    }
}

/// What is held of the client.
struct Client {
    address: Address,
    internal: bool,
    edge: bool,
}

fn apply_client_address(
    head: &mut RequestHead,
    seen: Seen,
    options: &ClientAddress,
    connection: &ConnectionInfo,
    local_ip: &ByteStr,
) -> Client {
    let forwarded_for = if seen.forwarded_for { last_value(&head.headers, &name::FORWARDED_FOR) } else { Vec::new() };
    let hops = options.xff_num_trusted_hops as usize;
    let (address, single) = if options.use_remote_address {
        let trusted = if hops > 0 { xff_address(&forwarded_for, hops - 1) } else { None };
        (trusted, forwarded_for.is_empty())
    } else {
        let single = !forwarded_for.is_empty() && !forwarded_for.contains(&b',');
        (xff_address(&forwarded_for, hops), single)
    };
    let address = address.map_or_else(|| connection.remote.clone(), |ip| Address::Ip(SocketAddr::new(ip, 0)));
    if options.use_remote_address {
        if !options.skip_xff_append {
            append_forwarded_for(&mut head.headers, &forwarded_for, connection, local_ip);
        }
        // What the hop before us says of the scheme counts only if that hop is trusted.
        if hops == 0 {
            head.headers.remove(name::FORWARDED_PROTO);
            head.headers.remove(name::FORWARDED_PORT);
        }
    }
    if let Entry::Vacant(v) = head.headers.entry(name::FORWARDED_PROTO) {
        let is_tls = connection.tls.borrow().is_some();
        v.insert(HeaderValue::from_static(if is_tls { "https" } else { "http" }));
    }
    if options.append_x_forwarded_port
        && let Some(port) = connection.local.port()
        && let Entry::Vacant(v) = head.headers.entry(name::FORWARDED_PORT)
    {
        v.insert(HeaderValue::from(port));
    }
    let internal = single && is_internal(&address, options);
    Client { address, internal, edge: !internal && options.use_remote_address }
}

/// The last value of a header that is a list: what the nearest hop appended is at its end.
fn last_value(headers: &HeaderMap, name: &HeaderName) -> Vec<u8> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Vec::new() };
    let mut joined = first.as_bytes().to_vec();
    for value in values {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    joined
}

/// The address that lies `skip` entries before the end of X-Forwarded-For.
fn xff_address(value: &[u8], skip: usize) -> Option<IpAddr> {
    let entry = value.rsplit(|b| *b == b',').nth(skip)?;
    std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']).parse().ok()
}

fn append_forwarded_for(headers: &mut HeaderMap, before: &[u8], connection: &ConnectionInfo, local_ip: &ByteStr) {
    let Some(ip) = connection.remote.ip() else { return };
    let mut value = String::new();
    // Envoy: a peer on this host is known to others by our own address.
    let _ = if ip.is_loopback() { write!(value, "{local_ip}") } else { write!(value, "{ip}") };
    let mut joined = before.to_vec();
    if !joined.is_empty() {
        joined.push(b',');
    }
    joined.extend_from_slice(value.as_bytes());
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(name::FORWARDED_FOR, value);
    }
}

fn is_internal(address: &Address, options: &ClientAddress) -> bool {
    match address.ip() {
        Some(ip) => options.internal_ranges.iter().any(|range| range.contains(ip)),
        None => options.internal_unix_sockets,
    }
}

fn address_value(address: &Address) -> Option<HeaderValue> {
    HeaderValue::try_from(address.ip()?.to_string()).ok()
}

/// CVE-2023-27487: headers that steer us are not taken from outside.
fn sanitize(headers: &mut HeaderMap, internal: bool, edge: bool) {
    if internal {
        return;
    }
    for name in &INTERNAL_ONLY {
        headers.remove(name);
    }
    if edge {
        for name in &EDGE_ONLY {
            headers.remove(name);
        }
    }
}

fn set_scheme(head: &mut RequestHead, seen: Seen, options: &HeadOptions, has_scheme: bool) {
    if let Some(scheme) = &options.scheme_overwrite {
        head.scheme = scheme.clone();
        return;
    }
    let forwarded = match seen.forwarded_proto {
        true => head.headers.get(name::FORWARDED_PROTO).and_then(|v| Scheme::parse(v.as_bytes())),
        // As it was added.
        false => Some(Scheme::Http),
    };
    if let Some(scheme @ (Scheme::Http | Scheme::Https)) = forwarded
        && !has_scheme
    {
        head.scheme = scheme;
    }
}

fn add_identity(head: &mut RequestHead, options: &HeadOptions) {
    if let Some(cluster) = &options.user_agent {
        head.headers.insert(name::SERVICE_CLUSTER, cluster.clone());
        if let Entry::Vacant(v) = head.headers.entry(USER_AGENT) {
            v.insert(cluster.clone());
        }
        if let Some(node) = &options.service_node {
            head.headers.insert(name::SERVICE_NODE, node.clone());
        }
    }
    if let Some(via) = &options.via {
        append_list(&mut head.headers, VIA, via);
    }
}

/// Appends `value` to the list header `name`, in one field line as Envoy does.
pub(crate) fn append_list(headers: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(v) => {
            v.insert(value.clone());
        }
        Entry::Occupied(mut o) => {
            let joined = [o.get().as_bytes(), b", ", value.as_bytes()].concat();
            if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
                o.insert(joined);
            }
        }
    }
}

fn set_request_id(head: &mut RequestHead, options: &HeadOptions, edge: bool, worker: &Worker) {
    let id = options.request_id;
    if edge && !id.preserve_external {
        head.headers.remove(name::REQUEST_ID);
    }
    if !id.generate {
        return;
    }
    match head.headers.entry(name::REQUEST_ID) {
        Entry::Vacant(v) => drop(v.insert(request_id::generate(&worker.rng))),
        // Envoy: whether a request is traced is not for outsiders to say.
        Entry::Occupied(mut o) if edge && id.trace.pack => {
            let untraced = TraceReason::None.mark(o.get());
            o.insert(untraced);
        }
        Entry::Occupied(_) => {}
    }
}
