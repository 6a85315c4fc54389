//! Writing the wire format.

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
