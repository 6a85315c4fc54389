//! `TlsCertificate`: who we are.

use std::sync::Arc;

use bytes::Bytes;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_telemetry::CertificateInfo;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ClientHello;
use rustls::sign::{CertifiedKey, SigningKey};

use super::info::certificate_info;
use super::ocsp::OcspResponse;
use super::older::OlderKey;
use super::parameters::{Parameters, Version};
use super::password;
use super::pem;
use super::san::Parsed;
use super::schemes::Schemes;
use super::validation::sha256;
use crate::refuse_set;
use crate::value::unwatched_data_source;

/// Bytes that a file of certificates or a key may have.
const MAX_PEM: u64 = 1 << 20;
/// Bytes that a password may have.
const MAX_PASSWORD: u64 = 1 << 12;
/// What stands for the path of what stands in the configuration itself.
const INLINE: &str = "<inline>";
/// What demands that an OCSP response comes along (RFC 7633 §4.2.3.1).
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";

/// A chain with its key, as it is shown to peers. Those that are the same are there once.
#[derive(Debug)]
pub(super) struct Certificate {
    /// With what is stapled to it.
    pub(super) certified: Arc<CertifiedKey>,
    /// Without.
    pub(super) bare: Arc<CertifiedKey>,
    /// `None` where it could not be read, which lowering refuses.
    pub(super) info: Option<Arc<CertificateInfo>>,
    pub(super) ocsp: Option<OcspResponse>,
    /// Whether it says itself that an OCSP response comes with it.
    pub(super) must_staple: bool,
    pub(super) is_pkcs12: bool,
    /// Of the file that it comes from.
    pub(super) path: Arc<str>,
    /// What is spoken with it in place of what the context says (`tls_params`).
    pub(super) parameters: Option<Parameters>,
    /// Its key, which signs in whatever way it can.
    pub(super) key: Arc<dyn SigningKey>,
    /// The same in TLS 1.2, where it can more there.
    older_key: Option<OlderKey>,
    /// How it signs where it is shown.
    schemes: Schemes,
    /// Of all that it was made from.
    pub(super) digest: [u8; 32],
}

/// The bytes of each part, and where the certificate is from.
struct Parts {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: String,
    is_pkcs12: bool,
}

/// What the context says of how its certificates are shown.
#[derive(Clone, Debug)]
struct Terms {
    /// Those of the certificate itself, if it has some.
    own: Option<Parameters>,
    schemes: Schemes,
    /// Of what it says itself.
    digest: [u8; 32],
}

/// Lowers the message, of a certificate that is shown where these parameters hold.
pub(super) fn lower(
    proto: pb::TlsCertificate,
    context: &Parameters,
    cx: &mut LowerCx<'_>,
) -> Result<Arc<Certificate>, Refused> {
    // signed_certificate_timestamp: Envoy does not implement it either. watched_directory: Envoy watches for certificates
    // from discovery alone, whose folders were taken out.
    let pb::TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        watched_directory: _,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp: _,
        tls_params,
    } = proto;
    let refused = refuse_set!(cx; private_key_provider);
    let terms = cx.opt("tls_params", tls_params, |proto, cx| Terms::lower(proto, context, cx));
    let password = cx.opt("password", password, |source, cx| unwatched_data_source(source, MAX_PASSWORD, cx));
    let ocsp = cx.opt("ocsp_staple", ocsp_staple, lower_staple);
    refused?;
    let password = password?.unwrap_or_default();
    let terms = terms?.unwrap_or_else(|| Terms::of(context));
    let parts = match pkcs12 {
        Some(pkcs12) if certificate_chain.is_none() && private_key.is_none() => {
            cx.at("pkcs12", |cx| Parts::of_pkcs12(pkcs12, &password, cx))?
        }
        Some(_) => return Err(cx.at("pkcs12", |cx| cx.invalid("excludes certificate_chain and private_key"))),
        None => Parts::of_pem(certificate_chain, private_key, &password, cx)?,
    };
    parts.complete(ocsp?, terms, cx)
}

fn lower_staple(source: DataSource, cx: &mut LowerCx<'_>) -> Result<OcspResponse, Refused> {
    if matches!(source.specifier, Some(Specifier::InlineString(_))) {
        return Err(
            cx.at("inline_string", |cx| cx.invalid("an OCSP response is no text: use inline_bytes or filename"))
        );
    }
    let bytes = unwatched_data_source(source, MAX_PEM, cx)?;
    OcspResponse::read(&bytes).map_err(|unusable| cx.invalid(unusable.to_string()))
}

