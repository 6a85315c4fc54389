//! Envoy's message types, and the descriptors of all of them.
//!
//! In: the crate `envoy-types` and our own .proto files. Out: the Rust types under their proto package
//! (`nuncio_proto::envoy::config::route::v3::Route`), and [`descriptor`], which says by full name what a message looks
//! like. No logic lives here.
//!
//! The descriptors of all 522 files are 0.7 MB of read-only data. Nobody decodes them as a whole (linked for reflection
//! they take 18 MB and 42 ms): [`descriptor::file_of`] finds the one file that defines a type.

pub mod descriptor;
pub mod route_check;
pub mod xds_matcher;

pub use descriptor::{is_envoy_type, type_names};
pub use envoy_types::pb::{cel, envoy, google, io, opentelemetry, ratelimit, udpa, validate, xds};

/// `xds.type.v3.TypedStruct` and, with the same fields, the older `udpa.type.v1.TypedStruct`: a message as JSON.
#[derive(Clone, PartialEq, prost::Message)]
pub struct TypedStruct {
    /// Names the message, as in `google.protobuf.Any`.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message by the proto3 JSON mapping.
    #[prost(message, optional, tag = "2")]
    pub value: Option<google::protobuf::Struct>,
}

/// Of an encoded `envoy.config.cluster.v3.Cluster`: the names of its health checks, which the crate `envoy-types` does
/// not know of.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckNames {
    /// One for each check.
    #[prost(message, repeated, tag = "8")]
    pub checks: Vec<CheckName>,
}

/// Of `envoy.config.core.v3.HealthCheck`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CheckName {
    /// Empty where there is none.
    #[prost(string, tag = "27")]
    pub name: String,
}
