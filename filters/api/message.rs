use http::{HeaderMap, Method, StatusCode};
use nuncio_telemetry::Protocol;
use nuncio_telemetry::format::{RequestView, ResponseView};

use crate::{Body, ByteStr};

/// `:scheme` of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// http
    Http,
    /// https
    Https,
    /// Any other, lower case.
    Other(ByteStr),
}

impl Scheme {
    /// The scheme in lower case.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Other(s) => s,
        }
    }

    /// Compares as RFC 3986 §3.1 says: without case.
    pub fn parse(s: &[u8]) -> Option<Self> {
        if s.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else if s.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else {
            std::str::from_utf8(s).ok().map(|s| Self::Other(s.to_ascii_lowercase().into()))
        }
    }
}

/// Method, target and header fields of a request; pseudo-headers are fields of the struct, never of the map.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// `:method`
    pub method: Method,
    /// `:scheme`
    pub scheme: Scheme,
    /// `:authority` or Host; empty if the request had none.
    pub authority: ByteStr,
    /// A filter took the authority away: an HTTP/1 upstream is sent no Host at all, as by Envoy.
    pub omits_host: bool,
    /// `:path` with query, visible ASCII; empty only for CONNECT without extended CONNECT.
    pub path: ByteStr,
    /// `:protocol` of an extended CONNECT (RFC 8441), or the Upgrade value of an HTTP/1.1 upgrade that was accepted.
    pub protocol: Option<ByteStr>,
    /// Version it arrived in.
    pub version: Protocol,
    /// Header fields other than Host.
    pub headers: HeaderMap,
    /// Header names as received, in order, kept only where a stateful header formatter (preserve_case) is configured.
    pub original_case: Option<Box<Vec<ByteStr>>>,
}

impl RequestHead {
    /// A head with no header fields.
    pub fn new(method: Method, scheme: Scheme, authority: ByteStr, path: ByteStr) -> Self {
        Self {
            method,
            scheme,
            authority,
            omits_host: false,
            path,
            protocol: None,
            version: Protocol::Http11,
            headers: HeaderMap::new(),
            original_case: None,
        }
    }

    /// What format operators see of it.
    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            method: self.method.as_str(),
            scheme: self.scheme.as_str(),
            authority: &self.authority,
            path: &self.path,
            protocol: self.protocol.as_deref(),
            headers: &self.headers,
        }
    }

    /// The path without query.
    pub fn path_only(&self) -> &str {
        self.path.split_once('?').map_or(&*self.path, |(path, _)| path)
    }

    /// Whether content-type says gRPC: `application/grpc`, alone or followed by `+`. Envoy takes no parameters there.
    pub fn is_grpc(&self) -> bool {
        self.headers.get(http::header::CONTENT_TYPE).is_some_and(|v| {
            v.as_bytes().strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
        })
    }
}

/// A request on its way upstream.
#[derive(Debug)]
pub struct Request {
    /// Method, target and headers.
    pub head: RequestHead,
    /// Body and trailers; raw bytes after an accepted upgrade or CONNECT.
    pub body: Body,
}

impl Request {
    /// Replaces the body by `wrap` of it: how a filter changes a body without holding it.
    pub fn wrap_body(&mut self, wrap: impl FnOnce(Body) -> Body) {
        self.body = wrap(std::mem::take(&mut self.body));
    }
}

/// Status and header fields of a response.
#[derive(Clone, Debug)]
pub struct ResponseHead {
    /// `:status`
    pub status: StatusCode,
    /// Header fields.
    pub headers: HeaderMap,
    /// Reason phrase and header names as received from an HTTP/1 upstream, kept only where a stateful header
    /// formatter is configured.
    pub original: Option<Box<OriginalResponse>>,
}

/// What preserve_case keeps of a response.
#[derive(Clone, Debug, Default)]
pub struct OriginalResponse {
    /// Reason phrase as received.
    pub reason: ByteStr,
    /// Header names as received, in order.
    pub names: Vec<ByteStr>,
}

impl ResponseHead {
    /// A head with no header fields.
    pub fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), original: None }
    }

    /// What format operators see of it.
    pub fn view(&self) -> ResponseView<'_> {
        ResponseView { status: self.status.as_u16(), headers: &self.headers }
    }
}

/// A response on its way downstream.
#[derive(Debug)]
pub struct Response {
    /// Status and headers.
    pub head: ResponseHead,
    /// Body and trailers.
    pub body: Body,
}

impl Response {
    /// Replaces the body by `wrap` of it.
    pub fn wrap_body(&mut self, wrap: impl FnOnce(Body) -> Body) {
        self.body = wrap(std::mem::take(&mut self.body));
    }
}