impl Certificate {
    /// Whether its key can sign so that who says this hello can verify it in this version, whatever is configured.
    pub(super) fn can_sign(&self, hello: &ClientHello<'_>, version: Version) -> bool {
        let can = |key: &Arc<dyn SigningKey>| key.choose_scheme(hello.signature_schemes()).is_some();
        match &self.older_key {
            Some(older) if version == Version::Tls12 => {
                older.is_known_to(hello.named_groups()) && (can(&self.key) || can(&older.key))
            }
            _ => can(&self.key),
        }
    }

    /// Whether it can be shown to a client that says this hello, in TLS 1.2.
    pub(super) fn is_for_older(&self, hello: &ClientHello<'_>) -> bool {
        let is_known = self.older_key.as_ref().is_none_or(|older| older.is_known_to(hello.named_groups()));
        is_known && (hello.signature_schemes().is_empty() || self.signs_in_older(hello.signature_schemes()))
    }

    /// Whether it can be shown to a peer of TLS 1.2 that accepts these.
    pub(super) fn signs_in_older(&self, schemes: &[SignatureScheme]) -> bool {
        self.bare.key.choose_scheme(schemes).is_some() || self.older_key_for(schemes).is_some()
    }

    /// `shown` of this certificate as it is shown to such a peer.
    pub(super) fn in_older(&self, shown: &Arc<CertifiedKey>, schemes: &[SignatureScheme]) -> Arc<CertifiedKey> {
        match self.older_key_for(schemes) {
            // Few peers are so: the chain is copied for them alone.
            Some(key) => Arc::new(CertifiedKey { key, ..CertifiedKey::clone(shown) }),
            None => shown.clone(),
        }
    }

    /// The key with which that is signed which no key signs in TLS 1.3.
    fn older_key_for(&self, schemes: &[SignatureScheme]) -> Option<Arc<dyn SigningKey>> {
        if self.bare.key.choose_scheme(schemes).is_some() {
            return None;
        }
        let key = self.schemes.signing(self.older_key.as_ref()?.key.clone());
        key.choose_scheme(schemes).is_some().then_some(key)
    }
}

impl Terms {
    fn of(context: &Parameters) -> Self {
        Self { own: None, schemes: context.schemes.clone(), digest: [0; 32] }
    }

    fn lower(proto: pb::TlsParameters, context: &Parameters, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        // What it does not say itself is that of its context: certificates of several contexts are not one.
        let own = context.with(proto, cx)?;
        Ok(Self { schemes: own.schemes.clone(), digest: own.digest, own: Some(own) })
    }
}

impl Parts {
    fn of_pem(
        chain: Option<DataSource>,
        key: Option<DataSource>,
        password: &[u8],
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let path = chain.as_ref().map(path_of).unwrap_or_default();
        let chain = cx.at("certificate_chain", |cx| read(chain, cx).and_then(|bytes| pem::chain(&bytes, cx)));
        let key = cx.at("private_key", |cx| {
            let bytes = read(key, cx)?;
            match password::decrypt_pem(&bytes, password) {
                Some(Ok(key)) => Ok(key),
                Some(Err(closed)) => Err(cx.invalid(closed.to_string())),
                None => {
                    PrivateKeyDer::from_pem_slice(&bytes).map_err(|e| cx.invalid(format!("has no key in PEM: {e}")))
                }
            }
        });
        Ok(Self { chain: chain?, key: key?, path, is_pkcs12: false })
    }

    fn of_pkcs12(source: DataSource, password: &[u8], cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let path = path_of(&source);
        let bytes = unwatched_data_source(source, MAX_PEM, cx)?;
        let password = std::str::from_utf8(password).map_err(|_| cx.invalid("has a password that is no text"))?;
        let opened = password::open(&bytes, password).map_err(|closed| cx.invalid(closed.to_string()))?;
        let mut chain: Vec<CertificateDer<'static>> = opened.certificates.into_iter().map(Into::into).collect();
        pem::check_readable(&chain, cx)?;
        let key: PrivateKeyDer<'static> = PrivatePkcs8KeyDer::from(opened.key).into();
        // Bags have no order: the key tells which certificate is the first.
        let signing = load(key.clone_key(), cx)?;
        let belongs = |one: &CertificateDer<'static>| is_pair(&CertifiedKey::new(vec![one.clone()], signing.clone()));
        let at =
            chain.iter().position(belongs).ok_or_else(|| cx.invalid("has no certificate that its key belongs to"))?;
        chain[..=at].rotate_right(1);
        Ok(Self { chain, key, path, is_pkcs12: true })
    }

