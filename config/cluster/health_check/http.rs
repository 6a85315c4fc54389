use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use nuncio_filter_api::{LowerCx, Refused, RuntimeKey};
use nuncio_proto::envoy::config::core::v3::RequestMethod;
use nuncio_proto::envoy::config::core::v3::health_check as pb;
use nuncio_proto::envoy::r#type::v3::{CodecClientType, Int64Range};

use super::payload::{self, Payloads};
use crate::cluster::UpstreamProtocol;
use crate::header_rules::{HeaderRules, Side};
use crate::matcher::StringMatcher;

/// Envoy's `response_buffer_size`.
const DEFAULT_RESPONSE_BYTES: u64 = 1024;

/// A request, and what answer to it is a good one.
#[derive(Debug)]
pub struct HttpHealthCheck {
    /// Its method.
    pub method: Method,
    /// Its path with query.
    pub path: Arc<str>,
    /// Its host; empty takes the name of the cluster.
    pub host: Arc<str>,
    /// Its body.
    pub send: Bytes,
    /// Header fields to change.
    pub headers: HeaderRules,
    /// HTTP/1 or HTTP/2, whatever the cluster speaks.
    pub protocol: UpstreamProtocol,
    /// A status that is a good answer.
    pub expected: StatusRanges,
    /// A status that is a failure, but one that counts towards the threshold.
    pub retriable: StatusRanges,
    /// Looked for in the body of the answer.
    pub receive: Payloads,
    /// So many bytes of the answer's body are looked at; `None` is all of them.
    pub response_bytes: Option<usize>,
    /// What the host must call its cluster (`x-envoy-upstream-healthchecked-cluster`).
    pub service_name: Option<StringMatcher>,
    /// `health_check.verify_cluster` of the runtime: how many percent of the answers are held against it.
    pub verifies: RuntimeKey,
}

/// A set of statuses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusRanges(Box<[Range<u16>]>);

// === impl HttpHealthCheck ===

impl HttpHealthCheck {
    pub(super) fn lower(proto: pb::HttpHealthCheck, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::HttpHealthCheck {
            host,
            path,
            send,
            receive,
            response_buffer_size,
            request_headers_to_add,
            request_headers_to_remove,
            expected_statuses,
            retriable_statuses,
            codec_client_type,
            service_name_matcher,
            method,
        } = proto;
        let protocol = lower_protocol(codec_client_type, cx);
        let headers = HeaderRules::lower(Side::Request, request_headers_to_add, request_headers_to_remove, cx);
        let expected = StatusRanges::lower("expected", expected_statuses, cx);
        let retriable = StatusRanges::lower("retriable", retriable_statuses, cx);
        let service_name = cx.opt("service_name_matcher", service_name_matcher, StringMatcher::lower);
        let send = cx.opt("send", send, payload::lower);
        let receive = Payloads::lower(receive, cx);
        let method = lower_method(method, cx)?;
        let send = send?.unwrap_or_default();
        if !send.is_empty() && ![Method::POST, Method::PUT, Method::PATCH, Method::OPTIONS].contains(&method) {
            let reason = format!("a request with method {method} can have no payload");
            return Err(cx.at("send", |cx| cx.invalid(reason)));
        }
        let expected = expected?;
        let response_bytes = response_buffer_size.map_or(DEFAULT_RESPONSE_BYTES, |v| v.value);
        Ok(Self {
            method,
            path: path.into(),
            host: host.into(),
            send,
            headers: headers?,
            protocol: protocol?,
            expected: if expected.0.is_empty() { StatusRanges::only(200) } else { expected },
            retriable: retriable?,
            receive: receive?,
            // Envoy: zero is the whole body.
            response_bytes: (response_bytes > 0).then(|| usize::try_from(response_bytes).unwrap_or(usize::MAX)),
            service_name: service_name?,
            verifies: cx.runtime("health_check.verify_cluster"),
        })
    }
}

fn lower_protocol(value: i32, cx: &mut LowerCx<'_>) -> Result<UpstreamProtocol, Refused> {
    cx.at("codec_client_type", |cx| match CodecClientType::try_from(value) {
        Ok(CodecClientType::Http1) => Ok(UpstreamProtocol::Http1),
        Ok(CodecClientType::Http2) => Ok(UpstreamProtocol::Http2),
        Ok(CodecClientType::Http3) => Err(cx.not_implemented("HTTP3")),
        Err(_) => Err(cx.invalid("is no codec")),
    })
}

fn lower_method(value: i32, cx: &mut LowerCx<'_>) -> Result<Method, Refused> {
    cx.at("method", |cx| match RequestMethod::try_from(value) {
        Ok(RequestMethod::MethodUnspecified | RequestMethod::Get) => Ok(Method::GET),
        Ok(RequestMethod::Head) => Ok(Method::HEAD),
        Ok(RequestMethod::Post) => Ok(Method::POST),
        Ok(RequestMethod::Put) => Ok(Method::PUT),
        Ok(RequestMethod::Delete) => Ok(Method::DELETE),
        Ok(RequestMethod::Options) => Ok(Method::OPTIONS),
        Ok(RequestMethod::Trace) => Ok(Method::TRACE),
        Ok(RequestMethod::Patch) => Ok(Method::PATCH),
        Ok(RequestMethod::Connect) => Err(cx.invalid("must not be CONNECT")),
        Err(_) => Err(cx.invalid("is no method")),
    })
}

// === impl StatusRanges ===

impl StatusRanges {
    /// `kind` is `expected` or `retriable`.
    fn lower(kind: &str, ranges: Vec<Int64Range>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let lowered = cx.each(&format!("{kind}_statuses"), ranges, |Int64Range { start, end }, cx| {
            let wrong = if start >= end {
                format!("expecting start < end, but found start={start} and end={end}")
            } else if start < 100 {
                format!("expecting start >= 100, but found start={start}")
            } else if end > 600 {
                format!("expecting end <= 600, but found end={end}")
            } else {
                return Ok(start as u16..end as u16);
            };
            Err(cx.invalid(format!("invalid http {kind} status range: {wrong}")))
        })?;
        Ok(Self(lowered.into()))
    }

    fn only(status: u16) -> Self {
        Self(Box::new([Range { start: status, end: status + 1 }]))
    }

    /// Whether `status` is one of them.
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}
