//! What handshakes with clients are made with.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_telemetry::CertificateInfo;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{DistinguishedName, ServerConfig};

use super::by_group::{ByGroup, Order};
use super::by_name::{CertificatesByName, Shown, Which};
use super::certificate::Certificate;
use super::context::Common;
use super::downstream::{Needs, Parts};
use super::in_use::HasCertificates;
use super::key_log::{KeyLog, KeyLogFile};
use super::live::Live;
use super::ocsp::{Policy, Staple};
use super::on_demand::HasCertificate;
use super::parameters::{Parameters, Version};
use super::peer::Clients;
use super::schemes::Schemes;
use super::server_configs::ServerConfigs;
use super::sessions::{LATEST_LIFETIME, TimedSessions, TimedTickets};
use super::validation::{Peer, Validation, sha256};

/// What handshakes with clients are made with.
#[derive(Debug)]
pub struct ServerSide {
    configs: Configs,
    /// The same for certificates with parameters of their own, by what those are made from.
    own: HashMap<[u8; 32], Configs>,
    /// Of which connections secrets are logged.
    key_log: Option<KeyLog>,
    /// Whether clients that name no server are refused.
    pub requires_sni: bool,
    /// What clients' certificates are held against.
    validation: Arc<Validation>,
    certificates: Arc<CertificatesByName>,
    all: Vec<Arc<Certificate>>,
    /// The latest version that is spoken, whatever certificates say.
    latest: Version,
}

/// For rustls.
#[derive(Debug)]
struct Configs {
    silent: ByGroup,
    /// The same, with which connections log their secrets.
    logged: Option<ByGroup>,
}

/// What a client says first.
#[derive(Debug)]
pub struct Hello<'a> {
    /// What rustls tells of it.
    pub said: ClientHello<'a>,
    /// Whether it speaks TLS 1.3, which rustls does not tell.
    pub speaks_latest: bool,
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
        let bound_to = bound_to(parts.rules, &validation, &certificates);
        let by_name = Arc::new(CertificatesByName::new(&certificates, scans_all, staples));
        let ground = Ground {
            hints: validation.hints(),
            validation: validation.into(),
            requires_certificate: parts.requires_certificate,
            certificates: by_name,
            alpn,
            ignores_client_order: parts.ignores_client_order,
            tickets: tickets.make(lifetime, bound_to, cx)?,
            sessions: parts.is_stateful.then(|| TimedSessions::new(lifetime)),
            lifetime,
            key_log: key_log.as_ref().map(|log| log.file.clone()),
        };
        let configs = ground.configs(&parameters, None, cx)?;
        let mut own = HashMap::new();
        for certificate in &certificates {
            if let Some(parameters) = &certificate.parameters {
                own.insert(certificate.digest, ground.configs(parameters, Some(certificate), cx)?);
            }
        }
        Ok(Self {
            configs,
            own,
            key_log,
            requires_sni: parts.requires_sni,
            validation: ground.validation,
            certificates: ground.certificates,
            all: certificates,
            latest: parameters.latest(),
        })
    }
}

/// What all configurations of a side are made of.
struct Ground {
    validation: Arc<Validation>,
    hints: Vec<DistinguishedName>,
    requires_certificate: bool,
    certificates: Arc<CertificatesByName>,
    alpn: Vec<Vec<u8>>,
    ignores_client_order: bool,
    tickets: Option<TimedTickets>,
    sessions: Option<TimedSessions>,
    /// Seconds that a session of TLS 1.2 is good for.
    lifetime: u32,
    key_log: Option<Arc<KeyLogFile>>,
}

