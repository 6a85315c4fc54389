//! The fields of one encoded message, by the rules that decoders follow: of a field set twice the last value counts,
//! messages set twice are merged, and setting a member of a oneof clears the others.

use crate::load::rules::{Nanos, Value};
use crate::load::schema::{Field, Kind, Label, Message};
use crate::load::wire::{Malformed, Raw, next_field, wire_type};
use prost::encoding::{WireType, decode_key};
use std::borrow::Cow;

pub(super) struct Entry<'a> {
    /// Index into the fields of the message, or `CLEARED`.
    pub(super) field: u16,
    pub(super) raw: Raw<'a>,
}

/// The entry was overruled by a later member of its oneof.
const CLEARED: u16 = u16::MAX;

pub(in crate::load) struct Fields<'a> {
    entries: Vec<Entry<'a>>,
    /// For each field of the message one more than the place of its last entry, or zero.
    last: Vec<u32>,
    /// Numbers of fields that the message lacks.
    pub(super) unknown: Vec<u32>,
}

impl<'a> Fields<'a> {
    pub(in crate::load) fn parse(message: &Message, bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Self { entries: Vec::new(), last: vec![0; message.fields.len()], unknown: Vec::new() };
        let mut oneofs: Vec<Option<u16>> = vec![None; message.oneofs.len()];
        let mut rest = bytes;
        while let Some(field) = next_field(message, &mut rest)? {
            let Some((index, raw)) = field.known else {
                fields.unknown.push(field.number);
                continue;
            };
            let field = &message.fields[index];
            if let Some(oneof) = field.oneof {
                let before = oneofs[usize::from(oneof)].replace(index as u16);
                if let Some(before) = before.filter(|before| usize::from(*before) != index) {
                    fields.clear(before);
                }
            }
            fields.add(index, field, raw);
        }
        Ok(fields)
    }

    fn add(&mut self, index: usize, field: &Field, raw: Raw<'a>) {
        if field.label == Label::Single && self.last[index] > 0 {
            let earlier = &mut self.entries[self.last[index] as usize - 1].raw;
            match (earlier, raw) {
                // Encoded messages merge by concatenation.
                (Raw::Bytes(earlier), Raw::Bytes(later)) if field.message().is_some() => {
                    earlier.to_mut().extend_from_slice(&later);
                }
                (earlier, raw) => *earlier = raw,
            }
            return;
        }
        self.entries.push(Entry { field: index as u16, raw });
        self.last[index] = self.entries.len() as u32;
    }

    fn clear(&mut self, index: u16) {
        let place = std::mem::take(&mut self.last[usize::from(index)]);
        if place > 0 {
            self.entries[place as usize - 1].field = CLEARED;
        }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry<'a>> {
        self.entries.iter().filter(|e| e.field != CLEARED)
    }

    pub(in crate::load) fn single(&self, index: u16) -> Option<&Raw<'a>> {
        let place = *self.last.get(usize::from(index))?;
        (place > 0).then(|| &self.entries[place as usize - 1].raw)
    }

    /// Every element of a repeated field, packed ones too.
    pub(in crate::load) fn repeated(&self, index: u16, kind: Kind) -> Vec<Raw<'a>> {
        let mut values = Vec::new();
        for entry in self.entries.iter().filter(|e| e.field == index) {
            match &entry.raw {
                Raw::Bytes(packed) if !is_length_delimited(kind) => unpack(kind, packed, &mut values),
                raw => values.push(raw.clone()),
            }
        }
        values
    }

    pub(super) fn has_oneof(&self, message: &Message, oneof: u16) -> bool {
        let mut members = message.fields.iter().zip(&self.last).filter(|(field, _)| field.oneof == Some(oneof));
        members.any(|(_, last)| *last > 0)
    }

    /// Of a Duration or Timestamp.
    pub(in crate::load) fn nanos(&self) -> Nanos {
        let varint = |index| match self.single(index) {
            Some(Raw::Varint(value)) => *value,
            _ => 0,
        };
        Nanos::of(varint(0) as i64, varint(1) as i32)
    }

    /// The key of a map's entry, for a path.
    pub(in crate::load) fn key_text(&self, entry: &Message) -> String {
        let Some(raw) = self.single(0) else { return String::new() };
        match raw.value(entry.fields[0].kind) {
            Some(Value::Text(text)) => text.to_owned(),
            Some(Value::Int(number)) => number.to_string(),
            Some(Value::Bool(value)) => value.to_string(),
            _ => String::new(),
        }
    }
}

