//! What the fields of an HTTP/2 request mean to everything that is not HTTP/2.

use bytes::Bytes;
use http::HeaderMap;
use nuncio_filter_api::ByteStr;

/// RFC 9113 §8.3.1: a request without `:authority` names its host in Host.
pub(super) fn host(headers: &HeaderMap) -> ByteStr {
    headers.get(http::header::HOST).and_then(|v| v.to_str().ok()).map_or(ByteStr::EMPTY, ByteStr::from)
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
