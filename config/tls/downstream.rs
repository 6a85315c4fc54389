//! `DownstreamTlsContext`: we are the server.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use nuncio_telemetry::CertificateInfo;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, WebPkiClientVerifier};

use super::certificate::{self, CertificatesByName};
use super::parameters::{Parameters, Version};
use super::peer::Clients;
use super::validation::{Peer, Validation};
use crate::refuse_set;

/// A listener's side of TLS.
#[derive(Debug)]
pub struct DownstreamTls {
    /// What handshakes are made with.
    pub server: Arc<ServerConfig>,
    /// Whether clients that name no server are refused.
    pub requires_sni: bool,
    /// What clients' certificates are held against.
    validation: Arc<Validation>,
    certificates: Arc<CertificatesByName>,
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
    pub fn lower(proto: pb::DownstreamTlsContext, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // prefer_client_ciphers: ours is the order of preference unless set.
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
        let refused = refuse_set!(cx; session_timeout, ocsp_staple_policy);
        let stateless = tickets(session_ticket_keys_type, cx);
        let scans_all = full_scan_certs_on_sni_mismatch.is_some_and(|v| v.value);
        let common =
            cx.at("common_tls_context", |cx| Common::lower(common_tls_context.unwrap_or_default(), Version::Tls13, cx));
        refused?;
        let Common { parameters, certificates, alpn, validation } = common?;
        let stateless = stateless?;
        if certificates.is_empty() {
            let reason = "a server needs a certificate";
            return Err(cx.at("common_tls_context", |cx| cx.at("tls_certificates", |cx| cx.invalid(reason))));
        }
        let is_required = require_client_certificate.is_some_and(|v| v.value);
        let provider = parameters.provider.clone();
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_protocol_versions(&parameters.versions);
        let builder = builder.map_err(|e| cx.invalid(format!("versions and cipher suites do not fit: {e}")))?;
        let verifies = is_required || validation.is_any();
        let validation = Arc::new(validation);
        let clients = Clients {
            hints: validation.hints(),
            is_required: is_required || validation.needs_certificate(),
            validation: validation.clone(),
            provider: provider.clone(),
        };
        let verifier = match verifies {
            true => Arc::new(clients) as Arc<dyn rustls::server::danger::ClientCertVerifier>,
            false => WebPkiClientVerifier::no_client_auth(),
        };
        let certificates = Arc::new(CertificatesByName::new(certificates, scans_all));
        let mut server = builder.with_client_cert_verifier(verifier).with_cert_resolver(certificates.clone());
        server.alpn_protocols = alpn;
        server.ignore_client_order = !prefer_client_ciphers;
        if disable_stateful_session_resumption {
            server.session_storage = Arc::new(NoServerSessionStorage {});
        }
        match stateless {
            Tickets::None => server.send_tls13_tickets = 0,
            Tickets::OwnKeys => {
                let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new();
                server.ticketer = ticketer.map_err(|e| cx.invalid(format!("no keys for tickets can be made: {e}")))?;
            }
        }
        let requires_sni = require_sni.is_some_and(|v| v.value);
        Ok(Self { server: Arc::new(server), requires_sni, validation, certificates })
    }
}

impl DownstreamTls {
    /// The certificate that whoever says this hello is shown.
    pub fn certificate_for(&self, hello: &ClientHello<'_>) -> Option<Arc<CertificateInfo>> {
        self.certificates.info_for(hello)
    }

    /// Whether a client's chain passes all that it is held against. The handshake lets others through only where
    /// untrusted clients are accepted.
    pub fn validate(&self, chain: &[CertificateDer<'_>]) -> Validated {
        let Some((leaf, intermediates)) = chain.split_first() else { return Validated::Nothing };
        if !self.validation.is_any() {
            return Validated::Nothing;
        }
        // The handshake has done so already where it fails by it.
        if !self.validation.accepts_untrusted() {
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
}

fn tickets(
    proto: Option<pb::downstream_tls_context::SessionTicketKeysType>,
    cx: &mut LowerCx<'_>,
) -> Result<Tickets, Refused> {
    use pb::downstream_tls_context::SessionTicketKeysType as Type;
    match proto {
        None | Some(Type::DisableStatelessSessionResumption(false)) => Ok(Tickets::OwnKeys),
        Some(Type::DisableStatelessSessionResumption(true)) => Ok(Tickets::None),
        Some(Type::SessionTicketKeys(keys)) => {
            cx.unsupported("session_ticket_keys", &Some(keys)).map(|()| Tickets::OwnKeys)
        }
        Some(Type::SessionTicketKeysSdsSecretConfig(config)) => {
            cx.unsupported("session_ticket_keys_sds_secret_config", &Some(config)).map(|()| Tickets::OwnKeys)
        }
    }
}

/// What both sides have.
pub(super) struct Common {
    pub(super) parameters: Parameters,
    pub(super) certificates: Vec<Arc<rustls::sign::CertifiedKey>>,
    pub(super) alpn: Vec<Vec<u8>>,
    pub(super) validation: Validation,
}

impl Common {
    pub(super) fn lower(proto: pb::CommonTlsContext, latest: Version, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = proto;
        let refused = refuse_set!(cx; tls_certificate_sds_secret_configs, tls_certificate_provider_instance,
            custom_tls_certificate_selector, tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance, custom_handshaker, key_log);
        let parameters = cx.at("tls_params", |cx| Parameters::lower(tls_params, latest, cx));
        let provider = parameters
            .as_ref()
            .map_or_else(|_| rustls::crypto::aws_lc_rs::default_provider().into(), |p| p.provider.clone());
        let certificates =
            cx.each("tls_certificates", tls_certificates, |proto, cx| certificate::lower(proto, &provider, cx));
        let alpn = cx.each("alpn_protocols", alpn_protocols, |name, cx| match name.len() {
            1..=255 => Ok(name.into_bytes()),
            _ => Err(cx.invalid("a protocol's name has 1 to 255 bytes")),
        });
        let validation = match validation_context_type {
            None => Ok(Validation::default()),
            Some(ValidationContextType::ValidationContext(proto)) => {
                cx.at("validation_context", |cx| Validation::lower(proto, cx))
            }
            Some(ValidationContextType::CombinedValidationContext(_)) => {
                Err(cx.at("combined_validation_context", |cx| cx.not_implemented("secret discovery")))
            }
            Some(_) => Err(cx.not_implemented("a validation context from elsewhere")),
        };
        refused?;
        Ok(Self { parameters: parameters?, certificates: certificates?, alpn: alpn?, validation: validation? })
    }
}
