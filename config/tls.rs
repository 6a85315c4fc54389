//! TLS of both sides: `DownstreamTlsContext` and `UpstreamTlsContext`.
//!
//! In: the messages. Out: configurations of rustls, ready for handshakes. Certificates, keys and lists are read here and
//! checked against each other, so that a handshake fails by the peer's doing alone.

mod certificate;
mod downstream;
mod info;
mod parameters;
mod peer;
mod san;
#[cfg(test)]
mod tests;
mod upstream;
mod validation;

pub use downstream::{DownstreamTls, Validated};
pub use info::certificate_info;
pub use upstream::{Alpn, UpstreamTls, Wishes};
pub use validation::Unbelieved;
