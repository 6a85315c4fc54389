//! TLS of both sides: `DownstreamTlsContext` and `UpstreamTlsContext`.
//!
//! In: the messages. Out: configurations of rustls, ready for handshakes. Certificates, keys and lists are read here and
//! checked against each other, so that a handshake fails by the peer's doing alone.

mod alert;
mod authorities;
mod by_group;
mod by_name;
mod certificate;
mod chain;
mod compliance;
mod constraints;
mod context;
mod der;
mod dn;
mod downstream;
mod flaw;
#[cfg(test)]
mod forged;
mod groups;
mod in_use;
mod info;
mod key_log;
mod link;
mod live;
mod made;
mod ocsp;
mod older;
mod on_demand;
mod p521;
mod parameters;
mod password;
mod peer;
mod peer_name;
mod pem;
mod policies;
mod printed;
mod references;
mod revocation;
mod san;
mod schemes;
mod server_configs;
mod server_side;
mod sessions;
mod signature;
mod spiffe;
mod suites;
#[cfg(test)]
mod tests;
mod tickets;
mod upstream;
mod validation;
mod witness;
mod workload;

pub use alert::{ALERTS, alert_name};
pub use downstream::DownstreamTls;
pub use flaw::{Flaw, FlawAt};
pub use in_use::{
    CertificateInUse, ContextInUse, contexts_in_use, days_until, days_until_first_end,
    seconds_until_first_response_ends,
};
pub use info::certificate_info;
pub use made::Made;
pub use ocsp::Staple;
pub use on_demand::subscribe_on_demand;
pub(crate) use peer_name::PeerName;
pub use server_side::{Hello, ServerSide, Validated};
pub use upstream::{Alpn, ClientSide, UpstreamTls, Wishes};
pub use validation::Unbelieved;
pub use witness::Witness;
pub use workload::for_workload;

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use self::parameters::{Parameters, Version};

/// Whether a certificate from discovery can be used.
pub(crate) fn check_certificate(proto: pb::TlsCertificate, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    // Parameters of its own are held against those of its context where it is used.
    certificate::lower(proto, &Parameters::default(Version::Tls13), cx).map(drop)
}

/// Whether a validation context from discovery can be used, as far as it can be told before it is completed.
pub(crate) fn check_validation(proto: pb::CertificateValidationContext, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    validation::Validation::check_part(proto, cx)
}
