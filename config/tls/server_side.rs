//! What handshakes with clients are made with.

use std::net::IpAddr;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_telemetry::CertificateInfo;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};

use super::by_name::CertificatesByName;
use super::certificate::Certificate;
use super::context::Common;
use super::downstream::{Needs, Parts};
use super::in_use::HasCertificates;
use super::key_log::KeyLog;
use super::live::Live;
use super::ocsp::{Policy, Staple};
use super::on_demand::HasCertificate;
use super::peer::Clients;
use super::server_configs::ServerConfigs;
use super::sessions::{LATEST_LIFETIME, TimedSessions};
use super::validation::{Peer, Validation, sha256};

/// What handshakes with clients are made with.
#[derive(Debug)]
pub struct ServerSide {
    /// For rustls.
    server: ServerConfigs,
    /// The same, with which connections of certain addresses log their secrets.
    logged: Option<(KeyLog, ServerConfigs)>,
    /// Whether clients that name no server are refused.
    pub requires_sni: bool,
    /// What clients' certificates are held against.
    validation: Arc<Validation>,
    certificates: Arc<CertificatesByName>,
    all: Vec<Arc<Certificate>>,
}

/// What became of holding a client's certificate against what is configured.
#[derive(Debug)]
pub enum Validated {
    /// There is no certificate, or nothing to hold it against.
    Nothing,
    /// It passed.
    Passed,
    /// It did not, and the client is served all the same.
    Failed(rustls::Error),
}

impl ServerSide {
    /// The side that is made of these parts: of what says the same there is one.
    pub(super) fn shared(parts: Parts, cx: &mut LowerCx<'_>) -> Result<Arc<Self>, Refused> {
        let Parts { common, tickets, fingerprint, .. } = &parts;
        let digests =
            common.certificates.iter().map(|c| c.digest).chain([common.validation.digest(), tickets.digest()]);
        let digest = sha256(&digests.flatten().chain(fingerprint.to_be_bytes()).collect::<Vec<u8>>());
        let key = format!("server side of TLS {}", super::info::hex(&digest));
        let made = Self::new(parts, cx)?;
        Ok(cx.env.slots.share(&key, || made))
    }

    fn new(parts: Parts, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Parts { common, tickets, lifetime, staples, scans_all, .. } = parts;
        let Common { parameters, certificates, alpn, validation, key_log } = common;
        if parts.needs == Needs::Certificates {
            check_certificates(&certificates, staples, cx)?;
        }
        let provider = parameters.provider.clone();
        let bound_to = bound_to(parts.rules, &validation, &certificates);
        let verifies = parts.requires_certificate || validation.is_any() || validation.accepts_untrusted();
        let validation = Arc::new(validation);
        let clients = Clients {
            hints: validation.hints(),
            // Envoy: whoever takes any certificate takes none as well.
            is_required: !validation.accepts_untrusted()
                && (parts.requires_certificate || validation.needs_certificate()),
            validation: validation.clone(),
            provider,
        };
        let verifier = match verifies {
            true => Arc::new(clients) as Arc<dyn rustls::server::danger::ClientCertVerifier>,
            false => WebPkiClientVerifier::no_client_auth(),
        };
        let by_name = Arc::new(CertificatesByName::new(&certificates, scans_all, staples));
        let tickets = tickets.make(lifetime, bound_to, cx)?;
        let configs = ServerConfigs::new(&parameters.provider, parameters.chacha.as_ref(), |provider| {
            let builder = ServerConfig::builder_with_provider(provider.clone());
            let builder = builder.with_protocol_versions(&parameters.versions)?;
            let builder = builder.with_client_cert_verifier(verifier.clone());
            Ok(builder.with_cert_resolver(by_name.clone()))
        });
        let configs = configs.map_err(|e: rustls::Error| cx.invalid(format!("versions and suites do not fit: {e}")))?;
        let configs = configs.changed(|server| {
            server.alpn_protocols.clone_from(&alpn);
            server.ignore_client_order = parts.ignores_client_order;
            // An alert that rustls does not know of takes the keys of its session.
            server.enable_secret_extraction = true;
            if tickets.is_none() {
                server.send_tls13_tickets = 0;
            }
        });
        let sessions = parts.is_stateful.then(|| TimedSessions::new(lifetime));
        let keeps = |server: &mut ServerConfig, lifetime: u32| {
            server.session_storage = match &sessions {
                Some(sessions) => Arc::new(sessions.lasting(lifetime)),
                None => Arc::new(NoServerSessionStorage {}),
            };
            if let Some(tickets) = &tickets {
                server.ticketer = Arc::new(tickets.lasting(lifetime));
            }
        };
        let mut plain = configs;
        plain.share(|server| keeps(server, lifetime));
        let server = match parameters.versions.contains(&&rustls::version::TLS13) {
            true => plain.with_latest(|server| keeps(server, LATEST_LIFETIME)),
            false => plain,
        };
        let logged = key_log.map(|log| {
            let logged = server.changed(|server| server.key_log = log.file.clone());
            (log, logged)
        });
        let requires_sni = parts.requires_sni;
        Ok(Self { server, logged, requires_sni, validation, certificates: by_name, all: certificates })
    }
}

