//! Scalars of the JSON mapping: with its latitude, of which Envoy takes all (numbers in quotes, whole floats for
//! integers, enums in any case).

use super::{Encoder, Spelling, suggest};
use crate::load::findings::Path;
use crate::load::schema::{Kind, TypeId};
use crate::load::tree::{NodeId, Scalar};
use crate::load::wire;
use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use nuncio_filter_api::InvalidKind;
use std::borrow::Cow;

/// A scalar as the wire holds it.
pub(super) enum Encoded<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    Bytes(Cow<'a, [u8]>),
}

impl Encoded<'_> {
    pub(super) fn default_of(kind: Kind) -> Self {
        match kind {
            Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => Self::Fixed64(0),
            Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => Self::Fixed32(0),
            Kind::String | Kind::Bytes | Kind::Message(_) => Self::Bytes(Cow::Borrowed(&[])),
            _ => Self::Varint(0),
        }
    }

    pub(super) fn is_default(&self) -> bool {
        match self {
            Self::Varint(v) | Self::Fixed64(v) => *v == 0,
            Self::Fixed32(v) => *v == 0,
            Self::Bytes(v) => v.is_empty(),
        }
    }

    pub(super) fn write(&self, number: u32, out: &mut Vec<u8>) {
        let wire_type = match self {
            Self::Varint(_) => wire::VARINT,
            Self::Fixed32(_) => wire::FIXED32,
            Self::Fixed64(_) => wire::FIXED64,
            Self::Bytes(_) => wire::LENGTH,
        };
        wire::key(number, wire_type, out);
        self.write_bare(out);
    }

    /// Without the key, as elements of a packed field are.
    pub(super) fn write_bare(&self, out: &mut Vec<u8>) {
        match self {
            Self::Varint(v) => prost::encoding::encode_varint(*v, out),
            Self::Fixed32(v) => out.extend_from_slice(&v.to_le_bytes()),
            Self::Fixed64(v) => out.extend_from_slice(&v.to_le_bytes()),
            Self::Bytes(v) => wire::bare_bytes(v, out),
        }
    }
}

/// Why a scalar does not fit, for the message.
type Misfit = String;

impl<'a> Encoder<'a> {
    pub(super) fn scalar(&mut self, kind: Kind, node: NodeId, path: &Path<'_>) -> Option<Encoded<'a>> {
        let tree = self.tree;
        let Some(scalar) = tree.scalar(node) else {
            self.wrong(node, path, format!("expected {}", expected(kind)));
            return None;
        };
        if let Kind::Enum(id) = kind {
            return self.enumeration(id, scalar, node, path);
        }
        let encoded = match (kind, self.spelling) {
            // The text format escapes bytes where JSON has base64.
            (Kind::Bytes, Spelling::Text) => text(scalar),
            _ => encode(kind, scalar),
        };
        match encoded {
            Ok(value) => Some(value),
            Err(reason) => {
                self.wrong(node, path, reason);
                None
            }
        }
    }

    /// A map's key, which JSON always writes as text.
    pub(super) fn map_key(&mut self, kind: Kind, key: NodeId, path: &Path<'_>) -> Option<Encoded<'a>> {
        match encode(kind, Scalar::Text(self.tree.text(key))) {
            Ok(key) => Some(key),
            Err(reason) => {
                self.wrong(key, path, format!("key: {reason}"));
                None
            }
        }
    }

    fn enumeration(
        &mut self,
        id: TypeId,
        scalar: Scalar<'_>,
        node: NodeId,
        path: &Path<'_>,
    ) -> Option<Encoded<'static>> {
        let schema = self.schemas.enumeration(id);
        let number = match scalar {
            Scalar::Null => Some(0),
            Scalar::Int(number) => Some(number),
            Scalar::Number(text) => integer(text).and_then(|n| i32::try_from(n).ok()),
            Scalar::Text(text) | Scalar::Word(text) => {
                schema.named(text).map(|v| v.number).or_else(|| text.parse().ok())
            }
            // YAML reads these names as bools: `ON` is one value's name.
            Scalar::Bool(_) => schema.named(self.tree.text(node)).map(|v| v.number),
            Scalar::LongInt(_) => None,
        };
        if number.is_none() {
            let at = Some(self.tree.position(node));
            let text = self.tree.text(node);
            let reason = format!("unknown value {text:?} of {}", schema.name);
            let suggest = || suggest::enum_value(&schema, text);
            match scalar {
                Scalar::Text(_) | Scalar::Word(_) => self.findings.unknown_name(path, at, reason, suggest),
                _ => self.findings.refuse(InvalidKind::Value, path, at, reason, suggest),
            }
        }
        number.map(|n| Encoded::Varint(i64::from(n) as u64))
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Double | Kind::Float => "a number",
        Kind::Bool => "true or false",
        Kind::String => "a string",
        Kind::Bytes => "base64 text",
        Kind::Enum(_) => "the name or number of an enum value",
        Kind::Message(_) => "a message",
        _ => "an integer",
    }
}

fn encode<'a>(kind: Kind, scalar: Scalar<'a>) -> Result<Encoded<'a>, Misfit> {
    match kind {
        Kind::String => text(scalar),
        Kind::Bytes => bytes(scalar),
        Kind::Bool => bool(scalar),
        Kind::Double => float(scalar).map(|v| Encoded::Fixed64(v.to_bits())),
        Kind::Float => single_float(scalar),
        Kind::Int32 => within::<i32>(scalar).map(|v| Encoded::Varint(i64::from(v) as u64)),
        Kind::Int64 => within::<i64>(scalar).map(|v| Encoded::Varint(v as u64)),
        Kind::Uint32 => within::<u32>(scalar).map(|v| Encoded::Varint(u64::from(v))),
        Kind::Uint64 => within::<u64>(scalar).map(Encoded::Varint),
        Kind::Sint32 => within::<i32>(scalar).map(|v| Encoded::Varint(u64::from((v << 1 ^ v >> 31) as u32))),
        Kind::Sint64 => within::<i64>(scalar).map(|v| Encoded::Varint((v << 1 ^ v >> 63) as u64)),
        Kind::Fixed32 => within::<u32>(scalar).map(Encoded::Fixed32),
        Kind::Fixed64 => within::<u64>(scalar).map(Encoded::Fixed64),
        Kind::Sfixed32 => within::<i32>(scalar).map(|v| Encoded::Fixed32(v as u32)),
        Kind::Sfixed64 => within::<i64>(scalar).map(|v| Encoded::Fixed64(v as u64)),
        Kind::Enum(_) | Kind::Message(_) => Err(format!("expected {}", expected(kind))),
    }
}

