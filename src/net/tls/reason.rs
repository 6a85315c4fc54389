//! Why a handshake failed, in the words of Envoy, which are those of BoringSSL: people search their logs for them.

use std::io;

use nuncio_config::tls::{ALERTS, Flaw, FlawAt, Unbelieved, alert_name};
use rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible, PeerMisbehaved, ProtocolVersion,
};

/// Number of BoringSSL's errors of TLS: the library, shifted, to which the reason is added.
const SSL: u32 = 16 << 24;
/// The same of the kernel's, to which the number of the error is added.
const SYSTEM: i32 = 2 << 24;
/// The same of ciphers.
const CIPHER: u32 = 30 << 24;
const BAD_DECRYPT: u32 = 101;
const BAD_ALERT: u32 = 102;
const CERTIFICATE_VERIFY_FAILED: u32 = 125;
const DECODE_ERROR: u32 = 137;
const DECRYPTION_FAILED_OR_BAD_RECORD_MAC: u32 = 139;
const ENCRYPTED_LENGTH_TOO_LONG: u32 = 146;
const EXCESSIVE_MESSAGE_SIZE: u32 = 150;
const HANDSHAKE_FAILURE_ON_CLIENT_HELLO: u32 = 154;
const NO_SHARED_CIPHER: u32 = 184;
const PEER_DID_NOT_RETURN_A_CERTIFICATE: u32 = 192;
const PROTOCOL_IS_SHUTDOWN: u32 = 194;
const UNEXPECTED_MESSAGE: u32 = 223;
const UNEXPECTED_RECORD: u32 = 225;
const UNSUPPORTED_PROTOCOL: u32 = 240;
const WRONG_SIGNATURE_TYPE: u32 = 245;
const WRONG_VERSION_NUMBER: u32 = 247;
const NO_COMMON_SIGNATURE_ALGORITHMS: u32 = 253;
const NO_SHARED_GROUP: u32 = 266;
const KEY_USAGE_BIT_INCORRECT: u32 = 302;

pub(super) fn of(error: &io::Error, flaw: Option<FlawAt>) -> String {
    if let Some(number) = error.raw_os_error() {
        let text = error.to_string();
        let text = text.rfind(" (os error ").map_or(&*text, |end| &text[..end]);
        return format!("{}:system library:OPENSSL_internal:{text}", SYSTEM + number);
    }
    match rustls_error(error) {
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
        Some(Error::PeerIncompatible(PeerIncompatible::NoSignatureSchemesInCommon)) => {
            ssl(NO_COMMON_SIGNATURE_ALGORITHMS, "NO_COMMON_SIGNATURE_ALGORITHMS")
        }
        Some(Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)) => ssl(NO_SHARED_GROUP, "NO_SHARED_GROUP"),
        Some(Error::PeerMisbehaved(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme)) => {
            ssl(WRONG_SIGNATURE_TYPE, "WRONG_SIGNATURE_TYPE")
        }
        Some(Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::Tls13RequiredForQuic,
        )) => ssl(UNSUPPORTED_PROTOCOL, "UNSUPPORTED_PROTOCOL"),
        Some(Error::InvalidMessage(invalid)) => no_message(invalid),
        Some(Error::InappropriateMessage { .. }) => ssl(UNEXPECTED_RECORD, "UNEXPECTED_RECORD"),
        Some(Error::InappropriateHandshakeMessage { .. }) => ssl(UNEXPECTED_MESSAGE, "UNEXPECTED_MESSAGE"),
        _ => error.to_string(),
    }
}

/// What is wrong with bytes that are no TLS, or none that could be read.
fn no_message(invalid: &InvalidMessage) -> String {
    match invalid {
        // What speaks another protocol is known by its version first, whatever its first byte is.
        InvalidMessage::UnknownProtocolVersion | InvalidMessage::InvalidContentType => {
            ssl(WRONG_VERSION_NUMBER, "WRONG_VERSION_NUMBER")
        }
        InvalidMessage::MessageTooLarge => ssl(ENCRYPTED_LENGTH_TOO_LONG, "ENCRYPTED_LENGTH_TOO_LONG"),
        InvalidMessage::HandshakePayloadTooLarge => ssl(EXCESSIVE_MESSAGE_SIZE, "EXCESSIVE_MESSAGE_SIZE"),
        InvalidMessage::TrailingData("AlertMessagePayload") => ssl(BAD_ALERT, "BAD_ALERT"),
        _ => ssl(DECODE_ERROR, "DECODE_ERROR"),
    }
}

