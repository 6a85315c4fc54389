//! `UpstreamTlsContext`: we are the client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_telemetry::CertificateInfo;
use rustls::ClientConfig;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, ResolvesClientCert, Resumption};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;

use super::certificate::Certificate;
use super::context::Common;
use super::in_use::HasCertificates;
use super::key_log::KeyLog;
use super::live::{Live, Recipe};
use super::made::Made;
use super::on_demand::{HasCertificate, OnDemand, Selector};
use super::parameters::Version;
use super::peer::{NameCheck, Servers, nameless};
use super::references::References;
use super::schemes::Schemes;
use super::validation::{Peer, Validation};
use super::witness::Witness;

/// Sessions that are kept for resumption where nothing is set. Envoy keeps one for each context.
const DEFAULT_SESSIONS: usize = 1;

/// Where a cluster counts what its contexts went through.
const FACTORY: &str = "client_ssl_socket_factory";

/// A cluster's side of TLS.
#[derive(Debug)]
pub struct UpstreamTls {
    live: Arc<Live<ClientSide>>,
    /// Where certificates are asked for as handshakes want them: the other side has none then.
    on_demand: Option<Arc<OnDemand<ClientSide>>>,
}

/// What handshakes with servers are made with.
#[derive(Debug)]
pub struct ClientSide {
    /// What handshakes are made with, where nothing is asked for.
    client: Arc<ClientConfig>,
    /// Whom we believe.
    validation: Arc<Validation>,
    schemes: Schemes,
    /// The same, with which connections between certain addresses log their secrets.
    logged: Option<(KeyLog, Arc<ClientConfig>)>,
    /// The verifier for requests that want the certificate of whom they ask for.
    by_name: Arc<Servers>,
    /// `sni`
    sni: Option<ServerName<'static>>,
    /// `auto_host_sni`: a server is called by the host name of its endpoint, where it has one.
    by_host_name: bool,
    /// The certificate that servers are shown if they ask.
    pub own: Option<Arc<CertificateInfo>>,
    certificate: Option<Arc<Certificate>>,
    sessions: Option<Arc<dyn ClientSessionStore>>,
    made: MadeByName,
}

/// How the last session with each server was made, of as many as sessions are kept of. Taken once for each handshake.
#[derive(Debug)]
struct MadeByName {
    known: Mutex<HashMap<ServerName<'static>, Made>>,
    most: usize,
}

/// What a client's context says beside what both sides have.
#[derive(Clone)]
struct Client {
    sni: Option<ServerName<'static>>,
    by_host_name: bool,
    own_check: NameCheck,
    sessions: usize,
}

/// What one connection asks of its handshake.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// The host name of the endpoint.
    pub host_name: &'a str,
    /// The name that the server is asked for, in place of that of the configuration.
    pub server_name: Option<&'a str>,
    /// Names one of which its certificate must have besides.
    pub certified_names: &'a [Box<str>],
    /// Protocols to be spoken.
    pub alpn: Alpn<'a>,
    /// The secret that the certificate for it is, where filters say which.
    pub secret: Option<&'a str>,
    /// The trust domain of the workload that it is for, where filters say which.
    pub workload: Option<&'a str>,
    /// Our address, where it has one.
    pub local: Option<IpAddr>,
    /// The server's address, where it has one.
    pub remote: Option<IpAddr>,
}

/// Protocols that are offered.
#[derive(Clone, Copy, Debug, Default)]
pub enum Alpn<'a> {
    /// Those of the configuration.
    #[default]
    AsConfigured,
    /// These, where the configuration has none.
    Default(&'a [&'a [u8]]),
    /// These, whatever the configuration has.
    Only(&'a [Box<[u8]>]),
}

