//! How values are written: as text, and as JSON. The forms are those of Envoy 1.40.

use std::io::Write as _;

use base64::Engine as _;
use serde_json::{Map as Object, Number, Value as Json};

use super::attributes::{Map, Root};
use super::eval::Env;
use super::time::{SECOND, civil};
use super::value::Value;
use crate::Metadata;

/// Appends a value as text.
pub(super) fn text(value: &Value<'_>, env: &Env<'_>, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = match value {
        Value::Null => out.write_all(b"NULL"),
        Value::Bool(b) => write!(out, "{b}"),
        Value::Int(n) => write!(out, "{n}"),
        Value::Uint(n) => write!(out, "{n}"),
        Value::Double(n) => out.write_all(six_digits(*n).as_bytes()),
        Value::String(bytes) | Value::Bytes(bytes) => out.write_all(bytes),
        Value::Timestamp(nanos) => {
            let (date, fraction) = civil(*nanos);
            write!(out, "{date}{}+00:00", trimmed(fraction))
        }
        Value::Duration(nanos) => out.write_all(duration(*nanos).as_bytes()),
        Value::List(_) => out.write_all(b"CelList value"),
        Value::Type(_) => out.write_all(b"CelType value"),
        Value::Map(Map::Message(metadata)) => message(metadata, out),
        Value::Map(Map::Place(place)) => place.write(out),
        Value::Map(Map::Group(Root::Metadata)) => env.metadata.map_or(Ok(()), |metadata| message(metadata, out)),
        Value::Map(_) => out.write_all(b"CelMap value"),
    };
}

/// A value as JSON; `None` for what Envoy has no JSON of.
pub(super) fn json(value: &Value<'_>, env: &Env<'_>) -> Option<Json> {
    Some(match value {
        Value::Null => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        #[expect(clippy::cast_precision_loss, reason = "all numbers of Envoy's JSON are doubles")]
        Value::Int(n) => number(*n as f64),
        #[expect(clippy::cast_precision_loss, reason = "all numbers of Envoy's JSON are doubles")]
        Value::Uint(n) => number(*n as f64),
        Value::Double(n) => number(*n),
        Value::String(bytes) => Json::String(String::from_utf8_lossy(bytes).into_owned()),
        Value::Bytes(bytes) => Json::String(base64::engine::general_purpose::STANDARD.encode(bytes)),
        Value::Timestamp(nanos) => {
            let (date, fraction) = civil(*nanos);
            Json::String(format!("{date}{}Z", in_threes(fraction)))
        }
        Value::Duration(nanos) => {
            let sign = if *nanos < 0 { "-" } else { "" };
            let nanos = nanos.unsigned_abs();
            let second = SECOND.unsigned_abs();
            let fraction = u32::try_from(nanos % second).unwrap_or_default();
            Json::String(format!("{sign}{}{}s", nanos / second, in_threes(fraction)))
        }
        Value::List(list) => Json::Array(list.iter().map(|value| json(value, env)).collect::<Option<_>>()?),
        Value::Map(map) => Json::Object(object(map, env)?),
        Value::Type(_) => return None,
    })
}

fn number(n: f64) -> Json {
    Number::from_f64(n).map_or(Json::Null, Json::Number)
}

fn object(map: &Map<'_>, env: &Env<'_>) -> Option<Object<String, Json>> {
    let of_metadata = |metadata: &Metadata| {
        let namespaces = metadata.iter().map(|(name, fields)| (name.to_string(), Json::Object(fields.clone())));
        namespaces.collect::<Object<_, _>>()
    };
    let message = |metadata: &Metadata| match metadata.is_empty() {
        true => Object::new(),
        false => Object::from_iter([("filter_metadata".to_owned(), Json::Object(of_metadata(metadata)))]),
    };
    Some(match map {
        Map::Group(Root::Metadata) => env.metadata.map(message).unwrap_or_default(),
        Map::Message(metadata) => message(metadata),
        Map::Place(place) => place.json(),
        Map::Namespaces => env.metadata.map(of_metadata).unwrap_or_default(),
        Map::NamespacesOf(metadata) => of_metadata(metadata),
        _ => {
            let entries = map.entries().or_else(|| map.fields(env))?.into_iter().map(|(key, value)| {
                let key = match key {
                    Value::String(key) => String::from_utf8_lossy(&key).into_owned(),
                    Value::Int(key) => key.to_string(),
                    Value::Uint(key) => key.to_string(),
                    _ => return None,
                };
                Some((key, json(&value, env)?))
            });
            entries.collect::<Option<_>>()?
        }
    })
}

