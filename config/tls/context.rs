//! `CommonTlsContext`: what both sides have.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;

use super::certificate::{self, Certificate};
use super::key_log::KeyLog;
use super::parameters::{Parameters, Version};
use super::validation::Validation;
use crate::refuse_set;

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
        let (default, known) = (Parameters::default(latest), parameters.as_ref().ok());
        let certificates = cx.each("tls_certificates", tls_certificates, |proto, cx| {
            certificate::lower(proto, known.unwrap_or(&default), cx)
        });
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
