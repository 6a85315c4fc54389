//! Alerts that rustls does not send of its own accord.
//!
//! What a session may end with is its own affair there, and but for close_notify it is nothing that the owner of the
//! session says. So the session is ended for its keys, with which the one record is made that it would not make.

use rustls::crypto::cipher::{MessageEncrypter, OutboundChunks, OutboundPlainMessage};
use rustls::server::UnbufferedServerConnection;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite};

/// Level of an alert (RFC 8446 §6).
const FATAL: u8 = 2;
/// Bytes of an IV that TLS 1.2 has for a whole session of GCM; the others stand before each record (RFC 5288 §3).
const SALT: usize = 4;

/// The record that ends `session`, whose handshake is made and whose records have all been taken out of it.
pub(super) fn fatal(session: UnbufferedServerConnection, alert: AlertDescription) -> Result<Vec<u8>, Error> {
    let suite = session.negotiated_cipher_suite().ok_or(Error::HandshakeNotComplete)?;
    let (secrets, _) = session.dangerous_into_kernel_connection()?;
    let (sequence, secrets) = secrets.tx;
    let payload = [FATAL, u8::from(alert)];
    let message = OutboundPlainMessage {
        typ: ContentType::Alert,
        version: ProtocolVersion::TLSv1_2,
        payload: OutboundChunks::Single(&payload),
    };
    Ok(encrypter(suite, secrets)?.encrypt(message, sequence)?.encode())
}

fn encrypter(
    suite: SupportedCipherSuite,
    secrets: ConnectionTrafficSecrets,
) -> Result<Box<dyn MessageEncrypter>, Error> {
    use ConnectionTrafficSecrets as Secrets;
    let (key, iv, is_gcm) = match secrets {
        Secrets::Aes128Gcm { key, iv } | Secrets::Aes256Gcm { key, iv } => (key, iv, true),
        Secrets::Chacha20Poly1305 { key, iv } => (key, iv, false),
        _ => return Err(Error::General("a cipher of which nothing is known".into())),
    };
    Ok(match suite {
        SupportedCipherSuite::Tls13(suite) => suite.aead_alg.encrypter(key, iv),
        SupportedCipherSuite::Tls12(suite) => {
            let (fixed, explicit) = if is_gcm { iv.as_ref().split_at(SALT) } else { (iv.as_ref(), &[][..]) };
            suite.aead_alg.encrypter(key, fixed, explicit)
        }
    })
}