    /// Puts them together, or finds what was put together of the same before.
    fn complete(
        self,
        ocsp: Option<OcspResponse>,
        terms: Terms,
        cx: &mut LowerCx<'_>,
    ) -> Result<Arc<Certificate>, Refused> {
        let Self { chain, key, path, is_pkcs12 } = self;
        let digest = digest_of(&chain, &key, ocsp.as_ref(), &path, &terms);
        let older_key = OlderKey::of(&key);
        let key = cx.at("private_key", |cx| load(key, cx))?;
        let Terms { own: parameters, schemes, digest: _ } = terms;
        let bare = CertifiedKey::new(chain, schemes.signing(key.clone()));
        if !is_pair(&bare) {
            let reason = "does not belong to the first certificate of the chain";
            return Err(cx.at("private_key", |cx| cx.invalid(reason)));
        }
        let leaf = bare.cert.first().and_then(|leaf| Parsed::new(leaf).ok());
        let must_staple = leaf.as_ref().is_some_and(|Parsed(leaf)| {
            leaf.extensions().iter().any(|extension| extension.oid.to_id_string() == TLS_FEATURE)
        });
        let is_about = |ocsp: &OcspResponse| leaf.as_ref().is_some_and(|Parsed(leaf)| ocsp.is_about(leaf.raw_serial()));
        if ocsp.as_ref().is_some_and(|ocsp| !is_about(ocsp)) {
            return Err(cx.at("ocsp_staple", |cx| cx.invalid("is about another certificate")));
        }
        drop(leaf);
        let info = bare.cert.first().and_then(certificate_info).map(Arc::new);
        let bare = Arc::new(bare);
        let certified = match &ocsp {
            Some(ocsp) => Arc::new(CertifiedKey { ocsp: Some(ocsp.bytes.clone()), ..CertifiedKey::clone(&bare) }),
            None => bare.clone(),
        };
        let path = path.into();
        let made = Certificate {
            certified,
            bare,
            info,
            ocsp,
            must_staple,
            is_pkcs12,
            path,
            parameters,
            key,
            older_key,
            schemes,
            digest,
        };
        Ok(cx.env.slots.share(&format!("certificate {}", super::info::hex(&digest)), || made))
    }
}

fn load(key: PrivateKeyDer<'static>, cx: &mut LowerCx<'_>) -> Result<Arc<dyn SigningKey>, Refused> {
    any_supported_type(&key).map_err(|e| {
        let known = "keys of RSA with 2048 bits or more, of ECDSA on P-256, P-384 and P-521, and of Ed25519 can be";
        cx.invalid(format!("cannot be used: {known} ({e})"))
    })
}

/// Whether the key is that of the first certificate, as far as the key can tell.
fn is_pair(certified: &CertifiedKey) -> bool {
    !matches!(certified.keys_match(), Err(rustls::Error::InconsistentKeys(_)))
}

fn digest_of(
    chain: &[CertificateDer<'_>],
    key: &PrivateKeyDer<'_>,
    ocsp: Option<&OcspResponse>,
    path: &str,
    terms: &Terms,
) -> [u8; 32] {
    let signs = terms.schemes.bytes();
    let parts = chain.iter().map(|der| &der[..]);
    let parts = parts.chain([
        key.secret_der(),
        ocsp.map_or(&[], |ocsp| &ocsp.bytes[..]),
        path.as_bytes(),
        &signs,
        &terms.digest,
    ]);
    let hashes: Vec<u8> = parts.flat_map(sha256).collect();
    sha256(&hashes)
}

fn read(source: Option<DataSource>, cx: &mut LowerCx<'_>) -> Result<Bytes, Refused> {
    let Some(source) = source else { return Err(cx.invalid("is required")) };
    unwatched_data_source(source, MAX_PEM, cx)
}

/// The name of the file, as `/certs` tells it.
pub(super) fn path_of(source: &DataSource) -> String {
    match &source.specifier {
        Some(Specifier::Filename(path)) => path.clone(),
        _ => INLINE.to_owned(),
    }
}
