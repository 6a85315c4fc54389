//! x-request-id: a random UUID for each request, as Envoy's default extension makes them.

use bytes::Bytes;
use http::HeaderValue;
use nuncio_config::protocol::any_as;
use nuncio_filter_api::{LowerCx, Refused, Rng};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use nuncio_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Lowers `request_id_extension`, of which the default is the one there is.
pub(crate) fn lower(extension: RequestIdExtension, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let RequestIdExtension { typed_config } = extension;
    cx.opt("typed_config", typed_config, |any, cx| {
        // Envoy: both speak of what is done where a request is traced, which none is.
        let UuidRequestIdConfig { pack_trace_reason: _, use_request_id_for_trace_sampling: _ } = any_as(&any, cx)?;
        Ok(())
    })?;
    Ok(())
}

/// A new version-4 UUID (RFC 9562 §5.4).
pub fn generate(rng: &Rng) -> HeaderValue {
    let mut bits = rng.u128().to_be_bytes();
    bits[6] = bits[6] & 0x0f | 0x40;
    bits[8] = bits[8] & 0x3f | 0x80;
    let mut text = [b'-'; 36];
    let groups = [(0, 0..4), (9, 4..6), (14, 6..8), (19, 8..10), (24, 10..16)];
    for (start, group) in groups {
        for (digits, byte) in text[start..].chunks_exact_mut(2).zip(&bits[group]) {
            digits.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    // SAFETY: hex digits and dashes are visible ASCII.
    unsafe { HeaderValue::from_maybe_shared_unchecked(Bytes::copy_from_slice(&text)) }
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
