use http::StatusCode;
use nuncio_filter_api::{LowerCx, Refused, RequestHead, Scheme};
use nuncio_proto::envoy::config::route::v3 as proto;
use nuncio_telemetry::format::{Format, FormatCx, Missing};
use proto::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};

use super::rewrite::{replace_path, replace_prefix, without_query, written};
use super::uri_template::UriTemplate;
use crate::matcher::Substitution;

/// `RedirectAction`: the client is sent elsewhere.
#[derive(Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    scheme: Option<Box<str>>,
    host: Box<str>,
    port: Option<u32>,
    path: PathChange,
    query: Query,
}

#[derive(Debug)]
enum PathChange {
    Keep,
    /// `path_redirect`, which may bring a query of its own.
    Path(Box<str>),
    Prefix(Box<str>),
    Regex(Substitution),
    Format(Format),
}

#[derive(Debug, PartialEq)]
enum Query {
    Keep,
    Strip,
}

impl Redirect {
    pub(super) fn lower(
        action: proto::RedirectAction,
        template: Option<&UriTemplate>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto::RedirectAction {
            host_redirect,
            port_redirect,
            response_code,
            strip_query,
            scheme_rewrite_specifier,
            path_rewrite_specifier,
        } = action;
        let status = cx.at("response_code", |cx| status(response_code, cx));
        let path = match path_rewrite_specifier {
            None => Ok(PathChange::Keep),
            Some(PathRewriteSpecifier::PathRedirect(s)) if s.is_empty() => Ok(PathChange::Keep),
            Some(PathRewriteSpecifier::PrefixRewrite(s)) if s.is_empty() => Ok(PathChange::Keep),
            Some(PathRewriteSpecifier::PathRedirect(s)) => Ok(PathChange::Path(s.into())),
            Some(PathRewriteSpecifier::PrefixRewrite(_)) if template.is_some() => {
                Err(cx.at("prefix_rewrite", |cx| cx.invalid("cannot be used with path_match_policy")))
            }
            Some(PathRewriteSpecifier::PrefixRewrite(s)) => Ok(PathChange::Prefix(s.into())),
            Some(PathRewriteSpecifier::RegexRewrite(r)) => {
                cx.at("regex_rewrite", |cx| Substitution::lower(r, cx)).map(PathChange::Regex)
            }
            Some(PathRewriteSpecifier::PathRewrite(s)) if s.is_empty() => Ok(PathChange::Keep),
            Some(PathRewriteSpecifier::PathRewrite(s)) => {
                cx.at("path_rewrite", |cx| crate::format::format(&s, cx)).map(PathChange::Format)
            }
        };
        let scheme = match scheme_rewrite_specifier {
            None | Some(SchemeRewriteSpecifier::HttpsRedirect(false)) => None,
            Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some("https".into()),
            Some(SchemeRewriteSpecifier::SchemeRedirect(s)) => (!s.is_empty()).then(|| s.into()),
        };
        Ok(Self {
            status: status?,
            scheme,
            host: host_redirect.into(),
            port: (port_redirect != 0).then_some(port_redirect),
            path: path?,
            query: if strip_query { Query::Strip } else { Query::Keep },
        })
    }

    /// The Location of the response to `head`, of whose path a prefix rewrite replaces `replaced` bytes.
    pub(super) fn location(&self, head: &RequestHead, replaced: Option<usize>, cx: &FormatCx<'_>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme.as_str());
        let host = if self.host.is_empty() { request_host(head, scheme, self.port) } else { &self.host };
        let port = self.port.map(|port| format!(":{port}")).unwrap_or_default();
        let path = self.path(head, replaced, cx);
        let slash = if path.starts_with('/') { "" } else { "/" };
        format!("{scheme}://{host}{port}{slash}{path}")
    }

    /// The path with its query, where prefix or pattern of it are rewritten.
    pub(super) fn rewritten(&self, path: &str, replaced: Option<usize>) -> Option<String> {
        match &self.path {
            PathChange::Prefix(new) => Some(replace_prefix(path, replaced, new)),
            PathChange::Regex(substitution) => replace_path(path, substitution),
            PathChange::Keep | PathChange::Path(_) | PathChange::Format(_) => None,
        }
    }

    fn path(&self, head: &RequestHead, replaced: Option<usize>, cx: &FormatCx<'_>) -> String {
        let path = &*head.path;
        let new = match &self.path {
            PathChange::Keep => path.to_owned(),
            PathChange::Prefix(new) => replace_prefix(path, replaced, new),
            PathChange::Regex(substitution) => replace_path(path, substitution).unwrap_or_else(|| path.to_owned()),
            PathChange::Format(format) => match written(format, Missing::Empty, head, cx) {
                Some(new) if new.contains('?') => return new,
                Some(new) => new + &path[without_query(path).len()..],
                None => path.to_owned(),
            },
            // A query of its own takes the place of the request's, and is not stripped.
            PathChange::Path(new) if new.contains('?') => return new.clone().into(),
            PathChange::Path(new) => format!("{new}{}", path.find('?').map_or("", |at| &path[at..])),
        };
        match (&self.query, new.find('?')) {
            (Query::Strip, Some(at)) => new[..at].to_owned(),
            _ => new,
        }
    }
}

/// The request's authority: without its port if that is replaced, or is the default one of a scheme that is.
pub(super) fn request_host<'a>(head: &'a RequestHead, scheme: &str, port: Option<u32>) -> &'a str {
    let authority = &*head.authority;
    let host = super::hosts::without_port(authority);
    let default = match (&authority[host.len()..], forwarded_scheme(head)) {
        (":443", Scheme::Https) => scheme != "https",
        (":80", Scheme::Http) => scheme != "http",
        _ => false,
    };
    if port.is_some() || default { host } else { authority }
}

/// x-forwarded-proto: the scheme that the client used with the first proxy.
pub(super) fn forwarded_scheme(head: &RequestHead) -> Scheme {
    let forwarded = head.headers.get("x-forwarded-proto").and_then(|v| Scheme::parse(v.as_bytes()));
    forwarded.unwrap_or_else(|| head.scheme.clone())
}

fn status(code: i32, cx: &mut LowerCx<'_>) -> Result<StatusCode, Refused> {
    Ok(match RedirectResponseCode::try_from(code) {
        Ok(RedirectResponseCode::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(RedirectResponseCode::Found) => StatusCode::FOUND,
        Ok(RedirectResponseCode::SeeOther) => StatusCode::SEE_OTHER,
        Ok(RedirectResponseCode::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(RedirectResponseCode::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(cx.invalid(format!("{code} is no RedirectResponseCode"))),
    })
}
