//! The group P-521 (`secp521r1`), which aws-lc has and rustls does not offer.

use aws_lc_rs::agreement::{ECDH_P521, EphemeralPrivateKey, PublicKey, UnparsedPublicKey, agree_ephemeral};
use aws_lc_rs::rand::SystemRandom;
use rustls::crypto::{ActiveKeyExchange, GetRandomFailed, SharedSecret, SupportedKxGroup};
use rustls::{Error, NamedGroup, PeerMisbehaved};

/// Begins exchanges.
#[derive(Debug)]
pub(super) struct P521;

/// One that has begun.
struct Exchange {
    own: EphemeralPrivateKey,
    public: PublicKey,
}

/// First byte of a point of which both coordinates follow: TLS has no others (RFC 8446 §4.2.8.2).
const UNCOMPRESSED: u8 = 4;

impl SupportedKxGroup for P521 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let own = EphemeralPrivateKey::generate(&ECDH_P521, &SystemRandom::new()).map_err(|_| GetRandomFailed)?;
        let public = own.compute_public_key().map_err(|_| GetRandomFailed)?;
        Ok(Box::new(Exchange { own, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let invalid = || Error::from(PeerMisbehaved::InvalidKeyShare);
        if peer.first() != Some(&UNCOMPRESSED) {
            return Err(invalid());
        }
        let peer = UnparsedPublicKey::new(&ECDH_P521, peer);
        agree_ephemeral(self.own, peer, invalid(), |secret| Ok(SharedSecret::from(secret)))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_ref()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::secp521r1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_find_the_same_secret() {
        let (one, other) = (P521.start().unwrap(), P521.start().unwrap());
        let (of_one, of_other) = (one.pub_key().to_vec(), other.pub_key().to_vec());
        assert_eq!((of_one.len(), of_one[0]), (133, UNCOMPRESSED));
        let secrets = (one.complete(&of_other).unwrap(), other.complete(&of_one).unwrap());
        assert_eq!(secrets.0.secret_bytes(), secrets.1.secret_bytes());
        assert_eq!(secrets.0.secret_bytes().len(), 66);
    }

    #[test]
    fn what_is_no_point_is_refused() {
        let point = P521.start().unwrap().pub_key().to_vec();
        let compressed = [&[2 + (point[132] & 1)], &point[1..67]].concat();
        let (mut moved, mut zeros) = (point.clone(), vec![0; 133]);
        moved[70] ^= 1;
        zeros[0] = UNCOMPRESSED;
        for peer in [&compressed[..], &moved, &zeros, &point[..132], &[]] {
            assert!(P521.start().unwrap().complete(peer).is_err(), "{} bytes", peer.len());
        }
    }
}
