//! `x-forwarded-client-cert`: what the next hop is told of the client's certificate.

use http::header::Entry;
use http::{HeaderMap, HeaderValue};
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use nuncio_telemetry::{CertificateInfo, ConnectionInfo, TlsInfo, url_encoded_pem};
use pb::http_connection_manager::{ForwardClientCertDetails as Mode, SetCurrentClientCertDetails};

use super::request_head::name::FORWARDED_CLIENT_CERT;

/// `forward_client_cert_details` with `set_current_client_cert_details`.
#[derive(Clone, Debug)]
pub(crate) struct ForwardClientCert {
    mode: Mode,
    details: Details,
}

/// What of the certificate is told, besides its hash.
#[derive(Clone, Copy, Debug, Default)]
struct Details {
    subject: bool,
    cert: bool,
    chain: bool,
    dns: bool,
    uri: bool,
}

impl ForwardClientCert {
    pub(super) fn lower(
        mode: i32,
        details: Option<SetCurrentClientCertDetails>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } =
            details.unwrap_or_default();
        cx.at("set_current_client_cert_details", |cx| {
            cx.unsupported("issuer", &issuer).and(cx.unsupported("format", &format))
        })?;
        let subject = subject.is_some_and(|v| v.value);
        // The rules of the field know no other values.
        let mode = Mode::try_from(mode).unwrap_or(Mode::Sanitize);
        Ok(Self { mode, details: Details { subject, cert, chain, dns, uri } })
    }

    /// Does to the header what is configured. A client that shows no certificate has nothing to tell by it.
    /// `is_there` says whether the header is.
    pub(super) fn apply(&self, headers: &mut HeaderMap, is_there: bool, connection: &ConnectionInfo) {
        if self.mode == Mode::AlwaysForwardOnly || (self.mode == Mode::Sanitize && !is_there) {
            return;
        }
        let tls = connection.tls.borrow();
        let shown = tls.as_deref().filter(|tls| tls.peer.is_some());
        let (Some(tls), false) = (shown, self.mode == Mode::Sanitize) else {
            headers.remove(FORWARDED_CLIENT_CERT);
            return;
        };
        if self.mode == Mode::ForwardOnly {
            return;
        }
        let Some(element) = tls.peer.as_deref().and_then(|peer| self.element(tls, peer)) else { return };
        match headers.entry(FORWARDED_CLIENT_CERT) {
            Entry::Occupied(mut known) if self.mode == Mode::AppendForward => {
                let joined = [known.get().as_bytes(), b",", element.as_bytes()].concat();
                if let Ok(joined) = HeaderValue::try_from(joined) {
                    known.insert(joined);
                }
            }
            Entry::Occupied(mut known) => drop(known.insert(element)),
            Entry::Vacant(entry) => drop(entry.insert(element)),
        }
    }

    fn element(&self, tls: &TlsInfo, peer: &CertificateInfo) -> Option<HeaderValue> {
        let mut parts = Vec::new();
        let local = tls.local.as_deref().map(|local| local.uri_sans.as_slice()).unwrap_or_default();
        parts.extend(local.iter().map(|uri| format!("By={uri}")));
        parts.push(format!("Hash={}", peer.fingerprint_256));
        let Details { subject, cert, chain, dns, uri } = self.details;
        if cert {
            parts.push(format!("Cert=\"{}\"", url_encoded_pem(&peer.pem())));
        }
        if chain {
            parts.push(format!("Chain=\"{}\"", url_encoded_pem(&tls.peer_chain_pem())));
        }
        if subject {
            // Its quotes are escaped already (RFC 2253).
            parts.push(format!("Subject=\"{}\"", peer.subject));
        }
        if uri {
            parts.extend(peer.uri_sans.iter().map(|uri| format!("URI={uri}")));
            // Envoy: it says so of none.
            if peer.uri_sans.is_empty() {
                parts.push("URI=".to_owned());
            }
        }
        if dns {
            parts.extend(peer.dns_sans.iter().map(|dns| format!("DNS={dns}")));
        }
        HeaderValue::try_from(parts.join(";")).ok()
    }
}
