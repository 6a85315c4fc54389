//! `envoy.filters.listener.tls_inspector`: finds out whether a client begins with TLS, and what it asks for.

mod fingerprint;
mod hello;
mod records;

use std::sync::Arc;

use nuncio_filter_api::{Incoming, Inspection, ListenerFilter, ListenerFilterRow, LowerCx, Refused, Rejected};
use nuncio_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector as Proto;

use hello::{Hello, Parsed};
use records::{REJECTED, Trouble};

pub(crate) const ROW: ListenerFilterRow = ListenerFilterRow {
    name: "envoy.filters.listener.tls_inspector",
    config: "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    lower,
};

/// The most that Envoy looks at.
const MAX_HELLO: u32 = 16 * 1024;

nuncio_telemetry::stats! {
    /// `tls_inspector`
    struct TlsInspectorStats {
        client_hello_too_large: Counter,
        tls_found: Counter,
        tls_not_found: Counter,
        alpn_found: Counter,
        alpn_not_found: Counter,
        sni_found: Counter,
        sni_not_found: Counter,
        /// How long the hellos are.
        bytes_processed: Histogram(Bytes),
    }
}

struct TlsInspector {
    has_ja3: bool,
    has_ja4: bool,
    closes_others: bool,
    max: usize,
    initial: usize,
    stats: TlsInspectorStats,
}

fn lower(config: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn ListenerFilter>, Refused> {
    let Proto {
        enable_ja3_fingerprinting,
        enable_ja4_fingerprinting,
        initial_read_buffer_size,
        close_connection_on_client_hello_parsing_errors,
        max_client_hello_size,
    } = prost::Message::decode(config).map_err(|e: prost::DecodeError| cx.invalid(e.to_string()))?;
    let max = max_client_hello_size.map_or(MAX_HELLO, |size| size.value);
    if max > MAX_HELLO {
        let reason = format!("{max} is greater than the maximum of {MAX_HELLO}");
        return Err(cx.at("max_client_hello_size", |cx| cx.invalid(reason)));
    }
    let initial = initial_read_buffer_size.map_or(max, |size| size.value).min(max);
    Ok(Arc::new(TlsInspector {
        has_ja3: enable_ja3_fingerprinting.is_some_and(|v| v.value),
        has_ja4: enable_ja4_fingerprinting.is_some_and(|v| v.value),
        closes_others: close_connection_on_client_hello_parsing_errors,
        max: max as usize,
        initial: (initial as usize).max(1),
        stats: TlsInspectorStats::new(&cx.env.stats.scope("tls_inspector")),
    }))
}

impl ListenerFilter for TlsInspector {
    fn inspect<'a>(&'a self, incoming: &'a mut Incoming) -> Inspection<'a> {
        Inspection::Wait(Box::pin(self.look(incoming)))
    }
}

impl TlsInspector {
    async fn look(&self, incoming: &mut Incoming) -> Result<(), Rejected> {
        let mut buffer = vec![0; self.initial];
        let mut seen = 0;
        loop {
            let bytes = incoming.peek(&mut buffer, seen).await?;
            seen = bytes.len();
            match hello::parse(bytes) {
                Parsed::More if seen >= self.max => return Err(self.too_large(seen, incoming)),
                Parsed::More => {}
                Parsed::Hello(hello, length) => {
                    self.stats.bytes_processed().record(length as u64);
                    return self.found(&hello, incoming);
                }
                // Envoy counts it nowhere.
                Parsed::Closed => return Err(Rejected::Refused("says that it closes")),
                Parsed::NotTls(reason) => return self.not_found(seen, &reason, incoming),
            }
            if seen == buffer.len() {
                buffer.resize((2 * seen).min(self.max), 0);
            }
        }
    }

    fn found(&self, hello: &Hello<'_>, incoming: &mut Incoming) -> Result<(), Rejected> {
        match &hello.server_name {
            Some(name) => {
                self.stats.sni_found().inc();
                incoming.server_name = Some(String::from_utf8_lossy(name).to_ascii_lowercase().into());
            }
            None => self.stats.sni_not_found().inc(),
        }
        let inspected = incoming.inspected();
        inspected.ja3 = self.has_ja3.then(|| fingerprint::ja3(hello).into());
        inspected.ja4 = self.has_ja4.then(|| fingerprint::ja4(hello).into());
        if !hello.is_of_known_version() {
            self.stats.tls_not_found().inc();
            inspected.transport_failure = Some(REJECTED.to_string().into());
            note(incoming, "ClientHelloInvalidTlsVersion");
            return Err(Rejected::Refused("speaks no version of TLS that there is"));
        }
        self.stats.tls_found().inc();
        inspected.transport_protocol = "tls";
        match hello.protocols() {
            Some(protocols) => {
                self.stats.alpn_found().inc();
                inspected.application_protocols =
                    protocols.into_iter().map(|protocol| String::from_utf8_lossy(protocol).into()).collect();
            }
            None => self.stats.alpn_not_found().inc(),
        }
        Ok(())
    }

    fn not_found(&self, seen: usize, reason: &Trouble, incoming: &mut Incoming) -> Result<(), Rejected> {
        self.stats.bytes_processed().record(seen as u64);
        self.stats.tls_not_found().inc();
        note(incoming, "ClientHelloNotDetected");
        incoming.inspected().transport_failure = Some(reason.to_string().into());
        match self.closes_others {
            true if seen >= self.max => Err(self.too_large(seen, incoming)),
            true => Err(Rejected::Refused("is no hello of TLS")),
            false => Ok(()),
        }
    }

    fn too_large(&self, seen: usize, incoming: &mut Incoming) -> Rejected {
        self.stats.client_hello_too_large().inc();
        self.stats.bytes_processed().record(seen as u64);
        note(incoming, "ClientHelloTooLarge");
        Rejected::Refused("says too much in its hello of TLS")
    }
}

/// Leaves in the dynamic metadata why there is no hello.
fn note(incoming: &mut Incoming, reason: &str) {
    let metadata = &mut incoming.inspected().metadata;
    let namespace = metadata.entry(Arc::from("envoy.filters.listener.tls_inspector")).or_default();
    namespace.insert("failure_reason".to_owned(), reason.into());
}
