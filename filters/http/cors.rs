//! `envoy.filters.http.cors`: answers preflight requests, and tells browsers which origins may read a response.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, StatusCode};
use nuncio_config::matcher::{Fraction, StringMatcher};
use nuncio_filter_api::{
    Body, HttpFilter, HttpFilterConfig, HttpFilterRow, LowerCx, PerRoute, Refused, Reply, Request, RequestHead,
    Response, ResponseHead, Sides, Step, StreamCx,
};
use nuncio_proto::envoy::extensions::filters::http::cors::v3 as proto;
use smallvec::SmallVec;

use crate::noop::Noop;

/// The filter's row in the table.
pub(crate) const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.cors",
    config: "envoy.extensions.filters.http.cors.v3.Cors",
    lower,
    per_route: Some(("envoy.extensions.filters.http.cors.v3.CorsPolicy", lower_policy)),
    sides: Sides::Downstream,
};

nuncio_telemetry::stats! {
    /// `http.<stat_prefix>.cors`
    pub(crate) struct CorsStats {
        origin_valid: Counter,
        origin_invalid: Counter,
    }
}

struct Config {
    stats: CorsStats,
}

/// What one level of a route says. Each setting is that of the most specific level that has it.
struct Policy {
    origins: Box<[StringMatcher]>,
    /// One of the matchers matches `*`.
    any_origin: bool,
    allow_methods: Option<HeaderValue>,
    allow_headers: Option<HeaderValue>,
    expose_headers: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    allow_credentials: Option<bool>,
    allow_private_network: Option<bool>,
    forward_not_matching: Option<bool>,
    enabled: Option<Fraction>,
    shadow: Option<Fraction>,
}

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let proto::Cors {} = crate::decode(bytes, cx)?;
    Ok(Arc::new(Config { stats: CorsStats::new(&cx.scope().scope("cors")) }))
}

fn lower_policy(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<PerRoute, Refused> {
    let message = crate::decode::<proto::CorsPolicy>(bytes, cx)?;
    Ok(Arc::new(Policy::lower(message, cx)?))
}

impl Policy {
    fn lower(message: proto::CorsPolicy, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::CorsPolicy {
            allow_origin_string_match,
            allow_methods,
            allow_headers,
            expose_headers,
            max_age,
            allow_credentials,
            filter_enabled,
            shadow_enabled,
            allow_private_network_access,
            forward_not_matching_preflights,
        } = message;
        let origins = cx.each("allow_origin_string_match", allow_origin_string_match, StringMatcher::lower);
        let allow_methods = header_value("allow_methods", allow_methods, cx);
        let allow_headers = header_value("allow_headers", allow_headers, cx);
        let expose_headers = header_value("expose_headers", expose_headers, cx);
        let max_age = header_value("max_age", max_age, cx);
        let origins: Box<[_]> = origins?.into();
        Ok(Self {
            any_origin: origins.iter().any(|origin| origin.matches(b"*")),
            origins,
            allow_methods: allow_methods?,
            allow_headers: allow_headers?,
            expose_headers: expose_headers?,
            max_age: max_age?,
            allow_credentials: allow_credentials.map(|b| b.value),
            allow_private_network: allow_private_network_access.map(|b| b.value),
            forward_not_matching: forward_not_matching_preflights.map(|b| b.value),
            enabled: filter_enabled.map(|fraction| Fraction::lower_runtime(fraction, cx)),
            shadow: shadow_enabled.map(|fraction| Fraction::lower_runtime(fraction, cx)),
        })
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        self.any_origin || self.origins.iter().any(|matcher| matcher.matches(origin.as_bytes()))
    }
}

/// The value of a header; an empty field leaves the header out.
fn header_value(field: &str, text: String, cx: &mut LowerCx<'_>) -> Result<Option<HeaderValue>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = HeaderValue::from_maybe_shared(Bytes::from(text));
    value.map(Some).map_err(|_| cx.at(field, |cx| cx.invalid("has characters that no header value may have")))
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, name: &Arc<str>, cx: &StreamCx) -> Box<dyn HttpFilter> {
        let policies = match cx.route().map(|route| route.get()) {
            // Envoy: what is answered here, by a redirect or direct response, has no policy.
            Some(route) if route.is_forward() => {
                let mut policies = SmallVec::new();
                route.filter_configs(name, &mut |config| policies.extend(config.clone().downcast::<Policy>().ok()));
                // Envoy: the deprecated fields count where no level has a policy.
                if policies.is_empty() {
                    route.cors_policies(&mut |config| policies.extend(config.clone().downcast::<Policy>().ok()));
                }
                policies
            }
            _ => SmallVec::new(),
        };
        if policies.is_empty() {
            return Box::new(Noop);
        }
        Box::new(Filter { config: self, policies: Policies(policies), origin: None })
    }
}

/// The policies of a route, from the least to the most specific.
struct Policies(SmallVec<[Arc<Policy>; 2]>);

