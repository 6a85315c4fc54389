//! What is counted of handshakes: `listener.<address>.ssl` and `cluster.<name>.ssl`.

use std::io;

use nuncio_config::tls::{Staple, Unbelieved};
use nuncio_telemetry::TlsInfo;
use nuncio_telemetry::stats::Scope;
use rustls::{CertificateError, Error};

use crate::tls::TlsError;

nuncio_telemetry::stats! {
    /// `ssl`
    pub struct SslStats {
        /// Handshakes that failed, but for certificates.
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
}

impl TlsStats {
    /// Those under `scope`, a listener's or a cluster's.
    #[must_use]
    pub fn new(scope: &Scope) -> Self {
        let scope = scope.scope("ssl");
        Self { stats: SslStats::new(&scope), scope }
    }

    pub(crate) fn made(&self, info: &TlsInfo) {
        self.stats.handshake().inc();
        if info.is_resumed {
            self.stats.session_reused().inc();
        }
        if info.peer.is_none() {
            self.stats.no_certificate().inc();
        }
        for (kind, value) in [("ciphers", info.cipher), ("versions", info.version), ("curves", info.group)] {
            if !value.is_empty() {
                self.scope.scope(kind).counter(value).inc();
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
            TlsError::Failed(error) => error,
            // They are counted where the secrets are, and by the listener.
            TlsError::NoSecret | TlsError::TimedOut => return,
            TlsError::NoServerName | TlsError::NoCertificate => return self.stats.connection_error().inc(),
        };
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::NoCertificatesPresented) => self.stats.fail_verify_no_cert().inc(),
            Some(error @ Error::InvalidCertificate(_)) => self.unbelieved(error),
            // Envoy: that a connection ended, or what the kernel said of it, is no error of TLS.
            None if error.kind() != io::ErrorKind::InvalidData => {}
            _ => self.stats.connection_error().inc(),
        }
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