/// As `%g` prints it.
fn six_digits(n: f64) -> String {
    if !n.is_finite() {
        return if n.is_nan() {
            "nan"
        } else if n > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .to_owned();
    }
    let scientific = format!("{n:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        let places = usize::try_from(5 - exponent).unwrap_or_default();
        return without_zeros(&format!("{n:.places$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_zeros(mantissa), exponent.abs())
}

fn without_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// The fraction of a second, with no more digits than it has.
fn trimmed(nanos: u32) -> String {
    if nanos == 0 { String::new() } else { format!(".{nanos:09}").trim_end_matches('0').to_owned() }
}

/// The fraction of a second in no, three, six or nine digits.
fn in_threes(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1000 == 0 => format!(".{:06}", n / 1000),
        n => format!(".{n:09}"),
    }
}

/// `1h2m3.5s`, or less than a second in its own unit.
fn duration(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction =
        |whole: u128, rest: u128, digits: usize| without_zeros(&format!("{whole}.{rest:0digits$}")).to_owned();
    let second = SECOND.unsigned_abs();
    let text = match nanos {
        0 => return "0".to_owned(),
        n if n < 1000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}us", fraction(n / 1000, n % 1000, 3)),
        n if n < second => format!("{}ms", fraction(n / 1_000_000, n % 1_000_000, 6)),
        n => {
            let (seconds, rest) = (n / second, n % second);
            let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
            let mut text = String::new();
            if hours > 0 {
                text += &format!("{hours}h");
            }
            if minutes > 0 {
                text += &format!("{minutes}m");
            }
            if seconds % 60 > 0 || rest > 0 {
                text += &format!("{}s", fraction(seconds % 60, rest, 9));
            }
            text
        }
    };
    format!("{sign}{text}")
}

/// Metadata in the text form of its message.
fn message(metadata: &Metadata, out: &mut Vec<u8>) -> std::io::Result<()> {
    for (namespace, fields) in metadata {
        out.write_all(b"filter_metadata { key: ")?;
        quoted(namespace, out)?;
        out.write_all(b" value { ")?;
        structure(fields, out)?;
        out.write_all(b"} } ")?;
    }
    Ok(())
}

pub(super) fn structure(fields: &Object<String, Json>, out: &mut Vec<u8>) -> std::io::Result<()> {
    for (name, value) in fields {
        out.write_all(b"fields { key: ")?;
        quoted(name, out)?;
        out.write_all(b" value { ")?;
        any(value, out)?;
        out.write_all(b"} } ")?;
    }
    Ok(())
}

fn any(value: &Json, out: &mut Vec<u8>) -> std::io::Result<()> {
    match value {
        Json::Null => out.write_all(b"null_value: NULL_VALUE "),
        Json::Bool(b) => write!(out, "bool_value: {b} "),
        Json::Number(n) => write!(out, "number_value: {} ", n.as_f64().unwrap_or_default()),
        Json::String(text) => {
            out.write_all(b"string_value: ")?;
            quoted(text, out)?;
            out.write_all(b" ")
        }
        Json::Array(list) => {
            out.write_all(b"list_value { ")?;
            for value in list {
                out.write_all(b"values { ")?;
                any(value, out)?;
                out.write_all(b"} ")?;
            }
            out.write_all(b"} ")
        }
        Json::Object(fields) => {
            out.write_all(b"struct_value { ")?;
            structure(fields, out)?;
            out.write_all(b"} ")
        }
    }
}

pub(super) fn quoted(text: &str, out: &mut Vec<u8>) -> std::io::Result<()> {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'\n' => out.write_all(b"\\n")?,
            b'\r' => out.write_all(b"\\r")?,
            b'\t' => out.write_all(b"\\t")?,
            b'"' | b'\\' | b'\'' => out.extend([b'\\', byte]),
            0x20..=0x7e => out.push(byte),
            _ => write!(out, "\\{byte:03o}")?,
        }
    }
    out.push(b'"');
    Ok(())
}
