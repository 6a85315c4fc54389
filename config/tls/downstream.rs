//! `DownstreamTlsContext`: we are the server.

use std::net::IpAddr;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use nuncio_telemetry::CertificateInfo;
use nuncio_telemetry::stats::Scope;
use prost::Message;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};

use super::by_name::CertificatesByName;
use super::certificate::{self, Certificate};
use super::in_use::HasCertificates;
use super::key_log::KeyLog;
use super::live::{Live, Recipe};
use super::ocsp::{Policy, Staple};
use super::on_demand::{HasCertificate, OnDemand, Selector};
use super::parameters::{Parameters, Version};
use super::peer::Clients;
use super::references::References;
use super::server_configs::ServerConfigs;
use super::sessions::{DEFAULT_LIFETIME, LATEST_LIFETIME, TimedSessions, TimedTickets};
use super::validation::{Peer, Validation, sha256};
use crate::fingerprint::fingerprint;
use crate::refuse_set;
use crate::secret::TicketKeys;

/// Where a listener counts what its contexts went through.
const FACTORY: &str = "server_ssl_socket_factory";

/// A listener's side of TLS.
#[derive(Debug)]
pub struct DownstreamTls {
    live: Arc<Live<ServerSide>>,
    /// Where certificates are asked for as handshakes want them: the other side has none then.
    on_demand: Option<Arc<OnDemand<ServerSide>>>,
}

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

/// What a server's context says.
struct Parts {
    common: Common,
    tickets: Tickets,
    /// Seconds that a session is good for.
    lifetime: u32,
    staples: Policy,
    scans_all: bool,
    requires_certificate: bool,
    requires_sni: bool,
    is_stateful: bool,
    ignores_client_order: bool,
    needs: Needs,
    /// Of all that the message says.
    fingerprint: u64,
    /// Of what it says clients are held against.
    rules: [u8; 32],
}

/// Whether a side shows certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Certificates,
    /// They are asked for by each handshake.
    Nothing,
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

impl DownstreamTls {
    /// Lowers the message.
    pub fn lower(mut proto: pb::DownstreamTlsContext, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let scope = cx.listener().unwrap_or_else(|| cx.scope()).clone();
        let common = proto.common_tls_context.get_or_insert_default();
        if !common.tls_certificates.is_empty() && !common.tls_certificate_sds_secret_configs.is_empty() {
            let refuse = |cx: &mut LowerCx<'_>| cx.invalid("a server has either these or tls_certificates");
            return Err(cx.at("common_tls_context", |cx| cx.at("tls_certificate_sds_secret_configs", refuse)));
        }
        let taken = cx.at("common_tls_context", |cx| {
            let selector = Selector::take(common, Peer::Client, cx);
            Ok((References::take(common, cx)?, selector?))
        });
        let (mut references, selector) = taken?;
        references.take_ticket_keys(&mut proto.session_ticket_keys_type, cx)?;
        let Some(selector) = selector else {
            let live = Self::live(proto, references, Needs::Certificates, &scope, cx)?;
            return Ok(Self { live, on_demand: None });
        };
        check_resumption(&proto, cx)?;
        let others = references.without_certificates();
        let live = Self::live(proto.clone(), references, Needs::Nothing, &scope, cx)?;
        proto.common_tls_context.get_or_insert_default().tls_certificates.clear();
        let recipe = recipe(proto, Needs::Certificates);
        let on_demand = OnDemand::new(selector, others, recipe, &scope, cx);
        Ok(Self { live, on_demand: Some(on_demand) })
    }

