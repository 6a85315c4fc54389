//! What expressions may ask of the handshake of a connection, on either side.

use super::value::Value;
use crate::{CertificateInfo, TlsInfo};

/// The attribute of this name; it has no value on a connection without TLS.
pub(super) fn attribute<'a>(name: &str, tls: Option<&TlsInfo>) -> Option<Value<'a>> {
    let tls = tls?;
    let (local, peer) = (tls.local.as_deref(), tls.peer.as_deref());
    let first = |names: &[String]| names.first().map(Value::owned);
    let text = |of: Option<&CertificateInfo>, part: fn(&CertificateInfo) -> String| {
        Some(Value::owned(of.map(part).unwrap_or_default()))
    };
    match name {
        "tls_version" => Some(Value::text(tls.version)),
        "subject_local_certificate" => text(local, |certificate| certificate.subject.clone()),
        "subject_peer_certificate" => text(peer, |certificate| certificate.subject.clone()),
        "dns_san_local_certificate" => first(&local?.dns_sans),
        "dns_san_peer_certificate" => first(&peer?.dns_sans),
        "uri_san_local_certificate" => first(&local?.uri_sans),
        "uri_san_peer_certificate" => first(&peer?.uri_sans),
        "sha256_peer_certificate_digest" => Some(Value::owned(&peer?.fingerprint_256)),
        "peer_certificate" => Some(Value::owned(peer?.pem())),
        _ => None,
    }
}