impl Policies {
    /// The setting of the most specific policy that has it.
    fn find<'a, T>(&'a self, setting: impl Fn(&'a Policy) -> Option<T>) -> Option<T> {
        self.0.iter().rev().find_map(|policy| setting(policy))
    }

    /// Whether the filter acts, and whether it would count if it did not. Envoy: the most specific policy alone says
    /// so, whether it has the fields or not.
    fn mode(&self, cx: &StreamCx) -> Mode {
        let Some(policy) = self.0.last() else { return Mode::Off };
        // Bits of its own: those of the stream choose the weighted cluster, and the two would go together.
        let holds = |fraction: &Fraction| fraction.holds(cx.worker.rng.u64());
        if policy.enabled.as_ref().is_none_or(holds) {
            Mode::On
        } else if policy.shadow.as_ref().is_some_and(holds) {
            Mode::Shadow
        } else {
            Mode::Off
        }
    }

    fn allow(&self, origin: &HeaderValue) -> bool {
        self.0.iter().rev().find(|policy| !policy.origins.is_empty()).is_some_and(|policy| policy.allows(origin))
    }

    fn set_credentials(&self, headers: &mut HeaderMap) {
        if self.find(|p| p.allow_credentials) == Some(true) {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE);
        }
    }

    fn set(&self, headers: &mut HeaderMap, name: HeaderName, setting: impl Fn(&Policy) -> Option<&HeaderValue>) {
        if let Some(value) = self.find(setting) {
            headers.insert(name, value.clone());
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    On,
    /// Requests are counted and pass.
    Shadow,
    Off,
}

struct Filter {
    config: Arc<Config>,
    policies: Policies,
    /// The origin, if the response may be read by it.
    origin: Option<HeaderValue>,
}

const EMPTY: HeaderValue = HeaderValue::from_static("");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

impl HttpFilter for Filter {
    fn request<'a>(&'a mut self, request: &'a mut Request, cx: &'a mut StreamCx) -> Step<'a> {
        let head = &request.head;
        let Some(origin) = joined(&head.headers, &header::ORIGIN) else { return Step::CONTINUE };
        let mode = self.policies.mode(cx);
        if mode == Mode::Off {
            return Step::CONTINUE;
        }
        let is_allowed = self.policies.allow(&origin);
        let stats = &self.config.stats;
        if is_allowed { stats.origin_valid() } else { stats.origin_invalid() }.inc();
        if mode == Mode::Shadow {
            return Step::CONTINUE;
        }
        if is_allowed {
            self.origin = Some(origin);
        }
        let answers = is_allowed || self.policies.find(|p| p.forward_not_matching) == Some(false);
        if !answers || !is_preflight(head) {
            return Step::CONTINUE;
        }
        cx.info.set_details("cors_response");
        Step::Done(Err(Reply::Response(self.answer(head))))
    }

    fn response<'a>(
        &'a mut self,
        response: &'a mut Response,
        _request: &'a RequestHead,
        _cx: &'a mut StreamCx,
    ) -> Step<'a> {
        if let Some(origin) = self.origin.take() {
            let headers = &mut response.head.headers;
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            self.policies.set_credentials(headers);
            self.policies.set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, |p| p.expose_headers.as_ref());
        }
        Step::CONTINUE
    }
}

impl Filter {
    /// The answer to a preflight request. The response hook adds the origin, if it is an allowed one.
    fn answer(&self, request: &RequestHead) -> Response {
        let mut head = ResponseHead::new(StatusCode::OK);
        let (policies, headers) = (&self.policies, &mut head.headers);
        policies.set_credentials(headers);
        for (name, asked, setting) in [
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                header::ACCESS_CONTROL_REQUEST_METHOD,
                policies.find(|p| p.allow_methods.as_ref()),
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                header::ACCESS_CONTROL_REQUEST_HEADERS,
                policies.find(|p| p.allow_headers.as_ref()),
            ),
        ] {
            let Some(allowed) = setting else { continue };
            // Envoy: where everything is allowed, what was asked for is told.
            let told = if allowed == "*" { joined(&request.headers, &asked) } else { Some(allowed.clone()) };
            headers.insert(name, told.unwrap_or(EMPTY));
        }
        policies.set(headers, header::ACCESS_CONTROL_MAX_AGE, |p| p.max_age.as_ref());
        if policies.find(|p| p.allow_private_network) == Some(true)
            && request.headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|value| value == "true")
        {
            headers.insert(ALLOW_PRIVATE_NETWORK, TRUE);
        }
        Response { head, body: Body::empty() }
    }
}

fn is_preflight(head: &RequestHead) -> bool {
    head.method == Method::OPTIONS
        && head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD).is_some_and(|method| !method.is_empty())
}

/// The value of a header, its lines joined by commas; `None` if there is none or it is empty.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<HeaderValue> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    if values.next().is_none() {
        return (!first.is_empty()).then(|| first.clone());
    }
    let lines: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    HeaderValue::from_maybe_shared(Bytes::from(lines.join(&b","[..]))).ok()
}

#[cfg(test)]
mod tests;