    fn live(
        proto: pb::DownstreamTlsContext,
        references: References,
        needs: Needs,
        scope: &Scope,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Live<ServerSide>>, Refused> {
        if references.is_empty() {
            let side = ServerSide::shared(Parts::lower(proto, needs, cx)?, cx)?;
            return Ok(Live::fixed(side, FACTORY, scope, cx));
        }
        Live::following(references, recipe(proto, needs), FACTORY, scope, cx)
    }

    /// What handshakes are made with now; `None` while secrets are missing.
    pub fn current(&self) -> Option<Arc<ServerSide>> {
        self.live.current()
    }

    /// Whether handshakes ask for their certificates.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// The side that a client is shown which asks for this server, once its certificate has come; `None`: there is none.
    pub async fn on_demand(&self, server_name: Option<&str>) -> Option<Arc<ServerSide>> {
        self.on_demand.as_ref()?.for_client(server_name).await
    }

    /// A connection was closed for the lack of secrets.
    pub fn note_not_ready(&self) {
        self.live.stats.downstream_context_secrets_not_ready().inc();
    }
}

fn recipe(proto: pb::DownstreamTlsContext, needs: Needs) -> Recipe<ServerSide> {
    Box::new(move |references: &References, cx: &mut LowerCx<'_>| {
        let mut proto = proto.clone();
        let common = proto.common_tls_context.get_or_insert_default();
        cx.at("common_tls_context", |cx| references.resolve(common, cx))?;
        references.resolve_ticket_keys(&mut proto.session_ticket_keys_type, cx)?;
        // What is wrong beside the secrets is so before they come.
        let parts = Parts::lower(proto, needs, cx)?;
        references.are_there().then(|| ServerSide::shared(parts, cx)).transpose()
    })
}

/// Envoy: what a session is bound to does not tell certificates that are asked for.
fn check_resumption(proto: &pb::DownstreamTlsContext, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    use pb::downstream_tls_context::SessionTicketKeysType as Type;
    let is_stateless = proto.session_ticket_keys_type != Some(Type::DisableStatelessSessionResumption(true));
    if !is_stateless && proto.disable_stateful_session_resumption {
        return Ok(());
    }
    let reason = "needs disable_stateless_session_resumption and disable_stateful_session_resumption";
    Err(cx.at("common_tls_context", |cx| cx.at("custom_tls_certificate_selector", |cx| cx.invalid(reason))))
}

impl Parts {
    fn lower(proto: pb::DownstreamTlsContext, needs: Needs, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // prefer_client_ciphers: ours is the order of preference unless set.
        let rules = rules(&proto);
        let fingerprint = fingerprint(&proto, &[]);
        let pb::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = proto;
        // As BoringSSL does, which takes 0 for nothing.
        let seconds = session_timeout.map(|timeout| u32::try_from(timeout.seconds).unwrap_or(u32::MAX));
        let tickets = Tickets::lower(session_ticket_keys_type, cx);
        let common =
            cx.at("common_tls_context", |cx| Common::lower(common_tls_context.unwrap_or_default(), Version::Tls13, cx));
        Ok(Self {
            common: common?,
            tickets: tickets?,
            lifetime: seconds.filter(|seconds| *seconds > 0).unwrap_or(DEFAULT_LIFETIME),
            staples: Policy::lower(ocsp_staple_policy),
            scans_all: full_scan_certs_on_sni_mismatch.is_some_and(|v| v.value),
            requires_certificate: require_client_certificate.is_some_and(|v| v.value),
            requires_sni: require_sni.is_some_and(|v| v.value),
            is_stateful: !disable_stateful_session_resumption,
            ignores_client_order: !prefer_client_ciphers,
            needs,
            fingerprint,
            rules,
        })
    }
}

