//! What the fields of an HTTP/2 request mean to everything that is not HTTP/2.

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use nuncio_filter_api::ByteStr;

/// RFC 9113 §8.3.1: a request without `:authority` names its host in Host.
pub(super) fn host(headers: &HeaderMap) -> ByteStr {
    headers.get(http::header::HOST).and_then(|v| v.to_str().ok()).map_or(ByteStr::EMPTY, ByteStr::from)
}

/// Whether the pseudo-header fields are what they may be: a scheme begins with a letter (RFC 3986 §3.1), and `*` is the
/// target of OPTIONS alone (RFC 9110 §7.1). All else was looked at when they were read.
pub(super) fn is_sound(method: &Method, uri: &Uri) -> bool {
    let is_scheme = uri.scheme_str().is_none_or(|scheme| scheme.starts_with(|c: char| c.is_ascii_alphabetic()));
    is_scheme && (uri.path() != "*" || method == Method::OPTIONS)
}

/// RFC 9113 §8.2.3: cookie crumbs are one field again before anything but HTTP/2 sees them.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let crumbs = headers.get_all(http::header::COOKIE);
    if crumbs.iter().nth(1).is_none() {
        return;
    }
    let joined = crumbs.iter().map(|v| v.as_bytes()).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = http::HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(http::header::COOKIE, joined);
    }
}