impl UpstreamTls {
    /// Lowers the message.
    pub fn lower(proto: pb::UpstreamTlsContext, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // enforce_rsa_key_usage: always, as by Envoy.
        let pb::UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage: _,
        } = proto;
        if allow_renegotiation {
            let reason = "renegotiation is insecure and not spoken";
            return Err(cx.at("allow_renegotiation", |cx| cx.invalid(reason)));
        }
        let scope = cx.scope().clone();
        let mut common = common_tls_context.unwrap_or_default();
        if auto_sni_san_validation && common.validation_context_type.is_none() {
            let reason = "needs a validation context";
            return Err(cx.at("auto_sni_san_validation", |cx| cx.invalid(reason)));
        }
        let taken = cx.at("common_tls_context", |cx| {
            let selector = Selector::take(&mut common, Peer::Server, cx);
            Ok((References::take(&mut common, cx)?, selector?))
        });
        let client = Client {
            sni: lower_sni(sni, cx)?,
            by_host_name: auto_host_sni,
            own_check: if auto_sni_san_validation { NameCheck::AsCalled } else { NameCheck::None },
            sessions: max_session_keys.map_or(DEFAULT_SESSIONS, |v| v.value as usize),
        };
        let (references, selector) = taken?;
        let others = references.without_certificates();
        let live = match references.is_empty() {
            true => {
                let common = cx.at("common_tls_context", |cx| lower_common(common.clone(), cx))?;
                Live::fixed(client.complete(common, cx)?.into(), FACTORY, &scope, cx)
            }
            false => Live::following(references, recipe(common.clone(), client.clone()), FACTORY, &scope, cx)?,
        };
        let on_demand = selector.map(|selector| {
            common.tls_certificates.clear();
            OnDemand::new(selector, others, recipe(common, client), &scope, cx)
        });
        Ok(Self { live, on_demand })
    }

    /// What handshakes are made with now; `None` while secrets are missing.
    pub fn current(&self) -> Option<Arc<ClientSide>> {
        self.live.current()
    }

    /// Whether handshakes ask for their certificates.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// The side with the certificate that a server is shown, once it has come; `None`: there is none.
    pub async fn on_demand(&self, wishes: &Wishes<'_>) -> Option<Arc<ClientSide>> {
        self.on_demand.as_ref()?.for_server(wishes.secret).await
    }

    /// A connection failed for the lack of secrets.
    pub fn note_not_ready(&self) {
        self.live.stats.upstream_context_secrets_not_ready().inc();
    }
}

fn recipe(common: pb::CommonTlsContext, client: Client) -> Recipe<ClientSide> {
    Box::new(move |references: &References, cx: &mut LowerCx<'_>| {
        let mut common = common.clone();
        // What is wrong beside the secrets is so before they come.
        let common = cx.at("common_tls_context", |cx| {
            references.resolve(&mut common, cx)?;
            lower_common(common, cx)
        })?;
        references.are_there().then(|| client.complete(common, cx).map(Arc::new)).transpose()
    })
}

/// Envoy: parameters of certificates are for servers.
fn lower_common(mut common: pb::CommonTlsContext, cx: &mut LowerCx<'_>) -> Result<Common, Refused> {
    for certificate in &mut common.tls_certificates {
        if certificate.tls_params.take().is_some() {
            tracing::warn!(path = cx.path(), "tls_params of a certificate has no effect where it is a client's");
        }
    }
    Common::lower(common, Version::Tls12, cx)
}

impl Client {
    fn complete(&self, common: Common, cx: &mut LowerCx<'_>) -> Result<ClientSide, Refused> {
        let Common { parameters, certificates, alpn, validation, key_log } = common;
        if certificates.len() > 1 {
            let reason = "a client has one certificate";
            return Err(cx.at("common_tls_context", |cx| cx.at("tls_certificates", |cx| cx.invalid(reason))));
        }
        let builder = ClientConfig::builder_with_provider(parameters.provider());
        let builder = builder.with_protocol_versions(&parameters.versions());
        let builder = builder.map_err(|e| cx.invalid(format!("versions and cipher suites do not fit: {e}")))?;
        let validation = Arc::new(validation);
        let latest = parameters.latest();
        let schemes = parameters.schemes;
        let verifier = |checks| Arc::new(Servers::new(&validation, &schemes, checks));
        let by_name = verifier(NameCheck::AsCalledByRequest);
        let builder = builder.dangerous().with_custom_certificate_verifier(verifier(self.own_check.clone()));
        let certificate = certificates.into_iter().next();
        let mut client = match &certificate {
            Some(own) => builder.with_client_cert_resolver(Arc::new(OwnCertificate { own: own.clone(), latest })),
            None => builder.with_no_client_auth(),
        };
        client.alpn_protocols = alpn;
        let sessions = (self.sessions > 0)
            .then(|| Arc::new(ClientSessionMemoryCache::new(self.sessions)) as Arc<dyn ClientSessionStore>);
        client.resumption = sessions.clone().map_or_else(Resumption::disabled, Resumption::store);
        let logged = key_log.map(|log| {
            let mut logged = client.clone();
            logged.key_log = log.file.clone();
            (log, Arc::new(logged))
        });
        Ok(ClientSide {
            client: Arc::new(client),
            logged,
            validation,
            schemes,
            by_name,
            sni: self.sni.clone(),
            by_host_name: self.by_host_name,
            own: certificate.as_ref().and_then(|own| own.info.clone()),
            certificate,
            sessions,
            made: MadeByName { known: Mutex::default(), most: self.sessions },
        })
    }
}

