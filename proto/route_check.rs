//! `nuncio/route_check.proto`: test files of `nuncio route-check`.

use crate::envoy::config::core::v3::HeaderValue;
use crate::envoy::config::route::v3::HeaderMatcher;
use crate::envoy::extensions::filters::http::set_metadata::v3::Metadata;
use crate::google::protobuf::Duration;

/// A test file.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Validation {
    /// At least one.
    #[prost(message, repeated, tag = "1")]
    pub tests: Vec<ValidationItem>,
}

impl prost::Name for Validation {
    const NAME: &'static str = "Validation";
    const PACKAGE: &'static str = "nuncio.route_check";
}

/// One test.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidationItem {
    /// Not empty, but not unique either.
    #[prost(string, tag = "1")]
    pub test_name: String,
    /// The request.
    #[prost(message, optional, tag = "2")]
    pub input: Option<ValidationInput>,
    /// What is expected of its route.
    #[prost(message, optional, tag = "3")]
    pub validate: Option<ValidationAssert>,
}

/// A request.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidationInput {
    /// `:authority`
    #[prost(string, tag = "1")]
    pub authority: String,
    /// `:path`
    #[prost(string, tag = "2")]
    pub path: String,
    /// `:method`
    #[prost(string, tag = "3")]
    pub method: String,
    /// Chooses among weighted clusters and decides runtime fractions.
    #[prost(uint64, tag = "4")]
    pub random_value: u64,
    /// It came over TLS.
    #[prost(bool, tag = "5")]
    pub ssl: bool,
    /// It has x-envoy-internal.
    #[prost(bool, tag = "6")]
    pub internal: bool,
    /// The runtime key that is switched on.
    #[prost(string, tag = "7")]
    pub runtime: String,
    /// Further headers.
    #[prost(message, repeated, tag = "8")]
    pub additional_request_headers: Vec<HeaderValue>,
    /// Headers of the upstream's answer.
    #[prost(message, repeated, tag = "9")]
    pub additional_response_headers: Vec<HeaderValue>,
    /// What filters noted before the route was chosen.
    #[prost(message, repeated, tag = "10")]
    pub dynamic_metadata: Vec<Metadata>,
}

/// What is expected; an empty string: nothing.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ValidationAssert {
    /// Name of the cluster.
    #[prost(message, optional, tag = "1")]
    pub cluster_name: Option<String>,
    /// Name of the virtual cluster.
    #[prost(message, optional, tag = "2")]
    pub virtual_cluster_name: Option<String>,
    /// Name of the virtual host.
    #[prost(message, optional, tag = "3")]
    pub virtual_host_name: Option<String>,
    /// Host that goes upstream.
    #[prost(message, optional, tag = "4")]
    pub host_rewrite: Option<String>,
    /// Path that goes upstream.
    #[prost(message, optional, tag = "5")]
    pub path_rewrite: Option<String>,
    /// URL of a redirect.
    #[prost(message, optional, tag = "6")]
    pub path_redirect: Option<String>,
    /// Status of a redirect.
    #[prost(message, optional, tag = "7")]
    pub code_redirect: Option<u32>,
    /// Time-out of the route.
    #[prost(message, optional, tag = "8")]
    pub timeout: Option<Duration>,
    /// Deprecated: values of headers that go upstream.
    #[prost(message, repeated, tag = "9")]
    pub request_header_fields: Vec<HeaderValue>,
    /// Deprecated: values of headers that go downstream.
    #[prost(message, repeated, tag = "10")]
    pub response_header_fields: Vec<HeaderValue>,
    /// Headers that go upstream.
    #[prost(message, repeated, tag = "11")]
    pub request_header_matches: Vec<HeaderMatcher>,
    /// Headers that go downstream.
    #[prost(message, repeated, tag = "12")]
    pub response_header_matches: Vec<HeaderMatcher>,
}
