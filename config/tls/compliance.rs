//! `compliance_policies`: what BoringSSL speaks under a policy, whatever else is configured.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3::tls_parameters::CompliancePolicy;
use rustls::crypto::aws_lc_rs::{cipher_suite as suite, kx_group as group};
use rustls::{SignatureScheme as Scheme, SupportedCipherSuite};

use super::groups::Group;
use super::parameters::Version;

/// What is spoken under a policy; TLS 1.3 always is.
#[derive(Debug)]
pub(super) struct Compliance {
    pub(super) oldest: Version,
    pub(super) suites_13: &'static [SupportedCipherSuite],
    /// A list as OpenSSL writes them.
    pub(super) suites_12: &'static str,
    pub(super) groups: &'static [Group],
    pub(super) schemes: &'static [Scheme],
}

/// By SP 800-52r2.
static FIPS_202205: Compliance = Compliance {
    oldest: Version::Tls12,
    suites_13: &[suite::TLS13_AES_128_GCM_SHA256, suite::TLS13_AES_256_GCM_SHA384],
    suites_12: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384",
    groups: &[group::SECP256R1, group::SECP384R1],
    schemes: &[
        Scheme::RSA_PKCS1_SHA256,
        Scheme::RSA_PKCS1_SHA384,
        Scheme::RSA_PKCS1_SHA512,
        Scheme::ECDSA_NISTP256_SHA256,
        Scheme::ECDSA_NISTP384_SHA384,
        Scheme::RSA_PSS_SHA256,
        Scheme::RSA_PSS_SHA384,
        Scheme::RSA_PSS_SHA512,
    ],
};
/// By RFC 9151. BoringSSL would speak RSA key exchange besides, which is broken.
static CNSA1_202603: Compliance = Compliance {
    oldest: Version::Tls12,
    suites_13: &[suite::TLS13_AES_256_GCM_SHA384],
    suites_12: "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384",
    groups: &[group::MLKEM1024, group::SECP384R1],
    schemes: CNSA_SCHEMES,
};
/// By draft-becker-cnsa2-tls-profile.
static CNSA2_202603: Compliance = Compliance {
    oldest: Version::Tls13,
    suites_13: &[suite::TLS13_AES_256_GCM_SHA384],
    suites_12: "",
    groups: &[group::MLKEM1024],
    schemes: CNSA_SCHEMES,
};
const CNSA_SCHEMES: &[Scheme] = &[Scheme::ECDSA_NISTP384_SHA384, Scheme::RSA_PSS_SHA384, Scheme::RSA_PKCS1_SHA384];

/// Lowers the field, of which the last policy is in force.
pub(super) fn lower(policies: &[i32], cx: &mut LowerCx<'_>) -> Result<Option<&'static Compliance>, Refused> {
    let all = cx.each("compliance_policies", policies, |policy, cx| match CompliancePolicy::try_from(*policy) {
        Ok(CompliancePolicy::Fips202205) => Ok(&FIPS_202205),
        Ok(CompliancePolicy::Cnsa1202603) => Ok(&CNSA1_202603),
        Ok(CompliancePolicy::Cnsa2202603) => Ok(&CNSA2_202603),
        Err(_) => Err(cx.invalid(format!("there is no policy of the number {policy}"))),
    });
    Ok(all?.pop())
}
