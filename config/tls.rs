//! TLS of both sides: `DownstreamTlsContext` and `UpstreamTlsContext`.
//!
//! In: the messages. Out: configurations of rustls, ready for handshakes. Certificates, keys and lists are read here and
//! checked against each other, so that a handshake fails by the peer's doing alone.

mod certificate;
mod downstream;
mod info;
mod live;
mod parameters;
mod peer;
mod references;
mod san;
#[cfg(test)]
mod tests;
mod upstream;
mod validation;

pub use downstream::{DownstreamTls, ServerSide, Validated};
pub use info::certificate_info;
pub use upstream::{Alpn, ClientSide, UpstreamTls, Wishes};
pub use validation::Unbelieved;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;

/// Whether a certificate from discovery can be used.
pub(crate) fn check_certificate(proto: pb::TlsCertificate, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    certificate::lower(proto, &rustls::crypto::aws_lc_rs::default_provider(), cx).map(drop)
}

/// Whether a validation context from discovery can be used, as far as it can be told before it is completed.
pub(crate) fn check_validation(proto: pb::CertificateValidationContext, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    validation::Validation::check_part(proto, cx)
}
