use bytes::Bytes;
use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::health_check::{Payload as Proto, payload};

/// Pieces that an answer must have, one after the other and with anything between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payloads(Box<[Bytes]>);

/// Lowers one payload: hexadecimal text, or bytes.
pub(super) fn lower(proto: Proto, cx: &mut LowerCx<'_>) -> Result<Bytes, Refused> {
    match proto.payload {
        Some(payload::Payload::Text(text)) => cx.at("text", |cx| {
            if text.is_empty() {
                return Err(cx.invalid("must not be empty"));
            }
            unhex(&text).map(Bytes::from).ok_or_else(|| cx.invalid(format!("invalid hex string '{text}'")))
        }),
        Some(payload::Payload::Binary(binary)) => Ok(binary.into()),
        None => Err(cx.invalid("needs text or binary")),
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

// === impl Payloads ===

impl Payloads {
    pub(super) fn lower(protos: Vec<Proto>, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        cx.each("receive", protos, lower).map(|pieces| Self(pieces.into()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `answer` has them all, in order.
    pub fn are_in(&self, answer: &[u8]) -> bool {
        let mut rest = answer;
        self.0.iter().all(|piece| match memchr::memmem::find(rest, piece) {
            Some(at) => {
                rest = &rest[at + piece.len()..];
                true
            }
            None => false,
        })
    }
}
