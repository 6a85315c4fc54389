//! `UpstreamTlsContext`: we are the client.

use std::net::Ipv4Addr;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_telemetry::CertificateInfo;
use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;

use super::downstream::Common;
use super::info::certificate_info;
use super::parameters::Version;
use super::peer::Servers;

/// Sessions that are kept for resumption where nothing is set. Envoy keeps one for each context.
const DEFAULT_SESSIONS: usize = 1;

/// A cluster's side of TLS.
#[derive(Debug)]
pub struct UpstreamTls {
    /// What handshakes are made with.
    pub client: Arc<ClientConfig>,
    /// What the servers are called.
    pub identity: ServerIdentity,
    /// The certificate that servers are shown if they ask.
    pub own: Option<Arc<CertificateInfo>>,
}

/// What a server is called in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerIdentity {
    /// Nothing: the server chooses its certificate without being told a name.
    Unnamed,
    /// `sni`
    Fixed(ServerName<'static>),
    /// `auto_host_sni`: the host name of its endpoint.
    HostName,
}

impl UpstreamTls {
    /// Lowers the message.
    pub fn lower(proto: pb::UpstreamTlsContext, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // allow_renegotiation: TLS 1.3 has none, and rustls does none. enforce_rsa_key_usage: always.
        let pb::UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation: _,
            max_session_keys,
            enforce_rsa_key_usage: _,
        } = proto;
        let common =
            cx.at("common_tls_context", |cx| Common::lower(common_tls_context.unwrap_or_default(), Version::Tls12, cx));
        let identity = lower_identity(&sni, auto_host_sni, cx);
        let Common { parameters, certificates, alpn, validation } = common?;
        let identity = identity?;
        if certificates.len() > 1 {
            let reason = "a client has one certificate";
            return Err(cx.at("common_tls_context", |cx| cx.at("tls_certificates", |cx| cx.invalid(reason))));
        }
        let provider = parameters.provider.clone();
        let builder = ClientConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&parameters.versions);
        let builder = builder.map_err(|e| cx.invalid(format!("versions and cipher suites do not fit: {e}")))?;
        let servers = Servers { validation: Arc::new(validation), provider, checks_name: auto_sni_san_validation };
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(servers));
        let own = certificates.first().and_then(|c| certificate_info(c.cert.first()?)).map(Arc::new);
        let mut client = match certificates.into_iter().next() {
            Some(certified) => builder.with_client_cert_resolver(Arc::new(OwnCertificate(certified))),
            None => builder.with_no_client_auth(),
        };
        client.alpn_protocols = alpn;
        client.enable_sni = identity != ServerIdentity::Unnamed;
        client.resumption = match max_session_keys.map_or(DEFAULT_SESSIONS, |v| v.value as usize) {
            0 => Resumption::disabled(),
            sessions => Resumption::in_memory_sessions(sessions),
        };
        Ok(Self { client: Arc::new(client), identity, own })
    }
}

impl UpstreamTls {
    /// What a server is called whose host name is `host_name`. Where it has no name that can be sent, the handshake names
    /// none.
    pub fn server_name(&self, host_name: &str) -> ServerName<'static> {
        let unnamed = || ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
        match &self.identity {
            ServerIdentity::Unnamed => unnamed(),
            ServerIdentity::Fixed(name) => name.clone(),
            ServerIdentity::HostName => ServerName::try_from(host_name.to_owned()).unwrap_or_else(|_| unnamed()),
        }
    }
}

fn lower_identity(sni: &str, auto_host_sni: bool, cx: &mut LowerCx<'_>) -> Result<ServerIdentity, Refused> {
    if auto_host_sni {
        return Ok(ServerIdentity::HostName);
    }
    if sni.is_empty() {
        return Ok(ServerIdentity::Unnamed);
    }
    let name = ServerName::try_from(sni.to_owned());
    name.map(ServerIdentity::Fixed).map_err(|_| cx.at("sni", |cx| cx.invalid(format!("{sni:?} is no host name"))))
}

/// The certificate that is shown to whoever asks for one.
#[derive(Debug)]
struct OwnCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for OwnCertificate {
    fn resolve(&self, _: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
