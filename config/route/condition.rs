//! `RouteMatch`: which requests a route is for.

mod reasons;

pub use reasons::Reason;
pub(super) use reasons::path;

use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use nuncio_telemetry::{ConnectionInfo, StreamInfo};
use proto::route_match::{ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier, TlsContextMatchOptions};

use super::paths::{PathsBuilder, Place};
use super::trie::Fold;
use super::uri_template::UriTemplate;
use crate::matcher::{
    CookieMatcher, FilterStateMatcher, Fraction, HeaderMatcher, MetadataMatcher, QueryMatcher, Regex,
};

/// A compiled `RouteMatch`.
#[derive(Debug)]
pub(super) struct Match {
    pub(super) path: Path,
    /// Boxed, as most routes have none.
    pub(super) conditions: Option<Box<Conditions>>,
}

/// `path_specifier`
#[derive(Debug)]
pub(super) enum Path {
    Key {
        key: Box<[u8]>,
        place: Place,
        fold: Fold,
    },
    /// The expression itself is among the conditions.
    Regex,
    /// Its expression is among the conditions.
    Template(UriTemplate),
    Connect,
}

/// What a route is asked about.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) head: &'a RequestHead,
    pub(super) info: &'a StreamInfo,
    /// As much of the path as routes match.
    pub(super) path: &'a [u8],
    pub(super) random: u64,
}

/// What must hold besides the key of the path.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    fraction: Option<Fraction>,
    grpc: bool,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryMatcher]>,
    cookies: Box<[CookieMatcher]>,
    metadata: Box<[MetadataMatcher]>,
    filter_state: Box<[FilterStateMatcher]>,
    certificate: Option<Certificate>,
    regex: Option<Regex>,
    /// An optional plugin that is not known would choose the cluster: no request takes the route.
    nothing: bool,
}

/// `tls_context`: what is asked of the client's certificate.
#[derive(Clone, Copy, Debug)]
struct Certificate {
    presented: Option<bool>,
    validated: Option<bool>,
}

impl Match {
    pub(super) fn lower(message: Option<proto::RouteMatch>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Some(message) = message else { return Err(cx.invalid("is required")) };
        let proto::RouteMatch {
            case_sensitive,
            runtime_fraction,
            headers,
            query_parameters,
            cookies,
            grpc,
            tls_context,
            dynamic_metadata,
            filter_state,
            path_specifier,
        } = message;
        let fold = if case_sensitive.is_none_or(|c| c.value) { Fold::Exact } else { Fold::Lower };
        let path = Path::lower(path_specifier, fold, cx);
        let headers = cx.each("headers", headers, HeaderMatcher::lower);
        let query = cx.each("query_parameters", query_parameters, QueryMatcher::lower);
        let cookies = cx.each("cookies", cookies, CookieMatcher::lower);
        let metadata = cx.each("dynamic_metadata", dynamic_metadata, MetadataMatcher::lower);
        let filter_state = cx.each("filter_state", filter_state, FilterStateMatcher::lower);
        let (path, regex) = path?;
        let conditions = Conditions {
            fraction: runtime_fraction.map(|fraction| Fraction::lower_runtime(fraction, cx)),
            grpc: grpc.is_some_and(|GrpcRouteMatchOptions {}| true),
            headers: headers?.into(),
            query: query?.into(),
            cookies: cookies?.into(),
            metadata: metadata?.into(),
            filter_state: filter_state?.into(),
            certificate: tls_context.map(Certificate::lower),
            regex,
            nothing: false,
        };
        Ok(Self { path, conditions: conditions.boxed() })
    }

    /// Lets no request take the route.
    pub(super) fn take_nothing(&mut self) {
        self.conditions.get_or_insert_default().nothing = true;
    }

    /// Adds the route to the index of its virtual host.
    pub(super) fn index<'a>(&'a self, route: u32, paths: &mut PathsBuilder<'a>) {
        let conditions = self.conditions.as_deref();
        let headers = conditions.map_or_else(Vec::new, |c| c.headers.iter().filter_map(HeaderMatcher::only).collect());
        let certain = conditions.is_none();
        match &self.path {
            Path::Key { key, place, fold } => paths.add(route, key, (*place, *fold), certain, headers),
            Path::Connect => paths.add_connect(route, certain),
            Path::Regex | Path::Template(_) => {
                let regex = conditions.and_then(|c| c.regex.as_ref());
                paths.add_regex(route, regex, headers);
            }
        }
    }

    /// The template of `path_match_policy`.
    pub(super) fn template(&self) -> Option<&UriTemplate> {
        match &self.path {
            Path::Template(template) => Some(template),
            _ => None,
        }
    }

    /// The bytes of a path that a prefix rewrite replaces; `None`: all of it but the query.
    pub(super) fn replaced(&self) -> Option<usize> {
        match &self.path {
            Path::Key { key, .. } => Some(key.len()),
            Path::Regex | Path::Template(_) | Path::Connect => None,
        }
    }
}

