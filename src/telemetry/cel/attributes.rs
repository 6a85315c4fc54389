//! What expressions may ask of a stream, by Envoy's names.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map as JsonMap, Value as Json};

use super::eval::{Env, NoValue};
use super::handshake;
use super::place::{Place, xds};
use super::value::Value;
use crate::format::{FormatCx, RequestView, ResponseView, grpc_status};
use crate::{Address, Metadata, StreamInfo, UpstreamInfo};

/// The stream that an expression is evaluated on.
#[derive(Clone, Copy)]
pub struct Activation<'a> {
    /// Its record.
    pub info: &'a StreamInfo,
    /// The request head.
    pub request: Option<RequestView<'a>>,
    /// The response head, once there is one.
    pub response: Option<ResponseView<'a>>,
    /// The response's trailers.
    pub trailers: Option<&'a HeaderMap>,
}

/// The attributes, in groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Root {
    Request,
    Response,
    Connection,
    Upstream,
    Source,
    Destination,
    Metadata,
    /// What is configured of the stream's place.
    Xds,
    FilterState,
    /// Of which there is nothing: no filter shares any with the upstream.
    UpstreamFilterState,
}

/// Something with keys.
#[derive(Clone, Debug)]
pub(super) enum Map<'a> {
    Group(Root),
    /// Those of the request.
    RequestHeaders,
    ResponseHeaders,
    ResponseTrailers,
    /// Dynamic metadata by namespace.
    Namespaces,
    /// The message of other metadata.
    Message(&'a Metadata),
    Place(Place<'a>),
    NamespacesOf(&'a Metadata),
    Json(&'a JsonMap<String, Json>),
    Literal(Vec<(Value<'a>, Value<'a>)>),
}

/// Pseudo-headers, as Envoy's header map holds them.
const PSEUDO: [&str; 4] = [":method", ":scheme", ":authority", ":path"];

impl<'a> Activation<'a> {
    /// Of a request that has no response yet.
    pub fn of_request(info: &'a StreamInfo, request: RequestView<'a>) -> Self {
        Self { info, request: Some(request), response: None, trailers: None }
    }
}

// === impl Root ===

impl Root {
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "request" => Self::Request,
            "response" => Self::Response,
            "connection" => Self::Connection,
            "upstream" => Self::Upstream,
            "source" => Self::Source,
            "destination" => Self::Destination,
            "metadata" => Self::Metadata,
            "filter_state" => Self::FilterState,
            "upstream_filter_state" => Self::UpstreamFilterState,
            "xds" => Self::Xds,
            _ => return None,
        })
    }

    fn get<'a>(self, name: &str, env: &Env<'a>) -> Option<Value<'a>> {
        let info = env.activation.info;
        match self {
            Self::Request => request(name, env),
            Self::Response => response(name, env),
            Self::Connection => connection(name, info),
            Self::Upstream => upstream(name, env.upstream),
            Self::Source => peer(name, &info.remote.borrow()),
            Self::Destination => peer(name, &info.connection.local),
            Self::Metadata => match name {
                "filter_metadata" => Some(Value::Map(Map::Namespaces)),
                "typed_filter_metadata" => Some(Value::Map(Map::Literal(Vec::new()))),
                _ => None,
            },
            Self::Xds => xds(name, env),
            // Envoy: as they are serialized.
            Self::FilterState => match env.filter_state.get(name)?.text()? {
                Cow::Borrowed(text) => Some(Value::Bytes(text.as_bytes().into())),
                Cow::Owned(text) => Some(Value::Bytes(text.into_bytes().into())),
            },
            Self::UpstreamFilterState => None,
        }
    }
}

fn request<'a>(name: &str, env: &Env<'a>) -> Option<Value<'a>> {
    let Activation { info, request, .. } = *env.activation;
    let head_bytes = request.map_or(0, |head| request_bytes(&head));
    match name {
        // Envoy: a connection has these too, and of a request no header.
        "headers" => Some(Value::Map(Map::RequestHeaders)),
        "headers_bytes" => Some(Value::Int(size(head_bytes))),
        "time" => Some(Value::Timestamp(since_epoch(info.start_wall))),
        "protocol" => info.protocol.get().map(|protocol| Value::text(protocol.as_str())),
        "duration" => {
            let complete = info.times.complete.get()?;
            Some(Value::Duration(nanos(complete.saturating_duration_since(info.start))))
        }
        "size" => match request.and_then(|head| head.headers.get(http::header::CONTENT_LENGTH)) {
            Some(length) => Some(Value::Int(length.to_str().ok()?.trim().parse().ok()?)),
            None => Some(Value::Int(size(info.bytes_received.get()))),
        },
        "total_size" => Some(Value::Int(size(info.bytes_received.get() + head_bytes))),
        name => of_head(name, request?),
    }
}

