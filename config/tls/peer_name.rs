//! Names that rules outside of TLS ask the certificate of a peer for.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::extensions::transport_sockets::tls::v3 as pb;
use nuncio_telemetry::CertificateInfo;
use rustls::pki_types::CertificateDer;

use super::san::{Names, Parsed, SanMatcher};

/// A name that the certificate of a peer may have.
#[derive(Debug)]
pub(crate) struct PeerName(SanMatcher);

impl PeerName {
    pub(crate) fn lower(proto: pb::SubjectAltNameMatcher, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        SanMatcher::lower(proto, cx).map(Self)
    }

    /// Whether it is one of the names of `peer`. The certificate is read again: of names that are of no common type the
    /// record has not all that rules may ask for.
    pub(crate) fn is_of(&self, peer: &CertificateInfo) -> bool {
        let der = CertificateDer::from(&*peer.der);
        Parsed::new(&der).is_ok_and(|Parsed(parsed)| self.0.matches(&Names::of(&parsed)))
    }
}
