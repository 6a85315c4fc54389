//! Wire format, field by field.

use super::schema::{Kind, Label, Message};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use std::borrow::Cow;

/// The bytes are no protobuf message.
#[derive(Debug)]
pub(super) struct Malformed;

/// A value as the wire holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(Cow<'a, [u8]>),
}

/// One field of an encoded message.
pub(super) struct WireField<'a> {
    pub(super) number: u32,
    /// Index of the field in its message and its value, if the message has it.
    pub(super) known: Option<(usize, Raw<'a>)>,
    /// All its bytes.
    pub(super) whole: &'a [u8],
}

/// The next field of a `message` in `rest`.
pub(super) fn next_field<'a>(message: &Message, rest: &mut &'a [u8]) -> Result<Option<WireField<'a>>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let start = *rest;
    let (number, wire) = decode_key(rest).map_err(|_| Malformed)?;
    let known = match message.field_numbered(number) {
        Some(index) if fits(message, index, wire) => Some((index, Raw::read(wire, rest)?)),
        // Protobuf's own decoders pass over it as over an unknown field; prost refuses the message.
        Some(_) => return Err(Malformed),
        None => {
            skip_field(wire, number, rest, DecodeContext::default()).map_err(|_| Malformed)?;
            None
        }
    };
    Ok(Some(WireField { number, known, whole: &start[..start.len() - rest.len()] }))
}

/// Whether the field may come in this wire type.
fn fits(message: &Message, index: usize, wire: WireType) -> bool {
    let field = &message.fields[index];
    let packed = field.label == Label::Repeated && wire == WireType::LengthDelimited;
    (packed && field.message().is_none()) || wire == wire_type(field.kind)
}

pub(super) fn wire_type(kind: Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

impl<'a> Raw<'a> {
    pub(super) fn read(wire: WireType, rest: &mut &'a [u8]) -> Result<Self, Malformed> {
        fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], Malformed> {
            let (head, tail) = rest.split_at_checked(len).ok_or(Malformed)?;
            *rest = tail;
            Ok(head)
        }
        Ok(match wire {
            WireType::Varint => Self::Varint(decode_varint(rest).map_err(|_| Malformed)?),
            WireType::ThirtyTwoBit => {
                Self::Fixed32(u32::from_le_bytes(take(rest, 4)?.try_into().expect("four bytes were taken")))
            }
            WireType::SixtyFourBit => {
                Self::Fixed64(u64::from_le_bytes(take(rest, 8)?.try_into().expect("eight bytes were taken")))
            }
            _ => {
                let len = decode_varint(rest).map_err(|_| Malformed)?;
                Self::Bytes(Cow::Borrowed(take(rest, usize::try_from(len).unwrap_or(usize::MAX))?))
            }
        })
    }

    pub(in crate::load) fn default_of(kind: Kind) -> Self {
        match wire_type(kind) {
            WireType::ThirtyTwoBit => Self::Fixed32(0),
            WireType::SixtyFourBit => Self::Fixed64(0),
            WireType::LengthDelimited => Self::Bytes(Cow::Borrowed(&[])),
            _ => Self::Varint(0),
        }
    }
}

/// The full name of the message that a type URL names.
pub(crate) fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

pub(super) const VARINT: u8 = 0;
pub(super) const FIXED64: u8 = 1;
pub(super) const LENGTH: u8 = 2;
pub(super) const FIXED32: u8 = 5;

pub(super) fn key(number: u32, wire_type: u8, out: &mut Vec<u8>) {
    prost::encoding::encode_varint(u64::from(number) << 3 | u64::from(wire_type), out);
}

pub(super) fn bytes(number: u32, value: &[u8], out: &mut Vec<u8>) {
    key(number, LENGTH, out);
    bare_bytes(value, out);
}

pub(super) fn bare_bytes(value: &[u8], out: &mut Vec<u8>) {
    prost::encoding::encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

pub(super) fn varint(number: u32, value: u64, out: &mut Vec<u8>) {
    key(number, VARINT, out);
    prost::encoding::encode_varint(value, out);
}

/// Fills in the length of what was written after the one byte kept for it at `start`. Most messages are shorter than
/// 128 bytes, so the byte suffices; else what was written moves up.
pub(super) fn fill_length(start: usize, out: &mut Vec<u8>) {
    let len = out.len() - start - 1;
    if len < 0x80 {
        out[start] = len as u8;
        return;
    }
    let mut varint = Vec::with_capacity(5);
    prost::encoding::encode_varint(len as u64, &mut varint);
    out.splice(start..=start, varint);
}
