//! What is counted of handshakes: `listener.<address>.ssl` and `cluster.<name>.ssl`.

use std::io;
use std::sync::{Arc, OnceLock};

use nuncio_config::tls::{Staple, Unbelieved};
use nuncio_telemetry::TlsInfo;
use nuncio_telemetry::stats::{CounterHandle, Scope};
use rustls::{CertificateError, Error, SignatureScheme};

use crate::tls::TlsError;
use crate::tls::reason::{is_of_peer, rustls_error};

nuncio_telemetry::stats! {
    /// `ssl`
    pub struct SslStats {
        /// Handshakes that failed, but for certificates, and sessions that broke off after theirs, which count twice.
        connection_error: Counter,
        /// Handshakes that succeeded.
        handshake: Counter,
        session_reused: Counter,
        /// Handshakes without certificate of the peer that succeeded.
        no_certificate: Counter,
        fail_verify_no_cert: Counter,
        fail_verify_error: Counter,
        fail_verify_san: Counter,
        fail_verify_cert_hash: Counter,
        ocsp_staple_failed: Counter,
        ocsp_staple_omitted: Counter,
        ocsp_staple_responses: Counter,
        ocsp_staple_requests: Counter,
    }
}

fn unbelieved(error: &Error) -> Option<&Unbelieved> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(other)) => other.0.downcast_ref(),
        _ => None,
    }
}

/// Counts the handshakes of one listener or cluster.
#[derive(Clone)]
pub struct TlsStats {
    stats: SslStats,
    scope: Scope,
    /// The counters of `SHOWN`, which are there from the first handshake on that they count.
    shown: Arc<[OnceLock<CounterHandle>; SHOWN.len()]>,
}

/// What handshakes agree upon.
const SHOWN: [(&str, &str); 27] = [
    ("ciphers", "TLS_AES_128_GCM_SHA256"),
    ("ciphers", "TLS_AES_256_GCM_SHA384"),
    ("ciphers", "TLS_CHACHA20_POLY1305_SHA256"),
    ("ciphers", "ECDHE-ECDSA-AES128-GCM-SHA256"),
    ("ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"),
    ("ciphers", "ECDHE-ECDSA-CHACHA20-POLY1305"),
    ("ciphers", "ECDHE-RSA-AES128-GCM-SHA256"),
    ("ciphers", "ECDHE-RSA-AES256-GCM-SHA384"),
    ("ciphers", "ECDHE-RSA-CHACHA20-POLY1305"),
    ("versions", "TLSv1.2"),
    ("versions", "TLSv1.3"),
    ("curves", "X25519"),
    ("curves", "P-256"),
    ("curves", "P-384"),
    ("curves", "P-521"),
    ("curves", "X25519MLKEM768"),
    ("curves", "MLKEM1024"),
    ("sigalgs", "ecdsa_secp256r1_sha256"),
    ("sigalgs", "ecdsa_secp384r1_sha384"),
    ("sigalgs", "ecdsa_secp521r1_sha512"),
    ("sigalgs", "ed25519"),
    ("sigalgs", "rsa_pss_rsae_sha256"),
    ("sigalgs", "rsa_pss_rsae_sha384"),
    ("sigalgs", "rsa_pss_rsae_sha512"),
    ("sigalgs", "rsa_pkcs1_sha256"),
    ("sigalgs", "rsa_pkcs1_sha384"),
    ("sigalgs", "rsa_pkcs1_sha512"),
];

/// The name that BoringSSL has for it.
fn scheme_name(scheme: SignatureScheme) -> &'static str {
    match scheme {
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        SignatureScheme::ED25519 => "ed25519",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        _ => "",
    }
}

impl TlsStats {
    /// Those under `scope`, a listener's or a cluster's.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let scope = scope.scope("ssl");
        Self { stats: SslStats::new(&scope), scope, shown: Arc::new([const { OnceLock::new() }; SHOWN.len()]) }
    }

    /// A handshake has succeeded; `scheme` is how the peer has signed it.
    pub(crate) fn made(&self, info: &TlsInfo, scheme: Option<SignatureScheme>) {
        self.stats.handshake().inc();
        if info.is_resumed {
            self.stats.session_reused().inc();
        }
        if info.peer.is_none() {
            self.stats.no_certificate().inc();
        }
        let sign = scheme.map_or("", scheme_name);
        for shown in [("ciphers", info.cipher), ("versions", info.version), ("curves", info.group), ("sigalgs", sign)] {
            if let Some(at) = SHOWN.iter().position(|known| *known == shown) {
                let (kind, value) = shown;
                self.shown[at].get_or_init(|| self.scope.scope(kind).counter(value)).inc();
            }
        }
    }

    /// A client has asked for what an OCSP responder says.
    pub(crate) fn asked_for_status(&self, staple: Staple) {
        self.stats.ocsp_staple_requests().inc();
        match staple {
            Staple::Shown => self.stats.ocsp_staple_responses().inc(),
            Staple::Omitted => self.stats.ocsp_staple_omitted().inc(),
            Staple::Failed => self.stats.ocsp_staple_failed().inc(),
        }
    }

    pub(crate) fn failed(&self, error: &TlsError) {
        let error = match error {
            TlsError::Failed { source, .. } => source,
            // They are counted where the secrets are, and by the listener.
            TlsError::NoSecret | TlsError::TimedOut => return,
            TlsError::NoServerName | TlsError::NoCertificate | TlsError::NoSuchSecret => {
                return self.stats.connection_error().inc();
            }
        };
        match rustls_error(error) {
            Some(Error::NoCertificatesPresented) => self.stats.fail_verify_no_cert().inc(),
            Some(error @ Error::InvalidCertificate(_)) => self.unbelieved(error),
            // Envoy: that a connection ended, or what the kernel said of it, is no error of TLS.
            None if error.kind() != io::ErrorKind::InvalidData => {}
            _ => self.stats.connection_error().inc(),
        }
    }

    /// A session was ended with an alert after its handshake.
    pub(crate) fn broke(&self) {
        self.stats.connection_error().inc();
    }

    /// The peer has sent an alert after the handshake, or what is no TLS. Envoy counts the latter, of which it tells the
    /// peer by an alert, again when it takes leave of a session that is over.
    pub(crate) fn broke_off(&self, error: Option<&Error>) {
        self.stats.connection_error().add(if is_of_peer(error) { 1 } else { 2 });
    }

    /// A peer's certificate was not believed, whether or not its connection goes on.
    pub(crate) fn unbelieved(&self, error: &Error) {
        match unbelieved(error) {
            Some(Unbelieved::Names(_) | Unbelieved::Wanted { .. } | Unbelieved::Identity) => {
                self.stats.fail_verify_san().inc()
            }
            Some(Unbelieved::Hash) => self.stats.fail_verify_cert_hash().inc(),
            Some(Unbelieved::KeyUsage) => self.stats.connection_error().inc(),
            Some(Unbelieved::NoTrustDomain | Unbelieved::NotOfDomain(_)) | None => self.stats.fail_verify_error().inc(),
        }
    }
}
