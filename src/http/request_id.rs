//! x-request-id: a random UUID for each request, as Envoy's default extension makes them.

use bytes::{Bytes, BytesMut};
use http::HeaderValue;
use nuncio_filter_api::Rng;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// A new version-4 UUID (RFC 9562 §5.4).
pub(crate) fn generate(rng: &Rng) -> HeaderValue {
    let mut bits = rng.u128().to_be_bytes();
    bits[6] = bits[6] & 0x0f | 0x40;
    bits[8] = bits[8] & 0x3f | 0x80;
    let mut out = BytesMut::with_capacity(36);
    for (i, byte) in bits.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.extend_from_slice(b"-");
        }
        out.extend_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    let out: Bytes = out.freeze();
    HeaderValue::from_maybe_shared(out).expect("hex digits and dashes are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_4_uuids() {
        let id = generate(&Rng::seeded(1));
        let id = id.to_str().unwrap();
        assert_eq!(id.len(), 36);
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]));
        assert_ne!(id, generate(&Rng::seeded(2)).to_str().unwrap());
    }
}
