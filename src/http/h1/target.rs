//! The target of a request: origin, absolute, authority and asterisk form (RFC 9112 §3.2).

use bytes::Bytes;
use http::Method;
use nuncio_filter_api::{ByteStr, Scheme};

use super::details::{BadRequest, CODEC_ERROR, INVALID_CHARACTERS, INVALID_SCHEME, INVALID_URL};
use super::head::is_control;

/// A target taken apart.
#[derive(Debug)]
pub(super) struct Target {
    /// The scheme of an absolute form.
    pub(super) scheme: Option<Scheme>,
    /// The authority of an absolute or authority form; it wins over Host.
    pub(super) authority: Option<ByteStr>,
    /// Path with query; empty for CONNECT.
    pub(super) path: ByteStr,
}

/// Takes `target` apart. It must be visible ASCII, which Envoy demands as well.
pub(super) fn parse(method: &Method, target: Bytes, allow_absolute_url: bool) -> Result<Target, BadRequest> {
    // Visible ASCII is UTF-8.
    let target = ByteStr::from_utf8(target).map_err(|_| CODEC_ERROR)?;
    let whole = |path| Ok(Target { scheme: None, authority: None, path });
    if method == Method::CONNECT {
        let port = target.rsplit_once(':').map(|(_, port)| port);
        if !is_authority(target.as_bytes()) || !port.is_some_and(is_port) {
            return Err(INVALID_URL);
        }
        return Ok(Target { scheme: None, authority: Some(target), path: ByteStr::EMPTY });
    }
    if target.starts_with('/') {
        return whole(target);
    }
    if &*target == "*" {
        return if method == Method::OPTIONS { whole(target) } else { Err(INVALID_URL) };
    }
    let Some(scheme_end) = target.find("://") else { return Err(CODEC_ERROR) };
    if !allow_absolute_url {
        // Envoy takes the whole as a path, which no route matches.
        return whole(target);
    }
    parse_absolute(&target, scheme_end)
}

fn parse_absolute(target: &ByteStr, scheme_end: usize) -> Result<Target, BadRequest> {
    let scheme = match Scheme::parse(&target.as_bytes()[..scheme_end]) {
        Some(scheme @ (Scheme::Http | Scheme::Https)) => scheme,
        _ => return Err(INVALID_SCHEME),
    };
    let start = scheme_end + "://".len();
    let end = target[start..].find(['/', '?', '#']).map_or(target.len(), |at| start + at);
    // Envoy drops userinfo; a later `@` belongs to it too, so the host is what follows the last.
    let host = target[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let authority = target.slice(host..end);
    let port_is_valid = match authority.rsplit_once(':') {
        Some((_, port)) if !port.contains(']') => port.is_empty() || is_port(port),
        _ => true,
    };
    if authority.is_empty() || authority.starts_with(':') || !is_authority(authority.as_bytes()) || !port_is_valid {
        return Err(INVALID_URL);
    }
    let path = if end == target.len() { ByteStr::from_static("/") } else { target.slice(end..) };
    Ok(Target { scheme: Some(scheme), authority: Some(authority), path })
}

/// Refuses what is not visible ASCII in a request line's target.
pub(super) fn check_characters(target: &[u8]) -> Result<(), BadRequest> {
    if target.is_empty() {
        return Err(CODEC_ERROR);
    }
    if target.iter().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(if target.iter().any(|b| is_control(*b)) { INVALID_CHARACTERS } else { CODEC_ERROR })
}

/// The characters of `uri-host [":" port]`. Stricter than Envoy: userinfo and commas are refused, by which two readers
/// of one Host could see two hosts.
pub(crate) fn is_authority(host: &[u8]) -> bool {
    host.iter().all(|b| AUTHORITY[usize::from(*b)])
}

const AUTHORITY: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        allowed[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+;=:[]%";
    let mut at = 0;
    while at < others.len() {
        allowed[others[at] as usize] = true;
        at += 1;
    }
    allowed
};

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok()
}
