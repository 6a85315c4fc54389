//! How rustls asks whether a peer is to be believed.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::schemes::Schemes;
use super::signature;
use super::validation::{Peer, Validation, Wanted};
use super::witness::Witness;

/// Verifies the certificates of clients.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) validation: Arc<Validation>,
    pub(super) schemes: Schemes,
    pub(super) hints: Vec<DistinguishedName>,
    pub(super) is_required: bool,
}

/// Verifies the certificates of servers.
#[derive(Debug)]
pub(super) struct Servers {
    validation: Arc<Validation>,
    schemes: Schemes,
    name: NameCheck,
}

/// Which name a server's certificate has to have beside those that are configured.
#[derive(Debug, Clone)]
pub(super) enum NameCheck {
    None,
    /// That by which the handshake calls the server.
    AsCalled,
    /// The same, which the request has chosen.
    AsCalledByRequest,
    /// The request has chosen others, one of which it has to be.
    Fixed(Box<[Box<str>]>),
}

/// What a server is called whose name is not sent: rustls has it called something.
pub(super) fn nameless() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

fn is_nameless(name: &ServerName<'_>) -> bool {
    *name == nameless()
}

// === impl Servers ===

impl Servers {
    pub(super) fn new(validation: &Arc<Validation>, schemes: &Schemes, name: NameCheck) -> Self {
        Self { validation: validation.clone(), schemes: schemes.clone(), name }
    }
}

/// What both sides ask of a handshake itself.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Witness::of_signature(dss.scheme);
            signature::verify_tls12(message, cert, dss, &self.schemes)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Witness::of_signature(dss.scheme);
            signature::verify_tls13(message, cert, dss, &self.schemes)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.schemes.accepted()
        }
    };
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn client_auth_mandatory(&self) -> bool {
        self.is_required
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let checked = self.validation.check(end_entity, intermediates, now, Peer::Client, None);
        match checked {
            Err(error) if !self.validation.accepts_untrusted() => {
                Witness::of_refused(end_entity, intermediates);
                Err(error)
            }
            _ => Ok(ClientCertVerified::assertion()),
        }
    }

    signatures!();
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Witness::of_certificate();
        let called = server_name.to_str();
        let asked;
        let wanted = match &self.name {
            NameCheck::None => None,
            // Envoy: who is called nothing may be called anything.
            NameCheck::AsCalled if is_nameless(server_name) => None,
            NameCheck::AsCalled => Some(Wanted::AsCalled(&called)),
            NameCheck::AsCalledByRequest => {
                asked = [Box::from(&*called)];
                Some(Wanted::ByRequest(&asked))
            }
            NameCheck::Fixed(names) => Some(Wanted::ByRequest(names)),
        };
        let checked = self.validation.check(end_entity, intermediates, now, Peer::Server, wanted);
        match checked {
            Ok(()) => {}
            Err(error) if self.validation.accepts_untrusted() => Witness::of_unbelieved(error),
            Err(error) => {
                Witness::of_refused(end_entity, intermediates);
                return Err(error);
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