fn text(scalar: Scalar<'_>) -> Result<Encoded<'_>, Misfit> {
    match scalar {
        Scalar::Text(text) => Ok(Encoded::Bytes(Cow::Borrowed(text.as_bytes()))),
        Scalar::LongInt(number) => Ok(Encoded::Bytes(Cow::Owned(number.to_string().into_bytes()))),
        Scalar::Null => Err("expected a string, found null".to_owned()),
        Scalar::Bool(_) => Err("expected a string, found a bool: put it in quotes".to_owned()),
        Scalar::Int(_) | Scalar::Number(_) => Err("expected a string, found a number: put it in quotes".to_owned()),
        Scalar::Word(_) => Err("expected a string in quotes".to_owned()),
    }
}

/// Either alphabet, padded or not.
fn bytes(scalar: Scalar<'_>) -> Result<Encoded<'_>, Misfit> {
    let Scalar::Text(text) = scalar else { return Err("expected base64 text".to_owned()) };
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    match GeneralPurpose::new(alphabet, config).decode(text) {
        Ok(bytes) => Ok(Encoded::Bytes(Cow::Owned(bytes))),
        Err(_) => Err("expected base64 text".to_owned()),
    }
}

fn bool(scalar: Scalar<'_>) -> Result<Encoded<'_>, Misfit> {
    let value = match scalar {
        Scalar::Bool(value) => Some(value),
        Scalar::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
        Scalar::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
        Scalar::Word("true" | "True" | "t") | Scalar::Number("1") => Some(true),
        Scalar::Word("false" | "False" | "f") | Scalar::Number("0") => Some(false),
        _ => None,
    };
    value.map(|v| Encoded::Varint(u64::from(v))).ok_or_else(|| "expected true or false".to_owned())
}

fn float(scalar: Scalar<'_>) -> Result<f64, Misfit> {
    let value = match scalar {
        Scalar::Int(number) => Some(f64::from(number)),
        Scalar::LongInt(number) => Some(number as f64),
        Scalar::Number(text) | Scalar::Text(text) => decimal(text),
        Scalar::Word("inf" | "infinity") => Some(f64::INFINITY),
        Scalar::Word("-inf" | "-infinity") => Some(f64::NEG_INFINITY),
        Scalar::Word("nan") => Some(f64::NAN),
        Scalar::Null | Scalar::Bool(_) | Scalar::Word(_) => None,
    };
    value.ok_or_else(|| "expected a number".to_owned())
}

fn single_float(scalar: Scalar<'_>) -> Result<Encoded<'_>, Misfit> {
    let wide = float(scalar)?;
    let narrow = wide as f32;
    if wide.is_finite() && narrow.is_infinite() {
        return Err("number out of range of a float".to_owned());
    }
    Ok(Encoded::Fixed32(narrow.to_bits()))
}

/// A number of the JSON mapping. Rust's own parser also takes `inf` and `nan`, which the mapping spells differently.
pub(super) fn decimal(text: &str) -> Option<f64> {
    match text {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ if text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) => {
            text.parse().ok().filter(|v: &f64| v.is_finite())
        }
        _ => None,
    }
}

fn within<T: TryFrom<i128>>(scalar: Scalar<'_>) -> Result<T, Misfit> {
    let value = match scalar {
        Scalar::Int(number) => Some(i128::from(number)),
        Scalar::LongInt(number) => Some(i128::from(number)),
        Scalar::Number(text) | Scalar::Text(text) => integer(text),
        Scalar::Null | Scalar::Bool(_) | Scalar::Word(_) => None,
    };
    let value = value.ok_or_else(|| "expected an integer".to_owned())?;
    T::try_from(value).map_err(|_| format!("number {value} out of range"))
}

/// An integer, also written as a float without a fraction: `1e3`.
fn integer(text: &str) -> Option<i128> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return i128::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with(['+', '-']));
    }
    // Beyond this the float no longer tells neighbours apart, and the field's own range refuses the result.
    const EXACT: f64 = 18_446_744_073_709_551_616.0;
    decimal(text).filter(|v| v.fract() == 0.0 && v.abs() <= EXACT).map(|v| v as i128)
}
