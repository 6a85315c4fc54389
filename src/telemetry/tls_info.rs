//! What is known of a TLS connection after its handshake.

use std::fmt::Write;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine;
use tokio::time::Instant;

/// The outcome of a handshake, on either side of the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite by the name that logs and stats have for it: OpenSSL's for TLS 1.2, IANA's for TLS 1.3.
    pub cipher: &'static str,
    /// The group of the key exchange, by BoringSSL's name; of a session that was resumed without one, that of
    /// its first handshake.
    pub group: &'static str,
    /// The protocol that was agreed upon (ALPN).
    pub alpn: Option<Arc<str>>,
    /// The name that we told the server (SNI); a client's is in the connection's record.
    pub server_name: Option<Arc<str>>,
    /// Whether an earlier session was resumed.
    pub is_resumed: bool,
    /// The name of the session in lower-case hexadecimal digits, where TLS 1.2 gave it one; kept of clients alone.
    pub session_id: Option<Box<str>>,
    /// What we showed.
    pub local: Option<Arc<CertificateInfo>>,
    /// What the peer showed.
    pub peer: Option<Arc<CertificateInfo>>,
    /// The certificates of the peer's chain that follow its own.
    pub intermediates: Vec<Arc<CertificateInfo>>,
    /// That of the authority that issued the peer's, where it came with the chain or is trusted here.
    pub issuer: Option<Arc<CertificateInfo>>,
    /// When the handshake ended; kept of clients alone.
    pub completed: Option<Instant>,
    /// Whether the peer's certificate passed all that it was held against, and there was something.
    pub is_validated: bool,
}

/// What a certificate says, as logs print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateInfo {
    /// RFC 2253: `CN=example.com,O=Example`.
    pub subject: String,
    /// The same of its issuer.
    pub issuer: String,
    /// Lower-case hexadecimal digits.
    pub serial: String,
    /// SHA-1 of the certificate, in lower-case hexadecimal digits.
    pub fingerprint_1: String,
    /// SHA-256 of the certificate, in lower-case hexadecimal digits.
    pub fingerprint_256: String,
    /// The certificate itself.
    pub der: Box<[u8]>,
    /// Subject alternative names: DNS.
    pub dns_sans: Vec<String>,
    /// Subject alternative names: URI.
    pub uri_sans: Vec<String>,
    /// Subject alternative names: IP addresses.
    pub ip_sans: Vec<String>,
    /// Subject alternative names: mail addresses.
    pub email_sans: Vec<String>,
    /// Subject alternative names: those of other types, by their values.
    pub other_sans: Vec<String>,
    /// When it begins to be valid.
    pub not_before: SystemTime,
    /// When it ends to be valid.
    pub not_after: SystemTime,
}

/// Characters of a line of PEM (RFC 7468 §2).
const PEM_LINE: usize = 64;

impl CertificateInfo {
    /// The certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem(&self.der)
    }
}

impl TlsInfo {
    /// The peer's certificates in PEM, its own first; empty where it showed none.
    #[must_use]
    pub fn peer_chain_pem(&self) -> String {
        self.peer_chain().map(|certificate| pem(&certificate.der)).collect()
    }

    /// The peer's certificates, its own first.
    pub fn peer_chain(&self) -> impl Iterator<Item = &CertificateInfo> {
        self.peer.iter().chain(&self.intermediates).map(|certificate| &**certificate)
    }
}

/// PEM as a URL holds it, and `x-forwarded-client-cert`.
#[must_use]
pub fn url_encoded_pem(pem: &str) -> String {
    let mut text = String::with_capacity(pem.len());
    for c in pem.chars() {
        match c {
            '\n' => text.push_str("%0A"),
            ' ' => text.push_str("%20"),
            '+' => text.push_str("%2B"),
            '/' => text.push_str("%2F"),
            '=' => text.push_str("%3D"),
            other => text.push(other),
        }
    }
    text
}

fn pem(der: &[u8]) -> String {
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for at in (0..base64.len()).step_by(PEM_LINE) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", &base64[at..base64.len().min(at + PEM_LINE)]);
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}
