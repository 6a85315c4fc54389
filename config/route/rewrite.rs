//! What a route changes in the requests it forwards: header rules, Host, path.

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use nuncio_filter_api::{ByteStr, RequestHead, ResponseHead};
use nuncio_telemetry::format::{Format, FormatCx, Missing};

use super::entry::RouteEntry;
use super::forward::{Forward, HostRewrite, PathRewrite};
use super::{Action, MutationOrder};
use crate::header_rules::HeaderRules;
use crate::matcher::Substitution;

/// Whether x-envoy-original-path and x-envoy-original-host tell the upstream what was rewritten
/// (`suppress_envoy_headers` of the router).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvoyHeaders {
    /// They are set.
    Add,
    /// They are not.
    Suppress,
}

static ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
static ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
static FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

impl RouteEntry {
    /// Makes of the request that was received the one that goes upstream: applies the header rules, then rewrites Host
    /// and path. For routes that forward.
    pub fn rewrite_request(&self, head: &mut RequestHead, cx: &FormatCx<'_>, envoy: EnvoyHeaders) {
        if let Some(weighted) = &self.weighted {
            weighted.level.request.apply_request(head, cx);
            if let Some(host) = &weighted.host_rewrite {
                head.authority = host.clone();
            }
        }
        for rules in self.in_order(|level| &level.request) {
            rules.apply_request(head, cx);
        }
        if let Action::Forward(forward) = self.action() {
            forward.rewrite_host(head, cx, envoy);
            forward.rewrite_path(head, self.route.replaced, cx, envoy);
        }
    }

    /// Envoy: a redirect that rewrites prefix or pattern rewrites the request too, as response headers and logs see it.
    /// To be done once the Location is known.
    pub fn rewrite_redirected(&self, head: &mut RequestHead, envoy: EnvoyHeaders) {
        if let Action::Redirect(redirect) = self.action()
            && let Some(path) = redirect.rewritten(&head.path, self.route.replaced)
        {
            set_path(head, path, envoy);
        }
    }

    /// Applies the header rules for the response to `request`.
    pub fn rewrite_response(&self, head: &mut ResponseHead, request: &RequestHead, cx: &FormatCx<'_>) {
        if let Some(weighted) = &self.weighted {
            weighted.level.response.apply_response(head, request, cx);
        }
        for rules in self.in_order(|level| &level.response) {
            rules.apply_response(head, request, cx);
        }
    }

    /// The rules of route, virtual host and route configuration, in the order in which they are applied.
    fn in_order<'a>(&'a self, rules: impl Fn(&'a super::level::Level) -> &'a HeaderRules) -> [&'a HeaderRules; 3] {
        let route = &self.route;
        let config = &route.virtual_host.config;
        let (first, second, third) = (&route.level, &route.virtual_host.level, &config.level);
        match config.order {
            MutationOrder::MostSpecificFirst => [rules(first), rules(second), rules(third)],
            MutationOrder::MostSpecificLast => [rules(third), rules(second), rules(first)],
        }
    }
}

impl Forward {
    fn rewrite_host(&self, head: &mut RequestHead, cx: &FormatCx<'_>, envoy: EnvoyHeaders) {
        let host = match &self.host_rewrite {
            HostRewrite::Keep => return,
            HostRewrite::Literal(host) => host.clone(),
            HostRewrite::Header(name) => {
                let Some(host) = head.headers.get(name).and_then(|v| v.to_str().ok()) else { return };
                host.into()
            }
            HostRewrite::PathRegex(substitution) => {
                let path = without_query(&head.path);
                match substitution.replace_all(path.as_bytes()).map(|host| ByteStr::from_utf8(host.into())) {
                    Some(Ok(host)) => host,
                    Some(Err(_)) => return,
                    None => path.into(),
                }
            }
            // Envoy: a missing value is a dash in a host, and nothing in a path.
            HostRewrite::Format(format) => match written(format, Missing::Dash, head, cx) {
                Some(host) => host.into(),
                None => return,
            },
        };
        if !host.is_empty() {
            self.set_host(head, host, envoy);
        }
    }

