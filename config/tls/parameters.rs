//! `TlsParameters`: what a side speaks.

use std::ops::RangeInclusive;
use std::sync::Arc;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use prost::Message;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite};
use rustls::{CipherSuite, NamedGroup, SupportedCipherSuite, SupportedProtocolVersion, version};

use super::compliance::{self, Compliance};
use super::groups::{self, Group};
use super::schemes::Schemes;
use super::suites::Suites;
use super::validation::sha256;

/// What a side speaks, or what it does with one of its certificates.
#[derive(Clone, Debug)]
pub(super) struct Parameters {
    oldest: Version,
    latest: Version,
    suites_13: &'static [SupportedCipherSuite],
    suites_12: Suites,
    groups: Vec<Group>,
    pub(super) schemes: Schemes,
    /// Of the messages that say all this.
    pub(super) digest: [u8; 32],
}

/// The suites of TLS 1.3, which its version and policies alone switch.
const SUITES_13: [SupportedCipherSuite; 3] =
    [suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384, suite::TLS13_CHACHA20_POLY1305_SHA256];

impl Parameters {
    /// Those where nothing is set: Envoy's clients stop at TLS 1.2.
    pub(super) fn default(latest: Version) -> Self {
        Self {
            oldest: Version::Tls12,
            latest,
            suites_13: &SUITES_13,
            suites_12: Suites::default(),
            groups: groups::default(),
            schemes: Schemes::default(),
            digest: sha256(&[latest as u8]),
        }
    }

    /// `latest` is the latest version that is spoken where nothing is set.
    pub(super) fn lower(
        proto: Option<pb::TlsParameters>,
        latest: Version,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let proto = proto.unwrap_or_default();
        // A minimum that is set carries the maximum with it.
        let is_only_13 = proto.tls_minimum_protocol_version == i32::from(TlsProtocol::TlSv13);
        Self::default(if is_only_13 { Version::Tls13 } else { latest }).with(proto, cx)
    }

    /// The same where others are set: those that are take the place of these one by one, and a policy that of all.
    pub(super) fn with(&self, proto: pb::TlsParameters, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let digest = sha256(&[&self.digest, &*proto.encode_to_vec()].concat());
        let pb::TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = proto;
        let oldest = cx.at("tls_minimum_protocol_version", |cx| Version::lower(tls_minimum_protocol_version, cx));
        let latest = cx.at("tls_maximum_protocol_version", |cx| Version::lower(tls_maximum_protocol_version, cx));
        let is_12_spoken = !matches!(oldest, Ok(Some(Version::Tls13)));
        let suites = Suites::lower(&cipher_suites, is_12_spoken, cx);
        let groups = groups::lower(&ecdh_curves, cx);
        let schemes = Schemes::lower(&signature_algorithms, cx);
        let policy = compliance::lower(&compliance_policies, cx);
        let (oldest, latest) = (oldest?.unwrap_or(self.oldest), latest?.unwrap_or(self.latest));
        if oldest > latest {
            let reason = "must not be later than tls_maximum_protocol_version";
            return Err(cx.at("tls_minimum_protocol_version", |cx| cx.invalid(reason)));
        }
        let set = Self {
            oldest,
            latest,
            suites_13: self.suites_13,
            suites_12: suites?.unwrap_or_else(|| self.suites_12.clone()),
            groups: groups?.unwrap_or_else(|| self.groups.clone()),
            schemes: schemes?.unwrap_or_else(|| self.schemes.clone()),
            digest,
        };
        Ok(policy?.map_or(set, |policy| Self::under(policy, digest)))
    }

    fn under(policy: &Compliance, digest: [u8; 32]) -> Self {
        Self {
            digest,
            oldest: policy.oldest,
            latest: Version::Tls13,
            suites_13: policy.suites_13,
            suites_12: Suites::of(policy.suites_12),
            groups: policy.groups.to_vec(),
            schemes: Schemes::both(policy.schemes),
        }
    }

    /// The same with each group alone, in their order.
    pub(super) fn groups_alone(&self) -> Vec<(NamedGroup, Self)> {
        let alone = |group: &Group| (group.name(), Self { groups: vec![*group], ..self.clone() });
        self.groups.iter().map(alone).collect()
    }

    fn range(&self) -> RangeInclusive<Version> {
        self.oldest..=self.latest
    }

    /// The latest version that is spoken.
    pub(super) fn latest(&self) -> Version {
        self.latest
    }

    /// Whether TLS 1.3 is spoken.
    pub(super) fn speaks_latest(&self) -> bool {
        self.range().contains(&Version::Tls13)
    }

    pub(super) fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let all = [Version::Tls12, Version::Tls13].into_iter();
        all.filter(|version| self.range().contains(version)).map(Version::rustls).collect()
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        self.provider_of(self.suites_12.all()).into()
    }

    /// The same for clients that would rather have ChaCha20, where that is as good to us.
    pub(super) fn chacha(&self) -> Option<Arc<CryptoProvider>> {
        let suites = self.suites_12.with_chacha_first().filter(|_| self.range().contains(&Version::Tls12));
        suites.map(|suites| self.provider_of(suites).into())
    }

    fn provider_of(&self, suites_12: Vec<SupportedCipherSuite>) -> CryptoProvider {
        // A suite that no version has is not offered.
        let suites_13 = self.suites_13.iter().copied().filter(|_| self.speaks_latest());
        let suites_12 = suites_12.into_iter().filter(|_| self.range().contains(&Version::Tls12));
        CryptoProvider {
            cipher_suites: suites_13.chain(suites_12).collect(),
            kx_groups: self.groups.clone(),
            ..aws_lc_rs::default_provider()
        }
    }
}

/// A version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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

/// A name of a list.
pub(super) struct Named<'a> {
    pub(super) name: &'a str,
    /// In which entry of the list it stands.
    pub(super) entry: usize,
    /// Which one it is of those that are known.
    pub(super) known: usize,
}

/// Reads a list whose entries Envoy joins with colons, name by name: `find` knows them, and none is there twice. Those that
/// name nothing are as if they were not there (`None`).
pub(super) fn lower_names<'a>(
    field: &'static str,
    entries: &'a [String],
    find: impl Fn(&str) -> Option<usize>,
    unknown: &str,
    cx: &mut LowerCx<'_>,
) -> Result<Option<Vec<Named<'a>>>, Refused> {
    if matches!(entries, [entry] if entry.is_empty()) || entries.is_empty() {
        return Ok(None);
    }
    let mut all: Vec<Named<'a>> = Vec::new();
    cx.each(field, entries.iter().enumerate(), |(entry, names), cx| {
        for name in names.split(':') {
            let known = find(name).ok_or_else(|| cx.invalid(format!("{name:?} {unknown}")))?;
            if all.iter().any(|before| before.known == known) {
                return Err(cx.invalid(format!("{name:?} is there twice")));
            }
            all.push(Named { name, entry, known });
        }
        Ok(())
    })?;
    Ok(Some(all))
}

pub(super) fn is_chacha(suite: CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
    )
}