fn of_head<'a>(name: &str, head: RequestView<'a>) -> Option<Value<'a>> {
    let header = |name: HeaderName| head.headers.get(name).map(|v| Value::String(v.as_bytes().into()));
    let query = head.path.find('?');
    match name {
        "path" => filled(head.path).map(Value::text),
        "url_path" => Some(Value::text(&head.path[..query.unwrap_or(head.path.len())])),
        "query" => {
            let query = query.map_or("", |at| &head.path[at + 1..]);
            Some(Value::text(query.split('#').next().unwrap_or_default()))
        }
        "host" => filled(head.authority).map(Value::text),
        "scheme" => filled(head.scheme).map(Value::text),
        "method" => filled(head.method).map(Value::text),
        "referer" => header(http::header::REFERER),
        "useragent" => header(http::header::USER_AGENT),
        "id" => header(HeaderName::from_static("x-request-id")),
        _ => None,
    }
}

fn response<'a>(name: &str, env: &Env<'a>) -> Option<Value<'a>> {
    let Activation { info, response, trailers, .. } = *env.activation;
    let head_bytes = response.map_or(0, |head| field_bytes(head.headers) + ":status200".len() as u64);
    match name {
        "headers" => Some(Value::Map(Map::ResponseHeaders)),
        "trailers" => Some(Value::Map(Map::ResponseTrailers)),
        "headers_bytes" => Some(Value::Int(size(head_bytes))),
        "code" => Some(info.response_code.get()).filter(|code| *code != 0).map(|code| Value::Int(code.into())),
        "flags" => Some(Value::Int(info.flags.get().bits())),
        "grpc_status" => {
            let cx = FormatCx { response, trailers, ..FormatCx::new(info, info.start, info.start_wall) };
            Some(Value::Int(grpc_status(&cx)))
        }
        "code_details" => info.details.borrow().as_ref().map(Value::owned),
        "size" => Some(Value::Int(size(info.bytes_sent.get()))),
        "total_size" => {
            let all = info.bytes_sent.get() + head_bytes + trailers.map_or(0, field_bytes);
            Some(Value::Int(size(all)))
        }
        "backend_latency" => {
            let end = info.times.upstream_response_end.get()?;
            let begin = info.times.upstream_request_start.get()?;
            Some(Value::Duration(nanos(end.saturating_duration_since(begin))))
        }
        _ => None,
    }
}

/// What comes with TLS has no value on a connection without it.
fn connection<'a>(name: &str, info: &StreamInfo) -> Option<Value<'a>> {
    let connection = &info.connection;
    match name {
        "mtls" => {
            let tls = connection.tls.borrow();
            Some(Value::Bool(tls.as_ref().is_some_and(|tls| tls.peer.is_some())))
        }
        "requested_server_name" => Some(Value::owned(connection.server_name.borrow().as_deref().unwrap_or_default())),
        "id" => Some(Value::Uint(connection.id)),
        "termination_details" => connection.termination_details.borrow().as_deref().map(Value::owned),
        "transport_failure_reason" => connection.transport_failure.borrow().as_ref().map(Value::owned),
        name => handshake::attribute(name, connection.tls.borrow().as_deref()),
    }
}

fn upstream<'a>(name: &str, upstream: &'a UpstreamInfo) -> Option<Value<'a>> {
    match name {
        "address" => upstream.host.as_ref().map(Value::owned),
        "port" => upstream.host.as_ref()?.port().map(|port| Value::Int(port.into())),
        "local_address" => upstream.local.as_ref().map(Value::owned),
        // Envoy: empty, once the router has begun.
        "transport_failure_reason" => {
            upstream.cluster.as_ref()?;
            Some(Value::owned(upstream.transport_failure.as_deref().unwrap_or_default()))
        }
        "request_attempt_count" => Some(Value::Uint(upstream.attempts.into())),
        "cx_pool_ready_duration" => upstream.pool_ready.map(|duration| Value::Duration(nanos(duration))),
        "num_endpoints" => Some(Value::Uint(upstream.chosen.as_ref()?.facts().endpoints())),
        "locality" => Some(Value::Map(Map::Place(Place::Locality(upstream.chosen.as_ref()?.facts().locality())))),
        name => handshake::attribute(name, upstream.tls.as_deref()),
    }
}

fn peer<'a>(name: &str, address: &Address) -> Option<Value<'a>> {
    match name {
        "address" => Some(Value::owned(address)),
        "port" => address.port().map(|port| Value::Int(port.into())),
        _ => None,
    }
}

// === impl Map ===