impl Path {
    fn lower(
        specifier: Option<PathSpecifier>,
        fold: Fold,
        cx: &mut LowerCx<'_>,
    ) -> Result<(Self, Option<Regex>), Refused> {
        let (key, place) = match specifier {
            None => return Err(cx.invalid("path_specifier is required")),
            Some(PathSpecifier::Prefix(prefix)) => (prefix, Place::Anywhere),
            Some(PathSpecifier::Path(path)) => (path, Place::End),
            Some(PathSpecifier::PathSeparatedPrefix(prefix)) => (prefix, Place::Segment),
            Some(PathSpecifier::SafeRegex(regex)) => {
                let regex = cx.at("safe_regex", |cx| Regex::lower_unhurried(regex, cx))?;
                return Ok((Self::Regex, Some(regex)));
            }
            Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})) => return Ok((Self::Connect, None)),
            Some(PathSpecifier::PathMatchPolicy(policy)) => {
                let template = cx.at("path_match_policy", |cx| template(policy, cx))?;
                let regex = template.regex.clone();
                return Ok((Self::Template(template), Some(regex)));
            }
        };
        Ok((Self::Key { key: key.into_bytes().into(), place, fold }, None))
    }
}

/// Holds the template of a path against the rules, where no path is held against it.
pub(crate) fn check_template(policy: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    template(policy, cx).map(drop)
}

fn template(policy: TypedExtensionConfig, cx: &mut LowerCx<'_>) -> Result<UriTemplate, Refused> {
    let TypedExtensionConfig { name: _, typed_config } = policy;
    cx.at("typed_config", |cx| {
        let any = typed_config.ok_or_else(|| cx.invalid("is required"))?;
        let UriTemplateMatchConfig { path_template } = crate::protocol::any_as(&any, cx)?;
        cx.at("path_template", |cx| UriTemplate::lower(&path_template, cx))
    })
}

impl Certificate {
    fn lower(message: TlsContextMatchOptions) -> Self {
        let TlsContextMatchOptions { presented, validated } = message;
        Self { presented: presented.map(|p| p.value), validated: validated.map(|v| v.value) }
    }

    /// Whether the connection is what is asked for. Without TLS there is no certificate.
    fn matches(self, connection: &ConnectionInfo) -> bool {
        let tls = connection.tls.borrow();
        let presented = tls.as_ref().is_some_and(|tls| tls.peer.is_some());
        let validated = tls.as_ref().is_some_and(|tls| tls.is_validated);
        self.presented.is_none_or(|p| p == presented) && self.validated.is_none_or(|v| v == validated)
    }
}

impl Conditions {
    fn boxed(self) -> Option<Box<Self>> {
        let Self { fraction, grpc, headers, query, cookies, metadata, filter_state, certificate, regex, nothing } =
            &self;
        let none = fraction.is_none()
            && !grpc
            && headers.is_empty()
            && query.is_empty()
            && cookies.is_empty()
            && metadata.is_empty()
            && filter_state.is_empty()
            && certificate.is_none()
            && regex.is_none()
            && !nothing;
        (!none).then(|| Box::new(self))
    }

    /// Whether all of them hold.
    pub(super) fn hold(&self, asked: Asked<'_>) -> bool {
        let Asked { head, info, path, random } = asked;
        !self.nothing
            && self.fraction.as_ref().is_none_or(|f| f.holds(random))
            && (!self.grpc || head.is_grpc())
            && self.headers.iter().all(|h| h.matches_request(head))
            && (self.query.is_empty() || self.query.iter().all(|q| q.matches(head.path.as_bytes())))
            && self.cookies.iter().all(|c| c.matches(&head.headers))
            && self.certificate.is_none_or(|c| c.matches(&info.connection))
            && self.regex.as_ref().is_none_or(|r| r.is_match(path))
            && (self.metadata.is_empty() || {
                let metadata = info.metadata.borrow();
                self.metadata.iter().all(|m| m.matches(metadata.as_deref()))
            })
            && (self.filter_state.is_empty() || {
                let state = info.filter_state.borrow();
                self.filter_state.iter().all(|m| m.matches(&state))
            })
    }
}