impl ServerSide {
    /// The side that is made of these parts: of what says the same there is one.
    fn shared(parts: Parts, cx: &mut LowerCx<'_>) -> Result<Arc<Self>, Refused> {
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
        let tickets = match tickets {
            Tickets::None => None,
            Tickets::OwnKeys => {
                let tickets = TimedTickets::with_own_keys(lifetime);
                Some(tickets.map_err(|e| cx.invalid(format!("no keys for tickets can be made: {e}")))?)
            }
            Tickets::Shared(keys) => Some(TimedTickets::new(keys, lifetime, bound_to)),
        };
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

/// Of all that the message says of what clients are held against.
fn rules(proto: &pb::DownstreamTlsContext) -> [u8; 32] {
    let common = proto.common_tls_context.as_ref();
    let validation = pb::CommonTlsContext {
        validation_context_type: common.and_then(|common| common.validation_context_type.clone()),
        ..pb::CommonTlsContext::default()
    };
    let is_required = proto.require_client_certificate.is_some_and(|v| v.value);
    sha256(&[validation.encode_to_vec(), vec![u8::from(is_required)]].concat())
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

enum Tickets {
    None,
    OwnKeys,
    Shared(TicketKeys),
}

impl Tickets {
    /// Of keys that are given.
    fn digest(&self) -> [u8; 32] {
        match self {
            Self::None | Self::OwnKeys => [0; 32],
            Self::Shared(keys) => keys.digest(),
        }
    }

    fn lower(
        proto: Option<pb::downstream_tls_context::SessionTicketKeysType>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        use pb::downstream_tls_context::SessionTicketKeysType as Type;
        match proto {
            None | Some(Type::DisableStatelessSessionResumption(false)) => Ok(Self::OwnKeys),
            Some(Type::DisableStatelessSessionResumption(true)) => Ok(Self::None),
            Some(Type::SessionTicketKeys(keys)) => {
                cx.at("session_ticket_keys", |cx| TicketKeys::lower(keys, cx)).map(Self::Shared)
            }
            // They were taken out; while they are missing, nothing is made.
            Some(Type::SessionTicketKeysSdsSecretConfig(_)) => Ok(Self::None),
        }
    }
}

/// What both sides have.
pub(super) struct Common {
    pub(super) parameters: Parameters,
    pub(super) certificates: Vec<Arc<Certificate>>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) validation: Validation,
    pub(super) key_log: Option<KeyLog>,
}

impl Common {
    pub(super) fn lower(proto: pb::CommonTlsContext, latest: Version, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::CommonTlsContext {
            tls_params,
            tls_certificates,
            // They were taken out.
            tls_certificate_sds_secret_configs: _,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = proto;
        let refused = refuse_set!(cx; tls_certificate_provider_instance, custom_tls_certificate_selector, tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance, custom_handshaker);
        let parameters = cx.at("tls_params", |cx| Parameters::lower(tls_params, latest, cx));
        let provider = parameters
            .as_ref()
            .map_or_else(|_| rustls::crypto::aws_lc_rs::default_provider().into(), |p| p.provider.clone());
        let certificates =
            cx.each("tls_certificates", tls_certificates, |proto, cx| certificate::lower(proto, &provider, cx));
        let alpn = cx.each("alpn_protocols", alpn_protocols, |names, cx| lower_alpn(&names, cx));
        let validation = match validation_context_type {
            None => Ok(Validation::default()),
            Some(ValidationContextType::ValidationContext(proto)) => {
                cx.at("validation_context", |cx| Validation::lower(proto, cx))
            }
            Some(_) => Err(cx.not_implemented("a validation context from elsewhere")),
        };
        let key_log = cx.opt("key_log", key_log, KeyLog::lower);
        refused?;
        let (parameters, certificates, validation) = (parameters?, certificates?, validation?);
        Ok(Self { parameters, certificates, alpn: alpn?.concat(), validation, key_log: key_log? })
    }
}

/// Envoy: an entry may be a list, and names nothing where it is empty.
fn lower_alpn(names: &str, cx: &mut LowerCx<'_>) -> Result<Vec<Vec<u8>>, Refused> {
    let names = names.split(',').filter(|name| !name.is_empty());
    match names.clone().all(|name| name.len() <= 255) {
        true => Ok(names.map(|name| name.as_bytes().to_vec()).collect()),
        false => Err(cx.invalid("a protocol's name has 1 to 255 bytes")),
    }
}
