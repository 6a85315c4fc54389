//! `x-forwarded-client-cert`: what the next hop is told of the client's certificate.

use std::sync::Arc;

use http::header::Entry;
use http::{HeaderMap, HeaderValue};
use nuncio_config::extension::refuse_unknown;
use nuncio_config::protocol::{any_as, message_name};
use nuncio_config::{KeepMatching, RequestMatcher};
use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3 as pb;
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::r#type::matcher::v3::Matcher;
use nuncio_telemetry::{CertificateInfo, ConnectionInfo, StreamInfo, TlsInfo, url_encoded_pem};
use pb::http_connection_manager::{
    ForwardClientCertConfig, ForwardClientCertDetails as Mode, ForwardClientCertFormat as Format,
    SetCurrentClientCertDetails,
};
use prost::Name;
use serde_json::Value;

use super::request_head::name::FORWARDED_CLIENT_CERT;

/// What becomes of the header of each request.
#[derive(Clone, Debug)]
pub(crate) struct ForwardClientCert {
    /// `forward_client_cert_matcher`
    matcher: Option<Arc<RequestMatcher<Rule>>>,
    /// Where nothing matches.
    otherwise: Rule,
}

/// `forward_client_cert_details` with `set_current_client_cert_details`.
#[derive(Clone, Debug)]
struct Rule {
    mode: Mode,
    details: Details,
    /// Of what is written where there is nothing to append to.
    format: Format,
}

/// What of the certificate is told, besides its hash.
#[derive(Clone, Copy, Debug, Default)]
struct Details {
    subject: bool,
    cert: bool,
    chain: bool,
    dns: bool,
    uri: bool,
    issuer: bool,
}

impl ForwardClientCert {
    pub(super) fn lower(
        mode: i32,
        details: Option<SetCurrentClientCertDetails>,
        matcher: Option<Matcher>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let otherwise = Rule::lower(mode, details, cx);
        let matcher = cx.opt("forward_client_cert_matcher", matcher, |matcher, cx| {
            // Envoy takes a tree with `keep_matching`, and then asks none of it.
            RequestMatcher::lower(matcher, KeepMatching::Refused, Rule::lower_action, cx)
        });
        Ok(Self { matcher: matcher?.map(Arc::new), otherwise: otherwise? })
    }

    /// Does to the header of a request what is configured. `is_there` says whether the header is.
    pub(super) fn apply(&self, head: &mut RequestHead, is_there: bool, info: &StreamInfo) {
        let found = self.matcher.as_ref().and_then(|matcher| matcher.find(head, info));
        found.unwrap_or(&self.otherwise).apply(&mut head.headers, is_there, &info.connection);
    }
}

impl Rule {
    fn lower_action(any: Any, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let (found, known) = (message_name(&any), ForwardClientCertConfig::full_name());
        if found != known {
            return Err(refuse_unknown("action", found, [known.as_str()], cx));
        }
        let ForwardClientCertConfig { forward_client_cert_details, set_current_client_cert_details } =
            any_as(&any, cx)?;
        Self::lower(forward_client_cert_details, set_current_client_cert_details, cx)
    }

    fn lower(mode: i32, details: Option<SetCurrentClientCertDetails>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let SetCurrentClientCertDetails { subject, cert, chain, dns, uri, issuer, format } =
            details.unwrap_or_default();
        let format = cx.at("set_current_client_cert_details", |cx| {
            cx.at("format", |cx| Format::try_from(format).map_err(|_| cx.invalid("one of TEXT and JSON is required")))
        })?;
        let subject = subject.is_some_and(|v| v.value);
        // The rules of the field know no other values.
        let mode = Mode::try_from(mode).unwrap_or(Mode::Sanitize);
        Ok(Self { mode, details: Details { subject, cert, chain, dns, uri, issuer }, format })
    }

    /// Does to the header what it says. A client that shows no certificate has nothing to tell by it.
    fn apply(&self, headers: &mut HeaderMap, is_there: bool, connection: &ConnectionInfo) {
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
        let Some(peer) = tls.peer.as_deref() else { return };
        let entry = headers.entry(FORWARDED_CLIENT_CERT);
        let value = match &entry {
            Entry::Occupied(known) if self.mode == Mode::AppendForward => {
                self.appended(known.get().as_bytes(), tls, peer)
            }
            _ => match self.format {
                Format::Text => self.text(tls, peer).into_bytes(),
                Format::Json => format!("[{}]", self.json(tls, peer)).into_bytes(),
            },
        };
        let Ok(value) = HeaderValue::try_from(value) else { return };
        match entry {
            Entry::Occupied(mut known) => drop(known.insert(value)),
            Entry::Vacant(entry) => drop(entry.insert(value)),
        }
    }

    /// What is `known` with this certificate behind it, in the format that it has.
    fn appended(&self, known: &[u8], tls: &TlsInfo, peer: &CertificateInfo) -> Vec<u8> {
        match known.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")) {
            // Envoy: it writes `[,{...}]`, which is no JSON.
            Some(b"") => format!("[{}]", self.json(tls, peer)).into_bytes(),
            Some(elements) => [b"[", elements, b",", self.json(tls, peer).as_bytes(), b"]"].concat(),
            None => [known, b",", self.text(tls, peer).as_bytes()].concat(),
        }
    }

    /// An element of JSON. What a certificate does not have is left out.
    fn json(&self, tls: &TlsInfo, peer: &CertificateInfo) -> String {
        let list = |all: &[String]| (!all.is_empty()).then(|| Value::from(all));
        let local = tls.local.as_deref().and_then(|local| list(&local.uri_sans));
        let Details { subject, cert, chain, dns, uri, issuer } = self.details;
        let chain = chain.then(|| tls.peer_chain().map(CertificateInfo::pem).collect::<Value>());
        let members = [
            ("by", local),
            ("hash", Some(peer.fingerprint_256.as_str().into())),
            ("cert", cert.then(|| peer.pem().into())),
            ("chain", chain),
            ("subject", subject.then(|| peer.subject.as_str().into())),
            ("uri", uri.then(|| list(&peer.uri_sans)).flatten()),
            ("dns", dns.then(|| list(&peer.dns_sans)).flatten()),
            ("issuer", issuer.then(|| peer.issuer.as_str().into())),
        ];
        // Not a map, which would sort them.
        let members = members.into_iter().filter_map(|(name, value)| Some(format!("\"{name}\":{}", value?)));
        format!("{{{}}}", members.collect::<Vec<_>>().join(","))
    }

    /// An element of text.
    fn text(&self, tls: &TlsInfo, peer: &CertificateInfo) -> String {
        let mut parts = Vec::new();
        let local = tls.local.as_deref().map(|local| local.uri_sans.as_slice()).unwrap_or_default();
        parts.extend(local.iter().map(|uri| format!("By={uri}")));
        parts.push(format!("Hash={}", peer.fingerprint_256));
        let Details { subject, cert, chain, dns, uri, issuer } = self.details;
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
        if issuer {
            parts.push(format!("Issuer=\"{}\"", peer.issuer));
        }
        parts.join(";")
    }
}
