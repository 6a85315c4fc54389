//! The tests, ready to run.

use std::collections::btree_map::Entry;
use std::path::Path;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method};
use nuncio_config::matcher::HeaderMatcher;
use nuncio_config::protocol::duration;
use nuncio_filter_api::{LowerCx, Refused, RequestHead, Scheme};
use nuncio_proto::envoy::config::core::v3 as core;
use nuncio_proto::envoy::config::route::v3 as route;
use nuncio_proto::envoy::extensions::filters::http::set_metadata::v3 as set_metadata;
use nuncio_proto::route_check as proto;
use nuncio_telemetry::Metadata;

use super::ToolError;
use super::source::{Routes, finish, load, read};

/// A test.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) head: RequestHead,
    /// Headers of the upstream's answer.
    pub(super) response: HeaderMap,
    pub(super) random: u64,
    pub(super) runtime: String,
    pub(super) metadata: Metadata,
    pub(super) expect: Expect,
}

/// What is checked.
pub(super) struct Expect {
    pub(super) cluster: Option<String>,
    pub(super) virtual_cluster: Option<String>,
    pub(super) virtual_host: Option<String>,
    pub(super) path_rewrite: Option<String>,
    pub(super) host_rewrite: Option<String>,
    pub(super) path_redirect: Option<String>,
    pub(super) code_redirect: Option<u32>,
    pub(super) timeout: Option<Duration>,
    pub(super) request: Headers,
    pub(super) response: Headers,
}

/// What is checked of the headers of one side.
pub(super) struct Headers {
    pub(super) values: Vec<core::HeaderValue>,
    /// As written, and compiled.
    pub(super) matchers: Vec<(route::HeaderMatcher, HeaderMatcher)>,
}

impl Case {
    /// Loads a test file.
    pub(super) fn load(path: &Path, routes: &Routes) -> Result<Vec<Self>, ToolError> {
        let (file, text) = read(path)?;
        let (message, sources) = load::<proto::Validation>(&file, text.source)?;
        let mut cx = LowerCx::new(&routes.env);
        let lowered = cx.each("tests", message.tests, Self::lower);
        finish(lowered, cx.finish(), &file, &sources)
    }

    fn lower(message: proto::ValidationItem, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::ValidationItem { test_name, input, validate } = message;
        let proto::ValidationInput {
            authority,
            path,
            method,
            random_value,
            ssl,
            internal,
            runtime,
            additional_request_headers,
            additional_response_headers,
            dynamic_metadata,
        } = input.unwrap_or_default();
        let expect = cx.at("validate", |cx| Expect::lower(validate.unwrap_or_default(), cx));
        cx.at("input", |cx| {
            let method =
                cx.at("method", |cx| Method::from_bytes(method.as_bytes()).map_err(|e| cx.invalid(e.to_string())));
            let (scheme, proto) = if ssl { (Scheme::Https, "https") } else { (Scheme::Http, "http") };
            let own = headers("additional_request_headers", additional_request_headers, cx);
            let response = headers("additional_response_headers", additional_response_headers, cx);
            let metadata = metadata(dynamic_metadata, cx);
            let mut head = RequestHead::new(method?, scheme, authority.into(), path.into());
            head.headers.insert("x-forwarded-proto", HeaderValue::from_static(proto));
            if internal {
                head.headers.insert("x-envoy-internal", HeaderValue::from_static("true"));
            }
            head.headers.extend(own?);
            Ok(Self {
                name: test_name,
                head,
                response: response?,
                random: random_value,
                runtime,
                metadata: metadata?,
                expect: expect?,
            })
        })
    }
}

impl Expect {
    fn lower(message: proto::ValidationAssert, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::ValidationAssert {
            cluster_name,
            virtual_cluster_name,
            virtual_host_name,
            host_rewrite,
            path_rewrite,
            path_redirect,
            code_redirect,
            timeout,
            request_header_fields,
            response_header_fields,
            request_header_matches,
            response_header_matches,
        } = message;
        let timeout = cx.opt("timeout", timeout, duration);
        let mut matchers = |field: &str, all: Vec<route::HeaderMatcher>| {
            cx.each(field, all, |m, cx| HeaderMatcher::lower(m.clone(), cx).map(|matcher| (m, matcher)))
        };
        let request = matchers("request_header_matches", request_header_matches);
        let response = matchers("response_header_matches", response_header_matches);
        Ok(Self {
            cluster: cluster_name,
            virtual_cluster: virtual_cluster_name,
            virtual_host: virtual_host_name,
            path_rewrite,
            host_rewrite,
            path_redirect,
            code_redirect,
            timeout: timeout?,
            request: Headers { values: request_header_fields, matchers: request? },
            response: Headers { values: response_header_fields, matchers: response? },
        })
    }
}

fn headers(field: &str, all: Vec<core::HeaderValue>, cx: &mut LowerCx<'_>) -> Result<HeaderMap, Refused> {
    let pairs = cx.each(field, all, |header, cx| {
        let core::HeaderValue { key, value, raw_value } = header;
        let value = if raw_value.is_empty() { value.into_bytes() } else { raw_value };
        let name = cx.at("key", |cx| nuncio_config::value::header_name(&key, cx));
        let value =
            cx.at("value", |cx| HeaderValue::from_bytes(&value).map_err(|_| cx.invalid("is not a valid header value")));
        Ok((name?, value?))
    })?;
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name, value);
    }
    Ok(map)
}

/// As the filter set_metadata does it: what is there stays, or is merged with what comes.
fn metadata(all: Vec<set_metadata::Metadata>, cx: &mut LowerCx<'_>) -> Result<Metadata, Refused> {
    let mut set = Metadata::new();
    cx.each("dynamic_metadata", all, |item, cx| {
        let set_metadata::Metadata { metadata_namespace, allow_overwrite, value, typed_value } = item;
        cx.unsupported("typed_value", &typed_value)?;
        let value = nuncio_config::metadata::object(value.unwrap_or_default());
        match set.entry(metadata_namespace.into()) {
            Entry::Vacant(vacant) => drop(vacant.insert(value)),
            Entry::Occupied(mut there) if allow_overwrite => there.get_mut().extend(value),
            Entry::Occupied(_) => {}
        }
        Ok(())
    })?;
    Ok(set)
}
