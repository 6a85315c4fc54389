//! `RouteMatch`: which requests a route is for.

use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::config::route::v3 as proto;
use proto::route_match::{ConnectMatcher, GrpcRouteMatchOptions, PathSpecifier};

use super::paths::{PathsBuilder, Place};
use super::trie::Fold;
use crate::matcher::{Fraction, HeaderMatcher, QueryMatcher, Regex};

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
    Connect,
}

/// What must hold besides the key of the path.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    fraction: Option<Fraction>,
    grpc: bool,
    headers: Box<[HeaderMatcher]>,
    query: Box<[QueryMatcher]>,
    regex: Option<Regex>,
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
        let supported = [
            cx.unsupported("cookies", &cookies),
            cx.unsupported("tls_context", &tls_context),
            cx.unsupported("dynamic_metadata", &dynamic_metadata),
            cx.unsupported("filter_state", &filter_state),
        ];
        let fold = if case_sensitive.is_none_or(|c| c.value) { Fold::Exact } else { Fold::Lower };
        let path = Path::lower(path_specifier, fold, cx);
        let headers = cx.each("headers", headers, HeaderMatcher::lower);
        let query = cx.each("query_parameters", query_parameters, QueryMatcher::lower);
        supported.into_iter().collect::<Result<(), _>>()?;
        let (path, regex) = path?;
        let conditions = Conditions {
            fraction: runtime_fraction.map(Fraction::lower_runtime),
            grpc: grpc.is_some_and(|GrpcRouteMatchOptions {}| true),
            headers: headers?.into(),
            query: query?.into(),
            regex,
        };
        Ok(Self { path, conditions: conditions.boxed() })
    }

    /// Adds the route to the index of its virtual host.
    pub(super) fn index<'a>(&'a self, route: u32, paths: &mut PathsBuilder<'a>) {
        let conditions = self.conditions.as_deref();
        let headers = conditions.map_or_else(Vec::new, |c| c.headers.iter().filter_map(HeaderMatcher::only).collect());
        let certain = conditions.is_none();
        match &self.path {
            Path::Key { key, place, fold } => paths.add(route, key, (*place, *fold), certain, headers),
            Path::Connect => paths.add_connect(route, certain),
            Path::Regex => {
                let prefix = conditions.and_then(|c| c.regex.as_ref()).map_or(&[][..], Regex::prefix);
                paths.add(route, prefix, (Place::Anywhere, Fold::Exact), certain, headers);
            }
        }
    }

    /// The bytes of a path that a prefix rewrite replaces; `None`: all of it but the query.
    pub(super) fn replaced(&self) -> Option<usize> {
        match &self.path {
            Path::Key { key, .. } => Some(key.len()),
            Path::Regex | Path::Connect => None,
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
                let regex = cx.at("safe_regex", |cx| Regex::lower(regex, cx))?;
                return Ok((Self::Regex, Some(regex)));
            }
            Some(PathSpecifier::ConnectMatcher(ConnectMatcher {})) => return Ok((Self::Connect, None)),
            Some(policy @ PathSpecifier::PathMatchPolicy(_)) => {
                cx.unsupported("path_match_policy", &Some(policy))?;
                return Err(Refused);
            }
        };
        Ok((Self::Key { key: key.into_bytes().into(), place, fold }, None))
    }
}

impl Conditions {
    fn boxed(self) -> Option<Box<Self>> {
        let Self { fraction, grpc, headers, query, regex } = &self;
        let none = fraction.is_none() && !grpc && headers.is_empty() && query.is_empty() && regex.is_none();
        (!none).then(|| Box::new(self))
    }

    /// Whether all of them hold for a request whose path, as far as routes match it, is `path`.
    pub(super) fn hold(&self, head: &RequestHead, path: &[u8], random: u64) -> bool {
        self.fraction.as_ref().is_none_or(|f| f.holds(random))
            && (!self.grpc || head.is_grpc())
            && self.headers.iter().all(|h| h.matches_request(head))
            && (self.query.is_empty() || self.query.iter().all(|q| q.matches(head.path.as_bytes())))
            && self.regex.as_ref().is_none_or(|r| r.is_match(path))
    }
}