/// What sessions of clients are good for, as Envoy has it: sides that hold them against the same, and show certificates
/// of the same names, which may change like all certificates.
fn bound_to(rules: [u8; 32], validation: &Validation, certificates: &[Arc<Certificate>]) -> [u8; 32] {
    let mut bytes = [rules, validation.digest()].concat();
    for info in certificates.iter().filter_map(|certificate| certificate.info.as_ref()) {
        let names = [&info.dns_sans, &info.uri_sans, &info.ip_sans].into_iter().flatten();
        for name in [&info.subject, &info.issuer].into_iter().chain(names) {
            bytes.extend_from_slice(&(name.len() as u64).to_be_bytes());
            bytes.extend_from_slice(name.as_bytes());
        }
    }
    sha256(&bytes)
}

fn check_certificates(certificates: &[Arc<Certificate>], staples: Policy, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    cx.at("common_tls_context", |cx| {
        cx.at("tls_certificates", |cx| {
            if certificates.is_empty() {
                return Err(cx.invalid("a server needs a certificate"));
            }
            for (i, certificate) in certificates.iter().enumerate() {
                if certificate.ocsp.is_none() && (staples == Policy::Must || certificate.must_staple) {
                    let reason = "is required: by ocsp_staple_policy, or by the certificate itself";
                    return Err(cx.at_index(i, |cx| cx.at("ocsp_staple", |cx| cx.invalid(reason))));
                }
            }
            Ok(())
        })
    })
}

impl HasCertificate for ServerSide {
    fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.all.first()
    }
}

impl HasCertificates for Live<ServerSide> {
    fn certificates(&self) -> Option<(Arc<Validation>, Vec<Arc<Certificate>>)> {
        self.current().map(|side| (side.validation.clone(), side.all.clone()))
    }
}

impl ServerSide {
    /// What a connection between these addresses makes its handshake with, whose client says this hello.
    pub fn server(&self, hello: &ClientHello<'_>, local: Option<IpAddr>, remote: Option<IpAddr>) -> &Arc<ServerConfig> {
        match &self.logged {
            Some((log, logged)) if log.covers(local, remote) => logged.for_client(hello),
            _ => self.server.for_client(hello),
        }
    }

    /// What handshakes of TLS 1.2 are made with.
    #[cfg(test)]
    pub(crate) fn plain(&self) -> &Arc<ServerConfig> {
        self.server.plain()
    }

    /// What becomes of a client that says this hello, where it asks for an OCSP response.
    pub fn staple_for(&self, hello: &ClientHello<'_>) -> Staple {
        self.certificates.staple_for(hello)
    }

    /// The certificate that whoever says this hello is shown.
    pub fn certificate_for(&self, hello: &ClientHello<'_>) -> Option<Arc<CertificateInfo>> {
        self.certificates.info_for(hello)
    }

    /// What logs tell of the authority that issued a client's certificate.
    pub fn issuer_of(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Option<Arc<CertificateInfo>> {
        self.validation.issuer_of(leaf, intermediates)
    }

    /// Whether clients are served that are not believed.
    pub fn accepts_untrusted(&self) -> bool {
        self.validation.accepts_untrusted()
    }

    /// Whether a client's chain passes all that it is held against. The handshake lets others through only where
    /// untrusted clients are accepted.
    pub fn validate(&self, chain: &[CertificateDer<'_>], is_resumed: bool) -> Validated {
        let Some((leaf, intermediates)) = chain.split_first() else { return Validated::Nothing };
        if !self.validation.is_any() {
            return Validated::Nothing;
        }
        // The handshake has done so already where it fails by it, unless it has gone on with an old session.
        if !self.validation.accepts_untrusted() && !is_resumed {
            return Validated::Passed;
        }
        match self.validation.check(leaf, intermediates, UnixTime::now(), Peer::Client, None) {
            Ok(()) => Validated::Passed,
            Err(error) => Validated::Failed(error),
        }
    }
}
