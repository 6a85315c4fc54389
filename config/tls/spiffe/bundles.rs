//! The authorities of all trust domains that are known.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::spiffe_cert_validator_config::TrustDomain;
use nuncio_telemetry::CertificateInfo;

use crate::tls::authorities::Authorities;
use crate::tls::validation::sha256;

/// Authorities by the trust domain that they speak for.
#[derive(Debug, Default)]
pub(in crate::tls) struct Bundles {
    /// Of each, those for the workloads of a trust domain, or of any that is named nowhere, which has the empty name.
    bundles: HashMap<String, HashMap<String, Arc<Authorities>>>,
    /// Both, in the order of the configuration.
    names: Vec<(String, String)>,
}

impl Bundles {
    pub(super) fn lower(domains: Vec<TrustDomain>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        if domains.is_empty() {
            return Err(cx.at("trust_domains", |cx| cx.invalid("is empty: nobody could be believed")));
        }
        let domains = cx.each("trust_domains", domains, |domain, cx| {
            let TrustDomain { name, trust_bundle, workload_trust_domain } = domain;
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
    pub(super) fn add(&mut self, name: String, workload: String, bundle: Authorities) -> bool {
        let of_name = self.bundles.entry(name.clone()).or_default();
        if of_name.contains_key(&workload) {
            return false;
        }
        of_name.insert(workload.clone(), bundle.into());
        self.names.push((name, workload));
        true
    }

    pub(super) fn find(&self, name: &str, workload: &str) -> Option<&Authorities> {
        self.bundles.get(name)?.get(workload).map(|bundle| &**bundle)
    }

    /// The authorities, in the order of the configuration.
    pub(in crate::tls) fn all(&self) -> impl Iterator<Item = &Arc<Authorities>> {
        self.names.iter().filter_map(|(name, workload)| self.bundles.get(name)?.get(workload))
    }

    pub(in crate::tls) fn digest(&self) -> [u8; 32] {
        let names = self.names.iter().flat_map(|(name, workload)| [name, workload]);
        let parts = names.map(|name| sha256(name.as_bytes())).chain(self.all().map(|bundle| bundle.digest));
        sha256(&parts.flatten().collect::<Vec<u8>>())
    }

    pub(in crate::tls) fn named(&self, name: &[u8]) -> Option<Arc<CertificateInfo>> {
        self.all().find_map(|bundle| bundle.named(name))
    }
}