    /// Gives the request another Host, as the route's options say; also what `auto_host_rewrite` does once the
    /// upstream host is known.
    pub fn set_host(&self, head: &mut RequestHead, host: ByteStr, envoy: EnvoyHeaders) {
        let old = std::mem::replace(&mut head.authority, host);
        let Ok(old) = HeaderValue::from_maybe_shared(old.bytes().clone()) else { return };
        if old.is_empty() {
            return;
        }
        if envoy == EnvoyHeaders::Add {
            let _ = head.headers.try_insert(&ORIGINAL_HOST, old.clone());
        }
        if self.append_x_forwarded_host {
            append_forwarded_host(head, old);
        }
    }

    fn rewrite_path(&self, head: &mut RequestHead, replaced: Option<usize>, cx: &FormatCx<'_>, envoy: EnvoyHeaders) {
        let path = match &self.path_rewrite {
            PathRewrite::Keep => return,
            PathRewrite::Prefix(new) => replace_prefix(&head.path, replaced, new),
            PathRewrite::Regex(substitution) => match replace_path(&head.path, substitution) {
                Some(path) => path,
                None => return,
            },
            PathRewrite::Template(template) => {
                let (old, query) = head.path.split_at(without_query(&head.path).len());
                // Envoy: a path that another filter made and that does not match is only noted as the original one.
                template.apply(old).map_or_else(|| head.path.to_string(), |new| new + query)
            }
            PathRewrite::Format(format) => match written(format, Missing::Empty, head, cx) {
                Some(new) => new + &head.path[without_query(&head.path).len()..],
                None => return,
            },
        };
        set_path(head, path, envoy);
    }
}

/// Gives the request another path, and notes the one it had.
fn set_path(head: &mut RequestHead, path: String, envoy: EnvoyHeaders) {
    if envoy == EnvoyHeaders::Add
        && let Ok(old) = HeaderValue::from_maybe_shared(head.path.bytes().clone())
    {
        let _ = head.headers.try_insert(&ORIGINAL_PATH, old);
    }
    head.path = path.into();
}

/// What `format` makes of a request; `None` if that is nothing, or has what no path or host can have: it goes into the
/// first line of an HTTP/1 request.
pub(super) fn written(format: &Format, missing: Missing, head: &RequestHead, cx: &FormatCx<'_>) -> Option<String> {
    let mut out = Vec::new();
    format.write(&FormatCx { request: Some(head.view()), ..*cx }, missing, &mut out);
    let clean = !out.is_empty() && out.iter().all(|b| *b > b' ' && *b != 0x7f);
    String::from_utf8(out).ok().filter(|_| clean)
}

/// Appends `host` to x-forwarded-host unless it is the last one there.
fn append_forwarded_host(head: &mut RequestHead, host: HeaderValue) {
    let Some(existing) = head.headers.get_mut(&FORWARDED_HOST) else {
        let _ = head.headers.try_insert(&FORWARDED_HOST, host);
        return;
    };
    let last = existing.as_bytes().rsplit(|b| *b == b',').find(|part| !part.trim_ascii().is_empty());
    if last == Some(host.as_bytes()) {
        return;
    }
    let joined = match existing.is_empty() {
        true => host.as_bytes().to_vec(),
        false => [existing.as_bytes(), host.as_bytes()].join(&b","[..]),
    };
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        *existing = joined;
    }
}

/// `path` without query and fragment.
pub(super) fn without_query(path: &str) -> &str {
    path.find(['?', '#']).map_or(path, |end| &path[..end])
}

/// `path` with its first `replaced` bytes, or all of it but the query, replaced by `new`.
pub(super) fn replace_prefix(path: &str, replaced: Option<usize>, new: &str) -> String {
    let end = replaced.unwrap_or_else(|| without_query(path).len());
    // A filter may have changed the path since the route was chosen.
    let rest = path.get(end..).unwrap_or_default();
    [new, rest].concat()
}

/// `path` with every match of the pattern in all but its query replaced; `None` where nothing would be left of it,
/// which Envoy does not do, or where the result is no text.
pub(super) fn replace_path(path: &str, substitution: &Substitution) -> Option<String> {
    let (old, query) = path.split_at(without_query(path).len());
    let new = match substitution.replace_all(old.as_bytes()) {
        Some(new) => String::from_utf8(new).ok()?,
        None => old.to_owned(),
    };
    (!new.is_empty()).then(|| new + query)
}
