//! `xds/type/matcher/v3/{cel,domain,http_inputs,ip}.proto`: custom matchers and inputs of matcher trees.

use crate::xds::core::v3::CidrRange;
use crate::xds::r#type::matcher::v3::matcher::OnMatch;
use crate::xds::r#type::v3::CelExpression;

const PACKAGE: &str = "xds.type.matcher.v3";

/// A custom matcher of trees: the longest range that an address is in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpMatcher {
    /// In the order in which ranges of one length are tried.
    #[prost(message, repeated, tag = "1")]
    pub range_matchers: Vec<IpRangeMatcher>,
}

impl prost::Name for IpMatcher {
    const NAME: &'static str = "IPMatcher";
    const PACKAGE: &'static str = PACKAGE;
}

/// Ranges, and what becomes of an address in one of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct IpRangeMatcher {
    /// At least one.
    #[prost(message, repeated, tag = "1")]
    pub ranges: Vec<CidrRange>,
    /// What becomes of an address there.
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
    /// Not to be fallen back to from a longer range whose own matcher finds nothing.
    #[prost(bool, tag = "3")]
    pub exclusive: bool,
}

/// A custom matcher of trees: the longest domain, perhaps with a wildcard, that a name is in.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ServerNameMatcher {
    /// In no particular order.
    #[prost(message, repeated, tag = "1")]
    pub domain_matchers: Vec<DomainMatcher>,
}

impl prost::Name for ServerNameMatcher {
    const NAME: &'static str = "ServerNameMatcher";
    const PACKAGE: &'static str = PACKAGE;
}

/// Domains, and what becomes of a name in one of them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct DomainMatcher {
    /// At least one: `www.example.com`, `*.com` or `*`.
    #[prost(string, repeated, tag = "1")]
    pub domains: Vec<String>,
    /// What becomes of a name there.
    #[prost(message, optional, tag = "2")]
    pub on_match: Option<OnMatch>,
}

/// Matches if its expression is true.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CelMatcher {
    /// Required.
    #[prost(message, optional, tag = "1")]
    pub expr_match: Option<CelExpression>,
    /// For whoever reads the configuration.
    #[prost(string, tag = "2")]
    pub description: String,
}

impl prost::Name for CelMatcher {
    const NAME: &'static str = "CelMatcher";
    const PACKAGE: &'static str = PACKAGE;
}

/// All attributes of a request, for expressions.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct HttpAttributesCelMatchInput {}

impl prost::Name for HttpAttributesCelMatchInput {
    const NAME: &'static str = "HttpAttributesCelMatchInput";
    const PACKAGE: &'static str = PACKAGE;
}
