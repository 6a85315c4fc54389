//! `SPIFFECertValidatorConfig`: each trust domain has authorities of its own.

mod bundles;
mod map;

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use rustls::Error;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;

use self::bundles::Bundles;
use self::map::BundleMap;
use super::chain::When;
use super::san::Names;
use super::validation::{Peer, Unbelieved};
use super::workload::with_current;

/// Authorities by the trust domain that they speak for.
#[derive(Debug)]
pub(super) enum TrustDomains {
    /// As the configuration lists them.
    Listed(Arc<Bundles>),
    /// As a map has them now.
    Mapped(Arc<BundleMap>),
}

impl TrustDomains {
    pub(super) fn lower(proto: pb::SpiffeCertValidatorConfig, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let pb::SpiffeCertValidatorConfig { trust_domains, trust_bundles } = proto;
        // Envoy: they take the place of the others.
        match cx.opt("trust_bundles", trust_bundles, BundleMap::lower)? {
            Some(map) => Ok(Self::Mapped(map)),
            None => Bundles::lower(trust_domains, cx).map(|bundles| Self::Listed(bundles.into())),
        }
    }

    /// Those that hold now.
    pub(super) fn bundles(&self) -> Arc<Bundles> {
        match self {
            Self::Listed(bundles) => bundles.clone(),
            Self::Mapped(map) => map.current(),
        }
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
        let bundles = self.bundles();
        let bundle = domain.and_then(|domain| with_current(|workload| bundles.find(domain, workload)));
        let bundle = bundle.ok_or(Unbelieved::NoTrustDomain)?;
        bundle.check(leaf, intermediates, now, peer, None).map_err(|error| match error {
            Error::InvalidCertificate(reason) => Unbelieved::NotOfDomain(reason).into(),
            other => other,
        })
    }
}

/// `domain` of `spiffe://domain/workload`; a trust domain alone is nobody's identity.
fn trust_domain(uri: &str) -> Option<&str> {
    uri.strip_prefix("spiffe://")?.split_once('/').map(|(domain, _)| domain)
}
