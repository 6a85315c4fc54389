//! x-request-id: a random UUID for each request, as Envoy's default extension makes them.

use bytes::Bytes;
use http::HeaderValue;
use nuncio_config::protocol::any_as;
use nuncio_filter_api::{LowerCx, Refused, Rng};
use nuncio_proto::envoy::extensions::filters::network::http_connection_manager::v3::RequestIdExtension;
use nuncio_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Where an id tells why its request is traced: the digit that is the version of a UUID.
const REASON_AT: usize = 14;
/// Characters of a UUID. Envoy takes all that is so long for one.
const LENGTH: usize = 36;

/// What ids have to do with traces; all by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceOptions {
    /// `pack_trace_reason`: they tell why.
    pub(crate) pack: bool,
    /// `use_request_id_for_trace_sampling`: they decide which requests are chosen. Envoy: where not, all are.
    pub(crate) decide: bool,
}

/// Why a request is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TraceReason {
    /// It is not.
    None,
    /// It is one of those chosen at random.
    Sampled,
    /// Somebody inside asked for it.
    Forced,
    /// The client asked for it.
    Client,
}

/// Lowers `request_id_extension`, of which the default is the one there is.
pub(crate) fn lower(extension: RequestIdExtension, cx: &mut LowerCx<'_>) -> Result<TraceOptions, Refused> {
    let RequestIdExtension { typed_config } = extension;
    let options = cx.opt("typed_config", typed_config, |any, cx| {
        let UuidRequestIdConfig { pack_trace_reason, use_request_id_for_trace_sampling } = any_as(&any, cx)?;
        Ok(TraceOptions {
            pack: pack_trace_reason.is_none_or(|b| b.value),
            decide: use_request_id_for_trace_sampling.is_none_or(|b| b.value),
        })
    });
    Ok(options?.unwrap_or_default())
}

impl Default for TraceOptions {
    fn default() -> Self {
        Self { pack: true, decide: true }
    }
}

impl TraceReason {
    /// What `id` tells.
    pub(crate) fn of(id: &HeaderValue) -> Self {
        match id.as_bytes().get(REASON_AT) {
            Some(b'9') if id.len() == LENGTH => Self::Sampled,
            Some(b'a') if id.len() == LENGTH => Self::Forced,
            Some(b'b') if id.len() == LENGTH => Self::Client,
            _ => Self::None,
        }
    }

    /// The id as it tells this; one that is no UUID stays as it is.
    pub(crate) fn mark(self, id: &HeaderValue) -> HeaderValue {
        let mut marked = id.as_bytes().to_vec();
        if marked.len() == LENGTH {
            marked[REASON_AT] = match self {
                Self::None => b'4',
                Self::Sampled => b'9',
                Self::Forced => b'a',
                Self::Client => b'b',
            };
        }
        HeaderValue::from_maybe_shared(Bytes::from(marked)).unwrap_or_else(|_| id.clone())
    }
}

/// The number that an id stands for where a share of all is chosen: its first eight digits.
pub(crate) fn number(id: &HeaderValue) -> Option<u64> {
    let digits = id.as_bytes().get(..8).filter(|_| id.len() == LENGTH)?;
    let is_hex = digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| is_hex)?;
    u64::from_str_radix(text, 16).ok()
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

    #[test]
    fn an_id_tells_why_its_request_is_traced() {
        let id = HeaderValue::from_static("0000000a-1234-4234-8234-123456789abc");
        assert_eq!((number(&id), TraceReason::of(&id)), (Some(10), TraceReason::None));
        for (reason, digit) in [(TraceReason::Sampled, "9"), (TraceReason::Forced, "a"), (TraceReason::Client, "b")] {
            let marked = reason.mark(&id);
            assert_eq!(marked, id.to_str().unwrap().replacen("-4", &format!("-{digit}"), 1).as_str());
            assert_eq!((TraceReason::of(&marked), TraceReason::None.mark(&marked)), (reason, id.clone()));
        }
    }

    #[test]
    fn what_is_no_uuid_tells_nothing() {
        for id in ["", "mine", "0000000a-1234-9234-8234-123456789ab", "0000000a-1234-9234-8234-123456789abcd"] {
            let id = HeaderValue::from_static(id);
            assert_eq!((number(&id), TraceReason::of(&id)), (None, TraceReason::None));
            assert_eq!(TraceReason::Client.mark(&id), id);
        }
        assert_eq!(number(&HeaderValue::from_static("+000000a-1234-9234-8234-123456789abc")), None);
    }
}
