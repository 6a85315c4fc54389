//! Connection and what it nominates.

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::details::{BadRequest, CONNECTION_REJECTED};
use super::field::joined;
use super::head::HeadField;

/// Connection fields that Envoy still sanitises; a request with this many tokens or more is refused.
const MAX_TOKENS: usize = 10;

/// What the Connection lines of one message say.
#[derive(Debug, Default)]
pub(super) struct ConnectionField {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
    /// The lines from the one that says `upgrade` on, as received.
    pub(super) raw: Option<Bytes>,
    nominated: SmallVec<[Bytes; 1]>,
    tokens: usize,
}

impl ConnectionField {
    pub(super) fn add(&mut self, field: HeadField<'_>) {
        for token in field.value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|t| !t.is_empty()) {
            self.tokens += 1;
            match token.len() {
                5 if token.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if token.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if token.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ if self.nominated.len() < MAX_TOKENS => self.nominated.push(field.shared(token)),
                _ => {}
            }
        }
        if self.upgrade {
            self.raw = Some(joined(self.raw.take(), field.shared_value()));
        }
    }

    /// Proxy-Connection can only shorten a connection's life.
    pub(super) fn add_proxy(&mut self, value: &[u8]) {
        self.close |= value.split(|b| *b == b',').any(|t| t.trim_ascii().eq_ignore_ascii_case(b"close"));
    }

    /// Removes what a request nominates; whether Host is among it. Refused, as in Envoy: 10 tokens or more, and
    /// nominations by which a client would have removed what an earlier proxy told of it.
    pub(super) fn sanitize_request(&self, fields: &mut HeaderMap) -> Result<bool, BadRequest> {
        const TRUSTED: [&[u8]; 3] = [b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"];
        let is_trusted = |token: &Bytes| token[0] == b':' || TRUSTED.iter().any(|t| token.eq_ignore_ascii_case(t));
        if self.tokens >= MAX_TOKENS || self.nominated.iter().any(is_trusted) {
            return Err(CONNECTION_REJECTED);
        }
        self.remove_nominated(fields);
        Ok(self.nominated.iter().any(|token| token.eq_ignore_ascii_case(b"host")))
    }

    /// RFC 9110 §7.6.1. TE is reduced to `trailers` elsewhere, and stays.
    fn remove_nominated(&self, fields: &mut HeaderMap) {
        for token in &self.nominated {
            if let Ok(name) = HeaderName::from_bytes(token)
                && name != http::header::TE
            {
                fields.remove(name);
            }
        }
    }
}
