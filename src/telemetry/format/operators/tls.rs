//! Operators that print what a handshake told, on either side.

use std::io::Write;
use std::sync::Arc;

use crate::format::FormatCx;
use crate::format::time::TimeFormat;
use crate::{CertificateInfo, TlsInfo, url_encoded_pem};

/// Which connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Downstream,
    Upstream,
}

/// Whose certificate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whose {
    Local,
    Peer,
}

/// What of the handshake.
#[derive(Clone, Copy, Debug)]
pub(super) enum TlsField {
    Version,
    Cipher,
    Group,
    Subject(Whose),
    Issuer,
    Serial,
    Fingerprint1,
    Fingerprint256,
    ServerName,
    SessionId,
    /// The certificate in PEM, as a URL would hold it.
    Certificate,
    DnsSan(Whose),
    UriSan(Whose),
    IpSan(Whose),
    EmailSan(Whose),
    OtherSan(Whose),
    ChainFingerprints1,
    ChainFingerprints256,
    ChainSerials,
    IssuerSerial,
    IssuerFingerprint256,
    HandshakeDuration,
}

/// An end of the time in which the peer's certificate is valid.
#[derive(Clone, Copy, Debug)]
pub(super) enum Validity {
    Start,
    End,
}

impl Side {
    fn info(self, cx: &FormatCx<'_>) -> Option<Arc<TlsInfo>> {
        match self {
            Self::Downstream => cx.info.connection.tls.borrow().clone(),
            Self::Upstream => cx.info.upstream.borrow().tls.clone(),
        }
    }
}

impl Whose {
    fn certificate(self, tls: &TlsInfo) -> Option<&CertificateInfo> {
        match self {
            Self::Local => tls.local.as_deref(),
            Self::Peer => tls.peer.as_deref(),
        }
    }
}

impl TlsField {
    /// Appends the value to `out`; `None` where there is none, or an empty one.
    pub(super) fn write(self, side: Side, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let tls = side.info(cx)?;
        let peer = || Whose::Peer.certificate(&tls);
        let before = out.len();
        match self {
            Self::Version => out.extend_from_slice(tls.version.as_bytes()),
            Self::Cipher => out.extend_from_slice(tls.cipher.as_bytes()),
            Self::Group => out.extend_from_slice(tls.group.as_bytes()),
            Self::Subject(whose) => out.extend_from_slice(whose.certificate(&tls)?.subject.as_bytes()),
            Self::Issuer => out.extend_from_slice(peer()?.issuer.as_bytes()),
            Self::Serial => out.extend_from_slice(peer()?.serial.as_bytes()),
            Self::Fingerprint1 => out.extend_from_slice(peer()?.fingerprint_1.as_bytes()),
            Self::ServerName => out.extend_from_slice(tls.server_name.as_deref()?.as_bytes()),
            Self::SessionId => out.extend_from_slice(tls.session_id.as_deref()?.as_bytes()),
            Self::Fingerprint256 => out.extend_from_slice(peer()?.fingerprint_256.as_bytes()),
            Self::Certificate => out.extend_from_slice(url_encoded_pem(&peer()?.pem()).as_bytes()),
            Self::DnsSan(whose) => join(&whose.certificate(&tls)?.dns_sans, out),
            Self::UriSan(whose) => join(&whose.certificate(&tls)?.uri_sans, out),
            Self::IpSan(whose) => join(&whose.certificate(&tls)?.ip_sans, out),
            Self::ChainFingerprints1 => list(tls.peer_chain().map(|c| &*c.fingerprint_1), out),
            Self::ChainFingerprints256 => list(tls.peer_chain().map(|c| &*c.fingerprint_256), out),
            Self::ChainSerials => list(tls.peer_chain().map(|c| &*c.serial), out),
            Self::IssuerSerial => out.extend_from_slice(tls.issuer.as_ref()?.serial.as_bytes()),
            Self::IssuerFingerprint256 => out.extend_from_slice(tls.issuer.as_ref()?.fingerprint_256.as_bytes()),
            Self::HandshakeDuration => {
                // Envoy: from the start of the stream, which of HTTP comes later: then it is a number below 0.
                let (end, start) = (tls.completed?, cx.info.start);
                let before = start.saturating_duration_since(end).as_millis();
                let after = end.saturating_duration_since(start).as_millis();
                // Writing to a Vec cannot fail.
                let _ = if before > 0 { write!(out, "-{before}") } else { write!(out, "{after}") };
            }
            Self::EmailSan(whose) => join(&whose.certificate(&tls)?.email_sans, out),
            Self::OtherSan(whose) => join(&whose.certificate(&tls)?.other_sans, out),
        }
        (out.len() > before).then_some(())
    }
}

impl Validity {
    pub(super) fn write(self, side: Side, format: &TimeFormat, cx: &FormatCx<'_>, out: &mut Vec<u8>) -> Option<()> {
        let tls = side.info(cx)?;
        let peer = tls.peer.as_deref()?;
        format.write(if matches!(self, Self::Start) { peer.not_before } else { peer.not_after }, out);
        Some(())
    }
}

fn list<'a>(texts: impl Iterator<Item = &'a str>, out: &mut Vec<u8>) {
    for (at, text) in texts.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(text.as_bytes());
    }
}

fn join(names: &[String], out: &mut Vec<u8>) {
    out.extend_from_slice(names.join(",").as_bytes());
}
