//! `TlsParameters`: versions, cipher suites and groups.

use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite, kx_group as group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::suites::Suites;
use crate::refuse_set;

/// What a side offers.
pub(super) struct Parameters {
    pub(super) versions: Vec<&'static SupportedProtocolVersion>,
    pub(super) provider: Arc<CryptoProvider>,
    /// The same for clients that would rather have ChaCha20, where that is as good to us.
    pub(super) chacha: Option<Arc<CryptoProvider>>,
}

/// The suites of TLS 1.3, which nothing but its version switches.
const SUITES_13: [SupportedCipherSuite; 3] =
    [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];
/// Groups by BoringSSL's names.
const GROUPS: [(&str, &str, &dyn SupportedKxGroup); 4] = [
    ("X25519MLKEM768", "X25519MLKEM768", group::X25519MLKEM768),
    ("X25519", "x25519", group::X25519),
    ("P-256", "prime256v1", group::SECP256R1),
    ("P-384", "secp384r1", group::SECP384R1),
];
/// How many of `GROUPS` are offered where none are named.
const DEFAULT_GROUPS: usize = 3;

impl Parameters {
    /// `latest` is the latest version that is spoken where nothing is set: Envoy's clients stop at TLS 1.2.
    pub(super) fn lower(
        proto: Option<pb::TlsParameters>,
        latest: Version,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let pb::TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = proto.unwrap_or_default();
        let refused = refuse_set!(cx; signature_algorithms, compliance_policies);
        let minimum = cx.at("tls_minimum_protocol_version", |cx| Version::lower(tls_minimum_protocol_version, cx));
        let maximum = cx.at("tls_maximum_protocol_version", |cx| Version::lower(tls_maximum_protocol_version, cx));
        let is_only_13 = matches!(minimum, Ok(Some(Version::Tls13)));
        let suites = Suites::lower(&cipher_suites, !is_only_13, cx);
        let groups = lower_groups(&ecdh_curves, cx);
        refused?;
        let (minimum, maximum) = (minimum?.unwrap_or(Version::Tls12), maximum?);
        // A minimum that is set carries the maximum with it.
        let maximum = maximum.unwrap_or(latest.max(minimum));
        if minimum > maximum {
            let reason = "must not be later than tls_maximum_protocol_version";
            return Err(cx.at("tls_minimum_protocol_version", |cx| cx.invalid(reason)));
        }
        let in_range = |v: &Version| (minimum..=maximum).contains(v);
        // A suite that no version has is not offered.
        let suites_13 = if in_range(&Version::Tls13) { &SUITES_13[..] } else { &[] };
        let suites = suites?;
        let with_12 = |suites_12: Vec<SupportedCipherSuite>| {
            let suites_12 = suites_12.into_iter().filter(|_| in_range(&Version::Tls12));
            suites_13.iter().copied().chain(suites_12).collect()
        };
        let groups = groups?;
        let default = || GROUPS[..DEFAULT_GROUPS].iter().map(|(.., group)| *group).collect();
        let provider = CryptoProvider {
            cipher_suites: with_12(suites.all()),
            kx_groups: if groups.is_empty() { default() } else { groups },
            ..aws_lc_rs::default_provider()
        };
        let chacha = suites.with_chacha_first().filter(|_| in_range(&Version::Tls12));
        let chacha = chacha.map(|all| CryptoProvider { cipher_suites: with_12(all), ..provider.clone() });
        let versions = [Version::Tls12, Version::Tls13].into_iter().filter(in_range).map(Version::rustls).collect();
        Ok(Self { versions, provider: Arc::new(provider), chacha: chacha.map(Arc::new) })
    }
}

/// A version that is spoken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Tls12,
    Tls13,
}

impl Version {
    /// `None` leaves it to us.
    fn lower(value: i32, cx: &mut LowerCx<'_>) -> Result<Option<Self>, Refused> {
        match TlsProtocol::try_from(value) {
            Ok(TlsProtocol::TlsAuto) => Ok(None),
            Ok(TlsProtocol::TlSv12) => Ok(Some(Self::Tls12)),
            Ok(TlsProtocol::TlSv13) => Ok(Some(Self::Tls13)),
            Ok(TlsProtocol::TlSv10 | TlsProtocol::TlSv11) => {
                Err(cx.invalid("TLS 1.0 and 1.1 are broken (RFC 8996) and not spoken; TLSv1_2 is the least"))
            }
            Err(_) => Err(cx.invalid("is not a version of TLS")),
        }
    }

    fn rustls(self) -> &'static SupportedProtocolVersion {
        match self {
            Self::Tls12 => &version::TLS12,
            Self::Tls13 => &version::TLS13,
        }
    }
}

pub(super) fn is_of_tls13(suite: CipherSuite) -> bool {
    SUITES_13.iter().any(|known| known.suite() == suite)
}

pub(super) fn is_chacha(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}

/// Envoy joins the entries with colons, and BoringSSL takes them apart: an entry may be several.
fn lower_groups(entries: &[String], cx: &mut LowerCx<'_>) -> Result<Vec<&'static dyn SupportedKxGroup>, Refused> {
    let each = cx.each("ecdh_curves", entries, |entry, cx| {
        entry.split(':').map(|name| lower_group(name, cx)).collect::<Result<Vec<_>, _>>()
    });
    Ok(each?.concat())
}

fn lower_group(name: &str, cx: &mut LowerCx<'_>) -> Result<&'static dyn SupportedKxGroup, Refused> {
    let found = GROUPS.iter().find(|(known, other, _)| *known == name || *other == name);
    found.map(|(.., group)| *group).ok_or_else(|| cx.invalid(format!("{name:?} is not a group that is spoken here")))
}
