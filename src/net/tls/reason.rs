//! Why a handshake failed, in the words of Envoy, which are those of BoringSSL: people search their logs for them.

use std::io;

use nuncio_config::tls::{ALERTS, Flaw, FlawAt, Unbelieved, alert_name};
use rustls::{CertificateError, Error, PeerIncompatible};

/// Number of BoringSSL's errors of TLS: the library, shifted, to which the reason is added.
const SSL: u32 = 16 << 24;
/// The same of the kernel's, to which the number of the error is added.
const SYSTEM: i32 = 2 << 24;
const CERTIFICATE_VERIFY_FAILED: u32 = 125;
const NO_SHARED_CIPHER: u32 = 184;
const PEER_DID_NOT_RETURN_A_CERTIFICATE: u32 = 192;
const UNSUPPORTED_PROTOCOL: u32 = 240;
const KEY_USAGE_BIT_INCORRECT: u32 = 302;

pub(super) fn of(error: &io::Error, flaw: Option<FlawAt>) -> String {
    if let Some(number) = error.raw_os_error() {
        let text = error.to_string();
        let text = text.rfind(" (os error ").map_or(&*text, |end| &text[..end]);
        return format!("{}:system library:OPENSSL_internal:{text}", SYSTEM + number);
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::AlertReceived(alert)) => {
            let alert = u8::from(*alert);
            ssl(ALERTS + u32::from(alert), &alert_name(alert))
        }
        Some(Error::InvalidCertificate(reason)) if is_key_usage(reason) => {
            ssl(KEY_USAGE_BIT_INCORRECT, "KEY_USAGE_BIT_INCORRECT")
        }
        Some(Error::InvalidCertificate(reason)) => {
            let told = flaw.map_or_else(|| certificate(reason), |flaw| flaw.to_string());
            let name = format!("CERTIFICATE_VERIFY_FAILED:verify cert failed: {told}");
            ssl(CERTIFICATE_VERIFY_FAILED, &name)
        }
        Some(Error::NoCertificatesPresented) => {
            let name = "PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide required client certificate";
            ssl(PEER_DID_NOT_RETURN_A_CERTIFICATE, name)
        }
        Some(Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon)) => {
            ssl(NO_SHARED_CIPHER, "NO_SHARED_CIPHER")
        }
        Some(Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic,
        )) => ssl(UNSUPPORTED_PROTOCOL, "UNSUPPORTED_PROTOCOL"),
        _ => error.to_string(),
    }
}

fn ssl(reason: u32, name: &str) -> String {
    format!("{}:SSL routines:OPENSSL_internal:{name}", SSL + reason)
}

fn is_key_usage(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    matches!(other.0.downcast_ref(), Some(Unbelieved::KeyUsage))
}

/// What is wrong with a certificate where its chain is in order, or was not looked at.
fn certificate(error: &CertificateError) -> String {
    match error {
        // What its key is for is seen before its chain.
        CertificateError::InvalidPurpose => FlawAt { depth: 0, flaw: Flaw::Purpose }.to_string(),
        CertificateError::BadSignature => FlawAt { depth: 0, flaw: Flaw::Signature }.to_string(),
        CertificateError::Other(other) => match other.0.downcast_ref() {
            Some(Unbelieved::NotOfDomain(reason)) => certificate(reason),
            _ => other.0.to_string(),
        },
        other => other.to_string(),
    }
}