impl ClientSide {
    /// What the handshake of one connection is made with, and what the server is called in it.
    pub fn handshake(&self, wishes: &Wishes<'_>) -> (Arc<ClientConfig>, ServerName<'static>) {
        let asked = self.asked_name(wishes);
        let own = (!wishes.certified_names.is_empty()).then(|| self.verifier(wishes.certified_names, asked.as_ref()));
        let logged = self.logged.as_ref().filter(|(log, _)| log.covers(wishes.local, wishes.remote));
        let mut client = logged.map_or(&self.client, |(_, logged)| logged).clone();
        match wishes.alpn {
            Alpn::AsConfigured => {}
            Alpn::Default(_) if !client.alpn_protocols.is_empty() => {}
            Alpn::Default(names) => {
                Arc::make_mut(&mut client).alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
            }
            Alpn::Only(names) => {
                Arc::make_mut(&mut client).alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
            }
        }
        if let Some(verifier) = own {
            Arc::make_mut(&mut client).dangerous().set_certificate_verifier(verifier);
        }
        // Where a server has no name that can be sent, the handshake names none.
        (client, asked.unwrap_or_else(nameless))
    }

    /// Holds the chain of a server whose session was resumed against what is configured: rustls does so with new ones
    /// alone, and certificates end, as lists of revocations do. Its name was seen to by the same verifier.
    pub fn check_again(&self, chain: &[CertificateDer<'_>], name: &ServerName<'static>) -> Result<(), rustls::Error> {
        let Some((leaf, others)) = chain.split_first() else { return Ok(()) };
        let Err(error) = self.validation.check(leaf, others, UnixTime::now(), Peer::Server, None) else {
            return Ok(());
        };
        if self.validation.accepts_untrusted() {
            Witness::of_unbelieved(error);
            return Ok(());
        }
        // The next handshake is a whole one.
        if let Some(sessions) = &self.sessions {
            sessions.remove_tls12_session(name);
            while sessions.take_tls13_ticket(name).is_some() {}
        }
        Err(error)
    }

    /// A whole handshake was made so with the server of this name.
    pub fn note_made(&self, name: &ServerName<'static>, made: Made) {
        let mut known = self.made.lock();
        if known.get(name) == Some(&made) || self.made.most == 0 {
            return;
        }
        if known.len() >= self.made.most && !known.contains_key(name) {
            known.clear();
        }
        known.insert(name.clone(), made);
    }

    /// How the last whole handshake with the server of this name was made, as far as that is known.
    pub fn made_before(&self, name: &ServerName<'static>) -> Made {
        self.made.lock().get(name).copied().unwrap_or_default()
    }

    /// The name that a server is asked for.
    fn asked_name(&self, wishes: &Wishes<'_>) -> Option<ServerName<'static>> {
        let named = |name: &str| ServerName::try_from(name.to_owned()).ok();
        match wishes.server_name {
            Some(name) => named(name),
            None if self.by_host_name && !wishes.host_name.is_empty() => named(wishes.host_name),
            None => self.sni.clone(),
        }
    }

    /// One that wants one of `names`. Sessions are kept by their verifier: where it is the name that is asked for anyway,
    /// the verifier is the same for all.
    fn verifier(&self, names: &[Box<str>], asked: Option<&ServerName<'_>>) -> Arc<Servers> {
        match (names, asked) {
            ([name], Some(asked)) if *asked.to_str() == **name => self.by_name.clone(),
            _ => Arc::new(Servers::new(&self.validation, &self.schemes, NameCheck::Fixed(names.into()))),
        }
    }
}

impl MadeByName {
    fn lock(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, Made>> {
        // A poisoned lock has a whole map.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HasCertificate for ClientSide {
    fn certificate(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref()
    }
}

impl HasCertificates for Live<ClientSide> {
    fn certificates(&self) -> Option<(Arc<Validation>, Vec<Arc<Certificate>>)> {
        self.current().map(|side| (side.validation.clone(), side.certificate.iter().cloned().collect()))
    }
}

fn lower_sni(sni: String, cx: &mut LowerCx<'_>) -> Result<Option<ServerName<'static>>, Refused> {
    if sni.is_empty() {
        return Ok(None);
    }
    // The rule of the field holds it to 255 bytes.
    let name = ServerName::try_from(sni);
    name.map(Some).map_err(|_| cx.at("sni", |cx| cx.invalid("a name without NUL and of up to 255 bytes is wanted")))
}

/// The certificate that is shown to whoever asks for one.
#[derive(Debug)]
struct OwnCertificate {
    own: Arc<Certificate>,
    /// The latest version that is spoken: which one it will be is not known when it is shown.
    latest: Version,
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        match self.latest {
            Version::Tls12 => self.own.signs_in_older(schemes).then(|| self.own.in_older(&self.own.bare, schemes)),
            Version::Tls13 => self.own.bare.key.choose_scheme(schemes).map(|_| self.own.bare.clone()),
        }
    }

    fn has_certs(&self) -> bool {
        true
    }
}