impl<'a> Raw<'a> {
    /// As rules see it; nothing for messages and for text that is no UTF-8.
    pub(in crate::load) fn value(&self, kind: Kind) -> Option<Value<'_>> {
        Some(match (kind, self) {
            (Kind::Double, Self::Fixed64(bits)) => Value::Float(f64::from_bits(*bits)),
            (Kind::Float, Self::Fixed32(bits)) => Value::Float(f64::from(f32::from_bits(*bits))),
            (Kind::Bool, Self::Varint(v)) => Value::Bool(*v != 0),
            (Kind::Int32 | Kind::Enum(_), Self::Varint(v)) => Value::Int(i128::from(*v as i32)),
            (Kind::Int64, Self::Varint(v)) => Value::Int(i128::from(*v as i64)),
            (Kind::Uint32, Self::Varint(v)) => Value::Int(i128::from(*v as u32)),
            (Kind::Uint64, Self::Varint(v)) => Value::Int(i128::from(*v)),
            (Kind::Sint32 | Kind::Sint64, Self::Varint(v)) => {
                Value::Int(i128::from((*v >> 1) as i64 ^ -((*v & 1) as i64)))
            }
            (Kind::Fixed32, Self::Fixed32(v)) => Value::Int(i128::from(*v)),
            (Kind::Sfixed32, Self::Fixed32(v)) => Value::Int(i128::from(*v as i32)),
            (Kind::Fixed64, Self::Fixed64(v)) => Value::Int(i128::from(*v)),
            (Kind::Sfixed64, Self::Fixed64(v)) => Value::Int(i128::from(*v as i64)),
            (Kind::String, Self::Bytes(bytes)) => Value::Text(std::str::from_utf8(bytes).ok()?),
            (Kind::Bytes, Self::Bytes(bytes)) => Value::Bytes(bytes),
            _ => return None,
        })
    }

    /// What tells it from other values of its field.
    pub(super) fn key(&self) -> (u64, &[u8]) {
        match self {
            Self::Varint(v) | Self::Fixed64(v) => (*v, &[]),
            Self::Fixed32(v) => (u64::from(*v), &[]),
            Self::Bytes(bytes) => (0, bytes),
        }
    }
}

/// Type URL and value of an encoded Any.
pub(in crate::load) fn any_parts(bytes: &[u8]) -> (&str, &[u8]) {
    let (mut url, mut value) = (&[][..], &[][..]);
    let mut rest = bytes;
    while let Ok((number, wire)) = decode_key(&mut rest) {
        let Ok(raw) = Raw::read(wire, &mut rest) else { break };
        match (number, raw) {
            (1, Raw::Bytes(Cow::Borrowed(bytes))) => url = bytes,
            (2, Raw::Bytes(Cow::Borrowed(bytes))) => value = bytes,
            _ => {}
        }
    }
    (std::str::from_utf8(url).unwrap_or_default(), value)
}

fn is_length_delimited(kind: Kind) -> bool {
    wire_type(kind) == WireType::LengthDelimited
}

fn unpack<'a>(kind: Kind, packed: &[u8], values: &mut Vec<Raw<'a>>) {
    let mut rest = packed;
    while !rest.is_empty() {
        // A cut-short element is found by whoever decodes the field.
        let Ok(raw) = Raw::read(wire_type(kind), &mut rest) else { return };
        match raw {
            Raw::Varint(v) => values.push(Raw::Varint(v)),
            Raw::Fixed32(v) => values.push(Raw::Fixed32(v)),
            Raw::Fixed64(v) => values.push(Raw::Fixed64(v)),
            Raw::Bytes(_) => return,
        }
    }
}