/// The error of a client whose server has not got beyond its hello.
pub(super) fn at_hello(error: io::Error) -> io::Error {
    match rustls_error(&error) {
        Some(Error::AlertReceived(AlertDescription::HandshakeFailure)) => {
            let then = ssl(HANDSHAKE_FAILURE_ON_CLIENT_HELLO, "HANDSHAKE_FAILURE_ON_CLIENT_HELLO");
            io::Error::new(io::ErrorKind::InvalidData, format!("{}|{then}", of(&error, None)))
        }
        _ => error,
    }
}

/// The error of a server that speaks this version with its client: groups go with suites there before TLS 1.3.
pub(super) fn in_version(error: io::Error, version: Option<ProtocolVersion>) -> io::Error {
    match rustls_error(&error) {
        Some(Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon))
            if version == Some(ProtocolVersion::TLSv1_2) =>
        {
            nothing_shared()
        }
        _ => error,
    }
}

/// What rustls has said, where the error is one of it.
pub(crate) fn rustls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the peer has ended the session by an alert. Where we have, Envoy fails once more: it cannot take leave.
pub(crate) fn is_of_peer(error: Option<&Error>) -> bool {
    matches!(error, Some(Error::AlertReceived(_)))
}

/// That there is no suite that could be spoken.
pub(super) fn nothing_shared() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Error::from(PeerIncompatible::NoCipherSuitesInCommon))
}

/// The same of a connection whose handshake was made long ago. Envoy tells what went wrong, and that it could not take
/// leave then.
pub(super) fn of_broken(error: &io::Error) -> String {
    let told = match rustls_error(error) {
        Some(Error::DecryptError) => {
            let first = format!("{}:Cipher functions:OPENSSL_internal:BAD_DECRYPT", CIPHER + BAD_DECRYPT);
            let name = "DECRYPTION_FAILED_OR_BAD_RECORD_MAC";
            format!("{first}|{}", ssl(DECRYPTION_FAILED_OR_BAD_RECORD_MAC, name))
        }
        _ => of(error, None),
    };
    let end = match is_of_peer(rustls_error(error)) {
        true => String::new(),
        false => format!("|{}:TLS_error_end", ssl(PROTOCOL_IS_SHUTDOWN, "PROTOCOL_IS_SHUTDOWN")),
    };
    format!("TLS_error:|{told}:TLS_error_end{end}")
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What is said of a host that answers so.
    fn said_of(answer: &[u8]) -> String {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("the provider has suites").with_root_certificates(RootCertStore::empty());
        let name = "x.example".try_into().expect("it is a name");
        let mut client = ClientConnection::new(config.with_no_client_auth().into(), name).expect("it is in order");
        client.read_tls(&mut &answer[..]).expect("there is room");
        let error = client.process_new_packets().expect_err("it is no ServerHello");
        of(&io::Error::new(io::ErrorKind::InvalidData, error), None)
    }

    #[test]
    fn hosts_that_speak_no_tls_are_told_of_as_by_envoy() {
        let other = "268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER";
        let unexpected = "268435681:SSL routines:OPENSSL_internal:UNEXPECTED_RECORD";
        let message = "268435679:SSL routines:OPENSSL_internal:UNEXPECTED_MESSAGE";
        let long = "268435602:SSL routines:OPENSSL_internal:ENCRYPTED_LENGTH_TOO_LONG";
        let broken = "268435593:SSL routines:OPENSSL_internal:DECODE_ERROR";
        for (answer, expected) in [
            (&b"HTTP/1.1 400 Bad\r\n\r\n"[..], other),
            (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80", other),
            (b"SSH-2.0-x\r\n", other),
            (b"220 hello\r\n", other),
            (b"J\0\0\0\x0a8.0", other),
            (b"-ERR\r\n", other),
            (b"\x80\x2e\x01\0\x02", other),
            (b"\x16\x04\xff\0\x05abcde", other),
            (b"\x17\x03\x03\0\x03abc", unexpected),
            (b"\x14\x03\x03\0\x01\x01", unexpected),
            (b"\x16\x03\x03\0\x04\x0e\0\0\0", message),
            (b"\x16\x03\x03\0\x08\x02\0\0\x04\x01\x02\x03\x04", broken),
            (b"\x16\x03\x03\xff\xffxxxx", long),
            (b"\x16\x03\x03\x48\x01", long),
            (b"\x16\x03\x03\0\x04\x02\xff\xff\xff", "268435606:SSL routines:OPENSSL_internal:EXCESSIVE_MESSAGE_SIZE"),
            (b"\x15\x03\x03\0\x03\x02\x28\0", "268435558:SSL routines:OPENSSL_internal:BAD_ALERT"),
        ] {
            assert_eq!(said_of(answer), expected, "{}", answer.escape_ascii());
        }
    }
}
