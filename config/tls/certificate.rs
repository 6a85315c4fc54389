//! `TlsCertificate`: who we are.

use std::collections::HashMap;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::DataSource;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_telemetry::CertificateInfo;
use rustls::SignatureAlgorithm;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::info::certificate_info;
use super::san::{Names, Parsed};
use crate::refuse_set;
use crate::value::data_source;

/// Bytes that a file of certificates or a key may have.
const MAX_PEM: u64 = 1 << 20;

/// A chain with its key, as it is shown to peers.
pub(super) fn lower(
    proto: pb::TlsCertificate,
    provider: &CryptoProvider,
    cx: &mut LowerCx<'_>,
) -> Result<Arc<CertifiedKey>, Refused> {
    // signed_certificate_timestamp: Envoy does not implement it either.
    let pb::TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        watched_directory,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp,
        tls_params,
    } = proto;
    let refused = refuse_set!(cx; pkcs12, watched_directory, private_key_provider, password,
        signed_certificate_timestamp, tls_params);
    let chain = cx.at("certificate_chain", |cx| lower_chain(certificate_chain, cx));
    let key = cx.at("private_key", |cx| lower_key(private_key, provider, cx));
    let ocsp = cx.opt("ocsp_staple", ocsp_staple, |source, cx| data_source(source, MAX_PEM, cx));
    refused?;
    let mut certified = CertifiedKey::new(chain?, key?);
    if let Err(rustls::Error::InconsistentKeys(_)) = certified.keys_match() {
        return Err(cx.at("private_key", |cx| cx.invalid("does not belong to the first certificate of the chain")));
    }
    certified.ocsp = ocsp?.map(|bytes| bytes.to_vec());
    Ok(Arc::new(certified))
}

fn lower_chain(source: Option<DataSource>, cx: &mut LowerCx<'_>) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let Some(source) = source else { return Err(cx.invalid("is required")) };
    let bytes = data_source(source, MAX_PEM, cx)?;
    certificates(&bytes, cx)
}

/// All certificates of a PEM file: at least one.
pub(super) fn certificates(pem: &[u8], cx: &mut LowerCx<'_>) -> Result<Vec<CertificateDer<'static>>, Refused> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| cx.invalid(format!("is no PEM: {e}")))?;
    if all.is_empty() {
        return Err(cx.invalid("has no certificate in PEM"));
    }
    for (i, certificate) in all.iter().enumerate() {
        Parsed::new(certificate).map_err(|e| cx.invalid(format!("certificate {} cannot be read: {e}", i + 1)))?;
    }
    Ok(all)
}

fn lower_key(
    source: Option<DataSource>,
    provider: &CryptoProvider,
    cx: &mut LowerCx<'_>,
) -> Result<Arc<dyn rustls::sign::SigningKey>, Refused> {
    let Some(source) = source else { return Err(cx.invalid("is required")) };
    let bytes = data_source(source, MAX_PEM, cx)?;
    let is_encrypted = memchr::memmem::find(&bytes, b"ENCRYPTED").is_some();
    let key = PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| match is_encrypted {
        true => cx.not_implemented("an encrypted key"),
        false => cx.invalid(format!("has no key in PEM: {e}")),
    })?;
    provider.key_provider.load_private_key(key).map_err(|e| cx.invalid(format!("cannot be used: {e}")))
}

/// A certificate with what is told of it.
#[derive(Clone, Debug)]
struct Shown {
    certified: Arc<CertifiedKey>,
    /// `None` where it could not be read, which lowering refuses.
    info: Option<Arc<CertificateInfo>>,
}

impl Shown {
    fn new(certified: Arc<CertifiedKey>) -> Self {
        let info = certified.cert.first().and_then(certificate_info).map(Arc::new);
        Self { certified, info }
    }
}

/// Chooses the certificate that a client is shown, by the name that it asks for and the algorithms that it knows.
#[derive(Debug)]
pub(super) struct CertificatesByName {
    exact: HashMap<String, Vec<Shown>>,
    /// Of `*.example.com`: by `example.com`.
    wildcard: HashMap<String, Vec<Shown>>,
    all: Vec<Shown>,
    /// `full_scan_certs_on_sni_mismatch`
    scans_all: bool,
}

impl CertificatesByName {
    pub(super) fn new(certificates: Vec<Arc<CertifiedKey>>, scans_all: bool) -> Self {
        let default = certificates.first().cloned();
        let mut all: Vec<Shown> = certificates.into_iter().map(Shown::new).collect();
        // Envoy shows ECDSA to those who know it.
        all.sort_by_key(|c| c.certified.key.algorithm() != SignatureAlgorithm::ECDSA);
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for shown in &all {
            let names = shown.certified.cert.first().map(Names::of_server).unwrap_or_default();
            for name in names.dns {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()).or_default().push(shown.clone()),
                    None => exact.entry(name).or_default().push(shown.clone()),
                }
            }
        }
        // Whoever asks for no name that is known is shown the first, and another one only for its algorithm.
        if let Some(default) = default
            && let Some(at) = all.iter().position(|c| Arc::ptr_eq(&c.certified, &default))
        {
            all[..=at].rotate_right(1);
        }
        Self { exact, wildcard, all, scans_all }
    }

    fn by_name(&self, name: &str) -> Option<&[Shown]> {
        let found = self.exact.get(name).or_else(|| self.wildcard.get(name.split_once('.')?.1));
        found.map(Vec::as_slice)
    }

    /// What is told of the certificate that whoever says this hello is shown.
    pub(super) fn info_for(&self, hello: &ClientHello<'_>) -> Option<Arc<CertificateInfo>> {
        self.choose(hello)?.info.clone()
    }

    fn choose(&self, hello: &ClientHello<'_>) -> Option<&Shown> {
        let named = hello.server_name().and_then(|name| self.by_name(&name.to_ascii_lowercase()));
        let candidates = match named {
            Some(named) => named,
            None if self.scans_all || hello.server_name().is_none() => &self.all,
            None => &self.all[..self.all.len().min(1)],
        };
        let knows = |c: &&Shown| c.certified.key.choose_scheme(hello.signature_schemes()).is_some();
        candidates.iter().find(knows).or_else(|| candidates.first())
    }
}

impl ResolvesServerCert for CertificatesByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(&hello).map(|shown| shown.certified.clone())
    }
}
