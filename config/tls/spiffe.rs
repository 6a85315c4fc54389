//! `SPIFFECertValidatorConfig`: each trust domain has authorities of its own.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use nuncio_proto::envoy::config::core::v3::data_source::Specifier;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::Error;
use rustls::pki_types::CertificateDer;
use serde_json::Value;
use x509_parser::certificate::X509Certificate;

use super::authorities::{Authorities, MAX_PEM};
use super::certificate::path_of;
use super::chain::When;
use super::san::Names;
use super::validation::{Peer, Unbelieved, sha256};
use super::workload::with_current;
use crate::value::data_source;

/// Authorities by the trust domain that they speak for.
#[derive(Debug, Default)]
pub(super) struct TrustDomains {
    /// Of each, those for the workloads of a trust domain, or of any that is named nowhere, which has the empty name.
    bundles: HashMap<String, HashMap<String, Authorities>>,
    /// Both, in the order of the configuration.
    names: Vec<(String, String)>,
}

impl TrustDomains {
    pub(super) fn lower(proto: pb::SpiffeCertValidatorConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::SpiffeCertValidatorConfig { trust_domains, trust_bundles } = proto;
        // Envoy: they take the place of the others.
        if let Some(source) = trust_bundles {
            let domains = cx.at("trust_bundles", |cx| lower_map(source, cx))?;
            let mut all = Self::default();
            domains.into_iter().for_each(|(name, bundle)| _ = all.add(name, String::new(), bundle));
            return Ok(all);
        }
        if trust_domains.is_empty() {
            return Err(cx.at("trust_domains", |cx| cx.invalid("is empty: nobody could be believed")));
        }
        let domains = cx.each("trust_domains", trust_domains, |domain, cx| {
            let pb::spiffe_cert_validator_config::TrustDomain { name, trust_bundle, workload_trust_domain } = domain;
            if name.contains('/') {
                return Err(cx.at("name", |cx| cx.invalid(format!("{name:?} is no trust domain"))));
            }
            let bundle = cx.opt("trust_bundle", trust_bundle, Authorities::lower)?;
            match bundle {
                Some(bundle) => Ok((name, workload_trust_domain, bundle)),
                None => Err(cx.at("trust_bundle", |cx| cx.invalid("is required"))),
            }
        })?;
        let mut all = Self::default();
        for (i, (name, workload, bundle)) in domains.into_iter().enumerate() {
            let reason = format!("there are several bundles for the trust domain {name:?}");
            if !all.add(name, workload, bundle) {
                return Err(cx.at("trust_domains", |cx| cx.at_index(i, |cx| cx.invalid(reason))));
            }
        }
        Ok(all)
    }

    /// Adds a bundle, unless there is one for the same.
    fn add(&mut self, name: String, workload: String, bundle: Authorities) -> bool {
        let of_name = self.bundles.entry(name.clone()).or_default();
        if of_name.contains_key(&workload) {
            return false;
        }
        of_name.insert(workload.clone(), bundle);
        self.names.push((name, workload));
        true
    }

    fn find(&self, name: &str, workload: &str) -> Option<&Authorities> {
        self.bundles.get(name)?.get(workload)
    }

    /// Holds a peer against the bundle of the trust domain that it says it is of.
    pub(super) fn check(
        &self,
        leaf: &CertificateDer<'_>,
        (parsed, names): (&X509Certificate<'_>, &Names),
        intermediates: &[CertificateDer<'_>],
        now: When,
        peer: Peer,
    ) -> Result<(), Error> {
        // X.509-SVID §4.1 and §4.3: who signs others is no workload.
        // BoringSSL: where no usage is told, the key is for all.
        let usage = parsed.key_usage().ok().flatten();
        if parsed.is_ca() || usage.is_none_or(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()) {
            return Err(Unbelieved::NoTrustDomain.into());
        }
        // An identity is the only URI of its certificate (§2). Envoy: the first counts.
        let domain = names.uri.first().and_then(|uri| trust_domain(uri));
        let bundle = domain.and_then(|domain| with_current(|workload| self.find(domain, workload)));
        let bundle = bundle.ok_or(Unbelieved::NoTrustDomain)?;
        bundle.check(leaf, intermediates, now, peer, None).map_err(|error| match error {
            Error::InvalidCertificate(reason) => Unbelieved::NotOfDomain(reason).into(),
            other => other,
        })
    }

    /// The authorities, in the order of the configuration.
    pub(super) fn all(&self) -> impl Iterator<Item = &Authorities> {
        self.names.iter().filter_map(|(name, workload)| self.find(name, workload))
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        let names = self.names.iter().flat_map(|(name, workload)| [name, workload]);
        let parts = names.map(|name| sha256(name.as_bytes())).chain(self.all().map(|bundle| bundle.digest));
        sha256(&parts.flatten().collect::<Vec<u8>>())
    }

    pub(super) fn named(&self, name: &[u8]) -> Option<Arc<nuncio_telemetry::CertificateInfo>> {
        self.all().find_map(|bundle| bundle.named(name))
    }
}

/// A map of trust bundles: `{"trust_domains": {"NAME": {"keys": [{"use": "x509-svid", "x5c": ["BASE64 OF DER"]}]}}}`
/// (SPIFFE Trust Domain and Bundle §4). Envoy, as here: a key for anything else is an error.
fn lower_map(source: DataSource, cx: &mut LowerCx<'_>) -> Result<Vec<(String, Authorities)>, Refused> {
    if matches!(source.specifier, Some(Specifier::Filename(_))) {
        tracing::warn!(path = cx.path(), "the file is read once: its changes are not seen");
    }
    let origin = path_of(&source);
    let bytes = data_source(source, MAX_PEM, cx)?;
    let map: Value = serde_json::from_slice(&bytes).map_err(|e| cx.invalid(format!("is no JSON: {e}")))?;
    let domains = map.get("trust_domains").and_then(Value::as_object).filter(|domains| !domains.is_empty());
    let Some(domains) = domains else { return Err(cx.invalid("has no trust_domains")) };
    let lower = |(name, bundle): (&String, &Value)| {
        let pem = pem_of(bundle).map_err(|reason| cx.invalid(format!("{reason} for the trust domain {name:?}")))?;
        let pem = DataSource { specifier: Some(Specifier::InlineString(pem)), watched_directory: None };
        let mut authorities = Authorities::lower(pem, cx)?;
        authorities.path = origin.as_str().into();
        Ok((name.clone(), authorities))
    };
    domains.iter().map(lower).collect()
}

/// All certificates of a bundle.
fn pem_of(bundle: &Value) -> Result<String, &'static str> {
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).filter(|l| !l.is_empty()).cloned();
    let mut pem = String::new();
    for key in list(bundle, "keys").ok_or("has no keys")? {
        if key.get("use").and_then(Value::as_str) != Some("x509-svid") {
            return Err("has a key whose use is not x509-svid");
        }
        for certificate in list(&key, "x5c").ok_or("has a key without x5c")? {
            let base64 = certificate.as_str().ok_or("has an x5c that holds what is no text")?;
            pem.push_str(&format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n"));
        }
    }
    Ok(pem)
}

/// `domain` of `spiffe://domain/workload`; a trust domain alone is nobody's identity.
fn trust_domain(uri: &str) -> Option<&str> {
    uri.strip_prefix("spiffe://")?.split_once('/').map(|(domain, _)| domain)
}