impl<'a> Map<'a> {
    /// The value of a key; none where there is none.
    pub(super) fn get(&self, key: &Value<'_>, env: &Env<'a>) -> Option<Value<'a>> {
        if let Self::Literal(entries) = self {
            return entries.iter().find(|(k, _)| k.equals(key)).map(|(_, value)| value.clone());
        }
        let Value::String(key) = key else { return None };
        let name = std::str::from_utf8(key).ok()?;
        let Activation { request, response, trailers, .. } = *env.activation;
        match self {
            Self::Group(root) => root.get(name, env),
            Self::RequestHeaders => {
                let head = request?;
                pseudo(name, &head).map(Value::text).or_else(|| joined(head.headers, name))
            }
            Self::ResponseHeaders => match (name, response?) {
                (":status", head) => Some(Value::owned(head.status)),
                (name, head) => joined(head.headers, name),
            },
            Self::ResponseTrailers => joined(trailers?, name),
            Self::Namespaces => env.metadata?.get(name).map(|object| Value::Map(Map::Json(object))),
            Self::Message(metadata) => match name {
                "filter_metadata" => Some(Value::Map(Map::NamespacesOf(metadata))),
                "typed_filter_metadata" => Some(Value::Map(Map::Literal(Vec::new()))),
                _ => None,
            },
            Self::NamespacesOf(metadata) => metadata.get(name).map(|object| Value::Map(Map::Json(object))),
            Self::Json(object) => object.get(name).map(Value::json),
            Self::Place(place) => place.get(name),
            Self::Literal(_) => None,
        }
    }

    /// The number of its entries.
    pub(super) fn len(&self, env: &Env<'a>) -> Result<usize, NoValue> {
        let Activation { request, response, trailers, .. } = *env.activation;
        Ok(match self {
            // Envoy counts none of these.
            Self::Group(_) | Self::Message(_) | Self::Place(_) => 0,
            Self::RequestHeaders => request.map_or(0, |head| {
                head.headers.len() + PSEUDO.iter().filter(|name| pseudo(name, &head).is_some()).count()
            }),
            Self::ResponseHeaders => response.map_or(0, |head| head.headers.len() + 1),
            Self::ResponseTrailers => trailers.map_or(0, HeaderMap::len),
            Self::Namespaces => env.metadata.map_or(0, Metadata::len),
            Self::NamespacesOf(metadata) => metadata.len(),
            Self::Json(object) => object.len(),
            Self::Literal(entries) => entries.len(),
        })
    }

    /// Whether they are one and the same part of a stream.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Group(a), Self::Group(b)) => a == b,
            (Self::RequestHeaders, Self::RequestHeaders)
            | (Self::ResponseHeaders, Self::ResponseHeaders)
            | (Self::ResponseTrailers, Self::ResponseTrailers)
            | (Self::Namespaces, Self::Namespaces) => true,
            (Self::Message(a), Self::Message(b)) | (Self::NamespacesOf(a), Self::NamespacesOf(b)) => a == b,
            _ => false,
        }
    }

    /// The headers or trailers that it is of, each name once.
    pub(super) fn fields(&self, env: &Env<'a>) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        let Activation { request, response, trailers, .. } = *env.activation;
        let (headers, pseudo_names) = match self {
            Self::RequestHeaders => (request.map(|head| head.headers), &PSEUDO[..]),
            Self::ResponseHeaders => (response.map(|head| head.headers), &[":status"][..]),
            Self::ResponseTrailers => (trailers, &[][..]),
            _ => return None,
        };
        let names = headers.into_iter().flat_map(HeaderMap::keys).map(HeaderName::as_str);
        let names = pseudo_names.iter().copied().chain(names);
        let fields = names.filter_map(|name| Some((Value::text(name), self.get(&Value::text(name), env)?)));
        Some(fields.collect())
    }

    /// All that is in it, where it can be told.
    pub(super) fn entries(&self) -> Option<Vec<(Value<'a>, Value<'a>)>> {
        match self {
            Self::Json(object) => Some(object.iter().map(|(k, v)| (Value::text(k), Value::json(v))).collect()),
            Self::Literal(entries) => Some(entries.clone()),
            _ => None,
        }
    }
}

fn pseudo<'a>(name: &str, head: &RequestView<'a>) -> Option<&'a str> {
    let is = |pseudo: &str| name.eq_ignore_ascii_case(pseudo);
    let value = match () {
        () if is(":method") => head.method,
        () if is(":scheme") => head.scheme,
        () if is(":authority") || is("host") => head.authority,
        () if is(":path") => head.path,
        () => "",
    };
    filled(value)
}

/// All values of a header, joined by commas.
fn joined<'a>(headers: &'a HeaderMap, name: &str) -> Option<Value<'a>> {
    let mut values = headers.get_all(HeaderName::from_bytes(name.as_bytes()).ok()?).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    let all: Cow<'a, [u8]> = values.fold(first.into(), |joined, value| [&*joined, value].join(&b","[..]).into());
    Some(Value::String(all))
}

fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// Bytes of names and values, as Envoy counts a header map.
fn request_bytes(head: &RequestView<'_>) -> u64 {
    let pseudo = PSEUDO.iter().filter_map(|name| Some(name.len() + pseudo(name, head)?.len())).sum::<usize>();
    field_bytes(head.headers) + pseudo as u64
}

fn field_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum()
}

fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn since_epoch(time: SystemTime) -> i128 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => nanos(after),
        Err(before) => -nanos(before.duration()),
    }
}

fn nanos(duration: std::time::Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}
