//! The secrets that a TLS context refers to.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use pb::downstream_tls_context::SessionTicketKeysType;
use prost::Message;

use super::validation::Validation;
use crate::refuse_set;
use crate::secret::{SecretKind, SecretSlot};

/// Secrets by what they are for.
#[derive(Default)]
pub(super) struct References {
    certificates: Vec<Arc<SecretSlot>>,
    /// With what holds beside the secret.
    validation: Option<(pb::CertificateValidationContext, Arc<SecretSlot>)>,
    ticket_keys: Option<Arc<SecretSlot>>,
}

impl References {
    /// Takes the references out of what both sides have.
    pub(super) fn take(common: &mut pb::CommonTlsContext, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let certificates = std::mem::take(&mut common.tls_certificate_sds_secret_configs);
        // Envoy looks for others only where no certificates are given in place.
        let certificates = if common.tls_certificates.is_empty() { certificates } else { Vec::new() };
        let certificates = cx.each("tls_certificate_sds_secret_configs", certificates, |config, cx| {
            SecretSlot::lower(config, SecretKind::TlsCertificate, cx)
        });
        let validation = match common.validation_context_type.take() {
            Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
                let slot = cx.at("validation_context_sds_secret_config", |cx| validation_slot(config, cx));
                slot.map(|slot| Some((pb::CertificateValidationContext::default(), slot)))
            }
            Some(ValidationContextType::CombinedValidationContext(combined)) => {
                cx.at("combined_validation_context", |cx| take_combined(combined, cx)).map(Some)
            }
            other => {
                common.validation_context_type = other;
                Ok(None)
            }
        };
        Ok(Self { certificates: certificates?, validation: validation?, ticket_keys: None })
    }

    /// Takes out of a server's context what only that has.
    pub(super) fn take_ticket_keys(
        &mut self,
        keys: &mut Option<SessionTicketKeysType>,
        cx: &mut LowerCx<'_>,
    ) -> Result<(), Refused> {
        match keys.take() {
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(config)) => {
                let slot = cx.at("session_ticket_keys_sds_secret_config", |cx| {
                    SecretSlot::lower(config, SecretKind::SessionTicketKeys, cx)
                });
                self.ticket_keys = Some(slot?);
            }
            other => *keys = other,
        }
        Ok(())
    }

    /// The same with this certificate alone.
    pub(super) fn with_certificate(&self, slot: Arc<SecretSlot>) -> Self {
        Self { certificates: vec![slot], validation: self.validation.clone(), ticket_keys: self.ticket_keys.clone() }
    }

    /// The same without certificates.
    pub(super) fn without_certificates(&self) -> Self {
        Self { certificates: Vec::new(), validation: self.validation.clone(), ticket_keys: self.ticket_keys.clone() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots().next().is_none()
    }

    pub(super) fn slots(&self) -> impl Iterator<Item = &Arc<SecretSlot>> {
        let validation = self.validation.as_ref().map(|(_, slot)| slot);
        self.certificates.iter().chain(validation).chain(&self.ticket_keys)
    }

    /// The name of the secret that the certificate of this number is.
    pub(super) fn name_of_certificate(&self, i: usize) -> Option<&str> {
        self.certificates.get(i).map(|slot| &*slot.name)
    }

    pub(super) fn name_of_validation(&self) -> Option<&str> {
        self.validation.as_ref().map(|(_, slot)| &*slot.name)
    }

    /// Whether every secret has come.
    pub(super) fn are_there(&self) -> bool {
        self.slots().all(|slot| slot.secret().is_some())
    }

    /// Puts the secrets, as far as they have come, where the references were.
    pub(super) fn resolve(&self, common: &mut pb::CommonTlsContext, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
        for (i, slot) in self.certificates.iter().enumerate() {
            let Some(secret) = slot.secret() else { continue };
            let field = "tls_certificate_sds_secret_configs";
            let certificate = cx.at(field, |cx| cx.at_index(i, |cx| secret.certificate(cx)));
            common.tls_certificates.push(certificate?);
        }
        if let Some((default, slot)) = &self.validation
            && let Some(secret) = slot.secret()
        {
            let given = cx.at("validation_context_sds_secret_config", |cx| secret.validation(cx))?;
            let mut merged = default.clone();
            merged.merge(&*given.encode_to_vec()).map_err(|e| cx.invalid(format!("cannot be merged: {e}")))?;
            common.validation_context_type = Some(ValidationContextType::ValidationContext(merged));
        }
        Ok(())
    }

    /// The keys of tickets, where they come from a secret.
    pub(super) fn resolve_ticket_keys(
        &self,
        keys: &mut Option<SessionTicketKeysType>,
        cx: &mut LowerCx<'_>,
    ) -> Result<(), Refused> {
        if let Some(secret) = self.ticket_keys.as_ref().and_then(|slot| slot.secret()) {
            let given = cx.at("session_ticket_keys_sds_secret_config", |cx| secret.ticket_keys(cx))?;
            *keys = Some(SessionTicketKeysType::SessionTicketKeys(given));
        }
        Ok(())
    }
}

#[allow(deprecated, reason = "what Envoy deprecates is refused by name")]
fn take_combined(
    proto: CombinedCertificateValidationContext,
    cx: &mut LowerCx<'_>,
) -> Result<(pb::CertificateValidationContext, Arc<SecretSlot>), Refused> {
    let CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = proto;
    let refused = refuse_set!(cx; validation_context_certificate_provider,
        validation_context_certificate_provider_instance);
    let default = default_validation_context.unwrap_or_default();
    let checked = cx.at("default_validation_context", |cx| Validation::check_part(default.clone(), cx));
    let slot = cx.opt("validation_context_sds_secret_config", validation_context_sds_secret_config, validation_slot);
    refused.and(checked)?;
    match slot? {
        Some(slot) => Ok((default, slot)),
        None => Err(cx.at("validation_context_sds_secret_config", |cx| cx.invalid("is required"))),
    }
}

fn validation_slot(proto: pb::SdsSecretConfig, cx: &mut LowerCx<'_>) -> Result<Arc<SecretSlot>, Refused> {
    SecretSlot::lower(proto, SecretKind::ValidationContext, cx)
}
