//! `envoy.filters.listener.http_inspector`: finds out which version of HTTP a client speaks in the clear.

use std::sync::Arc;

use nuncio_filter_api::{Incoming, Inspection, ListenerFilter, ListenerFilterRow, LowerCx, Refused, Rejected};
use nuncio_proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector as Proto;

pub(crate) const ROW: ListenerFilterRow = ListenerFilterRow {
    name: "envoy.filters.listener.http_inspector",
    config: "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    lower,
};

/// How long a request line may be (Envoy's).
const MAX_LINE: usize = 64 * 1024;
/// What is looked at first; doubled where it is not enough.
const INITIAL: usize = 8 * 1024;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

nuncio_telemetry::stats! {
    /// `http_inspector`
    struct HttpInspectorStats {
        read_error: Counter,
        http10_found: Counter,
        http11_found: Counter,
        http2_found: Counter,
        http_not_found: Counter,
    }
}

struct HttpInspector(HttpInspectorStats);

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    let Proto {} = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    Ok(Arc::new(HttpInspector(HttpInspectorStats::new(&cx.env.stats.scope("http_inspector")))))
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spoken {
    /// Not enough was said.
    More,
    Http10,
    Http11,
    Http2,
    Other,
}

impl ListenerFilter for HttpInspector {
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a> {
        if incoming.inspected.as_ref().is_some_and(|inspected| inspected.transport_protocol == "tls") {
            return Inspection::Done(Ok(()));
        }
        Inspection::Wait(Box::pin(self.look(incoming)))
    }
}

impl HttpInspector {
    async fn look(&self, incoming: &mut Incoming) -> Result<(), Rejected> {
        let Self(stats) = self;
        let mut buffer = vec![0; INITIAL];
        let mut seen = 0;
        let protocol = loop {
            let bytes = incoming.peek(&mut buffer, seen).await?;
            seen = bytes.len();
            match spoken(bytes) {
                Spoken::More if seen >= MAX_LINE => {
                    stats.read_error().inc();
                    return Err(Rejected::Refused("has too long a request line"));
                }
                Spoken::More if seen == buffer.len() => buffer.resize((2 * seen).min(MAX_LINE), 0),
                Spoken::More => {}
                Spoken::Other => {
                    stats.http_not_found().inc();
                    return Ok(());
                }
                Spoken::Http10 => break (stats.http10_found(), "http/1.0"),
                Spoken::Http11 => break (stats.http11_found(), "http/1.1"),
                Spoken::Http2 => break (stats.http2_found(), "h2c"),
            }
        };
        protocol.0.inc();
        incoming.inspected().application_protocols = vec![protocol.1.into()];
        Ok(())
    }
}

fn spoken(bytes: &[u8]) -> Spoken {
    if PREFACE.starts_with(bytes) {
        return if bytes.len() == PREFACE.len() { Spoken::Http2 } else { Spoken::More };
    }
    if bytes.starts_with(PREFACE) {
        return Spoken::Http2;
    }
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let line = &bytes[..end.unwrap_or(bytes.len())];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let method = line.iter().position(is_space).unwrap_or(line.len());
    // RFC 9110 §9.1: a method is a token.
    if method == 0 || !line[..method].iter().all(|byte| is_token(*byte)) {
        return Spoken::Other;
    }
    if end.is_none() {
        return Spoken::More;
    }
    let mut words = line.split(is_space).filter(|word| !word.is_empty());
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(_), Some(target), ..) if !target.iter().all(|byte| is_of_target(*byte)) => Spoken::Other,
        (Some(_), Some(_), Some(b"HTTP/1.1"), None) => Spoken::Http11,
        (Some(_), Some(_), Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Spoken::Http10
        }
        // Envoy: without a version, as in HTTP/0.9.
        (Some(_), Some(target), None, None) if target.starts_with(b"/") => Spoken::Http10,
        _ => Spoken::Other,
    }
}

/// Envoy: a form feed may be in a target, too.
fn is_of_target(byte: u8) -> bool {
    byte == b'\x0c' || byte.is_ascii_graphic()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_tells_the_version() {
        let cases: [(&[u8], Spoken); 12] = [
            (b"GET\t/ HTTP/1.1\r\n", Spoken::Http11),
            (b"GET / HTTP/11\r\n", Spoken::Other),
            (b"GET /\xff HTTP/1.1\r\n", Spoken::Other),
            (b"GET / HTTP/1.1\r\n", Spoken::Http11),
            (b"GET / HTTP/1.0\r\nhost: a", Spoken::Http10),
            (b"GET / HTTP/0.9\n", Spoken::Http10),
            (b"PUT /x HTTP/1.1", Spoken::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM", Spoken::More),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore", Spoken::Http2),
            (b"\r\nGET / HTTP/1.1\r\n", Spoken::Other),
            (b"\x16\x03\x01", Spoken::Other),
            (b"hello there\r\n", Spoken::Other),
        ];
        for (bytes, expected) in cases {
            assert_eq!(spoken(bytes), expected, "{}", bytes.escape_ascii());
        }
    }
}