impl Ground {
    /// Those that speak so, with all certificates or with this one.
    fn configs(
        &self,
        parameters: &Parameters,
        only: Option<&Arc<Certificate>>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Configs, Refused> {
        let order = if self.ignores_client_order { Order::Ours } else { Order::Theirs };
        let silent = ByGroup::new(parameters, order, |parameters| self.configs_of(parameters, only));
        let silent = silent.map_err(|e| cx.invalid(format!("versions and suites do not fit: {e}")))?;
        let log = self.key_log.as_ref();
        let logged = log.map(|log| silent.changed(|server| server.key_log = log.clone()));
        Ok(Configs { silent, logged })
    }

    fn configs_of(
        &self,
        parameters: &Parameters,
        only: Option<&Arc<Certificate>>,
    ) -> Result<ServerConfigs, rustls::Error> {
        let shown = |version| {
            let which = only.map_or(Which::ByHello, |only| Which::This(only.clone()));
            Arc::new(Shown { certificates: self.certificates.clone(), which, version })
        };
        let (verifier, older) = (self.verifier(&parameters.schemes), shown(Version::Tls12));
        let made = ServerConfigs::new(&parameters.provider(), parameters.chacha().as_ref(), |provider| {
            let builder = ServerConfig::builder_with_provider(provider.clone());
            let builder = builder.with_protocol_versions(&parameters.versions())?;
            let builder = builder.with_client_cert_verifier(verifier.clone());
            Ok::<_, rustls::Error>(builder.with_cert_resolver(older.clone()))
        });
        let mut made = made?.changed(|server| {
            server.alpn_protocols.clone_from(&self.alpn);
            server.ignore_client_order = self.ignores_client_order;
            // An alert that rustls does not know of takes the keys of its session.
            server.enable_secret_extraction = true;
            if self.tickets.is_none() {
                server.send_tls13_tickets = 0;
            }
        });
        made.share(|server| self.keep_sessions(server, self.lifetime));
        if parameters.speaks_latest() {
            made = made.with_latest(|server| {
                self.keep_sessions(server, LATEST_LIFETIME);
                server.cert_resolver = shown(Version::Tls13);
            });
        }
        Ok(made)
    }

    fn verifier(&self, schemes: &Schemes) -> Arc<dyn ClientCertVerifier> {
        let validation = &self.validation;
        if !self.requires_certificate && !validation.is_any() && !validation.accepts_untrusted() {
            return WebPkiClientVerifier::no_client_auth();
        }
        Arc::new(Clients {
            validation: validation.clone(),
            schemes: schemes.clone(),
            hints: self.hints.clone(),
            // Envoy: whoever takes any certificate takes none as well, unless one is required.
            is_required: self.requires_certificate
                || (!validation.accepts_untrusted() && validation.needs_certificate()),
        })
    }

    fn keep_sessions(&self, server: &mut ServerConfig, lifetime: u32) {
        server.session_storage = match &self.sessions {
            Some(sessions) => Arc::new(sessions.lasting(lifetime)),
            None => Arc::new(NoServerSessionStorage {}),
        };
        if let Some(tickets) = &self.tickets {
            server.ticketer = Arc::new(tickets.lasting(lifetime));
        }
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
    pub fn server(&self, hello: &Hello<'_>, local: Option<IpAddr>, remote: Option<IpAddr>) -> &Arc<ServerConfig> {
        let Configs { silent, logged } = self.configs(hello);
        let is_logged = self.key_log.as_ref().is_some_and(|log| log.covers(local, remote));
        let configs = logged.as_ref().filter(|_| is_logged).unwrap_or(silent);
        let version = if hello.speaks_latest { Version::Tls13 } else { Version::Tls12 };
        let configs = configs.for_client(hello.said.named_groups().unwrap_or_default(), version);
        configs.for_client(hello.said.cipher_suites(), version)
    }

    /// What handshakes of TLS 1.2 are made with.
    #[cfg(test)]
    pub(crate) fn plain(&self) -> &Arc<ServerConfig> {
        self.configs.silent.all().plain()
    }

    fn configs(&self, hello: &Hello<'_>) -> &Configs {
        let own = match self.own.is_empty() {
            true => None,
            false => self.choose(hello).and_then(|shown| self.own.get(&shown.digest)),
        };
        own.unwrap_or(&self.configs)
    }

    /// Whether the key of the certificate that a client is shown signs in a way that the client accepts. Of TLS 1.3 rustls
    /// sees to it, and of TLS 1.2 it does so when it is too late to tell the client.
    pub fn signs_for(&self, hello: &Hello<'_>) -> bool {
        if hello.speaks_latest && self.configs(hello).silent.all().speaks_latest() {
            return true;
        }
        self.choose(hello).is_none_or(|shown| shown.is_for_older(&hello.said))
    }

    fn choose(&self, hello: &Hello<'_>) -> Option<&Arc<Certificate>> {
        let version = if hello.speaks_latest { self.latest } else { Version::Tls12 };
        self.certificates.choose(&hello.said, version)
    }

    /// What becomes of a client that says this hello, where it asks for an OCSP response.
    pub fn staple_for(&self, hello: &Hello<'_>) -> Staple {
        self.choose(hello).map_or(Staple::Omitted, |shown| self.certificates.staple(shown))
    }

    /// The certificate that whoever says this hello is shown.
    pub fn certificate_for(&self, hello: &Hello<'_>) -> Option<Arc<CertificateInfo>> {
        self.choose(hello)?.info.clone()
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
